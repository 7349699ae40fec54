"""Pictures of generations as WebP files, and what the page knows about each generation."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from interp.dashboards.encode import array_record, plain, write_data
from interp.errors import InputError

# Twice the width of a card on the page, so that dense screens stay sharp.
MAX_EDGE = 256
# Up to this edge every pixel is kept: the page enlarges such pictures without smoothing.
LOSSLESS_EDGE = 64
QUALITY = 86
# Effort (lossless) and method of the encoder: 1.4 ms for 64 x 64 pixels, where the usual values
# take 6.5 ms for 2 % fewer bytes.
EFFORT, METHOD = 40, 2
_CHUNK = 256
_COLUMNS = (
    "image_id",
    "caption",
    "prompt",
    "category",
    "label",
    "seed",
    "cluster",
    "split",
    "source",
    "draw",
)


def write_thumbnails(store: Any, generations: np.ndarray, folder: Path) -> tuple[int, int]:
    """Write `folder/<generation>.webp` for each generation and return the pictures' (h, w).

    `store.images(generations)` must return uint8 [g, h, w, 3].
    """
    folder.mkdir(parents=True, exist_ok=True)
    size = (0, 0)
    for start in range(0, len(generations), _CHUNK):
        chunk = generations[start : start + _CHUNK]
        pixels = np.asarray(store.images(chunk))
        if pixels.dtype != np.uint8 or pixels.ndim != 4 or len(pixels) != len(chunk):
            raise InputError(
                f"store {store.hash} returned images of {pixels.dtype} {pixels.shape} for "
                f"{len(chunk)} generations; expected uint8 [{len(chunk)}, h, w, 3]"
            )
        size = (pixels.shape[1], pixels.shape[2])
        for generation, picture in zip(chunk.tolist(), pixels, strict=True):
            write_webp(picture, folder / f"{generation}.webp")
    return size


def write_webp(picture: np.ndarray, path: Path, max_edge: int = MAX_EDGE) -> None:
    """Write one picture, uint8 [h, w, 3], shrunk to at most `max_edge` pixels a side."""
    from PIL import Image

    image = Image.fromarray(picture[..., 0] if picture.shape[-1] == 1 else picture)
    lossless = max(image.size) <= LOSSLESS_EDGE
    quality = EFFORT if lossless else QUALITY
    image.thumbnail((max_edge, max_edge), Image.Resampling.LANCZOS)
    image.save(path, "WEBP", lossless=lossless, quality=quality, method=METHOD, exif=b"")


def read_picture(path: Path) -> np.ndarray:
    """Return a picture's pixels, uint8 [h, w, 3]. Raises InputError when it cannot be read."""
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(path) as image:
            return np.asarray(image.convert("RGB"))
    except (OSError, UnidentifiedImageError) as error:
        raise InputError(f"{path.name} is no readable picture: {error}") from error


def write_generations(
    store: Any, generations: np.ndarray, size: tuple[int, int], folder: Path, name: str
) -> None:
    """Write captions and provenance of the used generations to `folder/name.js`."""
    table: Mapping[str, Any] = store.generations
    count = len(table["generation"])
    if len(generations) and int(generations.max()) >= count:
        raise InputError(
            f"an example names generation {int(generations.max())}, but store {store.hash} holds "
            f"{count}; were the features described on another store?"
        )
    columns = {}
    for column in _COLUMNS:
        values = table.get(column)
        if values is not None:
            columns[column] = [_known(values[index]) for index in generations.tolist()]
    payload = {"generation": array_record(generations), "columns": columns, "size": list(size)}
    write_data(folder.parent, f"{folder.name}/{name}", payload)


def _known(value: Any) -> Any:
    """A store writes -1 and "" where a column does not apply."""
    value = plain(value)
    return None if value == "" or (isinstance(value, int) and value < 0) else value
