"""Reading a store: rows, coordinates, generations, images, statistics."""

import dataclasses
import difflib
import math
import os
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Float32, Shaped, UInt8
from torch import Tensor

from interp.errors import InputError, PointError, StoreError
from interp.models.points import HookPoint
from interp.store.coords import (
    COORDS,
    GENERATIONS,
    Index,
    flat_positions,
    grid_axes,
    row_ids,
)
from interp.store.files import (
    DTYPES,
    HEADER_BYTES,
    check_size,
    gather_rows,
    inside,
    open_tensor,
    point_folder,
    read_into,
    read_text,
    shard_stem,
    tensor_bytes,
)
from interp.store.manifest import Manifest, PointEntry, ShardEntry, no_store, read_entries
from interp.store.reader import ShuffledReader
from interp.store.statistics import Statistics, merge_statistics
from interp.store.tables import read_coordinates, read_generations, read_statistics
from interp.store.verify import Problem, verify_shard

# Descriptors kept open; far below the usual limit of 1024 per process.
_OPEN_FILES = 64
# Above one row in four, reading the whole span and picking from it beats a map's page faults.
_DENSE = 4


def open_store(path: str | os.PathLike, *, partial: bool = False) -> "ActivationStore":
    """Open a store for reading; files are checked for presence and size when they are read.

    Args:
        path: folder of the store.
        partial: accept a store whose capture has not finished; its rows are those of the finished
            shards.

    Returns:
        The store; its files stay closed until rows are read.

    Raises:
        StoreError: not a store, damaged, of a newer format, or unfinished.
    """
    return ActivationStore(Path(path), partial=partial)


