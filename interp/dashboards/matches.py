"""Matched features as records for the comparison page: pairs as columns, examples with maps."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from interp.dashboards.encode import array_record, plain, write_data
from interp.dashboards.shards import MISSING
from interp.errors import InputError

_COLUMNS = ("found", "r", "universality", "p", "ceiling_first", "ceiling_second", "cosine")
_NAMED = (
    "method",
    "by",
    "pooling",
    "threshold",
    "mean",
    "low",
    "high",
    "null_mean",
    "p_mean",
    "n_found",
    "n_scored",
    "n_pairs",
    "n_shared",
    "min_images",
    "n_permutations",
    "seed",
    "strata",
    "sample_set",
    "note",
)


class Pictures(NamedTuple):
    """Where the pictures of a match's examples are."""

    store: str
    """Hash; "" without examples."""
    generations: np.ndarray
    """[q, e] int64, -1 where a pair has fewer examples."""


def find_pictures(matches: Any, stores: Mapping[str, Any]) -> Pictures:
    """Find the generations of a match's example images in the store of either side.

    Raises InputError when neither store is given, or it lacks an image.
    """
    examples = matches.examples
    if not examples:
        return Pictures("", np.zeros((0, 0), dtype=np.int64))
    key = next((k for k in (matches.first.store, matches.second.store) if k in stores), None)
    if key is None:
        held = ", ".join(stores) or "none"
        raise InputError(
            f"features of {matches.first.name} and {matches.second.name} were matched on stores "
            f"{matches.first.store} and {matches.second.store}; the stores given are: {held}. Pass "
            "one of them, its pictures are needed"
        )
    table = stores[key].generations
    names = [str(name) for name in table["image_id"]]
    place = dict(zip(reversed(names), reversed(np.asarray(table["generation"])), strict=True))
    out = np.full((len(examples), max(len(one.ids) for one in examples)), -1, dtype=np.int64)
    for k, one in enumerate(examples):
        if missing := [name for name in one.ids if name not in place]:
            raise InputError(f"store {key} lacks image {missing[0]!r} of a match's examples")
        out[k, : len(one.ids)] = [place[name] for name in one.ids]
    return Pictures(key, out)


def write_matches(
    matches: Sequence[Any],
    pictures: Sequence[Pictures],
    features: Sequence[Any],
    alignments: Sequence[Any],
    data: Path,
) -> list[dict[str, Any]]:
    """Write `data/matches<index>.js` for each match; return what the first page needs of them."""
    digests = [str(item.sae["digest"]) for item in features]
    found = []
    for index, (one, where) in enumerate(zip(matches, pictures, strict=True)):
        write_data(data, f"matches{index}", match_record(one, where))
        sides = {
            end: _side(getattr(one, end), digests) | {"n_counted": len(getattr(one, end).counted)}
            for end in ("first", "second")
        }
        # Cells of an alignment on other images are another question.
        hashes = [alignment.sample_hash for alignment in alignments]
        sets = [i for i, name in enumerate(hashes) if name == one.sample_hash]
        sets = sets or [i for i, a in enumerate(alignments) if a.sample_set == one.sample_set]
        found.append(sides | {"index": index, "store": where.store[:12], "alignments": sets})
    return found


def _side(one: Any, digests: Sequence[str]) -> dict[str, Any]:
    at = [i for i, digest in enumerate(digests) if one.sae and digest == one.sae]
    names = {"model": one.model, "point": one.point, "call": one.call}
    return names | {"sae": at[0] if at else None, "n_latents": one.n_latents}


def match_record(matches: Any, where: Pictures) -> dict[str, Any]:
    """Return a match for the page: its numbers, its pairs as columns, its examples as arrays."""
    record = {name: plain(getattr(matches, name)) for name in _NAMED}
    record["levels"] = [plain(level) for level in matches.levels]
    columns = {name: np.array([_number(v) for v in getattr(matches, name)]) for name in _COLUMNS}
    columns |= {
        name: np.array(getattr(matches, name), dtype=np.int64)
        for name in ("latent_first", "latent_second")
    }
    columns["generation"] = where.generations
    for end in ("first", "second"):
        columns[f"value_{end}"] = _padded([getattr(e, f"value_{end}") for e in matches.examples])
        maps = _stacked(matches.examples, end, where.generations.shape)
        if maps is not None:
            columns[f"maps_{end}"] = maps
    return record | {name: array_record(values) for name, values in columns.items()}


def _number(value: float | None) -> float:
    return np.nan if value is None else float(value)


def _padded(rows: Sequence[Sequence[float]]) -> np.ndarray:
    out = np.full((len(rows), max(map(len, rows), default=0)), np.nan, dtype=np.float32)
    for k, row in enumerate(rows):
        out[k, : len(row)] = row
    return out


def _stacked(examples: Sequence[Any], end: str, shape: tuple[int, ...]) -> np.ndarray | None:
    """[q, e, h, w] bytes, or None where the point has no map."""
    if not examples or not getattr(examples[0], f"shape_{end}"):
        return None
    size = getattr(examples[0], f"shape_{end}")
    out = np.full((*shape, *size), MISSING, dtype=np.uint8)
    for k, one in enumerate(examples):
        for e, line in enumerate(getattr(one, f"map_{end}")):
            out[k, e] = np.array(line, dtype=np.uint8).reshape(size)
    return out
