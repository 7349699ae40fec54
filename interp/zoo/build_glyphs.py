"""Builds the data in the box, `glyphs`, from the unpacked public packages; see `glyphs.card.md`."""

import argparse
import hashlib
import json
import re
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from interp.errors import InterpError
from interp.zoo import glyph_rules as rules
from interp.zoo import glyph_words as words
from interp.zoo.glyph_files import contact_sheet, write_glyphs

SIZE = 32
# One picture's ink box sits inside this margin, so that strokes at the rim survive the filter.
MARGIN = 1
MAX_ASPECT = 3.0
# A drawn series (same caption but for numbers, colours, directions) keeps this many members.
SERIES_CAP = 12
# Above this cosine two pictures are near-duplicates; chosen by looking at pairs (see the card).
NEAR = 0.93
# Linkage chains above this size are cut by raising the threshold.
CLUSTER_CAP = 60
HELDOUT = 0.25


@dataclass(frozen=True)
class Glyph:
    """One picture and what is known of it."""

    id: str
    pixels: np.ndarray
    category: str
    caption: str
    tags: tuple[str, ...]
    source: str
    licence: str
    title: str
    series: str
    cluster: int = -1
    split: str = "train"


def compose(path: Path) -> np.ndarray | None:
    """Return the picture on white, 32x32x3 uint8, or None where it is blank or too elongated."""
    from PIL import Image

    Image.MAX_IMAGE_PIXELS = None
    with Image.open(path) as opened:
        image = opened.convert("RGBA")
    image.thumbnail((512, 512), Image.Resampling.BOX)
    white = Image.new("RGBA", image.size, (255, 255, 255, 255))
    white.alpha_composite(image)
    image = white.convert("RGB")
    ink = np.asarray(image).min(axis=2) < 244
    if not ink.any():
        return None
    ys, xs = np.flatnonzero(ink.any(axis=1)), np.flatnonzero(ink.any(axis=0))
    box = (int(xs[0]), int(ys[0]), int(xs[-1]) + 1, int(ys[-1]) + 1)
    image = image.crop(box)
    width, height = image.size
    if max(width, height) > MAX_ASPECT * min(width, height):
        return None
    side = max(width, height)
    square = Image.new("RGB", (side, side), (255, 255, 255))
    square.paste(image, ((side - width) // 2, (side - height) // 2))
    inner = SIZE - 2 * MARGIN
    canvas = Image.new("RGB", (SIZE, SIZE), (255, 255, 255))
    canvas.paste(square.resize((inner, inner), Image.Resampling.LANCZOS), (MARGIN, MARGIN))
    return np.asarray(canvas, dtype=np.uint8)


def readable(pixels: np.ndarray) -> bool:
    """Say whether a person could make out the picture: enough ink, contrast and variation."""
    distance = 1 - pixels.min(axis=2) / 255
    strong = float((distance > 0.35).mean())
    grey = pixels.mean(axis=2) / 255
    inside = grey[2:-2, 2:-2]
    return strong >= 0.07 and float(distance.mean()) >= 0.05 and float(inside.std()) >= 0.07


def read_noto(emoji: Path, emojibase: Path, counts: Counter) -> list[Glyph]:
    """Return the base emoji of the Noto set, with English labels and tags."""
    records = json.loads((emoji / "emoji.json").read_text(encoding="utf-8"))
    english = json.loads((emojibase / "en" / "data.json").read_text(encoding="utf-8"))
    named = {entry["hexcode"].replace("-FE0F", "").lower(): entry for entry in english}
    out = []
    for record in sorted(records, key=lambda r: r["unified"]):
        counts["noto: listed"] += 1
        path = emoji / "img" / "google" / "64" / record["image"]
        entry = named.get(record["unified"].replace("-FE0F", "").lower())
        if not record.get("has_img_google") or not path.is_file() or entry is None:
            counts["noto: without a picture or an English label"] += 1
            continue
        label = entry["label"]
        if record["subcategory"] == "skin-tone":
            counts["noto: bare skin-tone swatches"] += 1
            continue
        pixels = compose(path)
        if pixels is None or not readable(pixels):
            counts["noto: near-blank, elongated or unreadable"] += 1
            continue
        caption = re.sub(r"^flag: (.*)", r"flag of \1", label).replace(": ", ", ")
        out.append(
            Glyph(
                id=f"noto:{record['unified'].lower()}",
                pixels=pixels,
                category=rules.noto_category(record["subcategory"], label),
                caption=caption,
                tags=_unique([*entry.get("tags", ()), record["subcategory"]]),
                source="noto",
                licence="Apache-2.0",
                title=words.title_key(caption),
                series=words.noto_template(label, record["subcategory"]),
            )
        )
    return out


def read_openclipart(png: Path, svg: Path, counts: Counter) -> list[Glyph]:
    """Return the drawings of Debian's openclipart that pass the rules of the card."""
    root = png / "usr/share/openclipart/png"
    meta = svg / "usr/share/openclipart/svg"
    if not root.is_dir() or not meta.is_dir():
        raise InterpError(f"no usr/share/openclipart/png in {png} or no .../svg in {svg}")
    out = []
    # Deep folders first: of a file that lies in several, the specific place is kept.
    paths = sorted(root.rglob("*.png"), key=lambda p: (-len(p.parts), p.as_posix()))
    for path in paths:
        counts["openclipart: files"] += 1
        relative = path.relative_to(root)
        glyph = _openclipart(path, relative, (meta / relative).with_suffix(".svg"), counts)
        if glyph is not None:
            out.append(glyph)
    return out


def _openclipart(path: Path, relative: Path, svg: Path, counts: Counter) -> Glyph | None:
    folder = relative.parent.as_posix()
    if f"{folder}/".startswith(rules.DROPPED_FOLDERS):
        counts["openclipart: series, themes, cards, patterns, wordmarks"] += 1
        return None
    text = svg.read_text(encoding="utf-8", errors="replace") if svg.is_file() else ""
    title, keywords = _metadata(text)
    known = " ".join([title, relative.as_posix().replace("_", " "), *keywords]).lower()
    if re.search(r"\bGPL\b", text):
        counts["openclipart: names the GPL"] += 1
        return None
    if rules.UNWANTED.search(known) or relative.as_posix() in rules.BROKEN:
        counts["openclipart: unwanted subject, wordmark or plain text"] += 1
        return None
    caption = words.openclipart_caption(title, relative.stem, folder)
    telling = [word for word in keywords if word not in rules.FOLDER_WORDS]
    told = [caption.removeprefix("flag of "), words.stem_words(relative.stem), *telling]
    category = rules.openclipart_category(folder, relative.stem, " ".join(told))
    if category is None:
        counts["openclipart: no category"] += 1
        return None
    pixels = compose(path)
    if pixels is None or not readable(pixels):
        counts["openclipart: near-blank, elongated or unreadable"] += 1
        return None
    return Glyph(
        id=f"openclipart:{relative.with_suffix('').as_posix()}",
        pixels=pixels,
        category=category,
        caption=caption,
        tags=_unique([*keywords, *folder.replace("_", " ").split("/")]),
        source="openclipart",
        licence="public domain",
        title=words.title_key(caption),
        series=f"openclipart {words.series_key(caption)}",
    )


def _metadata(svg: str) -> tuple[str, list[str]]:
    found = re.search(r"<metadata.*?</metadata>", svg, re.S)
    block = found.group(0) if found else ""
    title = re.search(r"<dc:title[^>]*>(.*?)</dc:title>", block, re.S)
    raw = re.findall(r"<rdf:li[^>]*>(.*?)</rdf:li>", block, re.S)
    keywords = [words.words_of(word) for word in raw]
    return (title.group(1).strip() if title else ""), [word for word in keywords if word]


def _unique(tags: Iterable[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(tag.strip() for tag in tags if tag.strip()))


def drop_duplicates(glyphs: list[Glyph], counts: Counter) -> list[Glyph]:
    """Return the glyphs without those that look the same as an earlier one at 32 px."""
    flat = np.stack([g.pixels for g in glyphs]).reshape(len(glyphs), SIZE // 2, 2, SIZE // 2, 2, 3)
    x = flat.astype(np.float64).mean(axis=(2, 4)).reshape(len(glyphs), -1)
    squares = (x**2).sum(axis=1)
    dropped = np.zeros(len(x), dtype=bool)
    for row in range(1, len(x)):
        near = squares[:row] + squares[row] - 2 * (x[:row] @ x[row])
        # Root mean square difference under 5 of 255 grey levels at 16x16.
        dropped[row] = bool((near[~dropped[:row]] < 25 * x.shape[1]).any())
    counts["exact or invisible duplicates"] += int(dropped.sum())
    return [glyph for glyph, gone in zip(glyphs, dropped, strict=True) if not gone]


def cap_series(glyphs: list[Glyph], counts: Counter) -> list[Glyph]:
    """Return the glyphs with at most `SERIES_CAP` of each drawn series, chosen by a hash."""
    members = defaultdict(list)
    for glyph in glyphs:
        members[glyph.series].append(glyph.id)
    kept = set()
    for ids in members.values():
        kept.update(sorted(ids, key=_hash)[:SERIES_CAP])
        counts["series members beyond the cap"] += max(0, len(ids) - SERIES_CAP)
    return [glyph for glyph in glyphs if glyph.id in kept]


def _hash(text: str) -> str:
    return hashlib.sha256(f"glyphs/{text}".encode()).hexdigest()


class _Sets:
    """Disjoint sets over range(n)."""

    def __init__(self, n: int) -> None:
        self.parent = list(range(n))

    def find(self, a: int) -> int:
        while self.parent[a] != a:
            self.parent[a] = self.parent[self.parent[a]]
            a = self.parent[a]
        return a

    def join(self, a: int, b: int) -> None:
        a, b = sorted((self.find(a), self.find(b)))
        self.parent[b] = a

    def groups(self) -> list[list[int]]:
        out = defaultdict(list)
        for i in range(len(self.parent)):
            out[self.find(i)].append(i)
        return list(out.values())


def near_edges(pixels: np.ndarray) -> list[tuple[int, int, float]]:
    """Return pairs whose 8x8 colour pictures, less the mean picture, have a cosine above NEAR."""
    n = len(pixels)
    x = pixels.astype(np.float64).reshape(n, 8, SIZE // 8, 8, SIZE // 8, 3).mean(axis=(2, 4))
    x = x.reshape(n, -1) - x.reshape(n, -1).mean(axis=0)
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    edges = []
    for start in range(0, n, 512):
        cosine = x[start : start + 512] @ x.T
        for a, b in np.argwhere(cosine > NEAR):
            if start + a < b:
                edges.append((int(start + a), int(b), float(cosine[a, b])))
    return edges


def clusters(glyphs: list[Glyph]) -> list[list[int]]:
    """Return concept clusters: same title, same template or series, or near-duplicate pixels."""
    n = len(glyphs)
    named = _Sets(n)
    first: dict[str, int] = {}
    for i, glyph in enumerate(glyphs):
        for key in (f"title {glyph.title}", f"series {glyph.series}"):
            named.join(i, first.setdefault(key, i))
    edges = near_edges(np.stack([g.pixels for g in glyphs]))
    return _linked(list(range(n)), named, edges, NEAR)


def _linked(rows: list[int], named: _Sets, edges: list, near: float) -> list[list[int]]:
    """Join `rows` by name and by edges above `near`; cut what is too large at a higher one."""
    place = {row: i for i, row in enumerate(rows)}
    sets = _Sets(len(rows))
    first: dict[int, int] = {}
    for row in rows:
        sets.join(place[row], first.setdefault(named.find(row), place[row]))
    for a, b, cosine in edges:
        if cosine > near and a in place and b in place:
            sets.join(place[a], place[b])
    out = []
    for group in sets.groups():
        members = [rows[i] for i in group]
        if len(members) > CLUSTER_CAP and near < 1:
            out.extend(_linked(members, named, edges, near + 0.005))
        else:
            out.append(members)
    return sorted(out)


def split_clusters(glyphs: list[Glyph], groups: list[list[int]]) -> list[bool]:
    """Return for each cluster whether it is held out: 25 % of each category, whole clusters."""
    total = Counter(glyph.category for glyph in glyphs)
    taken: Counter = Counter()
    heldout = [False] * len(groups)
    # Large clusters first, each with chance 1/4 by its hash, then small ones fill the quotas.
    keys = [_hash(glyphs[group[0]].id) for group in groups]
    order = sorted(range(len(groups)), key=lambda i: (-min(len(groups[i]), 4), keys[i]))
    for i in order:
        inside = Counter(glyphs[row].category for row in groups[i])
        fits = all(taken[c] + k <= HELDOUT * total[c] + 0.5 for c, k in inside.items())
        lucky = len(groups[i]) < 4 or int(keys[i][:8], 16) < HELDOUT * 16**8
        if fits and lucky:
            heldout[i] = True
            taken.update(inside)
    return heldout


def assemble(glyphs: list[Glyph], counts: Counter) -> list[Glyph]:
    """Return the final glyphs, in order of id, with cluster and split."""
    glyphs = cap_series(drop_duplicates(glyphs, counts), counts)
    glyphs = sorted(glyphs, key=lambda g: g.id)
    groups = clusters(glyphs)
    out = list(glyphs)
    for number, (group, held) in enumerate(
        zip(groups, split_clusters(glyphs, groups), strict=True)
    ):
        for row in group:
            split = "heldout" if held else "train"
            out[row] = replace(glyphs[row], cluster=number, split=split)
    return [glyph for glyph in out if glyph.id not in rules.WITHDRAWN]


def build(emoji: Path, emojibase: Path, png: Path, svg: Path) -> tuple[list[Glyph], Counter]:
    """Return the glyphs and the counts of what was dropped, from the unpacked packages.

    Args:
        emoji: folder `package` of npm emoji-datasource-google.
        emojibase: folder `package` of npm emojibase-data.
        png: root of the unpacked Debian package openclipart-png.
        svg: root of the unpacked Debian package openclipart-svg.

    Raises:
        InterpError: a folder lacks the expected layout.
    """
    for path in (emoji / "emoji.json", emojibase / "en" / "data.json"):
        if not path.is_file():
            raise InterpError(f"{path} is missing; give the unpacked `package` folder")
    counts: Counter = Counter()
    glyphs = read_noto(emoji, emojibase, counts) + read_openclipart(png, svg, counts)
    return assemble(glyphs, counts), counts


def metadata(glyphs: list[Glyph]) -> dict[str, Any]:
    """Return the columns that are shipped beside the pixels."""
    return {
        "name": "glyphs",
        "categories": list(rules.CATEGORIES),
        "ids": [g.id for g in glyphs],
        "labels": [rules.CATEGORIES.index(g.category) for g in glyphs],
        "captions": [words.shipped_caption(g.caption, g.category) for g in glyphs],
        "tags": [words.shipped_tags(g.tags) for g in glyphs],
        "clusters": [g.cluster for g in glyphs],
        "sources": [g.source for g in glyphs],
        "licences": [g.licence for g in glyphs],
        "split": [g.split for g in glyphs],
    }


def main(arguments: list[str] | None = None) -> None:
    """Build the data set from the command line and print its hashes and counts."""
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("--emoji", "--emojibase", "--openclipart-png", "--openclipart-svg", "--out"):
        parser.add_argument(name, type=Path, required=True)
    given = parser.parse_args(arguments)
    glyphs, counts = build(
        given.emoji, given.emojibase, given.openclipart_png, given.openclipart_svg
    )
    pixels = np.stack([g.pixels for g in glyphs])
    hashes = write_glyphs(given.out, pixels, metadata(glyphs))
    contact_sheet(given.out / "glyphs.contact.png", pixels, [g.category for g in glyphs])
    print(json.dumps({"n": len(glyphs), **hashes}, indent=1))
    for what, number in counts.items():
        print(f"{number:6d}  {what}")
    for c in rules.CATEGORIES:
        sides = Counter(g.split for g in glyphs if g.category == c)
        print(f"{sides['train']:6d} {sides['heldout']:6d}  {c}")


if __name__ == "__main__":
    main()
