"""Loads captioned images: `glyphs`, which ships with the library, or a user's folder with a CSV."""

import csv
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from interp.errors import InputError
from interp.zoo.glyph_files import pixels_sha256, read_glyphs

DATA = Path(__file__).parent / "data"
# sha256 of the decoded uint8 array and of the canonical JSON; the build must reproduce both.
GLYPHS_SHA256 = {
    "pixels": "6f384eef69de30cad02ca55fa0ef6ff66a20188539bc1ea7649a40dbbd621d32",
    "json": "3148531da1d6df492cb36ea7270c103076b99e8614c3445ec079ab478defc5c6",
}
SPLITS = ("train", "heldout")
# Share of a folder's images that goes to "heldout" where its CSV does not say; as in glyphs.
HELDOUT = 0.25
_GLYPHS = "glyphs/"


@dataclass(frozen=True)
class Images:
    """Images with labels, captions and a split that no concept cluster crosses.

    Fields, for n images: `pixels` uint8 [n, h, w, 3]; `ids` unique and stable; `labels` int64 [n],
    an index into `categories`; `captions`; `tags`; `clusters`, names of groups of near-duplicates
    (one name is one group, also across data sets); `sources`; `licences`; `split`, "train" or
    "heldout"; `name` of the data set; `sha256` of the bytes of `pixels`.
    """

    pixels: Tensor
    ids: tuple[str, ...]
    labels: Tensor
    categories: tuple[str, ...]
    captions: tuple[str, ...]
    tags: tuple[tuple[str, ...], ...]
    clusters: tuple[str, ...]
    sources: tuple[str, ...]
    licences: tuple[str, ...]
    split: tuple[str, ...]
    name: str
    sha256: str

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.ids)

    def select(
        self, index: slice | Sequence[int] | Sequence[bool] | np.ndarray | Tensor
    ) -> "Images":
        """Return the images at `index`: a boolean mask of length n, integers, or a slice.

        Raises:
            InputError: a mask of another length, an integer out of range, or another dtype.
        """
        rows = _rows(index, len(self))
        pixels = self.pixels[rows]

        def pick(values: tuple) -> tuple:
            return tuple(values[row] for row in rows.tolist())

        return Images(
            pixels=pixels,
            ids=pick(self.ids),
            labels=self.labels[rows],
            categories=self.categories,
            captions=pick(self.captions),
            tags=pick(self.tags),
            clusters=pick(self.clusters),
            sources=pick(self.sources),
            licences=pick(self.licences),
            split=pick(self.split),
            name=self.name,
            sha256=pixels_sha256(pixels.numpy()),
        )

    def floats(self) -> Float[Tensor, "n 3 h w"]:
        """Return the pixels as float32 in [-1, 1]: x / 127.5 - 1, channels first."""
        return self.pixels.permute(0, 3, 1, 2).to(torch.float32).div(127.5).sub(1).contiguous()


def load_images(
    name: str | Path = "glyphs",
    *,
    split: Literal["train", "heldout", "all"] = "all",
    size: int | None = None,
    fit: int | None = None,
    limit: int | None = None,
    seed: int = 0,
    verify: bool = False,
) -> Images:
    """Return `glyphs`, or the images of a folder, described by its `images.csv` where it has one.

    Without `images.csv`, every image file in the folder and below is taken, its category the name
    of its own folder. The CSV needs a column `file` (path inside the folder). Other columns and
    what holds without them: `id` (the path without its suffix), `category` ("image"), `caption`
    (the file's name as words), `tags` (none; separated by ";"), `cluster` (the id itself; one name
    is one cluster, also across folders), `split` (whole clusters, in an order drawn from `seed`,
    are held out up to 25 % of the images; a row that names its split fixes it for its cluster),
    `source` (the folder's name), `licence` ("").

    Args:
        name: "glyphs", or the path of a folder.
        split: which side of the split to return.
        size: height and width in pixels after padding to a square on white and LANCZOS
            resampling; without it all images must share one size.
        fit: size of images that would otherwise differ in size.
        limit: number of images to keep: whole clusters in an order drawn from `seed`, of which
            the last may be cut; the images keep their order.
        seed: draws the limit and, for folders without a `split` column, the split.
        verify: compare the shipped files with the committed sha256 before use.

    Raises:
        InputError: missing folder, CSV or file, undecodable image, unknown split, a cluster on
            both sides, mixed sizes without `size` or `fit`, or a limit above the number of images.
    """
    if split not in (*SPLITS, "all"):
        raise InputError(f"unknown split {split!r}; choose from train, heldout, all")
    if size is not None and size < 1:
        raise InputError(f"size is {size}; it must be at least 1 pixel")
    shipped = str(name) == "glyphs"
    images = _glyphs(verify) if shipped else _folder(Path(name), size, fit, seed)
    if split != "all":
        images = images.select([side == split for side in images.split])
    if limit is not None:
        images = _limited(images, limit, seed)
    return images if size is None else _resized(images, size)


