"""Whole stores: write one from tensors, summarise, merge, remove."""

import hashlib
import math
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Shaped, UInt8
from torch import Tensor

from interp.errors import InputError, StoreError
from interp.models.points import HookPoint
from interp.store.coords import GENERATIONS, Segment
from interp.store.files import read_text, tensor_bytes
from interp.store.manifest import Manifest
from interp.store.staging import clean_store, start_store
from interp.store.store import ActivationStore, open_store
from interp.store.verify import sound_shards
from interp.store.writer import ShardWriter

# Everything that a store may hold (see `format.md`); anything else keeps `remove_store` from it.
FOLDERS = ("points", "coords", "generations", "images", "statistics", "shards", "tmp")


def store_folder(out: str | os.PathLike, manifest: Manifest) -> Path:
    """Return the folder of a store under `out`: the first 12 digits of its hash."""
    return Path(out) / manifest.hash[:12]


def complete_table(table: Mapping[str, Any], count: int, first: int = 0) -> dict[str, Any]:
    """Return all columns of a generations table; missing ones are -1, "" or the image id.

    Args:
        table: columns by name, each of length `count`; `image_id` is needed.
        count: number of generations.
        first: number of the first one.

    Raises:
        InputError: an unknown column, a wrong length, or no image ids.
    """
    odd = sorted(set(table) - set(GENERATIONS))
    if odd or "image_id" not in table:
        raise InputError(f"columns {odd} are not among {list(GENERATIONS)}; image_id is needed")
    full: dict[str, Any] = {"generation": np.arange(first, first + count)}
    for name, dtype in GENERATIONS.items():
        blank = [""] * count if dtype.kind == "O" else np.full(count, -1)
        full.setdefault(name, table.get(name, blank))
        if len(full[name]) != count:
            raise InputError(f"column {name} has {len(full[name])} values for {count} generations")
    if "cluster" not in table:
        full["cluster"] = full["image_id"]
    if "draw" not in table:
        full["draw"] = np.zeros(count, dtype=np.int64)
    return full


def write_store(
    out: str | os.PathLike,
    values: Mapping[str, Shaped[Tensor, "g calls p d"]],
    *,
    points: Sequence[HookPoint] = (),
    generations: Mapping[str, Any] | None = None,
    images: UInt8[Tensor, "g h w 3"] | None = None,
    t: Sequence[float] = (),
    log_snr: Sequence[float] = (),
    model: Mapping[str, Any] | None = None,
    recipe: Mapping[str, Any] | None = None,
    shard_size: int = 0,
) -> ActivationStore:
    """Write activations that you already have as a store under `out`.

    Args:
        out: folder of stores; the store's own folder is named by its hash.
        values: per point, generations x calls x positions x width; float16, bfloat16 or float32.
        points: hook points; without them the grid is square where p is a square number.
        generations: columns of the generations table (see `format.md`); `image_id` is needed.
        images: one per generation.
        t, log_snr: one per call.
        model: identity of the model.
        recipe: what made the values; without it their digest is the recipe.
        shard_size: generations per shard; 0 puts all into one.

    Raises:
        InputError: shapes that do not belong together, NaN or inf.
    """
    count = _common_length(values)
    chosen = {point.name: point for point in points} or {
        name: _made_up(name, x) for name, x in values.items()
    }
    blank = {"image_id": [f"image{g}" for g in range(count)]}
    table = complete_table(generations or blank, count)
    manifest = Manifest(
        points=tuple(chosen[name] for name in values),
        model=dict(model or {"spec": "arrays"}),
        recipe={"kind": "arrays", **(recipe or {"sha256": _digest(values)})},
        rows={"positions": "all"},
        images=None,
        n_generations=count,
        shard_size=shard_size or count,
    )
    path = store_folder(out, manifest)
    start_store(path, manifest)
    for shard in sorted(set(range(manifest.n_shards)) - set(sound_shards(path, manifest))):
        start, stop = manifest.span(shard)
        part = {name: column[start:stop] for name, column in table.items()}
        with ShardWriter(path, manifest, shard) as writer:
            for name, x in values.items():
                _append(writer, name, x[start:stop], start, t, log_snr)
            writer.finish(part, None if images is None else images[start:stop], {})
    clean_store(path, manifest)
    return open_store(path)


