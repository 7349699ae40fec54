"""describe(): one ordered pass over a store, then what follows from it."""

from typing import Any

import numpy as np

from interp.errors import InputError
from interp.features.maps import Places, example_maps, places, pooling
from interp.features.record import Features
from interp.features.relations import coactive, decoder_neighbors, direction_map
from interp.features.scan import EDGES, SAMPLE, RowTable, Scan, row_table
from interp.sae import SAE
from interp.sae.match import check_match
from interp.store import ActivationStore

# Quantile examples come from the quarters of a latent's activations.
QUARTERS = 4
# Active rows per latent from which quantiles are estimated: standard error of a quarter below .06.
_POOL = 64
COACTIVE_MEASURE = "Jaccard"


def describe(
    sae: SAE,
    store: ActivationStore,
    point: str,
    *,
    n_top: int = 12,
    n_quantile: int = 8,
    n_random: int = 4,
    n_neighbors: int = 8,
    rows: np.ndarray | None = None,
    map_side: int = 32,
    umap: bool = True,
    seed: int = 0,
    progress: bool = True,
) -> Features:
    """Find what each latent responds to, in one ordered pass over the store's rows.

    Examples of a latent are rows on which it fires: the largest activations, at most one per
    generation; quantile examples, spread evenly over each quarter of its activations (of a
    seeded uniform sample of 64 of them); and a seeded uniform sample. All choices depend on
    the seed and the rows alone, never on how rows are read. The rows of the examples' maps are then
    read once more, by their ids.

    Args:
        sae: trained on this point.
        store: rows to look at.
        point: name of the hook point.
        n_top: top examples per latent.
        n_quantile: quantile examples per latent, a multiple of 4.
        n_random: random examples per latent.
        n_neighbors: decoder neighbors and co-active latents per latent.
        rows: bool mask or row ids to look at; None for all. Maps show all captured rows.
        map_side: larger maps are max-pooled to this height and width.
        umap: lay out the decoder directions by UMAP (about ten seconds to load); False: by PCA.
        seed: of samples and UMAP.
        progress: show a bar where stderr is a terminal.

    Returns:
        The record.

    Raises:
        SAEError: the SAE does not belong to the point or model; rows hold NaN or none is selected.
        InputError: a count is out of range.
        PointError: the store has no such point.
    """
    _check_counts(n_top, n_quantile, n_random, n_neighbors, map_side)
    store.entries(point)
    check_match(sae, store.points[point], store.model)
    table, categories = row_table(store, point, rows, seed)
    kept = {"top": n_top, "pool": n_quantile and _POOL, "random": n_random}
    scan = Scan(sae, table, kept, seed).run(store, point, progress)
    examples = _examples(scan, n_quantile)
    where, shown, dead = places(store, point), examples["example_row"], scan.count == 0
    factor = pooling(where.height, where.width, shown.size, map_side)
    layout, note = direction_map(sae.dictionary(), dead, seed, umap=umap)
    return Features(
        point=store.points[point],
        sae=_sae_record(sae),
        store=_store_record(store),
        seed=seed,
        **_statistics(scan, dead),
        **_profiles(scan, store, point, categories),
        **examples,
        **_coordinates(store, point, where, shown),
        maps=example_maps(sae, store, point, where, shown, factor),
        grid=store.points[point].grid,
        **_relations(scan, dead, n_neighbors),
        umap=layout,
        notes=_notes(table, factor, note),
    )


def _check_counts(n_top: int, n_quantile: int, n_random: int, n_neighbors: int, side: int) -> None:
    if min(n_top, n_quantile, n_random) < 0 or n_top + n_quantile + n_random < 1:
        raise InputError(f"{n_top} top, {n_quantile} quantile and {n_random} random examples")
    if n_quantile % QUARTERS or n_quantile > _POOL:
        raise InputError(f"n_quantile = {n_quantile} is not a multiple of {QUARTERS} up to {_POOL}")
    if n_neighbors < 1 or side < 1:
        raise InputError(f"n_neighbors = {n_neighbors} and map_side = {side} must be positive")


def _examples(scan: Scan, n_quantile: int) -> dict[str, np.ndarray]:
    """Row, kind, quarter and value of the examples: top, quantile, random from left to right."""
    parts: list[tuple[np.ndarray, np.ndarray, int, np.ndarray | None]]
    parts = [(scan.top.row, scan.top.value, Features.TOP, None)]
    row, value = _quantiles(scan.pool.row, scan.pool.value, n_quantile)
    # From the highest quarter down, as a reader looks at them.
    quarter = QUARTERS - 1 - np.arange(n_quantile) * QUARTERS // max(1, n_quantile)
    parts.append((row, value, Features.QUANTILE, quarter))
    parts.append((scan.random.row, scan.random.value, Features.RANDOM, None))
    kinds = [np.full(row.shape, kind, np.uint8) for row, _, kind, _ in parts]
    bins = [
        np.full(row.shape, -1, np.int8) if b is None else np.where(row >= 0, b, -1).astype(np.int8)
        for row, _, _, b in parts
    ]
    return {
        "example_row": np.concatenate([part[0] for part in parts], axis=1),
        "example_value": np.concatenate([part[1] for part in parts], axis=1),
        "example_kind": np.concatenate(kinds, axis=1),
        "example_bin": np.concatenate(bins, axis=1),
    }


