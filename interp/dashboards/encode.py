"""Data as classic scripts: JSON that is inert inside a script, arrays as base64 bytes.

Pages opened from `file://` may neither fetch nor import modules, but they may add `<script>` tags;
each data file therefore calls one global function with its own key and payload.
"""

import base64
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import Any

import numpy as np

_DTYPES = {"u1", "i1", "u2", "i2", "u4", "i4", "f4", "f8"}
# These could end a script or start a comment; ASCII output covers \u2028 and \u2029.
_ESCAPES = {"<": "\\u003c", ">": "\\u003e", "&": "\\u0026"}


def array_record(array: np.ndarray) -> dict[str, Any]:
    """Return a JSON record of an array: `{"dtype": "f4", "shape": [...], "data": base64}`.

    Integers shrink to the smallest dtype that holds them; booleans become u1; floats of 16 bits
    become f4. Bytes are little-endian, in C order.
    """
    array = np.ascontiguousarray(_portable(np.asarray(array)))
    dtype = array.dtype.newbyteorder("<")
    name = dtype.str[1:]
    if name not in _DTYPES:
        raise TypeError(f"no page can read an array of dtype {array.dtype}")
    data = base64.b64encode(array.astype(dtype, copy=False).tobytes()).decode("ascii")
    return {"dtype": name, "shape": list(array.shape), "data": data}


def _portable(array: np.ndarray) -> np.ndarray:
    if array.dtype == np.bool_:
        return array.astype(np.uint8)
    if array.dtype == np.float16:
        return array.astype(np.float32)
    if array.dtype.kind not in "iu" or array.dtype.itemsize == 1:
        return array
    low, high = (int(array.min()), int(array.max())) if array.size else (0, 0)
    for name in ("u1", "i1", "u2", "i2", "u4", "i4"):
        limits = np.iinfo(name)
        if limits.min <= low and high <= limits.max:
            return array.astype(name)
    return array.astype(np.float64)


def plain(value: Any) -> Any:
    """Return `value` as JSON-ready Python: arrays as lists, non-finite numbers as None."""
    if hasattr(value, "as_dict"):
        return plain(value.as_dict())
    if hasattr(value, "_asdict"):
        return plain(value._asdict())
    if is_dataclass(value) and not isinstance(value, type):
        return plain(asdict(value))
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, np.ndarray | np.generic):
        return plain(value.tolist())
    if isinstance(value, Sequence | set | frozenset) and not isinstance(value, str | bytes):
        items = sorted(value, key=str) if isinstance(value, set | frozenset) else value
        return [plain(item) for item in items]
    if isinstance(value, bool | int | str) or value is None:
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    # A path may name a person's machine: only its last part belongs on a page.
    return value.name if isinstance(value, Path) else str(value)


def to_script_json(value: Any) -> str:
    """Return JSON that is safe inside a script element and in a `.js` file, in ASCII only."""
    text = json.dumps(plain(value), ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    for character, escape in _ESCAPES.items():
        text = text.replace(character, escape)
    return text


def write_data(folder: Path, key: str, payload: Mapping[str, Any]) -> None:
    """Write `folder/key.js`, a script that hands `payload` to the page under `key`."""
    path = folder / f"{key}.js"
    path.parent.mkdir(parents=True, exist_ok=True)
    text = f"INTERP.receive({to_script_json(key)},{to_script_json(payload)});\n"
    path.write_text(text, encoding="ascii", newline="\n")
