"""Merging stores: parts of one capture, or captures that differ only in what was made or read."""

import dataclasses
import os
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from interp.errors import InputError, StoreError
from interp.store.coords import COORDS, GENERATIONS, encode_table
from interp.store.files import HEADER_BYTES, FileEntry, inside, point_folder, shard_stem
from interp.store.manage import store_folder
from interp.store.manifest import VERSION, Manifest, ShardEntry
from interp.store.staging import Staging, clean_store, explain, start_store
from interp.store.store import ActivationStore, open_store
from interp.store.tables import read_coordinates, read_generations
from interp.store.verify import sound_shards


def merge_stores(paths: Sequence[str | os.PathLike], out: str | os.PathLike) -> ActivationStore:
    """Merge stores of the same model, points and rows into one under `out`; copies, never moves.

    Stores with one hash are parts of one capture (shards written on several machines): the result
    has that hash too. Stores with different hashes are appended in the order given: generations
    are numbered on, and the recipe lists the hashes.

    Args:
        paths: folders of stores; those of one hash may be unfinished.
        out: folder of stores; the result's own folder is named by its hash.

    Raises:
        StoreError: no room, or a file does not match its manifest.
        InputError: the stores do not belong together, or two hold the same generation.
    """
    if len(paths) < 2:
        raise InputError(f"merging needs two or more stores, got {len(paths)}")
    parts = len({open_store(path, partial=True).hash for path in paths}) == 1
    stores = [open_store(path, partial=parts) for path in paths]
    _check_room(stores, Path(out))
    manifest = stores[0].manifest if parts else _joined(stores)
    path = store_folder(out, manifest)
    start_store(path, manifest)
    done = set(sound_shards(path, manifest))
    offset = shard = 0
    for store in stores:
        for entry in store.shards:
            target = entry.shard if parts else shard
            if target not in done:
                _copy_shard(store, entry, path, target, offset)
                done.add(target)
            shard += 1
        offset += 0 if parts else store.manifest.n_generations
    clean_store(path, manifest)
    return open_store(path, partial=parts)


def _check_room(stores: Sequence[ActivationStore], out: Path) -> None:
    out.mkdir(parents=True, exist_ok=True)
    needed = sum(
        store.n_rows(name) * point.width * store.dtype(name).itemsize
        for store in stores
        for name, point in store.points.items()
    )
    free = shutil.disk_usage(out).free
    if needed > free:
        raise StoreError(f"merging needs {needed / 1e9:.2f} GB, {out} has {free / 1e9:.2f} GB free")


def _joined(stores: Sequence[ActivationStore]) -> Manifest:
    first = stores[0].manifest
    for store in stores[1:]:
        other = store.manifest
        for what in ("model", "points", "rows"):
            if getattr(other, what) != getattr(first, what):
                raise InputError(
                    f"{store.path} and {stores[0].path} differ in their {what}; only stores of "
                    "the same model, points and rows can be merged"
                )
    keys = [
        key
        for store in stores
        for key in zip(store.generations["image_id"], store.generations["draw"], strict=True)
    ]
    if len(set(keys)) < len(keys):
        twice = next(key for key in keys if keys.count(key) > 1)
        raise InputError(
            f"{len(keys) - len(set(keys))} generations are in more than one store, such as "
            f"{twice[0]}, draw {twice[1]}"
        )
    sizes = [
        entry.generations[1] - entry.generations[0] for store in stores for entry in store.shards
    ]
    return dataclasses.replace(
        first,
        recipe={"kind": "merged", "stores": [store.hash for store in stores]},
        images=None,
        n_generations=sum(sizes),
        shard_size=max(sizes),
        starts=tuple(int(start) for start in np.cumsum([0, *sizes[:-1]])),
        version=VERSION,
    )


def _copy_shard(
    store: ActivationStore, entry: ShardEntry, path: Path, shard: int, offset: int
) -> None:
    """Copy one shard with the number `shard`, its generations numbered on by `offset`."""
    staging = Staging(path, shard)
    try:
        _copy_tensors(store, entry, staging)
        copied = _relabel(store, entry, staging, offset)
        staging.publish(copied)
    except OSError as error:
        raise explain(error, path, f"shard {shard}") from error
    finally:
        staging.close()


def _copy_tensors(store: ActivationStore, entry: ShardEntry, staging: Staging) -> None:
    old, new = shard_stem(entry.shard), shard_stem(staging.shard)
    folders = {
        point_folder(index, point.name): entry.points[point.name].sha256
        for index, point in enumerate(store.manifest.points)
    }
    if entry.images is not None:
        folders["images"] = entry.images[1]
    for folder, digest in folders.items():
        source = inside(store.path, f"{folder}/{old}.safetensors")
        copy = staging.copy(source, f"{folder}/{new}.safetensors", skip=HEADER_BYTES)
        _same(copy.sha256, digest, source)
    source = inside(store.path, f"statistics/{old}.safetensors")
    copy = staging.copy(source, f"statistics/{new}.safetensors")
    _same(copy.sha256, entry.statistics.sha256, source)


def _relabel(
    store: ActivationStore, entry: ShardEntry, staging: Staging, offset: int
) -> ShardEntry:
    new = shard_stem(staging.shard)
    start, stop = entry.generations
    coords: list[tuple[int, FileEntry]] = []
    for number, (rows, _) in enumerate(entry.coords):
        columns = read_coordinates(store.path, store.manifest, entry, number, list(COORDS))
        columns["generation"] = columns["generation"] + np.int32(offset)
        data = encode_table(columns, COORDS)
        coords.append((rows, staging.write(f"coords/{new}-{number:03d}.parquet", data)))
    table = read_generations(store.path, store.manifest, entry)
    table["generation"] = table["generation"] + offset
    written = staging.write(f"generations/{new}.parquet", encode_table(table, GENERATIONS))
    return dataclasses.replace(
        entry,
        shard=staging.shard,
        generations=(start + offset, stop + offset),
        coords=tuple(coords),
        table=written,
    )


def _same(found: str, expected: str, source: Path) -> None:
    if found != expected:
        raise StoreError(f"{source} is damaged: its sha256 differs from the manifest's")