class ActivationStore:
    """Rows captured from a model with the coordinates of each; immutable.

    A row id is the position of a row in shard order; each point has its own row ids.

    Attributes:
        path: folder.
        manifest: what was captured.
        shards: the finished shards, in order.
    """

    def __init__(self, path: Path, *, partial: bool = False) -> None:
        self.path = path
        file = path / "manifest.json"
        if not file.exists():
            raise no_store(path)
        self.manifest = Manifest.decode(read_text(inside(path, "manifest.json")), str(file))
        self.shards = read_entries(path, self.manifest)
        missing = sorted(set(range(self.manifest.n_shards)) - {e.shard for e in self.shards})
        if missing and (not partial or not self.shards):
            raise StoreError(
                f"{len(missing)} of {self.manifest.n_shards} shards of {path} are missing "
                f"({', '.join(map(str, missing[:8]))}{', ...' if len(missing) > 8 else ''}): "
                "run the capture again to continue it, or open_store(path, partial=True)"
            )
        self._files: OrderedDict[tuple[str, int], int] = OrderedDict()
        self._sized: set[str] = set()
        self._index = {point.name: i for i, point in enumerate(self.manifest.points)}

    def __repr__(self) -> str:
        return (
            f"ActivationStore({str(self.path)!r}, {len(self.points)} points, "
            f"{len(self.generations['generation'])} generations, {len(self.shards)} shards)"
        )

    def __del__(self) -> None:
        for fd in getattr(self, "_files", {}).values():
            os.close(fd)

    @property
    def hash(self) -> str:
        """SHA-256 of the recipe."""
        return self.manifest.hash

    @property
    def recipe(self) -> dict[str, Any]:
        """Fields of the recipe, with its `kind`: "generation" or "encoding"."""
        return self.manifest.recipe

    @property
    def model(self) -> dict[str, Any]:
        """Identity of the model."""
        return self.manifest.model

    @property
    def complete(self) -> bool:
        """Whether every shard of the recipe is there."""
        return len(self.shards) == self.manifest.n_shards

    @cached_property
    def points(self) -> dict[str, HookPoint]:
        """Hook points in order of execution, with the grid that was captured."""
        first = self.shards[0].points
        return {
            point.name: dataclasses.replace(point, grid=first[point.name].grid)
            for point in self.manifest.points
        }

    @cached_property
    def generations(self) -> dict[str, np.ndarray]:
        """One row per generation: ids, clusters, labels, captions, seeds (see `format.md`)."""
        parts = [read_generations(self.path, self.manifest, entry) for entry in self.shards]
        return {name: np.concatenate([part[name] for part in parts]) for name in GENERATIONS}

    def entries(self, point: str) -> list[PointEntry]:
        """Return what the manifest says of a point, shard by shard.

        Raises:
            PointError: the store has no such point.
        """
        if point not in self._index:
            close = difflib.get_close_matches(point, self._index, n=4, cutoff=0.4)
            raise PointError(
                f"the store {self.path} has no point {point!r}; closest: "
                f"{', '.join(close or list(self._index)[:4])} ({len(self._index)} in all)"
            )
        entries = [shard.points[point] for shard in self.shards]
        if point not in self._sized:
            self._check_sizes(point)
        if len({entry.dtype for entry in entries}) > 1:
            raise StoreError(f"{point} has shards of several dtypes")
        return entries

    def _check_sizes(self, point: str) -> None:
        folder = point_folder(self._index[point], point)
        for entry in self.shards:
            path = inside(self.path, f"{folder}/{shard_stem(entry.shard)}.safetensors")
            item = entry.points[point]
            check_size(path, item.dtype, (item.rows, self.points[point].width))
        self._sized.add(point)

    def starts(self, point: str) -> np.ndarray:
        """Return the first row id of each shard, and the number of rows at the end."""
        rows = [entry.rows for entry in self.entries(point)]
        return np.concatenate([[0], np.cumsum(rows, dtype=np.int64)])

    def n_rows(self, point: str) -> int:
        """Return the number of rows of a point."""
        return int(self.starts(point)[-1])

    def dtype(self, point: str) -> torch.dtype:
        """Return the dtype of the stored rows."""
        return DTYPES[self.entries(point)[0].dtype]

    def rows(self, point: str, index: Index = None) -> Shaped[Tensor, "n d"]:
        """Return rows in the dtype they were captured in.

        Args:
            point: name of a point.
            index: row ids, a boolean mask over all rows, a slice, or None for all.

        Raises:
            PointError: unknown point. InputError: row ids out of range. StoreError: damaged files.
        """
        starts = self.starts(point)
        ids = row_ids(index, int(starts[-1]), point)
        out = torch.empty(len(ids), self.points[point].width, dtype=self.dtype(point))
        shards = np.searchsorted(starts, ids, side="right") - 1
        for shard in np.unique(shards):
            where = np.flatnonzero(shards == shard)
            local = ids[where] - starts[shard]
            if len(where) == len(ids):
                self.read_rows(point, int(shard), local, out)
            else:
                part = torch.empty(len(where), out.shape[1], dtype=out.dtype)
                out[torch.from_numpy(where)] = self.read_rows(point, int(shard), local, part)
        return out

    def read_rows(self, point: str, position: int, local: np.ndarray, out: Tensor) -> Tensor:
        """Fill `out` with rows of one shard, given by its place in `shards`, and return it."""
        if not len(local):
            return out
        first, last = int(local.min()), int(local.max())
        span = last - first + 1
        if span == len(local) and (len(local) == 1 or bool((np.diff(local) == 1).all())):
            self._read(point, position, first, out)
        elif span <= _DENSE * len(local):
            whole = torch.empty(span, out.shape[1], dtype=out.dtype)
            self._read(point, position, first, whole)
            torch.index_select(whole, 0, torch.from_numpy(local - first), out=out)
        else:
            gather_rows(self._open(point, position)[0], local, out)
        return out

    def _read(self, point: str, position: int, first: int, out: Tensor) -> None:
        fd, path = self._open(point, position)
        offset = HEADER_BYTES + first * out.shape[1] * out.element_size()
        read_into(fd, tensor_bytes(out), offset, path)

    def _open(self, point: str, position: int) -> tuple[int, Path]:
        entry = self.shards[position]
        folder = point_folder(self._index[point], point)
        relative = f"{folder}/{shard_stem(entry.shard)}.safetensors"
        key = (point, position)
        if key not in self._files:
            item = entry.points[point]
            width = self.points[point].width
            path = inside(self.path, relative)
            self._files[key] = open_tensor(path, item.dtype, (item.rows, width))
        self._files.move_to_end(key)
        fd = self._files[key]
        if len(self._files) > _OPEN_FILES:
            os.close(self._files.popitem(last=False)[1])
        return fd, self.path / relative

    def coords(
        self, point: str, index: Index = None, columns: Sequence[str] | None = None
    ) -> dict[str, np.ndarray]:
        """Return where rows come from.

        Columns: generation, call, t, log_snr, cfg_half (0 unconditional, 1 conditional), y, x,
        frame, token (-1 or NaN where they do not apply), and draw, that of the generation.

        Args:
            point: name of a point.
            index: row ids, a boolean mask, a slice, or None for all.
            columns: the ones wanted; None for all.
        """
        wanted = [*COORDS, "draw"] if columns is None else list(columns)
        odd = sorted(set(wanted) - {*COORDS, "draw"})
        if odd:
            raise InputError(f"unknown columns {odd}; there are {[*COORDS, 'draw']}")
        needed = {*wanted, "generation"} if "draw" in wanted else {*wanted}
        read = [name for name in COORDS if name in needed]
        table = self._coordinates(point, read)
        n_rows = self.n_rows(point)
        if index is not None:
            ids = row_ids(index, n_rows, point)
            table = {name: values[ids] for name, values in table.items()}
        if "draw" in wanted:
            place = self._places(table["generation"])
            table["draw"] = self.generations["draw"][place].astype(np.int32)
        return {name: table[name] for name in wanted}

    def _coordinates(self, point: str, columns: list[str]) -> dict[str, np.ndarray]:
        parts = []
        for shard, entry in zip(self.shards, self.entries(point), strict=True):
            parts.append(read_coordinates(self.path, self.manifest, shard, entry.coords, columns))
        return {name: np.concatenate([part[name] for part in parts]) for name in columns}

    def _places(self, generations: np.ndarray) -> np.ndarray:
        """Return where each generation number stands in `generations`."""
        known = self.generations["generation"]
        places = np.searchsorted(known, generations)
        found = places < len(known)
        found[found] = known[places[found]] == np.asarray(generations)[found]
        if not found.all():
            raise InputError(
                f"generation {np.asarray(generations)[~found][0]} is not in the store "
                f"({len(known)} generations, {known[0]} to {known[-1]})"
            )
        return places

    def images(self, generations: Index = None) -> UInt8[Tensor, "g h w 3"]:
        """Return the images that lie beside the rows.

        Args:
            generations: generation numbers; None for all.

        Raises:
            StoreError: the capture had no images. InputError: unknown generation.
        """
        known = self.generations["generation"]
        wanted = known if generations is None else np.atleast_1d(np.asarray(generations))
        places = self._places(wanted)
        shapes = {entry.images[0][1:] if entry.images else () for entry in self.shards}
        if len(shapes) != 1 or shapes == {()}:
            raise StoreError(f"{self.path} has no images, or images of several sizes: {shapes}")
        for entry in self.shards:
            path = inside(self.path, f"images/{shard_stem(entry.shard)}.safetensors")
            check_size(path, "U8", entry.images[0] if entry.images else ())
        out = torch.empty(len(wanted), *shapes.pop(), dtype=torch.uint8)
        for entry in self.shards:
            start, stop = entry.generations
            where = np.flatnonzero((known[places] >= start) & (known[places] < stop))
            if len(where):
                local = torch.from_numpy(known[places[where]] - start)
                out[torch.from_numpy(where)] = self._shard_images(entry)[local]
        return out

    def _shard_images(self, entry: ShardEntry) -> Tensor:
        assert entry.images is not None
        path = inside(self.path, f"images/{shard_stem(entry.shard)}.safetensors")
        fd = open_tensor(path, "U8", entry.images[0])
        out = torch.empty(entry.images[0], dtype=torch.uint8)
        try:
            read_into(fd, tensor_bytes(out), HEADER_BYTES, path)
        finally:
            os.close(fd)
        return out

    def statistics(self, point: str) -> Statistics:
        """Return count, mean and variance of all rows of a point, in float64."""
        self.entries(point)
        parts = [read_statistics(self.path, self.manifest, entry) for entry in self.shards]
        return merge_statistics([part[point] for part in parts])

    def chunks(self, point: str, size: int) -> Iterator[tuple[np.ndarray, Float32[Tensor, "n d"]]]:
        """Yield (row ids, rows as float32) in order, at most `size` rows at a time.

        A chunk ends at the end of a shard, and holds whole maps where `size` allows it.
        """
        if size < 1:
            raise InputError(f"a chunk needs one or more rows, got size {size}")
        starts = self.starts(point)
        for position, entry in enumerate(self.entries(point)):
            step = size - size % entry.positions if size >= entry.positions else size
            for first in range(0, entry.rows, step):
                count = min(step, entry.rows - first)
                out = torch.empty(count, self.points[point].width, dtype=self.dtype(point))
                self._read(point, position, first, out)
                yield np.arange(count) + (starts[position] + first), out.float()

    def read(
        self,
        point: str,
        batch_size: int,
        *,
        seed: int = 0,
        rows: np.ndarray | None = None,
        epochs: int | None = 1,
        reservoir: int = 65536,
    ) -> ShuffledReader:
        """Return shuffled batches; see `ShuffledReader`."""
        return ShuffledReader(
            self, point, batch_size, seed=seed, rows=rows, epochs=epochs, reservoir=reservoir
        )

    def map_rows(self, point: str, generation: int, call: int = 0, cfg_half: int = 1) -> np.ndarray:
        """Return the row ids of one map, in position order; empty where none was captured."""
        self._places(np.array([generation]))
        table = self._coordinates(point, ["generation", "call", "cfg_half"])
        hit = table["generation"] == generation
        hit &= (table["call"] == call) & (table["cfg_half"] == cfg_half)
        return np.flatnonzero(hit)

    def maps(
        self, point: str, generation: int, call: int = 0, cfg_half: int = 1
    ) -> Float[Tensor, "*grid d"]:
        """Return the rows of one map on the point's grid as float32, NaN where none was kept.

        Raises:
            StoreError: nothing was captured there, or only the mean over the map.
        """
        ids = self.map_rows(point, generation, call, cfg_half)
        grid = self.points[point].grid
        where = self.coords(point, ids, ("frame", "y", "x", "token"))
        flat = flat_positions(where, grid, grid_axes(self.points[point].layout, grid))
        if not len(ids) or (grid and flat.min() < 0):
            raise StoreError(
                f"no map of {point} for generation {generation}, call {call}, half {cfg_half}"
            )
        out = torch.full((math.prod(grid), self.points[point].width), float("nan"))
        out[torch.from_numpy(flat)] = self.rows(point, ids).float()
        return out.reshape(*grid, -1)

    def verify(self) -> list[Problem]:
        """Read everything, and return what differs from the manifest; [] for a sound store."""
        return [problem for entry in self.shards for problem in verify_shard(self, entry)]
