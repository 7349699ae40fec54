"""Parts of a scan on disk: whole or absent, of one recipe, shared by processes."""

import contextlib
import hashlib
import io
import json
import os
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from interp.errors import InputError

Arrays = dict[str, np.ndarray]

RECIPE = "scan.json"
# What numpy and zipfile raise of a file that was cut short or altered; a flipped bit may claim
# encryption (RuntimeError) or an unknown method of compression (NotImplementedError).
DAMAGE = (
    OSError,
    ValueError,
    EOFError,
    KeyError,
    RuntimeError,
    MemoryError,
    zipfile.BadZipFile,
    zipfile.LargeZipFile,
    zlib.error,
)
# Embeddings of the reference images differ by rounding between machines and numbers of threads.
_CLOSE = 1e-3


def part_path(out: Path, index: int) -> Path:
    """Return the file of a part."""
    return out / f"part-{index:06d}.npz"


def open_folder(out: Path, recipe: Mapping[str, Any]) -> None:
    """Make the folder of a scan, or check that it belongs to the same one.

    Raises:
        InputError: the folder holds another scan, with what differs, or cannot be written.
    """
    path = out / RECIPE
    try:
        out.mkdir(parents=True, exist_ok=True)
        data = path.read_bytes() if path.exists() else None
    except OSError as error:
        raise InputError(f"cannot use {out} for a scan: {error}") from error
    if data is None:
        write_whole(path, json.dumps(recipe, indent=1, sort_keys=True).encode())
        return
    known = _read_recipe(path, data)
    plain = json.loads(json.dumps(recipe))
    keys = sorted(set(known) | set(plain))
    odd = [key for key in keys if not _same(key, known.get(key), plain.get(key))]
    if odd:
        said = "; ".join(f"{k} was {_short(known.get(k))}, is {_short(plain.get(k))}" for k in odd)
        raise InputError(
            f"{out} holds another scan ({len(odd)} differences): {said[:600]}; give another folder"
        )


def _read_recipe(path: Path, data: bytes) -> dict[str, Any]:
    try:
        known = json.loads(data.decode())
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is damaged ({error}): give another folder, or empty it") from None
    if not isinstance(known, dict):
        raise InputError(
            f"{path} is damaged (it holds a {type(known).__name__}, not a mapping): give another "
            "folder, or empty it"
        )
    return known


def _same(key: str, x: Any, y: Any) -> bool:
    if key.startswith("attribute ") and _are_numbers(x) and _are_numbers(y):
        # Width and root mean square, then numbers of that size.
        if len(x) != len(y) or len(x) < 2 or x[0] != y[0]:
            return False
        near = _CLOSE * max(abs(x[1]), abs(y[1]))
        return all(abs(a - b) <= near for a, b in zip(x[1:], y[1:], strict=True))
    return x == y


def _are_numbers(values: Any) -> bool:
    # A whole number of hundreds of digits has no float.
    return isinstance(values, list) and all(
        isinstance(x, float) or (isinstance(x, int) and abs(x) < 2**63) for x in values
    )


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def write_part(out: Path, index: int, arrays: Arrays) -> None:
    """Write a part as one uncompressed npz: equal arrays give equal bytes."""
    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=False, **arrays)  # pyright: ignore
    write_whole(part_path(out, index), buffer.getvalue())


def read_part(out: Path, index: int) -> Arrays | None:
    """Return a part, or None where it is absent or damaged (every array has a checksum)."""
    return read_arrays(part_path(out, index))


def read_arrays(path: Path) -> Arrays | None:
    """Return the arrays of an npz file, or None where it is absent or damaged."""
    try:
        with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as file:
            return {name: file[name] for name in file.files}
    except DAMAGE:
        return None


def write_whole(path: Path, payload: bytes) -> None:
    """Write beside the target under a name of this process's own, flush, rename.

    Raises InputError where the disk is full or not writable.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(payload)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise InputError(f"cannot write {path} ({len(payload)} bytes): {error}") from error


def sweep(out: Path) -> None:
    """Remove what killed processes left; only when every part is there."""
    for path in out.glob(".*.tmp"):
        with contextlib.suppress(OSError):
            path.unlink()


def digest(value: Any) -> str:
    """Return 16 hex digits of the sha256 of an array's type, shape and bytes."""
    array = np.ascontiguousarray(value)
    head = f"{array.dtype} {array.shape}\n".encode()
    return hashlib.sha256(head + array.tobytes()).hexdigest()[:16]


def find_rank() -> tuple[int, int]:
    """Return (rank, world size) as torchrun and others set RANK and WORLD_SIZE; (0, 1) without.

    Raises:
        InputError: they are not numbers with 0 <= rank < world size.
    """
    if "RANK" not in os.environ or "WORLD_SIZE" not in os.environ:
        return 0, 1
    rank, world = os.environ["RANK"], os.environ["WORLD_SIZE"]
    if not (rank.isdecimal() and world.isdecimal() and int(rank) < int(world)):
        raise InputError(f"RANK={rank!r} and WORLD_SIZE={world!r}: 0 <= rank < size is needed")
    return int(rank), int(world)
