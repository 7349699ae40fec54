"""Each example's activation over its whole map: a second, targeted read of the example's rows."""

import math
from typing import NamedTuple

import numpy as np
import torch

from interp.features.scan import active_entries
from interp.sae import SAE
from interp.store import ActivationStore

_ROWS_AT_ONCE = 8192
# Maps of all examples together; beyond it they are max-pooled.
MAX_BYTES = 512 << 20


class Places(NamedTuple):
    """Where the rows of a point lie."""

    starts: np.ndarray
    """[g + 1] first row of each run of rows with one generation, call and half."""
    y: np.ndarray
    """[n] line, -1 for a mean over the map."""
    x: np.ndarray
    """[n] column."""
    height: int
    width: int


def places(store: ActivationStore, point: str) -> Places:
    """Find the maps of a point: rows of one map are consecutive in a store."""
    columns = store.coords(point)
    key = np.stack([columns[name].astype(np.int64) for name in ("generation", "call", "cfg_half")])
    change = np.flatnonzero((np.diff(key, axis=1) != 0).any(axis=0)) + 1
    starts = np.concatenate([[0], change, [key.shape[1]]])
    grid = store.points[point].grid
    y, x = columns["y"].astype(np.int64), columns["x"].astype(np.int64)
    if len(grid) == 3:
        # Frames stand below each other.
        y = np.where(y < 0, -1, columns["frame"].astype(np.int64) * grid[1] + y)
    if len(grid) == 1:
        line = columns["token"] if (columns["token"] >= 0).any() else columns["frame"]
        x = line.astype(np.int64)
        y = np.where(x < 0, -1, 0)
    if not grid:
        y, x = np.zeros_like(y), np.zeros_like(x)
    height, width = (math.prod(grid[:-1]), grid[-1]) if grid else (1, 1)
    return Places(starts, y, x, height, width)


def pooling(height: int, width: int, n_maps: int, max_side: int) -> int:
    """Smallest power of two by which maps must shrink to fit `max_side` and `MAX_BYTES`."""
    factor = 1
    while max(height, width) > factor * max_side or (
        2 * n_maps * math.ceil(height / factor) * math.ceil(width / factor) > MAX_BYTES
        and factor < max(height, width)
    ):
        factor *= 2
    return factor


def example_maps(
    sae: SAE,
    store: ActivationStore,
    point: str,
    where: Places,
    rows: np.ndarray,
    factor: int,
) -> np.ndarray:
    """Activation of each example's latent over the map that the example's row belongs to.

    Args:
        sae: the SAE.
        store: the store.
        point: name of the point.
        where: of the point.
        rows: [m, e] row ids, -1 in empty slots.
        factor: maps are max-pooled by it.

    Returns:
        [m, e, ceil(h / factor), ceil(w / factor)] float16; NaN where no row was captured.
    """
    height, width = math.ceil(where.height / factor), math.ceil(where.width / factor)
    maps = np.full((*rows.shape, height, width), np.nan, dtype=np.float16)
    latent, slot = np.nonzero(rows >= 0)
    run = np.searchsorted(where.starts, rows[latent, slot], side="right") - 1
    order = np.argsort(run, kind="stable")
    latent, slot, run = latent[order], slot[order], run[order]
    lengths = np.diff(where.starts)
    needed, first = np.unique(run, return_index=True)
    batch = np.cumsum(lengths[needed]) // _ROWS_AT_ONCE
    for number in np.unique(batch):
        chosen = np.flatnonzero(batch == number)
        stop = first[chosen[-1] + 1] if chosen[-1] + 1 < len(first) else len(run)
        part = slice(first[chosen[0]], stop)
        ids = np.concatenate([np.arange(*where.starts[r : r + 2]) for r in needed[chosen]])
        filled = _fill(sae, store.rows(point, ids).float(), where, ids, (run[part], latent[part]))
        pooled = np.fmax.reduceat(filled, np.arange(0, where.height, factor), axis=1)
        pooled = np.fmax.reduceat(pooled, np.arange(0, where.width, factor), axis=2)
        maps[latent[part], slot[part]] = pooled
    return maps


def _fill(
    sae: SAE, x: torch.Tensor, where: Places, ids: np.ndarray, wanted: tuple[np.ndarray, np.ndarray]
) -> np.ndarray:
    """Maps [p, h, w] float32 of p pairs (run, latent), given the rows `ids` of those runs."""
    run, latent = wanted
    m = sae.n_latents
    pairs, back = np.unique(run * m + latent, return_inverse=True)
    own_run = np.searchsorted(where.starts, ids, side="right") - 1
    flat = where.y[ids] * where.width + where.x[ids]
    captured = where.y[ids] >= 0
    filled = np.full((len(pairs), where.height * where.width), np.nan, dtype=np.float32)
    # First zeros at all captured positions of each pair's run, then the active entries.
    runs, members = np.unique(own_run, return_index=True)
    ends = np.append(members[1:], len(ids))
    for pair, place in enumerate(np.searchsorted(runs, pairs // m)):
        inside = slice(members[place], ends[place])
        filled[pair, flat[inside][captured[inside]]] = 0.0
    with torch.no_grad():
        local, active, value = active_entries(sae.encode(x))
    key = own_run[local] * m + active
    place = np.searchsorted(pairs, key).clip(max=len(pairs) - 1)
    hit = (pairs[place] == key) & captured[local]
    filled[place[hit], flat[local[hit]]] = value[hit]
    return filled[back].reshape(-1, where.height, where.width)
