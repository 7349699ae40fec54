"""The table of an atlas: every carrier by every attribute, with pictures, intervals and levels."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from interp.dashboards.atlas_html import (
    ALPHA,
    Markup,
    bounds,
    fold,
    interval,
    known,
    missing,
    number,
    tag,
)
from interp.dashboards.thumbnails import LOSSLESS_EDGE, QUALITY

# Role -> heading and what it means; in the order of the page.
ROLES = {
    "source": ("Sources", "independent inputs of a generation; the first verdict is about these"),
    "write": ("Writes", "what one layer is told, or adds; the second verdict is about these"),
    "descendant": (
        "Descendants and graph cuts",
        "reported, decide nothing: they follow from the sources, so their swap shows wiring",
    ),
    "reference": ("Levels", "no carriers: what nothing, and what an unrelated image, would read"),
}
# Arrows of values outside the axis.
LEFT, RIGHT = "\N{BLACK LEFT-POINTING TRIANGLE}", "\N{BLACK RIGHT-POINTING TRIANGLE}"
# What an image that is neither donor nor recipient reads in the classical transfer ratio.
UNRELATED_TAU = 0.5
# Shares beyond this are drawn at the edge, as an arrow; the number beside them is exact.
LOWEST, HIGHEST = -0.5, 1.5
# Pairs in one cell: with three attributes, six of a row are seen at once.
PAIRS_A_CELL = 2
# A WebP picture has at most 16383 pixels a side (RFC 9649).
_MOST_SIDE = 16383
_COLUMNS = 16


class Sheet(NamedTuple):
    """All tiles as one picture."""

    data: bytes
    """WebP; b"" without tiles."""
    count: int
    columns: int
    rows: int
    size: tuple[int, int]


def make_sheet(images: np.ndarray) -> Sheet:
    """Pack tiles uint8 [n, h, w, 3] into one WebP picture, small ones without loss."""
    import io

    from PIL import Image

    n, h, w, _ = images.shape
    if not n:
        return Sheet(b"", 0, 1, 1, (h, w))
    columns = max(_COLUMNS, -(-n * h // _MOST_SIDE))
    rows = -(-n // columns)
    sheet = np.full((rows * columns, h, w, 3), 255, np.uint8)
    sheet[:n] = images
    joined = sheet.reshape(rows, columns, h, w, 3).swapaxes(1, 2).reshape(rows * h, columns * w, 3)
    out = io.BytesIO()
    lossless = max(h, w) <= LOSSLESS_EDGE
    quality = 100 if lossless else QUALITY
    image = Image.fromarray(np.ascontiguousarray(joined))
    image.save(out, "WEBP", lossless=lossless, quality=quality, exif=b"")
    return Sheet(out.getvalue(), n, columns, rows, (h, w))


def tile(sheet: Sheet, index: int, words: str) -> Markup:
    """Return one tile of the sheet as an image with its description."""
    row, column = divmod(index, sheet.columns)

    def place(at: int, count: int) -> str:
        return f"{100 * at / (count - 1):.4f}%" if count > 1 else "0"

    style = f"background-position:{place(column, sheet.columns)} {place(row, sheet.rows)}"
    return tag("span", class_="tile", style=style, role="img", aria_label=words, title=words)


class Scale(NamedTuple):
    """The axis that all cells of a table share."""

    low: float
    high: float

    def at(self, value: float) -> float:
        """Place of a value in percent of the axis, at the edge where it lies outside."""
        clipped = min(max(value, self.low), self.high)
        return round(100 * (clipped - self.low) / (self.high - self.low), 2)


def make_scale(rows: Sequence[Any], fields: Sequence[str] = ("alpha", "damage")) -> Scale:
    """Choose the axis of a table: 0 and 1 with room, wider where an interval asks for it."""
    found = [-0.12, 1.12]
    for row in rows:
        for cell in (*row.effects.values(), *(row.random or {}).values()):
            parts = [getattr(cell, name) for name in fields]
            found += [v for one in parts for v in (one.value, one.low, one.high) if known(v)]
    return Scale(max(min(found), LOWEST), min(max(found), HIGHEST))


def arm_table(atlas: Any, arm: Any, sheet: Sheet) -> Markup:
    """Return the carriers of one arm as a table with one group of rows per role."""
    rows = [row for row in atlas.carriers if row.arm == arm.name]
    if not rows:
        return missing(f"No carrier was swapped in the arm {arm.name!r}.")
    names = [one.name for one in atlas.attributes]
    scale = make_scale(rows)
    what = {one.name: one.what for one in atlas.attributes}
    head = [tag("th", "Carrier", scope="col")]
    for name in names:
        head.append(tag("th", tag("b", name), tag("small", what[name]), _axis(scale), scope="col"))
    groups = [_group(rows, role, arm, names, (sheet, scale)) for role in _roles(rows)]
    body = tag("table", tag("thead", tag("tr", head)), groups, class_="grid")
    label = f"Carriers by attributes, {arm.name}"
    return tag("div", body, class_="scroll", tabindex="0", role="region", aria_label=label)


def _roles(rows: Sequence[Any]) -> list[str]:
    found = dict.fromkeys(row.role for row in rows)
    return [r for r in ROLES if r in found] + [r for r in found if r not in ROLES]


def _axis(scale: Scale) -> Markup:
    marks = [
        tag("i", text, style=f"left:{scale.at(value)}%")
        for value, text in ((0.0, "0 recipient"), (1.0, "1 donor"))
    ]
    line = tag("span", marks, class_="marks", aria_hidden="true")
    return tag("span", tag("span"), line, tag("span"), tag("span"), class_="axis")


def _group(
    rows: Sequence[Any], role: str, arm: Any, names: Sequence[str], look: tuple[Sheet, Scale]
) -> Markup:
    title, meaning = ROLES.get(role, (role, ""))
    head = tag("th", tag("b", title), f" {meaning}", colspan=len(names) + 1, scope="rowgroup")
    body = [_carrier(row, arm, names, look) for row in rows if row.role == role]
    return tag("tbody", tag("tr", head, class_="role"), body, class_=f"role-{_plain(role)}")


def _plain(role: str) -> str:
    return role if role in ROLES else "other"


def _carrier(row: Any, arm: Any, names: Sequence[str], look: tuple[Sheet, Scale]) -> Markup:
    about = [tag("b", row.name)]
    if row.window:
        about.append(tag("small", f"steps: {row.window}"))
    if row.role != "reference":
        words = "S, the least donor share over attributes, between one-sided corrected 95 % bounds"
        about.append(tag("small", f"S {interval(row.sufficiency)}", title=words))
    swapped = (*row.fields, *row.points)
    if swapped and swapped != (row.name,):
        listed = tag("small", ", ".join(swapped))
        few = len(", ".join(swapped)) <= 40
        about.append(listed if few else fold(f"{len(swapped)} places", listed))
    cells = [
        tag("td", _cell(row, arm, k, name, look), data_attribute=name)
        for k, name in enumerate(names)
    ]
    return tag("tr", tag("th", about, scope="row"), cells)


def _cell(row: Any, arm: Any, k: int, name: str, look: tuple[Sheet, Scale]) -> Markup:
    sheet, scale = look
    cell = row.effects.get(name)
    if cell is None:
        return missing("not measured")
    random = (row.random or {}).get(name)
    lanes = [
        _lane(ALPHA, cell.alpha, None if random is None else random.alpha, scale, "alpha"),
        _lane("dmg", cell.damage, None if random is None else random.damage, scale, "damage"),
    ]
    tau = row.tau.get(name)
    if known(tau):
        lanes.append(_tau(tau, scale))
    pictures = _triplets(row, arm, k, sheet)
    words = _words(row, name, cell, random)
    return tag("div", pictures, tag("div", lanes, class_="lanes", title=words), class_="cell")


def pairs_shown(row: Any, arm: Any, k: int) -> list[tuple[int, tuple[int, int, int]]]:
    """Return the pairs of the k-th cell of a row: (number, tiles of donor, recipient, swapped).

    The cells go round the pairs that were kept, in order.
    """
    kept = list(zip(arm.donors, arm.recipients, row.images, strict=False))
    wanted = dict.fromkeys((k * PAIRS_A_CELL + j) % len(kept) for j in range(PAIRS_A_CELL) if kept)
    return [(pair, kept[pair]) for pair in wanted]


def _triplets(row: Any, arm: Any, k: int, sheet: Sheet) -> Markup | None:
    found = []
    for pair, tiles in pairs_shown(row, arm, k):
        named = zip("ABC", ("donor", "recipient", f"{row.name} swapped"), tiles, strict=True)
        figures = [
            tag("span", tile(sheet, index, f"{what}, pair {pair + 1}"), tag("small", letter))
            for letter, what, index in named
        ]
        found.append(tag("div", figures, class_="triplet"))
    return tag("div", found, class_="triplets") if found else None


def _lane(label: str, one: Any, random: Any, scale: Scale, kind: str) -> Markup:
    marks = [_level(0.0, scale), _level(1.0, scale)]
    # A band behind: the level of the random push must stay visible under the value.
    marks += _marks(random, scale, "random")
    marks += _marks(one, scale, kind)
    svg = tag("svg", marks, aria_hidden="true")
    numbers = tag("span", tag("b", number(one.value)), f" {bounds(one)}", class_="num")
    beside = "" if random is None else f"random {number(random.value)}"
    level = tag("small", beside, class_="beside")
    named = tag("span", label, class_="lane-label")
    return tag("div", named, svg, numbers, level, class_=f"lane {kind}")


def _level(value: float, scale: Scale) -> Markup:
    x = f"{scale.at(value)}%"
    return tag("line", x1=x, x2=x, y1="0", y2="100%", class_="level")


def _marks(one: Any, scale: Scale, kind: str) -> list[Markup]:
    if one is None:
        return []
    found = []
    if known(one.low) and known(one.high):
        low, high = scale.at(one.low), scale.at(one.high)
        ends = {"x1": f"{low}%", "x2": f"{high}%", "y1": "50%", "y2": "50%"}
        found.append(tag("line", class_=f"bar {kind}", **ends))
    if not known(one.value):
        return found
    x = scale.at(one.value)
    if not scale.low <= one.value <= scale.high:
        arrow = LEFT if one.value < scale.low else RIGHT
        found.append(tag("text", arrow, x=f"{x}%", y="72%", class_=f"beyond {kind}"))
    elif kind == "random":
        found.append(tag("line", x1=f"{x}%", x2=f"{x}%", y1="12%", y2="88%", class_="tick random"))
    else:
        found.append(tag("circle", cx=f"{x}%", cy="50%", r="4", class_=f"dot {kind}"))
    return found


def _tau(tau: float, scale: Scale) -> Markup:
    x = f"{scale.at(UNRELATED_TAU)}%"
    half = tag("line", x1=x, x2=x, y1="0", y2="100%", class_="unrelated")
    dot = tag("circle", cx=f"{scale.at(tau)}%", cy="50%", r="3.5", class_="dot tau")
    svg = tag("svg", _level(0.0, scale), _level(1.0, scale), half, dot, aria_hidden="true")
    numbers = tag("span", number(tau), class_="num")
    level = tag("small", "unrelated .5", class_="beside")
    named = tag("span", "τ", class_="lane-label")
    return tag("div", named, svg, numbers, level, class_="lane tau")


def _words(row: Any, name: str, cell: Any, random: Any) -> str:
    """The cell as sentences, for the pointer and for those who copy."""
    parts = [
        f"{row.name}, {name}: donor share {ALPHA} {interval(cell.alpha, 3)}",
        f"recipient share β {interval(cell.beta, 3)}",
        f"damage {interval(cell.damage, 3)}",
    ]
    if random is not None:
        alpha, damage = interval(random.alpha, 3), interval(random.damage, 3)
        parts.append(f"the same push in random directions: {ALPHA} {alpha}, damage {damage}")
    if known(row.p.get(name)):
        parts.append(f"p of {ALPHA} = 0, Holm-adjusted: {number(row.p[name], 4)}")
    return "; ".join(parts)


def arm_pictures(atlas: Any, arm: Any, sheet: Sheet) -> Markup:
    """Return every shown pair of an arm: donors, recipients, and what each carrier made of them."""
    shown = [row for row in atlas.carriers if row.arm == arm.name and row.images]
    order = _roles(shown)
    shown.sort(key=lambda row: order.index(row.role))
    rows = [(f"{row.name} ({row.role})", row.images) for row in shown]
    return pictures_table(arm, rows, sheet)


def pictures_table(arm: Any, rows: Sequence[tuple[str, Sequence[int]]], sheet: Sheet) -> Markup:
    """Return named rows of tiles under the donors and recipients of an arm, a column per pair."""
    count = min(len(arm.donors), len(arm.recipients))
    if not count:
        return missing("This run kept no pictures of the arm.")
    lines = []
    for name, tiles in (("A donor", arm.donors), ("B recipient", arm.recipients), *rows):
        cells = [
            tag("td", tile(sheet, index, f"{name}, pair {i + 1}"))
            for i, index in enumerate(tiles[:count])
        ]
        lines.append(tag("tr", tag("th", name, scope="row"), cells))
    pairs = [tag("th", f"pair {i + 1}", scope="col") for i in range(count)]
    head = tag("thead", tag("tr", tag("th", "Swapped", scope="col"), pairs))
    table = tag("table", head, tag("tbody", lines), class_="pictures")
    label = f"Pictures, {arm.name}"
    return tag("div", table, class_="scroll", tabindex="0", role="region", aria_label=label)
