"""Bytes on disk: names, safetensors headers, atomic writes, reads that cannot leave the store."""

import errno
import hashlib
import json
import math
import mmap
import os
import re
import stat
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from interp.errors import StoreError

# The header is padded to a fixed size, so that rows can be streamed before their number is known.
HEADER_BYTES = 256
DTYPES = {
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F32": torch.float32,
    "U8": torch.uint8,
}
# Types of rows.
FLOATS = ("F16", "BF16", "F32")
DTYPE_NAMES = {dtype: name for name, dtype in DTYPES.items()}
# A megabyte at a time stays in the cache between hashing and writing; Linux transfers at most 2 GB
# per call anyway.
PIECE = 1 << 20
_SYNCS = 16
# What a full disk, an exceeded quota and a file-size limit report.
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class FileEntry(NamedTuple):
    """Size and digest of one whole file."""

    bytes: int
    sha256: str


def canonical_json(value: object) -> bytes:
    """Encode `value` as the one JSON text that hashes agree on: sorted keys, no spaces, UTF-8."""
    text = json.dumps(
        value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    )
    return text.encode()


def sha256(data: bytes | memoryview) -> str:
    """Return the hexadecimal SHA-256 of `data`."""
    return hashlib.sha256(data).hexdigest()


def tensor_bytes(x: Tensor) -> memoryview:
    """View the memory of a contiguous CPU tensor as bytes, without a copy."""
    return x.detach().reshape(-1).view(torch.uint8).numpy().data


def row_view(x: Tensor) -> np.ndarray:
    """View a contiguous CPU tensor [n, d] as n opaque values, which numpy moves by memcpy."""
    return np.frombuffer(tensor_bytes(x), dtype=f"V{x.shape[1] * x.element_size()}")


def gather_rows(fd: int, rows: np.ndarray, out: Tensor) -> None:
    """Fill `out` [n, d] with rows of an open tensor file, in any order."""
    with mmap.mmap(fd, 0, access=mmap.ACCESS_READ) as mapped:
        stored = np.frombuffer(mapped, dtype=row_view(out).dtype, offset=HEADER_BYTES)
        row_view(out)[:] = stored[rows]
        # The mapping cannot close while an array looks at it.
        del stored


def tensor_header(dtype: str, shape: tuple[int, ...]) -> bytes:
    """Return the only header that a store accepts for one tensor `x`: 256 bytes, space-padded."""
    size = DTYPES[dtype].itemsize * math.prod(shape)
    meta = {"x": {"dtype": dtype, "shape": list(shape), "data_offsets": [0, size]}}
    text = json.dumps(meta, separators=(",", ":")).encode()
    text = text.ljust(HEADER_BYTES - 8, b" ")
    return len(text).to_bytes(8, "little") + text


def point_folder(index: int, name: str) -> str:
    """Return the folder of a point; it is derived, never read from a manifest."""
    slug = re.sub(r"[^A-Za-z0-9._-]", "_", name)[:100]
    return f"points/{index:03d}-{slug}"


def shard_stem(shard: int) -> str:
    """Return the file stem of a shard: five digits."""
    return f"{shard:05d}"


def inside(root: Path, relative: str) -> Path:
    """Return `root/relative`, refusing symbolic links on the way.

    Raises:
        StoreError: a component of `relative` is a symbolic link.
    """
    path = root
    for part in Path(relative).parts:
        path = path / part
        if path.is_symlink():
            raise StoreError(
                f"{path} is a symbolic link; a store holds plain files only: copy the target here"
            )
    return path


def sync(path: Path) -> None:
    """Make the bytes of a file, or the names in a folder, durable."""
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def sync_all(paths: Iterable[Path]) -> None:
    """Make several files or folders durable at once."""
    # A journalling file system commits concurrent requests together: 80 in the time of about 10.
    with ThreadPoolExecutor(_SYNCS) as pool:
        list(pool.map(sync, paths))


def write_all(fd: int, data: bytes | memoryview, offset: int | None = None) -> None:
    """Write every byte of `data` at the end of what was written, or at `offset`."""
    view = memoryview(data)
    done = 0
    while done < len(view):
        piece = view[done : done + PIECE]
        if offset is None:
            done += os.write(fd, piece)
        else:
            done += os.pwrite(fd, piece, offset + done)


def write_hashed(fd: int, data: memoryview, digest: Any) -> None:
    """Write `data` and update `digest` with it, piece by piece."""
    for start in range(0, len(data), PIECE):
        piece = data[start : start + PIECE]
        write_all(fd, piece)
        digest.update(piece)


