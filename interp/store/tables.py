"""The tables and statistics of a shard, held against what they may say before anyone uses them."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch

from interp.errors import StoreError
from interp.store.coords import COORDS, GENERATIONS, grid_axes, read_table
from interp.store.files import inside, read_file, shard_stem
from interp.store.manifest import Manifest, ShardEntry
from interp.store.statistics import Statistics

# Readers make tables with a line per call: more calls than this are damage, not a capture.
MAX_CALLS = 1 << 16
# Columns of the generations table that came with format 2.
_NEW = ("image_hash",)


def read_coordinates(
    root: Path, manifest: Manifest, entry: ShardEntry, group: int, columns: Sequence[str]
) -> dict[str, np.ndarray]:
    """Read columns of one group of coordinates.

    Raises:
        StoreError: damaged, or a value that no row of this shard can have.
    """
    rows, file = entry.coords[group]
    path = inside(root, f"coords/{shard_stem(entry.shard)}-{group:03d}.parquet")
    table = read_table(path, file, COORDS, columns, rows)
    start, stop = entry.generations
    bounds = {"generation": (start, stop), "call": (0, MAX_CALLS), "cfg_half": (0, 2)}
    bounds |= dict.fromkeys(("y", "x", "frame", "token"), (-1, 0))
    for point in manifest.points:
        item = entry.points[point.name]
        if item.coords == group:
            axes = grid_axes(point.layout, item.grid)
            bounds |= {a: (-1, size) for a, size in zip(axes, item.grid, strict=True)}
    _within(table, bounds, path)
    return table


def _within(
    table: Mapping[str, np.ndarray], bounds: Mapping[str, tuple[int, int]], path: Path
) -> None:
    for name, values in table.items():
        if name not in bounds or not len(values):
            continue
        low, high = bounds[name]
        if values.min() < low or values.max() >= high:
            raise StoreError(
                f"{path} is damaged: {name} runs from {values.min()} to {values.max()}, not within "
                f"{low} to {high - 1}"
            )


def read_generations(root: Path, manifest: Manifest, entry: ShardEntry) -> dict[str, np.ndarray]:
    """Read the generations table of one shard; columns that its format lacks are "".

    Raises:
        StoreError: damaged, or not the generations of this shard.
    """
    start, stop = entry.generations
    path = inside(root, f"generations/{shard_stem(entry.shard)}.parquet")
    missing = _NEW if manifest.version[0] < 2 else ()
    columns = [name for name in GENERATIONS if name not in missing]
    table = read_table(path, entry.table, GENERATIONS, columns, stop - start)
    if not np.array_equal(table["generation"], np.arange(start, stop)):
        raise StoreError(f"{path} is damaged: it does not list generations {start} to {stop - 1}")
    _within(table, {"draw": (0, 1 << 31)}, path)
    table |= {name: np.full(stop - start, "", dtype=object) for name in missing}
    return {name: table[name] for name in GENERATIONS}


def read_statistics(root: Path, manifest: Manifest, entry: ShardEntry) -> dict[str, Statistics]:
    """Read mean and variance of every point of one shard.

    Raises:
        StoreError: damaged, or not the statistics of these points.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load

    path = inside(root, f"statistics/{shard_stem(entry.shard)}.safetensors")
    data = read_file(path, entry.statistics)
    try:
        tensors = load(data)
    except (SafetensorError, KeyError, ValueError) as error:
        raise StoreError(f"{path} is damaged: {error}") from error
    found = {}
    for index, point in enumerate(manifest.points):
        mean, var = (tensors.get(f"{index}.{part}") for part in ("mean", "var"))
        if mean is None or var is None or not _finite(mean, var, point.width):
            raise StoreError(f"{path} is damaged: no finite float64 statistics of {point.name}")
        found[point.name] = Statistics(entry.points[point.name].rows, mean, var)
    return found


def _finite(mean: torch.Tensor, var: torch.Tensor, width: int) -> bool:
    right = (x.dtype == torch.float64 and x.shape == (width,) for x in (mean, var))
    return all(right) and bool(torch.isfinite(mean).all() and torch.isfinite(var).all())
