"""JSON of the records: floats of nine digits, a fixed order of keys, whole files or none."""

import json
import math
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from interp.errors import InputError

# Digits kept in JSON: beyond float32 and the resolution of any interval, and stable to read.
DIGITS = 9


def plain(value: Any) -> Any:
    """The value as JSON has it: mappings, lists, texts, rounded numbers; NaN becomes None."""
    if isinstance(value, Mapping):
        return {k: plain(v) for k, v in value.items()}
    if isinstance(value, float):
        return round(value, DIGITS) if math.isfinite(value) else None
    if isinstance(value, str | int) or value is None:
        return value
    if isinstance(value, Iterable):
        return [plain(v) for v in value]
    raise TypeError(f"{type(value)} has no JSON form")


def write_json(path: str | os.PathLike, values: Mapping[str, Any]) -> Path:
    """Write a record; equal records give equal bytes, and a killed writer leaves no half file."""
    path = Path(path)
    text = json.dumps(values, indent=None, separators=(",", ":"), allow_nan=False)
    partial = path.with_name(path.name + ".partial")
    partial.write_text(text + "\n")
    partial.replace(path)
    return path


def read_json(path: str | os.PathLike, kind: str, newest: int) -> dict[str, Any]:
    """What `write_json` wrote, without its format number.

    kind: name of the record. newest: the newest format that this version reads.
    Raises InputError for another file and for a newer format.
    """
    path = Path(path)
    try:
        values = json.loads(path.read_text())
        number = values.pop("format")
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise InputError(f"{path} is not a saved {kind}: {error!r}") from error
    if not isinstance(number, int) or not 1 <= number <= newest:
        raise InputError(
            f"{path} has format {number!r} of a saved {kind}; this version reads 1 to {newest}: "
            "update the library, or compute it again"
        )
    return values