def write_file(path: Path, data: bytes | memoryview) -> FileEntry:
    """Write a new file; the caller makes it durable and renames it into place."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o644)
    try:
        write_all(fd, data)
    finally:
        os.close(fd)
    return FileEntry(len(data), sha256(data))


def write_atomic(path: Path, data: bytes, temporary: Path) -> None:
    """Write `data` to `temporary`, fsync, rename to `path`, fsync the folder."""
    write_file(temporary, data)
    sync(temporary)
    temporary.replace(path)
    sync(path.parent)


def read_into(fd: int, out: memoryview, offset: int, path: Path) -> None:
    """Fill `out` from `offset`; a short file raises instead of leaving zeros.

    Raises:
        StoreError: the file ends before `out` is full.
    """
    done = 0
    while done < len(out):
        got = os.preadv(fd, [out[done : done + PIECE]], offset + done)
        if got == 0:
            raise StoreError(
                f"{path} is truncated: {offset + done} bytes where at least {offset + len(out)} "
                "were expected; run `interp store verify`"
            )
        done += got


def read_file(path: Path, entry: FileEntry) -> bytes:
    """Read a small file whole and check its size and digest.

    Raises:
        StoreError: the file is missing, truncated or altered.
    """
    data = read_text(path, entry.bytes)
    if sha256(data) != entry.sha256:
        raise StoreError(f"{path} is damaged: its sha256 differs from the manifest's")
    return data


def read_text(path: Path, size: int | None = None) -> bytes:
    """Read a file whole, of `size` bytes where that is known.

    Raises:
        StoreError: the file is missing, has another size, or is no plain file.
    """
    fd, actual = open_plain(path)
    with os.fdopen(fd, "rb") as file:
        if size is not None and actual != size:
            raise StoreError(f"{path} is truncated or altered: {actual} bytes, not {size}")
        return file.read()


def open_plain(path: Path) -> tuple[int, int]:
    """Open a plain file for reading; returns its descriptor and its size.

    Raises:
        StoreError: the file is missing or unreadable, or is a folder, a pipe or a link.
    """
    try:
        # A pipe would wait for a writer.
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except FileNotFoundError:
        raise StoreError(f"{path} is missing; run `interp store verify`") from None
    except OSError as error:
        raise StoreError(f"{path} cannot be read: {error.strerror}") from error
    status = os.fstat(fd)
    if not stat.S_ISREG(status.st_mode):
        os.close(fd)
        raise StoreError(f"{path} is not a plain file; a store holds nothing else")
    return fd, status.st_size


def open_tensor(path: Path, dtype: str, shape: tuple[int, ...]) -> int:
    """Open a shard for reading after checking its size and its header; returns a descriptor.

    Raises:
        StoreError: the file is missing, truncated, or its header is not the canonical one.
    """
    expected = tensor_header(dtype, shape)
    size = HEADER_BYTES + DTYPES[dtype].itemsize * math.prod(shape)
    fd, actual = open_plain(path)
    if actual != size:
        os.close(fd)
        raise _other_size(path, actual, size)
    if os.pread(fd, HEADER_BYTES, 0) != expected:
        os.close(fd)
        raise StoreError(
            f"the header of {path} is not that of {dtype} {list(shape)}; run `interp store verify`"
        )
    return fd


def check_size(path: Path, dtype: str, shape: tuple[int, ...]) -> None:
    """Compare a tensor file's size with what the manifest says, before memory is taken for it.

    Raises:
        StoreError: the file is missing, or has another size.
    """
    size = HEADER_BYTES + DTYPES[dtype].itemsize * math.prod(shape)
    try:
        actual = path.lstat().st_size
    except FileNotFoundError:
        raise StoreError(f"{path} is missing; run `interp store verify`") from None
    except OSError as error:
        raise StoreError(f"{path} cannot be read: {error.strerror}") from error
    if actual != size:
        raise _other_size(path, actual, size)


def _other_size(path: Path, actual: int, size: int) -> StoreError:
    return StoreError(
        f"{path} is truncated or altered: {actual} bytes where the manifest says {size}; "
        "run `interp store verify`"
    )


def hash_tensor(fd: int, size: int, path: Path) -> str:
    """Return the SHA-256 of the `size` bytes after the header."""
    digest = hashlib.sha256()
    buffer = memoryview(bytearray(min(size, 1 << 22)))
    done = 0
    while done < size:
        piece = buffer[: min(len(buffer), size - done)]
        read_into(fd, piece, HEADER_BYTES + done, path)
        digest.update(piece)
        done += len(piece)
    return digest.hexdigest()


def disk_full(error: OSError) -> bool:
    """Tell whether the error says that there is no room for more bytes."""
    return error.errno in _FULL
