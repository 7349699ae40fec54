"""A published protocol that a run followed: its own measures beside ours, and its flaws."""

from collections.abc import Mapping, Sequence
from typing import Any

from interp.dashboards.atlas_html import (
    ALPHA,
    NOTHING,
    Markup,
    facts,
    fold,
    join,
    number,
    table,
    tag,
)

# Lists of cells, and what they are.
_CELLS = {"singles": "Blocks, each alone", "sets": "Blocks, mean over the sets that hold them"}


def protocol_part(protocol: Mapping[str, Any]) -> Markup | None:
    """Return what a published protocol found and what is wrong with it; None without one.

    Known parts are `singles` and `sets` (cells by block, window and noise), `config` and `flaws`;
    whatever else there is stands as name and value.
    """
    if not protocol:
        return None
    flaws = protocol.get("flaws") or ()
    listed = [flaws] if isinstance(flaws, str) else list(flaws)
    rest = {k: v for k, v in protocol.items() if k not in (*_CELLS, "flaws")}
    parts: list[Any] = [
        tag("h3", "The published protocol that was followed, and its flaws"),
        facts((name, words_of(value)) for name, value in rest.items()),
        tag("ul", [tag("li", words_of(flaw)) for flaw in listed]),
    ]
    for key, title in _CELLS.items():
        cells = [one for one in protocol.get(key) or () if isinstance(one, Mapping)]
        if cells:
            parts.append(fold(f"{title}: its measures and ours", _cells(cells, title)))
    return join(parts)


def _cells(cells: Sequence[Mapping[str, Any]], title: str) -> Markup:
    names = list(dict.fromkeys(name for one in cells for name in _dict(one, "likeness")))
    ours = list(dict.fromkeys(name for one in cells for name in _shares(one)))
    headings = ["block", "timesteps", "noise"]
    headings += [f"{name}: to donor | recipient | between them" for name in names]
    headings += [f"{name}: gain, cut at 0 | uncut" for name in names]
    headings += [f"{ALPHA} {name}" for name in ours] + [f"τ {name}" for name in ours]
    rows = []
    for one in cells:
        likeness, shares, tau = _dict(one, "likeness"), _shares(one), _dict(one, "tau")
        row = [str(one.get("block", "")), words_of(one.get("window", "")), one.get("noise", "")]
        row += [_three(likeness.get(name)) for name in names]
        row += [_gain(likeness.get(name)) for name in names]
        row += [_share(shares.get(name)) for name in ours]
        row += [_value(tau.get(name)) for name in ours]
        rows.append(row)
    return table(headings, rows, title)


def _dict(one: Any, name: str) -> Mapping[str, Any]:
    found = one.get(name) if isinstance(one, Mapping) else None
    return found if isinstance(found, Mapping) else {}


def _shares(one: Mapping[str, Any]) -> Mapping[str, Any]:
    return _dict(_dict(one, "effect"), "attributes")


def _value(value: Any, digits: int = 2) -> str:
    return number(value, digits) if isinstance(value, int | float) else NOTHING


def _three(one: Any) -> str:
    values = [_dict({"at": one}, "at").get(k) for k in ("to_donor", "to_recipient", "between")]
    return " | ".join(map(_value, values))


def _gain(one: Any) -> str:
    gain = _dict(one, "donor_gain")
    return f"{_value(gain.get('mean'))} | {_value(gain.get('unclipped'))}"


def _share(one: Any) -> str:
    share = _dict({"at": one}, "at")
    ends = f"[{_value(share.get('alpha_low'))}, {_value(share.get('alpha_high'))}]"
    return f"{_value(share.get('alpha'))} {ends}" if share else NOTHING


def words_of(value: Any) -> str:
    """Return a JSON value as words: names with values that are not empty, entries by commas."""
    if isinstance(value, Mapping):
        filled = {k: v for k, v in value.items() if v not in (None, "", (), [], {})}
        return "; ".join(f"{name}: {words_of(item)}" for name, item in filled.items())
    if isinstance(value, Sequence) and not isinstance(value, str):
        return ", ".join(words_of(item) for item in value)
    return number(value, 3) if isinstance(value, float) else str(value)
