"""Finished parts of an unfinished atlas: whole files or none, and nothing of another recipe."""

import hashlib
import io
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from interp.errors import InputError

T = TypeVar("T")


def recipe_hash(values: Mapping[str, Any]) -> str:
    """Return the first 16 digits of the sha256 of what decides an atlas, as sorted JSON."""
    text = json.dumps(values, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def keep_arrays(
    folder: Path | None, name: str, make: Callable[[], dict[str, np.ndarray]]
) -> dict[str, np.ndarray]:
    """Return the arrays of a part: those on disk, else made now and written.

    Raises InputError for a part that cannot be read; deleting it makes it anew.
    """
    if folder is None:
        return make()
    path = folder / f"{name}.npz"
    if path.exists():
        try:
            with np.load(path, allow_pickle=False) as file:
                return {key: file[key] for key in file.files}
        except (OSError, ValueError, KeyError, EOFError) as error:
            raise InputError(f"{path} cannot be read ({error}); delete it to go on") from error
    arrays = make()
    data = io.BytesIO()
    np.savez(data, **arrays)  # pyright: ignore
    _write(path, data.getvalue())
    return arrays


def keep_values(folder: Path | None, name: str, make: Callable[[], T]) -> T:
    """Return the JSON values of a part: those on disk, else made now and written.

    Raises InputError for a part that cannot be read; deleting it makes it anew.
    """
    if folder is None:
        return make()
    path = folder / f"{name}.json"
    if path.exists():
        try:
            return json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise InputError(f"{path} cannot be read ({error}); delete it to go on") from error
    values = make()
    _write(path, json.dumps(values).encode())
    return values


def _write(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.partial")
    partial.write_bytes(data)
    partial.replace(path)
