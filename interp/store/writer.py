"""Writing one shard: rows as they come, then what belongs to them."""

import hashlib
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from interp.errors import InputError, StoreError
from interp.models.points import HookPoint
from interp.store.coords import (
    COORDS,
    GENERATIONS,
    Segment,
    coordinate_columns,
    encode_table,
    grid_axes,
)
from interp.store.files import (
    DTYPE_NAMES,
    HEADER_BYTES,
    FileEntry,
    point_folder,
    sha256,
    shard_stem,
    tensor_bytes,
    tensor_header,
    write_all,
    write_hashed,
)
from interp.store.manifest import Manifest, PointEntry, ShardEntry
from interp.store.staging import Staging, explain
from interp.store.statistics import RunningStatistics
from interp.store.tables import MAX_CALLS


@dataclass
class _PointFile:
    """The open file of one point and what has been written to it."""

    fd: int
    point: HookPoint
    statistics: RunningStatistics
    dtype: torch.dtype | None = None
    grid: tuple[int, ...] = ()
    rows: int = 0
    digest: Any = field(default_factory=hashlib.sha256)
    segments: list[Segment] = field(default_factory=list)


class ShardWriter:
    """Writes one shard: rows as they come, then everything else, the manifest entry last.

    Use as a context manager; leaving it without `finish` removes the unfinished files.
    """

    def __init__(self, path: Path, manifest: Manifest, shard: int) -> None:
        self.path = path
        self.manifest = manifest
        self.shard = shard
        self._staging: Staging | None = None
        self._files: dict[str, _PointFile] = {}

    def __enter__(self) -> "ShardWriter":
        self.open()
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def open(self) -> None:
        """Take the shard's lock and create its files.

        Raises:
            StoreError: another process is writing this shard, or the disk is full.
        """
        try:
            staging = self._staging = Staging(self.path, self.shard)
            for index, point in enumerate(self.manifest.points):
                flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
                fd = os.open(staging.folder / f"x{index}", flags, 0o644)
                os.lseek(fd, HEADER_BYTES, os.SEEK_SET)
                self._files[point.name] = _PointFile(fd, point, RunningStatistics(point.width))
        except OSError as error:
            self.close()
            raise self._explain(error) from error

    def close(self) -> None:
        """Close and remove what is unfinished; harmless after `finish` and when repeated."""
        for file in self._files.values():
            os.close(file.fd)
        self._files = {}
        if self._staging is not None:
            self._staging.close()

    def append(
        self, name: str, x: Float[Tensor, "n d"], segment: Segment, grid: tuple[int, ...]
    ) -> None:
        """Add rows of one point.

        Args:
            name: a point of the manifest.
            x: rows in (generation, position) order, float16, bfloat16 or float32.
            segment: where they come from.
            grid: the positions' grid.

        Raises:
            InputError: wrong shape or dtype, NaN or inf.
            StoreError: the disk is full.
        """
        file = self._files[name]
        _check(file, x, segment, grid, self.shard)
        x = x.detach().to("cpu").contiguous()
        if not file.statistics.update(x):
            raise _not_finite(name, x, segment)
        try:
            write_hashed(file.fd, tensor_bytes(x), file.digest)
        except OSError as error:
            raise self._explain(error) from error
        file.dtype = x.dtype
        file.grid = max(file.grid, grid)
        file.rows += len(x)
        file.segments.append(segment)

    def finish(
        self,
        table: Mapping[str, Any],
        images: UInt8[Tensor, "g h w 3"] | None,
        environment: Mapping[str, Any],
    ) -> ShardEntry:
        """Write provenance, images and statistics, make all of it durable, then the entry.

        Args:
            table: the columns of the generations of this shard.
            images: one per generation.
            environment: device, threads and versions of the run.

        Raises:
            InputError: a point has no rows.
            StoreError: the disk is full.
        """
        if self._staging is None:
            raise StoreError(f"shard {self.shard} of {self.path} was not opened")
        try:
            return self._finish(self._staging, table, images, environment)
        except OSError as error:
            raise self._explain(error) from error

    def _finish(
        self,
        staging: Staging,
        table: Mapping[str, Any],
        images: Tensor | None,
        environment: Mapping[str, Any],
    ) -> ShardEntry:
        stem = shard_stem(self.shard)
        start, stop = self.manifest.span(self.shard)
        if list(table["generation"]) != list(range(start, stop)):
            raise InputError(
                f"shard {self.shard} holds generations {start}-{stop - 1}, the table says "
                f"{list(table['generation'])[:4]}..."
            )
        if images is not None:
            table = {**table, "image_hash": image_hashes(images)}
        points, coords = self._finish_points(staging)
        stage = staging.write
        entry = ShardEntry(
            shard=self.shard,
            generations=(start, stop),
            points=points,
            coords=tuple(coords),
            table=stage(f"generations/{stem}.parquet", encode_table(table, GENERATIONS)),
            statistics=stage(f"statistics/{stem}.safetensors", self._statistics_bytes()),
            images=self._stage_images(staging, images, stop - start),
            environment=dict(environment),
        )
        staging.publish(entry)
        return entry

    def _finish_points(
        self, staging: Staging
    ) -> tuple[dict[str, PointEntry], list[tuple[int, FileEntry]]]:
        stem = shard_stem(self.shard)
        points: dict[str, PointEntry] = {}
        coords: list[tuple[int, FileEntry]] = []
        groups: dict[tuple, int] = {}
        for index, (name, file) in enumerate(self._files.items()):
            if not file.rows or file.dtype is None:
                raise InputError(f"{name} gave no rows in shard {self.shard}")
            axes = grid_axes(file.point.layout, file.grid)
            key = (file.grid, axes, *(segment.key() for segment in file.segments))
            if key not in groups:
                groups[key] = len(coords)
                relative = f"coords/{stem}-{len(coords):03d}.parquet"
                columns = coordinate_columns(file.segments, file.grid, axes)
                staged = staging.write(relative, encode_table(columns, COORDS))
                coords.append((file.rows, staged))
            points[name] = _point_entry(file, groups[key])
            header = tensor_header(points[name].dtype, (file.rows, file.point.width))
            write_all(file.fd, header, offset=0)
            staging.place(f"x{index}", f"{point_folder(index, name)}/{stem}.safetensors")
        return points, coords

    def _statistics_bytes(self) -> bytes:
        from safetensors.torch import save

        tensors = {}
        for index, file in enumerate(self._files.values()):
            result = file.statistics.result()
            tensors[f"{index}.mean"] = result.mean
            tensors[f"{index}.var"] = result.var
        return save(tensors)

    def _stage_images(
        self, staging: Staging, images: Tensor | None, count: int
    ) -> tuple[tuple[int, ...], str] | None:
        if images is None:
            return None
        if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[0] != count:
            raise InputError(
                f"images must be uint8 [{count}, h, w, 3], got {images.dtype} {list(images.shape)}"
            )
        data = tensor_bytes(images.to("cpu").contiguous())
        shape = tuple(images.shape)
        relative = f"images/{shard_stem(self.shard)}.safetensors"
        staging.write(relative, tensor_header("U8", shape) + bytes(data))
        return shape, sha256(data)

    def _explain(self, error: OSError) -> Exception:
        return explain(error, self.path, f"shard {self.shard}")


