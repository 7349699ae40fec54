"""Where each row comes from: the coordinate columns, built from segments of a capture."""

import hashlib
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor

from interp.errors import InputError, StoreError
from interp.store.files import FileEntry, read_file

# Column -> dtype. `t` and `log_snr` are NaN, the others -1, where they do not apply.
COORDS = {
    "generation": np.dtype(np.int32),
    "call": np.dtype(np.int32),
    "t": np.dtype(np.float64),
    "log_snr": np.dtype(np.float64),
    "cfg_half": np.dtype(np.int8),
    "y": np.dtype(np.int32),
    "x": np.dtype(np.int32),
    "frame": np.dtype(np.int32),
    "token": np.dtype(np.int32),
}
# Column of the generations table -> dtype (object: text, "" where none).
GENERATIONS = {
    "generation": np.dtype(np.int64),
    "image_id": np.dtype(object),
    "cluster": np.dtype(object),
    "label": np.dtype(np.int64),
    "category": np.dtype(object),
    "caption": np.dtype(object),
    "prompt": np.dtype(object),
    "seed": np.dtype(np.int64),
    "split": np.dtype(object),
    "source": np.dtype(object),
    "draw": np.dtype(np.int64),
    "image_hash": np.dtype(object),
}


# What selects rows: row ids, a boolean mask over all rows, a slice, or None for all.
Index = np.ndarray | slice | Sequence[int] | Tensor | None


class Segment(NamedTuple):
    """Rows of one point at one call for several generations, in (generation, position) order."""

    generations: np.ndarray  # [b] int
    call: int
    t: float
    log_snr: float
    half: int
    positions: np.ndarray  # [b, p] flat positions in the grid, -1 for a mean over the map

    def key(self) -> bytes:
        """Identify the coordinates of these rows."""
        digest = hashlib.sha256(repr(self[1:5]).encode())
        digest.update(np.ascontiguousarray(self.generations, dtype=np.int64).data)
        digest.update(repr(self.positions.shape).encode())
        # Positions shared by all generations are hashed once.
        shared = self.positions.strides[0] == 0
        positions = self.positions[:1] if shared else self.positions
        digest.update(np.ascontiguousarray(positions, dtype=np.int64).data)
        return digest.digest()


def choose_positions(
    positions: str | int, total: int, image_ids: Sequence[str], seed: int
) -> np.ndarray:
    """Choose the positions to keep in maps of `total` positions, one row per image: [b, p].

    The choice depends on (seed, image id, total) alone: it is the same at all points with the same
    grid, at every call, and in any batch.

    Args:
        positions: "all", "mean" (gives -1) or the number of random positions per map.
        total: positions of the map.
        image_ids: one per image of the batch.
        seed: seed of the choice.
    """
    if positions == "mean":
        return np.full((len(image_ids), 1), -1, dtype=np.int64)
    if positions == "all" or int(positions) >= total:
        return np.broadcast_to(np.arange(total), (len(image_ids), total))
    chosen = np.empty((len(image_ids), int(positions)), dtype=np.int64)
    for row, image_id in enumerate(image_ids):
        key = int.from_bytes(hashlib.sha256(image_id.encode()).digest()[:8], "little")
        rng = np.random.default_rng([seed, key, total])
        chosen[row] = np.sort(rng.choice(total, chosen.shape[1], replace=False))
    return chosen


def grid_axes(layout: str, grid: tuple[int, ...]) -> tuple[str, ...]:
    """Return the coordinate column of each axis of a grid: frame, y, x, token."""
    frames = "f" in layout
    if len(grid) == 1:
        return ("frame",) if frames and not set("tshw") & set(layout) else ("token",)
    if len(grid) == 2:
        return ("frame", "token") if frames else ("y", "x")
    return ("frame", "y", "x")[: len(grid)]


def coordinate_columns(
    segments: Sequence[Segment], grid: tuple[int, ...], axes: Sequence[str]
) -> dict[str, np.ndarray]:
    """Expand segments to one value per row and column.

    Args:
        segments: in row order.
        grid: () vector, (t,) tokens, (h, w) or (f, h, w).
        axes: column of each axis of the grid, see `grid_axes`.
    """
    repeats = [segment.positions.shape[1] for segment in segments]
    sizes = [segment.positions.size for segment in segments]
    columns: dict[str, np.ndarray] = {
        "generation": np.concatenate(
            [np.repeat(s.generations, p) for s, p in zip(segments, repeats, strict=True)]
        )
    }
    for name in ("call", "t", "log_snr"):
        columns[name] = np.repeat([getattr(s, name) for s in segments], sizes)
    columns["cfg_half"] = np.repeat([s.half for s in segments], sizes)
    flat = np.concatenate([s.positions.reshape(-1) for s in segments])
    none = np.full(flat.shape, -1)
    columns |= dict.fromkeys(("y", "x", "frame", "token"), none)
    if axes:
        place = np.unravel_index(np.maximum(flat, 0), grid)
        columns |= {a: np.where(flat < 0, -1, p) for a, p in zip(axes, place, strict=True)}
    return {name: columns[name].astype(dtype) for name, dtype in COORDS.items()}


