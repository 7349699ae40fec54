"""Alignments, evaluations and cards as plain records: the page's view of other parts' results."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from interp.dashboards.encode import array_record, plain
from interp.dashboards.schema import calls_record, has_maps
from interp.errors import InputError

CELL_COLUMNS = (
    "value",
    "null_mean",
    "null_sd",
    "z",
    "p",
    "low",
    "high",
    "n",
    "k",
    "n_permutations",
    "seed",
    "twin_value",
    "difference",
    "difference_low",
    "difference_high",
)
_N_STRONGEST = 12


def read(record: Any, name: str, default: Any = None) -> Any:
    """Return a field of a dataclass, tuple or mapping."""
    if record is None:
        return default
    if isinstance(record, Mapping):
        return record.get(name, default)
    return getattr(record, name, default)


def alignment_cells(alignment: Any) -> list[dict[str, Any]]:
    """Return one flat dict per cell: i, j, measure, preprocessing and `CELL_COLUMNS`."""
    n_layers = len(alignment.layers)
    cells = []
    for cell in alignment.cells:
        if not (0 <= cell.i < n_layers and 0 <= cell.j < n_layers):
            raise InputError(
                f"alignment on {alignment.sample_set}: cell ({cell.i}, {cell.j}) points outside "
                f"its {n_layers} layers"
            )
        comparison = cell.comparison
        flat = {
            name: getattr(comparison if hasattr(comparison, name) else cell, name, None)
            for name in CELL_COLUMNS
        }
        flat |= {"i": cell.i, "j": cell.j, "measure": comparison.measure}
        flat |= {"preprocessing": comparison.preprocessing}
        cells.append(flat)
    return cells


def alignment_record(alignment: Any) -> dict[str, Any]:
    """Return an alignment with its cells as columns, for the comparison page."""
    cells = alignment_cells(alignment)
    layers = [plain(layer) for layer in alignment.layers]
    measures = list(alignment.measures)
    columns = {name: _numbers([cell[name] for cell in cells]) for name in CELL_COLUMNS}
    columns |= {name: np.array([cell[name] for cell in cells], int) for name in ("i", "j")}
    columns["measure"] = np.array([measures.index(cell["measure"]) for cell in cells], int)
    named = ("sample_set", "n", "n_permutations", "n_folds", "seed", "strata", "note")
    return {name: plain(read(alignment, name)) for name in (*named, "preprocessing")} | {
        "measures": measures,
        "layers": layers,
        # References (pixels) are no models, but have rows and columns of their own.
        "models": list(dict.fromkeys(layer["model"] for layer in layers)),
        "families": [plain(family) for family in read(alignment, "families", ())],
        "cells": {name: array_record(values) for name, values in columns.items()},
    }


def _numbers(values: list[Any]) -> np.ndarray:
    return np.array([np.nan if value is None else float(value) for value in values], np.float64)


def strongest(alignment: Any) -> list[dict[str, Any]]:
    """Return the cell with the largest z of every model pair, by measure and falling z.

    References such as pixels are left out: they are a level to compare with, not a finding. Without
    permutations, and so without z, the largest value stands in.
    """
    layers = [plain(layer) for layer in alignment.layers]
    best: dict[tuple, dict[str, Any]] = {}
    count: dict[tuple, int] = {}
    for cell in alignment_cells(alignment):
        ends = layers[cell["i"]], layers[cell["j"]]
        if ends[0]["model"] == ends[1]["model"] or any(end.get("reference") for end in ends):
            continue
        key = (cell["measure"], *sorted(end["model"] for end in ends))
        count[key] = count.get(key, 0) + 1
        if key not in best or _rank(cell) > _rank(best[key]):
            best[key] = cell
    holm = {
        (family.measure, *sorted((family.model_a, family.model_b))): family.p_holm
        for family in read(alignment, "families", ())
    }
    measures = list(alignment.measures)
    ranked = sorted(best, key=lambda key: (_rank(best[key]), key), reverse=True)
    ranked.sort(key=lambda key: measures.index(key[0]))
    return [
        {
            **best[key],
            "n_cells": count[key],
            "p_holm": holm.get(key),
            "layers": [layers[best[key][end]] for end in "ij"],
        }
        for key in ranked[:_N_STRONGEST]
    ]


def _rank(cell: dict[str, Any]) -> tuple[float, float]:
    return (float("-inf") if cell["z"] is None else cell["z"], cell["value"])


_PER_IMAGE = ("per_image", "per_image_ablation")


def by_digest(results: Any, digests: list[str], label: str) -> list[dict[str, Any] | None]:
    """Return one plain record per SAE from a mapping keyed by digest or a sequence in order."""
    if results is None:
        return [None] * len(digests)
    if isinstance(results, Mapping):
        unknown = sorted(set(map(str, results)) - set(digests))
        if unknown:
            raise InputError(
                f"{label} are keyed by SAE digest, but {unknown[0]!r} is none of {digests}"
            )
        return [_short(results.get(key)) for key in digests]
    results = list(results)
    if len(results) != len(digests):
        raise InputError(f"{len(results)} {label} for {len(digests)} features; pass one for each")
    return [_short(result) for result in results]


def _short(result: Any) -> dict[str, Any] | None:
    """A result without its values per image, which no page shows."""
    record = plain(result)
    return record and {key: value for key, value in record.items() if key not in _PER_IMAGE}


def card_record(card: Any) -> dict[str, Any]:
    """Return a model card with `name` and the honest mark `undertrained`, without its picture."""
    record = plain(card)
    if not isinstance(record, dict) or "name" not in record:
        raise InputError("a model card needs at least the field 'name'")
    record.pop("samples", None)
    verdict = record.get("verdict")
    marked = record.get("undertrained") or read(verdict, "undertrained", False)
    record["undertrained"] = bool(marked)
    return record


def sae_record(features: Any) -> dict[str, Any]:
    """Return what the pages say about one SAE: its point, model, store and sizes."""
    model = plain(features.store.get("model", {}))
    name = model.get("spec", model.get("name", "")) if isinstance(model, dict) else model
    return {
        "point": plain(features.point),
        "sae": plain(features.sae),
        "store": plain(features.store) | {"key": features.store["hash"][:12]},
        "model": str(name),
        "n_rows": plain(features.n_rows),
        "n_generations": plain(features.n_generations),
        "n_latents": len(features.density),
        "n_dead": int(np.asarray(features.dead).sum()),
        "n_examples": np.asarray(features.example_row).shape[1],
        "maps": has_maps(features),
        "calls": calls_record(features),
        "categories": [str(name) for name in features.categories],
        "edges": plain(np.asarray(features.edges, np.float64)),
        "coactive_measure": features.coactive_measure,
        "seed": features.seed,
        "notes": list(features.notes),
    }