def image_hashes(images: UInt8[Tensor, "g h w 3"]) -> list[str]:
    """Return size and first 16 digits of the SHA-256 of each image's pixels."""
    height, width = images.shape[1:3]
    return [
        f"{height}x{width}:{sha256(tensor_bytes(image.to('cpu').contiguous()))[:16]}"
        for image in images
    ]


def _point_entry(file: _PointFile, coords: int) -> PointEntry:
    assert file.dtype is not None
    positions = file.segments[0].positions
    kept = positions.shape[1]
    return PointEntry(
        rows=file.rows,
        dtype=DTYPE_NAMES[file.dtype],
        sha256=file.digest.hexdigest(),
        grid=file.grid,
        positions=kept,
        rate=1.0 if positions[0, 0] < 0 else kept / math.prod(file.grid),
        coords=coords,
    )


def _check(
    file: _PointFile, x: Tensor, segment: Segment, grid: tuple[int, ...], shard: int
) -> None:
    name = file.point.name
    if x.ndim != 2 or x.shape[1] != file.point.width:
        raise InputError(f"rows of {name} have shape {list(x.shape)}, not [n, {file.point.width}]")
    if x.dtype not in DTYPE_NAMES or x.dtype == torch.uint8:
        raise InputError(
            f"rows of {name} are {x.dtype}; a store holds float16, bfloat16 or float32: "
            'pass Rows(dtype="float32")'
        )
    if not 0 <= segment.call < MAX_CALLS:
        raise InputError(f"call {segment.call} of {name}: calls run from 0 to {MAX_CALLS - 1}")
    if len(x) != segment.positions.size:
        raise InputError(f"{len(x)} rows of {name} with {segment.positions.size} coordinates")
    if file.dtype is None:
        return
    before = (file.dtype, _kind(file.grid), file.segments[0].positions.shape[1])
    now = (x.dtype, _kind(grid), segment.positions.shape[1])
    if now != before:
        raise InputError(
            f"{name} changed within shard {shard}: dtype, grid and positions per map are "
            f"{now} after {before}; keep the mean or a number of positions, or capture it alone"
        )


def _kind(grid: tuple[int, ...]) -> tuple[int, ...]:
    """Return what must not change within a shard: texts may have any number of tokens."""
    return (-1,) if len(grid) == 1 else grid


def _not_finite(name: str, x: Tensor, segment: Segment) -> InputError:
    bad = ~torch.isfinite(x.float())
    per_map = bad.any(1).reshape(segment.positions.shape).any(1).numpy()
    generations: Sequence[int] = np.asarray(segment.generations)[per_map].tolist()
    hint = ""
    if x.dtype == torch.float16:
        hint = '; float16 ends at 65504: capture with Rows(dtype="float32") or a bfloat16 model'
    return InputError(
        f"{int(bad.sum())} of {x.numel()} activations at {name}, call {segment.call}, are NaN or "
        f"inf: generation {generations[0]} and {len(generations) - 1} more of "
        f"{len(segment.generations)}; finished shards are kept{hint}"
    )
