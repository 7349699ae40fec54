"""Finished parts of an unfinished atlas: whole files or none, and nothing of another recipe."""

import hashlib
import io
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from interp.errors import InputError
from interp.interventions.scan_parts import read_arrays, write_whole

T = TypeVar("T")


def recipe_hash(values: Mapping[str, Any]) -> str:
    """Return the first 16 digits of the sha256 of what decides an atlas, as sorted JSON."""
    text = json.dumps(values, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def keep_arrays(
    folder: Path | None,
    name: str,
    make: Callable[[], dict[str, np.ndarray]],
    needed: Sequence[str] = (),
) -> dict[str, np.ndarray]:
    """Return the arrays of a part: those on disk, else (absent or damaged) made and written.

    needed: names that a whole part has.
    Raises InputError where the part cannot be written.
    """
    if folder is None:
        return make()
    path = folder / f"{name}.npz"
    found = read_arrays(path)
    if found is not None and set(needed) <= set(found):
        return found
    arrays = make()
    data = io.BytesIO()
    np.savez(data, **arrays)  # pyright: ignore
    _write(path, data.getvalue())
    return arrays


def keep_values(
    folder: Path | None, name: str, make: Callable[[], T], read: Callable[[Any], Any] | None = None
) -> T:
    """Return the JSON values of a part: those on disk, else (absent or damaged) made and written.

    read: what reads the values later, called as a trial; values that it cannot read are damaged.
    Raises InputError where the part cannot be written.
    """
    if folder is None:
        return make()
    path = folder / f"{name}.json"
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        if read is not None:
            read(values)
        return values
    except (OSError, ValueError, TypeError, KeyError, RecursionError, InputError):
        pass
    values = make()
    _write(path, json.dumps(values).encode())
    return values


def _write(path: Path, data: bytes) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"cannot make {path.parent} ({error}); give another folder") from error
    write_whole(path, data)
