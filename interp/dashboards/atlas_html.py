"""HTML from data: every text is escaped unless it was built here, numbers read alike everywhere."""

import html
import math
from collections.abc import Iterable, Sequence
from typing import Any

_VOID = {"br", "col", "hr", "img", "input", "link", "meta"}
# By name, since they look like Latin letters and signs.
ALPHA, MINUS = "\N{GREEK SMALL LETTER ALPHA}", "\N{MINUS SIGN}"
NOTHING = "\N{EN DASH}"


class Markup(str):
    """HTML that `tag` built, safe to be put into HTML."""


def tag(name: str, /, *children: Any, **attributes: Any) -> Markup:
    """Return an element; text is escaped, None and False are left out.

    Attributes: `class_` is class, `aria_label` is aria-label; True stands without a value.
    """
    parts = [name]
    for key, value in attributes.items():
        if value is None or value is False:
            continue
        key = key.rstrip("_").replace("_", "-")
        parts.append(key if value is True else f'{key}="{html.escape(str(value))}"')
    opening = f"<{' '.join(parts)}>"
    return Markup(opening if name in _VOID else f"{opening}{join(*children)}</{name}>")


def join(*children: Any) -> Markup:
    """Return children one after another, nested sequences flattened."""
    parts = []
    for child in children:
        if child is None or child is False:
            continue
        if isinstance(child, Markup):
            parts.append(child)
        elif isinstance(child, Iterable) and not isinstance(child, str):
            parts.append(join(*child))
        else:
            parts.append(html.escape(str(child)))
    return Markup("".join(parts))


def known(value: float | None) -> bool:
    """Whether a number is there and finite."""
    return value is not None and math.isfinite(value)


def number(value: float | None, digits: int = 2) -> str:
    """Return a number of fixed digits with a true minus sign, or a dash where there is none."""
    if value is None or not math.isfinite(value):
        return NOTHING
    text, zero = f"{value:.{digits}f}", f"{0:.{digits}f}"
    return zero if text == f"-{zero}" else text.replace("-", MINUS)


def bounds(one: Any, digits: int = 2) -> str:
    """Return the bounds of an interval in brackets, or nothing."""
    if one is None or not (known(one.low) and known(one.high)):
        return ""
    return f"[{number(one.low, digits)}, {number(one.high, digits)}]"


def interval(one: Any, digits: int = 2) -> str:
    """Return a value with its bounds, or a dash."""
    if one is None:
        return NOTHING
    return f"{number(one.value, digits)} {bounds(one, digits)}".strip()


def table(headings: Sequence[str], rows: Iterable[Sequence[Any]], label: str) -> Markup:
    """Return a table that scrolls sideways where it must; the first column names the row."""
    head = tag("tr", [tag("th", text, scope="col") for text in headings])
    body = [
        tag("tr", tag("th", row[0], scope="row"), [tag("td", cell) for cell in row[1:]])
        for row in rows
    ]
    inner = tag("table", tag("thead", head), tag("tbody", body), class_="data")
    return tag("div", inner, class_="scroll", tabindex="0", role="region", aria_label=label)


def fold(summary: str, *children: Any, class_: str = "", open_: bool = False) -> Markup:
    """Return a part that opens on demand."""
    return tag("details", tag("summary", summary), *children, class_=class_ or None, open=open_)


def section(key: str, title: str, *children: Any) -> Markup:
    """Return a section with a heading that links can reach."""
    head = tag("h2", title, id=f"{key}-title")
    return tag("section", head, *children, id=key, aria_labelledby=f"{key}-title")


def missing(reason: str) -> Markup:
    """Say why there is nothing to show here."""
    return tag("p", reason, class_="missing")


def facts(entries: Iterable[tuple[str, Any]]) -> Markup:
    """Return names and values as a list; empty values are left out."""
    rows = [
        tag("div", tag("dt", name), tag("dd", value))
        for name, value in entries
        if value not in (None, "", (), {}, [])
    ]
    return tag("dl", rows, class_="facts")