def _common_length(values: Mapping[str, Tensor]) -> int:
    counts = {len(x) for x in values.values()}
    if len(counts) != 1 or any(x.ndim != 4 for x in values.values()):
        shapes = {name: list(x.shape) for name, x in values.items()}
        raise InputError(f"values must be [g, calls, p, d] with one g, got {shapes}")
    return counts.pop()


def _digest(values: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for x in values.values():
        digest.update(tensor_bytes(x.contiguous()))
    return digest.hexdigest()


def _append(
    writer: ShardWriter,
    name: str,
    x: Tensor,
    first: int,
    t: Sequence[float],
    log_snr: Sequence[float],
) -> None:
    grid = next(p.grid for p in writer.manifest.points if p.name == name)
    n, calls, p, d = x.shape
    if math.prod(grid) != p:
        raise InputError(f"{name} has {p} positions, its grid {grid} has {math.prod(grid)}")
    positions = np.broadcast_to(np.arange(p), (n, p))
    for call in range(calls):
        segment = Segment(
            np.arange(first, first + n),
            call,
            float(t[call]) if len(t) else math.nan,
            float(log_snr[call]) if len(log_snr) else math.nan,
            1,
            positions,
        )
        writer.append(name, x[:, call].reshape(n * p, d), segment, grid)


def _made_up(name: str, x: Tensor) -> HookPoint:
    p, d = x.shape[2:]
    side = math.isqrt(p)
    if p == 1:
        return HookPoint(name, name, "entry", "entry", d, (), "bc", 0.0)
    if side * side == p:
        return HookPoint(name, name, "image", "resid", d, (side, side), "bchw", 0.0)
    return HookPoint(name, name, "image", "resid", d, (p,), "btc", 0.0)


def store_info(path: str | os.PathLike) -> dict[str, Any]:
    """Return a summary of a store, finished or not: recipe, model, shards, and per point rows,
    width, dtype, grid, share of positions kept and bytes.
    """
    store = open_store(path, partial=True)
    points = {}
    for name, point in store.points.items():
        entries = store.entries(name)
        n_rows = store.n_rows(name)
        points[name] = {
            "rows": n_rows,
            "width": point.width,
            "grid": list(point.grid),
            "dtype": str(store.dtype(name)).removeprefix("torch."),
            "rate": entries[0].rate,
            "bytes": n_rows * point.width * store.dtype(name).itemsize,
        }
    return {
        "path": str(store.path),
        "hash": store.hash,
        "model": store.model.get("spec"),
        "recipe": store.recipe,
        "rows": store.manifest.rows,
        "shards": len(store.shards),
        "shards_expected": store.manifest.n_shards,
        "generations": len(store.generations["generation"]),
        "bytes": sum(item["bytes"] for item in points.values()),
        "points": points,
    }


def remove_store(path: str | os.PathLike) -> int:
    """Delete a store, and return how many bytes that freed.

    Raises:
        StoreError: the folder is not a store, is a link, or holds files that are not a store's.
    """
    path = Path(path)
    if path.is_symlink():
        raise StoreError(f"{path} is a symbolic link; give the folder itself")
    if not (path / "manifest.json").is_file():
        raise StoreError(f"{path} is not an activation store; nothing was deleted")
    Manifest.decode(read_text(path / "manifest.json"), str(path / "manifest.json"))
    strange = [
        child.name
        for child in path.iterdir()
        if child.name not in (*FOLDERS, "manifest.json") or child.is_symlink()
    ]
    if strange:
        raise StoreError(
            f"{path} also holds {', '.join(sorted(strange)[:4])}, which are not a store's; "
            "move them away first; nothing was deleted"
        )
    size = sum(file.lstat().st_size for file in path.rglob("*") if file.is_file())
    # Entries first: what a killed removal leaves behind is unfinished, never damaged.
    for name in ("shards", *FOLDERS):
        if (path / name).exists():
            shutil.rmtree(path / name)
    (path / "manifest.json").unlink()
    path.rmdir()
    return size
