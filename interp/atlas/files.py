"""The folder of an atlas: atlas.json and the sheet of its images."""

import hashlib
import io
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from interp.atlas.codec import decode, encode
from interp.errors import InputError

FORMAT = 1
RECORD, SHEET = "atlas.json", "images.png"
# A sheet of about as many rows as columns; tiles are found by number alone.
_COLUMNS = 16
# A page draws no tile larger than this.
MAX_EDGE = 128
# No atlas of ours comes near; a file that claims more is refused before it is unpacked.
_MOST_PIXELS = 2**26

R = TypeVar("R")


def write_atlas_files(atlas: Any, folder: str | Path) -> Path:
    """Write the sheet first and the record, which names its digest, last; both whole or not."""
    out = Path(folder)
    out.mkdir(parents=True, exist_ok=True)
    images = shrink(atlas.images)
    sheet = _draw(images)
    _replace(out / SHEET, sheet)
    values = encode(atlas)
    about = {"count": len(images), "height": images.shape[1], "width": images.shape[2]}
    digest = hashlib.sha256(sheet).hexdigest()
    values["images"] = {**about, "columns": _COLUMNS, "file": SHEET, "sha256": digest}
    text = json.dumps({"format": FORMAT, **values}, indent=1, allow_nan=False)
    _replace(out / RECORD, f"{text}\n".encode())
    return out / RECORD


def read_atlas_files(kind: type[R], folder: str | Path) -> R:
    """Read a record of type `kind` and its images. Raises InputError where they do not fit."""
    path = Path(folder)
    path = path / RECORD if path.is_dir() else path
    values = _read_values(path)
    try:
        images = _read_sheet(path.parent, values.pop("images", None))
        return decode(kind, values, images=images)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error


def refuse_other_run(folder: str | Path, wanted: Mapping[str, Mapping[str, Any]]) -> None:
    """Refuse a folder with the atlas of another run, which `write_atlas_files` would replace.

    wanted: part of the record ("model", "config", ...) -> the values that this run will write.
    Raises InputError that names what differs; nothing where the folder holds no atlas.
    """
    path = Path(folder) / RECORD
    if not path.exists():
        return
    try:
        found = _read_values(path)
    except InputError as error:
        raise InputError(f"{error}; give another folder") from error
    odd = []
    for part, values in wanted.items():
        there = found.get(part)
        there = there if isinstance(there, dict) else {}
        for name, value in encode(values).items():
            if there.get(name) != value:
                odd.append(f"{name} of {part}: {_shown(there.get(name))}, now {_shown(value)}")
    if odd:
        raise InputError(
            f"{path.parent} holds the atlas of another run ({'; '.join(odd)[:600]}); give another "
            "folder"
        )


def _shown(value: Any) -> str:
    return f"{json.dumps(value):.60}"


def _read_values(path: Path) -> dict[str, Any]:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path} is not a saved atlas: {error!r}") from error
    if not isinstance(values, dict) or values.pop("format", None) != FORMAT:
        raise InputError(
            f"{path} is not a saved atlas of format {FORMAT}, the one that this version reads"
        )
    return values


def _replace(path: Path, data: bytes) -> None:
    partial = path.with_name(f"{path.name}.partial")
    partial.write_bytes(data)
    partial.replace(path)


def shrink(images: np.ndarray, edge: int = MAX_EDGE) -> np.ndarray:
    """Shrink tiles uint8 [n, h, w, 3] to at most `edge` pixels a side; smaller ones stay."""
    from PIL import Image

    h, w = images.shape[1:3]
    if max(h, w) <= edge or not len(images):
        return images
    size = (max(1, round(w * edge / max(h, w))), max(1, round(h * edge / max(h, w))))
    made = [Image.fromarray(one).resize(size, Image.Resampling.LANCZOS) for one in images]
    return np.stack([np.asarray(one) for one in made])


def _draw(images: np.ndarray) -> bytes:
    """The sheet as PNG: tile i in row i // 16, column i % 16."""
    from PIL import Image

    n, h, w, _ = images.shape
    rows = max(1, math.ceil(n / _COLUMNS))
    sheet = np.zeros((rows * _COLUMNS, h, w, 3), np.uint8)
    sheet[:n] = images
    sheet = sheet.reshape(rows, _COLUMNS, h, w, 3).swapaxes(1, 2)
    out = io.BytesIO()
    Image.fromarray(sheet.reshape(rows * h, _COLUMNS * w, 3)).save(out, "PNG", optimize=True)
    return out.getvalue()


def _read_sheet(folder: Path, about: Any) -> np.ndarray:
    names = ("count", "height", "width", "columns")
    if not isinstance(about, dict) or any(not isinstance(about.get(n), int) for n in names):
        raise InputError(f"images is {str(about)[:60]}, not count, height, width and columns")
    n, h, w, columns = (about[name] for name in names)
    if columns != _COLUMNS or n < 0 or min(h, w) < 1 or n * h * w > _MOST_PIXELS:
        raise InputError(f"{n} images of {h} x {w} pixels in {columns} columns are no sheet")
    path = folder / SHEET
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path} is missing: {error}") from error
    found = hashlib.sha256(data).hexdigest()
    if found != about.get("sha256"):
        raise InputError(f"{path} has sha256 {found[:12]}, the record says otherwise: it changed")
    return _cut(data, (n, h, w), path)


def _cut(data: bytes, shape: tuple[int, int, int], path: Path) -> np.ndarray:
    from PIL import Image, UnidentifiedImageError

    n, h, w = shape
    rows = max(1, math.ceil(n / _COLUMNS))
    try:
        with Image.open(io.BytesIO(data), formats=["PNG"]) as image:
            if image.size != (_COLUMNS * w, rows * h):
                raise InputError(f"{path} is {image.size}, not {(_COLUMNS * w, rows * h)} pixels")
            sheet = np.asarray(image.convert("RGB"))
    except (OSError, UnidentifiedImageError, ValueError, Image.DecompressionBombError) as error:
        raise InputError(f"{path} is no readable PNG: {error}") from error
    tiles = sheet.reshape(rows, h, _COLUMNS, w, 3).swapaxes(1, 2)
    return tiles.reshape(rows * _COLUMNS, h, w, 3)[:n].copy()