def flat_positions(
    columns: Mapping[str, np.ndarray], grid: tuple[int, ...], axes: Sequence[str]
) -> np.ndarray:
    """Return the flat position of each row in its grid, -1 for a mean over the map."""
    if not axes:
        return np.zeros(len(columns["token"]), dtype=np.int64)
    place = [columns[axis].astype(np.int64) for axis in axes]
    flat = np.ravel_multi_index([np.maximum(p, 0) for p in place], grid)
    return np.where(place[0] < 0, -1, flat)


def encode_table(columns: Mapping[str, Any], schema: Mapping[str, np.dtype]) -> bytes:
    """Write columns as Parquet bytes (zstd); equal columns give equal bytes."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    arrays = {}
    for name, dtype in schema.items():
        if dtype.kind == "O":
            arrays[name] = pa.array([str(value) for value in columns[name]], type=pa.string())
        else:
            arrays[name] = pa.array(np.asarray(columns[name]).astype(dtype, copy=False))
    sink = io.BytesIO()
    pq.write_table(pa.table(arrays), sink, compression="zstd")
    return sink.getvalue()


def decode_table(
    data: bytes,
    schema: Mapping[str, np.dtype],
    columns: Sequence[str],
    path: Path,
    n_rows: int,
) -> dict[str, np.ndarray]:
    """Read columns of Parquet bytes.

    Raises:
        StoreError: the bytes are not the expected table.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        file = pq.ParquetFile(io.BytesIO(data))
        missing = sorted(set(columns) - set(file.schema_arrow.names))
        # Before the values: a few bytes can say that they are a billion equal rows.
        if missing or file.metadata.num_rows != n_rows:
            raise StoreError(
                f"{path} has {file.metadata.num_rows} rows, not {n_rows}, or lacks columns "
                f"{missing}"
            )
        table = file.read(columns=list(columns))
    except (pa.ArrowException, OSError) as error:
        raise StoreError(f"{path} is not a readable Parquet file: {error}") from error
    return {name: _column(table[name], schema[name], path) for name in columns}


def read_table(
    path: Path,
    entry: FileEntry,
    schema: Mapping[str, np.dtype],
    columns: Sequence[str],
    n_rows: int,
) -> dict[str, np.ndarray]:
    """Read columns of a checked Parquet file."""
    return decode_table(read_file(path, entry), schema, columns, path, n_rows)


def _column(column: Any, dtype: np.dtype, path: Path) -> np.ndarray:
    if column.null_count:
        raise StoreError(f"{path}: a column holds {column.null_count} nulls")
    if dtype.kind == "O":
        if str(column.type) != "string":
            raise StoreError(f"{path}: a column holds {column.type}, not text")
        return np.array(column.to_pylist(), dtype=object)
    values = column.to_numpy()
    if values.dtype != dtype:
        raise StoreError(f"{path}: a column holds {values.dtype}, not {dtype}")
    return values


def row_ids(index: Index, n_rows: int, what: str) -> np.ndarray:
    """Turn what a user selects rows with into int64 row ids.

    Raises:
        InputError: not integers, out of range, or a mask of another length.
    """
    if index is None:
        return np.arange(n_rows)
    if isinstance(index, slice):
        return np.arange(n_rows)[index]
    ids = np.atleast_1d(np.asarray(index))
    if ids.dtype == bool:
        if ids.shape != (n_rows,):
            raise InputError(f"a mask of shape {ids.shape} for the {n_rows} rows of {what}")
        return np.flatnonzero(ids)
    if ids.size == 0:
        return np.zeros(0, dtype=np.int64)
    if ids.ndim != 1 or ids.dtype.kind not in "iu":
        raise InputError(f"row ids must be integers [n], got {ids.dtype} {ids.shape}")
    if ids.min() < 0 or ids.max() >= n_rows:
        raise InputError(
            f"row ids {ids.min()} to {ids.max()} of {what}, which has rows 0 to {n_rows - 1}"
        )
    return ids.astype(np.int64)
