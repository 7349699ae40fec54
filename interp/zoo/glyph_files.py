"""Reads and writes the shipped files of `glyphs`: lossless WebP sheets and canonical JSON."""

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np

from interp.errors import InterpError

# 48 x 48 glyphs make a sheet of 1,536 px, about 1.5 MB.
SHEET = 48


def pixels_sha256(pixels: np.ndarray) -> str:
    """Return the sha256 of a uint8 array's bytes in C order."""
    return hashlib.sha256(np.ascontiguousarray(pixels).tobytes()).hexdigest()


def canonical(metadata: dict[str, Any]) -> bytes:
    """Return the canonical JSON: sorted keys, no spaces, UTF-8."""
    text = json.dumps(metadata, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return text.encode("utf-8")


def write_glyphs(folder: Path, pixels: np.ndarray, metadata: dict[str, Any]) -> dict[str, str]:
    """Write sheets and metadata; return the sha256 of the pixels and of the canonical JSON."""
    from PIL import Image

    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob("glyphs.*.webp"):
        old.unlink()
    n, side = len(pixels), pixels.shape[1]
    for number, start in enumerate(range(0, n, SHEET**2)):
        part = pixels[start : start + SHEET**2]
        rows = -(-len(part) // SHEET)
        sheet = np.full((rows * SHEET, side, side, 3), 255, np.uint8)
        sheet[: len(part)] = part
        sheet = sheet.reshape(rows, SHEET, side, side, 3).transpose(0, 2, 1, 3, 4)
        image = Image.fromarray(sheet.reshape(rows * side, SHEET * side, 3))
        path = folder / f"glyphs.{number}.webp"
        image.save(path, lossless=True, quality=100, method=6, exact=True)
    text = canonical(metadata)
    (folder / "glyphs.json").write_bytes(text)
    read, _ = read_glyphs(folder)
    if not np.array_equal(read, pixels):
        raise InterpError(f"the sheets in {folder} do not decode to the pixels written")
    return {"pixels": pixels_sha256(pixels), "json": hashlib.sha256(text).hexdigest()}


def read_glyphs(folder: Path) -> tuple[np.ndarray, bytes]:
    """Return the decoded uint8 pixels [n, 32, 32, 3] and the canonical JSON of `folder`."""
    from PIL import Image

    text = (folder / "glyphs.json").read_bytes()
    n, side = len(json.loads(text)["ids"]), 32
    parts = []
    for number in range(-(-n // SHEET**2)):
        with Image.open(folder / f"glyphs.{number}.webp") as image:
            sheet = np.asarray(image.convert("RGB"))
        rows = sheet.shape[0] // side
        sheet = sheet.reshape(rows, side, SHEET, side, 3).transpose(0, 2, 1, 3, 4)
        parts.append(sheet.reshape(rows * SHEET, side, side, 3))
    return np.concatenate(parts)[:n].copy(), text


def contact_sheet(path: Path, pixels: np.ndarray, categories: list[str], columns: int = 28) -> None:
    """Write a picture with one or two rows of glyphs per category, spread over the whole set."""
    from PIL import Image

    names = list(dict.fromkeys(sorted(categories)))
    sheet = np.full((len(names) * 36, columns * 36, 3), 255, np.uint8)
    for line, name in enumerate(names):
        rows = [i for i, c in enumerate(categories) if c == name]
        spread = np.linspace(0, len(rows) - 1, min(columns, len(rows))).astype(int)
        for column, at in enumerate(spread):
            y, x = line * 36 + 2, column * 36 + 2
            sheet[y : y + 32, x : x + 32] = pixels[rows[at]]
    image = Image.fromarray(sheet).quantize(128, dither=Image.Dither.NONE)
    image.save(path, optimize=True)