def _resized(images: Images, size: int) -> Images:
    if images.pixels.shape[1:3] == (size, size):
        return images
    pixels = np.stack([_squared(image, size) for image in images.pixels.numpy()])
    return replace(images, pixels=torch.from_numpy(pixels), sha256=pixels_sha256(pixels))


@cache
def _shipped() -> tuple[np.ndarray, bytes]:
    # Decoding takes half a second; callers get a copy, so that no one can edit another's pixels.
    return read_glyphs(DATA)


def _glyphs(verify: bool) -> Images:
    shipped, text = _shipped()
    pixels = shipped.copy()
    if verify:
        found = {"pixels": pixels_sha256(pixels), "json": hashlib.sha256(text).hexdigest()}
        for part, value in GLYPHS_SHA256.items():
            if found[part] != value:
                raise InputError(
                    f"sha256 of the {part} of glyphs is {found[part][:12]}, not {value[:12]}; "
                    "the files are damaged: reinstall interp"
                )
    columns = json.loads(text)
    # Numbers of other data sets are other clusters.
    columns["clusters"] = [f"{_GLYPHS}{cluster}" for cluster in columns["clusters"]]
    return _images(pixels, columns)


def _images(pixels: np.ndarray, columns: dict[str, Any]) -> Images:
    return Images(
        pixels=torch.from_numpy(pixels),
        ids=tuple(columns["ids"]),
        labels=torch.tensor(columns["labels"], dtype=torch.int64),
        categories=tuple(columns["categories"]),
        captions=tuple(columns["captions"]),
        tags=tuple(tuple(tags) for tags in columns["tags"]),
        clusters=tuple(columns["clusters"]),
        sources=tuple(columns["sources"]),
        licences=tuple(columns["licences"]),
        split=tuple(columns["split"]),
        name=columns["name"],
        sha256=pixels_sha256(pixels),
    )


def _squared(image: np.ndarray, size: int) -> np.ndarray:
    """Pad `image` to a square on white and resample it to `size` pixels."""
    from PIL import Image

    height, width = image.shape[:2]
    side = max(height, width)
    square = np.full((side, side, 3), 255, np.uint8)
    top, left = (side - height) // 2, (side - width) // 2
    square[top : top + height, left : left + width] = image
    resized = Image.fromarray(square).resize((size, size), Image.Resampling.LANCZOS)
    return np.asarray(resized, dtype=np.uint8)


def _rows(index: Any, n: int) -> Tensor:
    if isinstance(index, slice):
        return torch.arange(n)[index]
    rows = torch.as_tensor(index)
    if rows.numel() == 0 and rows.dtype is not torch.bool:
        return torch.empty(0, dtype=torch.int64)
    if rows.dtype is torch.bool:
        if tuple(rows.shape) != (n,):
            raise InputError(f"mask of shape {tuple(rows.shape)} for {n} images; give ({n},)")
        return torch.nonzero(rows).flatten()
    if rows.is_floating_point() or rows.is_complex() or rows.ndim != 1:
        raise InputError(
            f"index has dtype {rows.dtype} and {rows.ndim} dimensions; "
            "give a slice, a boolean mask or a list of integers"
        )
    rows = rows.to(torch.int64)
    if int(rows.min()) < -n or int(rows.max()) >= n:
        raise InputError(f"index {int(rows.min())}..{int(rows.max())} leaves the {n} images")
    return torch.where(rows < 0, rows + n, rows)


def _limited(images: Images, limit: int, seed: int) -> Images:
    if not 1 <= limit <= len(images):
        raise InputError(f"limit is {limit}, but there are {len(images)} images")
    # The number alone draws a shipped cluster, so that a seed keeps its images.
    names = [cluster.removeprefix(_GLYPHS) for cluster in images.clusters]
    keys = {name: _draw(seed, name) for name in set(names)}
    order = sorted(range(len(images)), key=lambda row: (keys[names[row]], row))
    return images.select(sorted(order[:limit]))


def _draw(seed: int, name: str) -> str:
    return hashlib.sha256(f"{seed}/{name}".encode()).hexdigest()


