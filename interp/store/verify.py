"""Reading every byte of a store and comparing it with the manifest."""

import math
import os
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from interp.errors import StoreError
from interp.store.coords import COORDS
from interp.store.files import (
    DTYPES,
    HEADER_BYTES,
    hash_tensor,
    inside,
    open_tensor,
    point_folder,
    read_text,
    shard_stem,
)
from interp.store.manifest import Manifest, ShardEntry
from interp.store.staging import finished_shards
from interp.store.tables import read_coordinates, read_generations, read_statistics

if TYPE_CHECKING:
    from interp.store.store import ActivationStore


class Problem(NamedTuple):
    """One file that differs from the manifest."""

    shard: int
    path: str
    message: str

    def __str__(self) -> str:
        return f"shard {self.shard}: {self.message}"


def sound_shards(path: Path, manifest: Manifest) -> list[int]:
    """Return the finished shards whose files are all there with the right sizes.

    Cheap enough for every start of a capture; `ActivationStore.verify` also compares the bytes.
    """
    sound = []
    for shard in finished_shards(path, manifest):
        name = f"shards/{shard_stem(shard)}.json"
        try:
            data = read_text(inside(path, name))
            entry = ShardEntry.decode(data, manifest, shard, str(path / name))
            if all(
                inside(path, file).stat().st_size == size for file, size in _sizes(manifest, entry)
            ):
                sound.append(shard)
        except (StoreError, OSError):
            # Damaged: to be written again.
            continue
    return sound


def _sizes(manifest: Manifest, entry: ShardEntry) -> Iterator[tuple[str, int]]:
    stem = shard_stem(entry.shard)
    for index, point in enumerate(manifest.points):
        item = entry.points[point.name]
        size = item.rows * point.width * DTYPES[item.dtype].itemsize
        yield f"{point_folder(index, point.name)}/{stem}.safetensors", HEADER_BYTES + size
    if entry.images is not None:
        yield f"images/{stem}.safetensors", HEADER_BYTES + math.prod(entry.images[0])
    for number, (_, file) in enumerate(entry.coords):
        yield f"coords/{stem}-{number:03d}.parquet", file.bytes
    yield f"generations/{stem}.parquet", entry.table.bytes
    yield f"statistics/{stem}.safetensors", entry.statistics.bytes


def verify_shard(store: "ActivationStore", entry: ShardEntry) -> Iterator[Problem]:
    """Yield what is wrong with the files of one shard."""
    for relative, check in _checks(store, entry):
        try:
            check()
        except StoreError as error:
            yield Problem(entry.shard, relative, str(error))


def _checks(
    store: "ActivationStore", entry: ShardEntry
) -> Iterator[tuple[str, Callable[[], object]]]:
    stem = shard_stem(entry.shard)
    for index, point in enumerate(store.manifest.points):
        item = entry.points[point.name]
        relative = f"{point_folder(index, point.name)}/{stem}.safetensors"
        shape = (item.rows, point.width)
        yield relative, _tensor_check(store, relative, item.dtype, shape, item.sha256)
    if entry.images is not None:
        relative = f"images/{stem}.safetensors"
        yield relative, _tensor_check(store, relative, "U8", *entry.images)
    shard = (store.path, store.manifest, entry)
    for group in range(len(entry.coords)):
        relative = f"coords/{stem}-{group:03d}.parquet"
        yield relative, partial(read_coordinates, *shard, group, list(COORDS))
    yield f"generations/{stem}.parquet", partial(read_generations, *shard)
    yield f"statistics/{stem}.safetensors", partial(read_statistics, *shard)


def _tensor_check(
    store: "ActivationStore", relative: str, dtype: str, shape: tuple[int, ...], digest: str
) -> Callable[[], None]:
    def check() -> None:
        path = inside(store.path, relative)
        fd = open_tensor(path, dtype, shape)
        try:
            size = DTYPES[dtype].itemsize * math.prod(shape)
            found = hash_tensor(fd, size, path)
        finally:
            os.close(fd)
        if found != digest:
            raise StoreError(
                f"{path} is damaged: its {size} bytes hash to {found[:12]}, not {digest[:12]}; "
                f"delete shards/{shard_stem(int(path.stem))}.json and run the capture again"
            )

    return check
