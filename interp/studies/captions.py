"""Captions that a user brings in a file of their own."""

import csv
import dataclasses
import json
from pathlib import Path, PurePath
from typing import TYPE_CHECKING

from interp.errors import InputError

if TYPE_CHECKING:
    from interp.zoo import Images

# Names of the column that says which image a caption belongs to.
KEYS = ("id", "file", "image")


def read_captions(path: str | Path) -> dict[str, str]:
    """Read captions by image id (or file): .csv, .tsv with a heading, or .json {id: caption}.

    Raises:
        InputError: a missing file, another form, an image with two captions, an empty caption.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path}: there is no such file of captions")
    suffix = path.suffix.lower()
    if suffix not in (".csv", ".tsv", ".json"):
        raise InputError(f"{path}: captions are read from .csv, .tsv or .json")
    try:
        text = path.read_text(encoding="utf-8-sig")
        pairs = _from_json(text) if suffix == ".json" else _from_table(text, suffix, path)
    except (UnicodeDecodeError, ValueError, csv.Error) as error:
        raise InputError(f"{path} is no sound file of captions: {error}") from error
    found: dict[str, str] = {}
    for key, caption in pairs:
        if key in found:
            raise InputError(f"{path}: {key} has two captions; one per image is needed")
        if not caption.strip():
            raise InputError(f"{path}: the caption of {key} is empty")
        found[key] = caption.strip()
    return found


def _from_json(text: str) -> list[tuple[str, str]]:
    values = json.loads(text, object_pairs_hook=list)
    # Pairs, not a dict: a key that stands twice must be seen.
    if not isinstance(values, list) or not all(
        isinstance(pair, tuple) and isinstance(pair[1], str) for pair in values
    ):
        raise ValueError("one object {id: caption} is needed")
    return values


def _from_table(text: str, suffix: str, path: Path) -> list[tuple[str, str]]:
    delimiter = "\t" if suffix == ".tsv" else ","
    rows = csv.DictReader(text.splitlines(), delimiter=delimiter, strict=True)
    names = rows.fieldnames or ()
    key = next((name for name in KEYS if name in names), None)
    if key is None or "caption" not in names:
        raise InputError(
            f"{path} has the columns {', '.join(names) or 'none'}: caption and one of "
            f"{', '.join(KEYS)} are needed"
        )
    return [((row[key] or "").strip(), row["caption"] or "") for row in rows]


def with_captions(images: "Images", captions: dict[str, str]) -> "Images":
    """The images with these captions, found by id, or by the file's name with its suffix.

    Raises InputError where an image has none; captions of other images are left alone.
    """
    # A folder's image is named by its path without the suffix.
    bare = {str(PurePath(key).with_suffix("")) if key else key: c for key, c in captions.items()}
    found = [captions.get(one, bare.get(one)) for one in images.ids]
    missing = [one for one, text in zip(images.ids, found, strict=True) if text is None]
    if missing:
        names = ", ".join(missing[:5])
        raise InputError(f"{len(missing)} of {len(images)} images have no caption: {names}")
    return dataclasses.replace(images, captions=tuple(text or "" for text in found))