def _folder(folder: Path, size: int | None, fit: int | None, seed: int) -> Images:
    rows = _read_csv(folder)
    decoded = [_decode(folder / row["file"], size) for row in rows]
    shapes = {image.shape[:2] for image in decoded}
    if len(shapes) > 1 and fit:
        decoded = [_squared(image, fit) for image in decoded]
    elif len(shapes) > 1:
        listed = ", ".join(f"{h}x{w}" for h, w in sorted(shapes)[:4])
        raise InputError(f"{len(shapes)} image sizes in {folder} ({listed}); give size=")
    ids = [row["id"] or Path(row["file"]).with_suffix("").as_posix() for row in rows]
    if len(set(ids)) < len(ids):
        twice = next(one for one in ids if ids.count(one) > 1)
        raise InputError(f"id {twice!r} stands twice in {folder / 'images.csv'}")
    groups = [row["cluster"] or one for row, one in zip(rows, ids, strict=True)]
    named = [row["category"] or "image" for row in rows]
    categories = sorted(set(named))
    columns = {
        "name": folder.resolve().name,
        "ids": ids,
        "categories": categories,
        "labels": [categories.index(category) for category in named],
        "captions": [row["caption"] or _words(row["file"]) for row in rows],
        "tags": [[t.strip() for t in row["tags"].split(";") if t.strip()] for row in rows],
        "clusters": groups,
        "sources": [row["source"] or folder.resolve().name for row in rows],
        "licences": [row["licence"] for row in rows],
        "split": _split([row["split"] for row in rows], groups, seed),
    }
    return _images(np.stack(decoded), columns)


_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif")
_COLUMNS = ("id", "category", "caption", "tags", "cluster", "split", "source", "licence")


def _read_csv(folder: Path) -> list[dict[str, str]]:
    if not folder.is_dir():
        raise InputError(f"no folder {folder}; give 'glyphs' or a folder of images")
    path = folder / "images.csv"
    if not path.is_file():
        return _list_files(folder)
    with path.open(newline="", encoding="utf-8-sig") as opened:
        reader = csv.DictReader(opened)
        if "file" not in (reader.fieldnames or ()):
            raise InputError(f"{path} has columns {reader.fieldnames}, but no `file`")
        raw = list(reader)
    if not raw:
        raise InputError(f"{path} lists no image")
    return [{c: (row.get(c) or "").strip() for c in ("file", *_COLUMNS)} for row in raw]


def _list_files(folder: Path) -> list[dict[str, str]]:
    files = sorted(f for f in folder.rglob("*") if f.suffix.lower() in _SUFFIXES and f.is_file())
    if not files:
        raise InputError(
            f"{folder} holds neither an images.csv (with at least a column `file`) nor a file "
            f"ending in {', '.join(_SUFFIXES)}"
        )
    empty = dict.fromkeys(_COLUMNS, "")
    return [
        {
            **empty,
            "file": file.relative_to(folder).as_posix(),
            "category": "" if file.parent == folder else file.parent.name,
        }
        for file in files
    ]


def _decode(path: Path, size: int | None) -> np.ndarray:
    from PIL import Image

    if not path.is_file():
        raise InputError(f"{path} is listed in images.csv but is not there")
    try:
        with Image.open(path) as opened:
            image = opened.convert("RGBA")
    except (OSError, SyntaxError, ValueError) as error:
        raise InputError(f"{path} does not decode as an image: {error}") from error
    white = Image.new("RGBA", image.size, (255, 255, 255, 255))
    white.alpha_composite(image)
    pixels = np.array(white.convert("RGB"), dtype=np.uint8)
    return pixels if size is None else _squared(pixels, size)


def _words(file: str) -> str:
    return " ".join(Path(file).stem.replace("_", " ").replace("-", " ").split())


def _split(given: list[str], groups: list[str], seed: int) -> list[str]:
    side: dict[str, str] = {}
    for name, group in zip(given, groups, strict=True):
        if name and name not in SPLITS:
            raise InputError(f"unknown split {name!r} in images.csv; choose from train, heldout")
        if name and side.setdefault(group, name) != name:
            raise InputError(f"cluster {group!r} stands on both sides of the split")
    counts = {group: groups.count(group) for group in dict.fromkeys(groups)}
    free = HELDOUT * len(groups) - sum(k for g, k in counts.items() if side.get(g) == "heldout")
    for group in sorted(counts, key=lambda g: _draw(seed, g)):
        if group not in side:
            held = counts[group] <= free + 0.5
            side[group] = "heldout" if held else "train"
            free -= counts[group] if held else 0
    return [side[group] for group in groups]
