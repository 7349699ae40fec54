"""Parts of a scan on disk: whole or absent, of one recipe, shared by processes."""

import contextlib
import hashlib
import io
import json
import math
import os
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from interp.errors import InputError

Arrays = dict[str, np.ndarray]

RECIPE = "scan.json"
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
        text = path.read_text() if path.exists() else None
    except OSError as error:
        raise InputError(f"cannot use {out} for a scan: {error}") from error
    if text is None:
        _write(path, json.dumps(recipe, indent=1, sort_keys=True).encode())
        return
    try:
        known = json.loads(text)
    except ValueError as error:
        raise InputError(f"{path} is damaged ({error}): give another folder, or empty it") from None
    plain = json.loads(json.dumps(recipe))
    keys = sorted(set(known) | set(plain))
    odd = [key for key in keys if not _same(key, known.get(key), plain.get(key))]
    if odd:
        said = "; ".join(f"{k} was {_short(known.get(k))}, is {_short(plain.get(k))}" for k in odd)
        raise InputError(
            f"{out} holds another scan ({len(odd)} differences): {said[:600]}; give another folder"
        )


def _same(key: str, x: Any, y: Any) -> bool:
    if key.startswith("attribute ") and isinstance(x, list) and isinstance(y, list):
        pairs = zip(x, y, strict=False)
        near = all(math.isclose(a, b, rel_tol=_CLOSE, abs_tol=_CLOSE) for a, b in pairs)
        return len(x) == len(y) and near
    return x == y


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def write_part(out: Path, index: int, arrays: Arrays) -> None:
    """Write a part as one uncompressed npz: equal arrays give equal bytes."""
    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=False, **arrays)  # pyright: ignore
    _write(part_path(out, index), buffer.getvalue())


def read_part(out: Path, index: int) -> Arrays | None:
    """Return a part, or None where it is absent or damaged (every array has a checksum)."""
    try:
        data = io.BytesIO(part_path(out, index).read_bytes())
        with np.load(data, allow_pickle=False) as file:
            return {name: file[name] for name in file.files}
    except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile, zipfile.LargeZipFile):
        return None


def _write(path: Path, payload: bytes) -> None:
    """Write beside the target under a name of this process's own, flush, rename."""
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