def _quantiles(row: np.ndarray, value: np.ndarray, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Of each latent's pool [m, p] the rows at n evenly spaced ranks, the largest value first.

    With fewer than n rows in the pool, each is given once and the other slots stay empty.
    """
    order = np.lexsort((row, -np.nan_to_num(value, nan=-1.0)), axis=1)
    row, value = np.take_along_axis(row, order, axis=1), np.take_along_axis(value, order, axis=1)
    size = (row >= 0).sum(axis=1, keepdims=True)
    rank = ((np.arange(n) + 0.5) * size / max(1, n)).astype(np.int64)
    repeated = np.zeros(rank.shape, dtype=bool)
    repeated[:, 1:] = rank[:, 1:] == rank[:, :-1]
    picked_row = np.take_along_axis(row, np.minimum(rank, row.shape[1] - 1), axis=1) if n else rank
    picked = np.take_along_axis(value, np.minimum(rank, row.shape[1] - 1), axis=1) if n else rank
    empty = repeated | (size == 0)
    return np.where(empty, -1, picked_row), np.where(empty, np.nan, picked).astype(np.float32)


def _statistics(scan: Scan, dead: np.ndarray) -> dict[str, Any]:
    table = scan.table
    used = np.flatnonzero(scan.histogram.sum(axis=0))
    low, high = (used[0], used[-1] + 1) if len(used) else (0, 1)
    return {
        "n_rows": int(table.mask.sum()),
        "n_generations": len(np.unique(table.generation[table.mask])),
        "density": scan.count / table.mask.sum(),
        "mean_active": (scan.total / np.maximum(scan.count, 1)).astype(np.float32),
        "maximum": scan.maximum,
        "dead": dead,
        "histogram": scan.histogram[:, low:high],
        "edges": EDGES[low : high + 1],
    }


def _profiles(
    scan: Scan, store: ActivationStore, point: str, categories: list[str]
) -> dict[str, Any]:
    table = scan.table
    per_call = np.bincount(table.call[table.mask], minlength=table.n_calls)
    known = table.mask & (table.category >= 0)
    per_category = np.bincount(table.category[known], minlength=table.n_categories)
    columns = store.coords(point, columns=["call", "t", "log_snr"])
    calls = []
    for call in range(table.n_calls):
        first = np.flatnonzero(columns["call"] == call)[:1]
        t, log_snr = (
            float(columns[name][first[0]]) if len(first) else np.nan for name in ("t", "log_snr")
        )
        calls.append(
            {
                "call": call,
                "t": None if np.isnan(t) else t,
                "log_snr": None if np.isnan(log_snr) else log_snr,
                "n_rows": int(per_call[call]),
            }
        )
    return {
        "profile_calls": (scan.by_call / np.maximum(per_call, 1)).astype(np.float32),
        "calls": calls,
        "category_profile": (scan.by_category / np.maximum(per_category, 1)).astype(np.float32),
        "categories": categories,
    }


def _coordinates(
    store: ActivationStore, point: str, where: Places, row: np.ndarray
) -> dict[str, np.ndarray]:
    columns = store.coords(point, columns=["generation", "call", "cfg_half"])
    there = row >= 0
    safe = np.where(there, row, 0)
    named = {
        "example_generation": (columns["generation"], np.int32),
        "example_call": (columns["call"], np.int16),
        "example_half": (columns["cfg_half"], np.int8),
        "example_y": (where.y, np.int32),
        "example_x": (where.x, np.int32),
    }
    return {
        name: np.where(there, values[safe], -1).astype(dtype)
        for name, (values, dtype) in named.items()
    }


def _relations(scan: Scan, dead: np.ndarray, q: int) -> dict[str, Any]:
    neighbors, cosine = decoder_neighbors(scan.sae.dictionary(), dead, q)
    together, score = coactive(scan, scan.sae.n_latents, q)
    return {
        "neighbors": neighbors,
        "neighbor_cosine": cosine,
        "coactive": together,
        "coactive_score": score,
        "coactive_measure": COACTIVE_MEASURE,
    }


def _sae_record(sae: SAE) -> dict[str, Any]:
    spec = {"variant": sae.variant, **sae.spec()}
    return {"digest": sae.digest, "spec": spec, "recipe": sae.recipe}


def _store_record(store: ActivationStore) -> dict[str, Any]:
    return {
        "hash": store.hash,
        "name": store.path.name,
        "model": store.model,
        "recipe": store.recipe,
    }


def _notes(table: RowTable, factor: int, layout_note: str) -> tuple[str, ...]:
    notes = [layout_note] if layout_note else []
    if factor > 1:
        notes.append(f"maps are max-pooled by {factor} in height and width")
    if table.mask.sum() > SAMPLE:
        notes.append(f"co-activation is counted on a random sample of {SAMPLE} rows")
    return tuple(notes)
