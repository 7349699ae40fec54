"""The page of an atlas: one file that opens anywhere, pictures, charts and numbers inside."""

import base64
import hashlib
import json
import os
from pathlib import Path
from typing import Any

from interp.dashboards import atlas_sections as sections
from interp.dashboards.atlas_grid import Sheet, arm_pictures, arm_table, make_sheet
from interp.dashboards.atlas_html import Markup, fold, join, missing, section, tag
from interp.dashboards.atlas_parts import limits_part, provenance_part, reading_part, verdict_part
from interp.dashboards.encode import to_script_json
from interp.errors import InputError

_ASSETS = Path(__file__).parent / "assets"
_MARK = '<meta name="generator" content="interp atlas">'
STYLES = ("base.css", "controls.css", "atlas.css", "atlas_grid.css")
SCRIPT = "atlas.js"
# Sections in order: address, heading, short name in the bar.
_CHARTS = (
    ("steps", "When: steps by layers", "Steps", sections.steps_part),
    ("layers", "Who: shares of layers", "Layers", sections.layers_part),
    (
        "interactions",
        "Together: interactions of layers",
        "Interactions",
        sections.interactions_part,
    ),
    ("specialization", "Beyond wiring: specialization", "Twins", sections.specialization_part),
    ("compactness", "How few: directions of the sources", "Directions", sections.compactness_part),
    ("kinds", "What kind: modules swapped and ablated", "Kinds", sections.kinds_part),
)


def build_atlas_page(record: Any, out: str | Path | None = None) -> Path:
    """Write the page of an atlas and return its path: one HTML file, with all that it shows inside.

    It needs no server, no network and no other file. The same record gives the same bytes. A page
    of an earlier atlas there is replaced once the new one is complete.

    Args:
        record: the folder that `Atlas.save` wrote (or its atlas.json), or the `Atlas` itself.
        out: a folder, for `index.html` in it, or the name of an `.html` file; None: the folder of
            the record.

    Raises:
        InputError: the record cannot be read, `out` is missing for a record without a folder, or
            the file belongs to someone else.
    """
    target = _target(record, out)
    atlas = _load(record)
    _check_target(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    draft = target.with_name(f".{target.name}-{os.getpid()}")
    draft.write_text(atlas_html(atlas), encoding="utf-8", newline="\n")
    draft.replace(target)
    return target


def _load(record: Any) -> Any:
    if not isinstance(record, str | Path):
        return record
    from interp.atlas.record import load_atlas

    return load_atlas(record)


def _target(record: Any, out: str | Path | None) -> Path:
    if out is None and not isinstance(record, str | Path):
        raise InputError("where to? give `out`, a folder or an .html file, for a record in memory")
    if out is None:
        folder = Path(record)
        return (folder if folder.is_dir() else folder.parent) / "index.html"
    path = Path(out)
    return path if path.suffix == ".html" else path / "index.html"


def _check_target(target: Path) -> None:
    if target.parent.exists() and not target.parent.is_dir():
        raise InputError(f"{target.parent} is a file; a page needs a folder")
    if not target.exists():
        return
    if target.is_dir() or _MARK not in target.read_text("utf-8", errors="replace")[:4000]:
        raise InputError(f"{target} is not the page of an atlas; choose another place")


def atlas_html(atlas: Any) -> str:
    """Return the page of an `Atlas` as one HTML text."""
    sheet = make_sheet(atlas.images)
    charts = sections.Charts(sheet)
    main = join(
        _head(atlas),
        tag("p", atlas.scope, class_="scope") if atlas.scope else None,
        section("carriers", "Carriers by attributes", _carriers(atlas, sheet)),
        [section(key, title, part(atlas, charts)) for key, title, _, part in _CHARTS],
        section("limits", "What was not run, and what this does not show", limits_part(atlas)),
        provenance_part(atlas),
    )
    return _document(atlas, main, sheet, charts)


def _head(atlas: Any) -> Markup:
    model = atlas.model
    names = " and ".join(filter(None, (", ".join(_names(atlas)[:-1]), *_names(atlas)[-1:])))
    untrained = tag("span", "UNTRAINED", class_="badge warn") if model.untrained else None
    said = (
        f"{model.class_name} ({model.family}). Parts of one run are swapped into another, on "
        f"{atlas.n_pairs} disjoint pairs of images; what moves in {names} is measured."
    )
    made = tag("p", tag("code", atlas.made_by), class_="made") if atlas.made_by else None
    return tag(
        "header",
        tag("p", "Atlas of interventions", class_="crumbs"),
        tag("h1", f"What decides an image of {model.spec}?", untrained),
        tag("p", said, class_="sub"),
        made,
        verdict_part(atlas),
        id="verdict",
        class_="hero",
    )


def _names(atlas: Any) -> list[str]:
    return [one.name for one in atlas.attributes]


def _carriers(atlas: Any, sheet: Sheet) -> Markup:
    if not atlas.arms:
        return missing("No carrier was swapped in this run.")
    parts: list[Any] = [reading_part()]
    for arm in atlas.arms:
        parts.append(
            tag("h3", f"{arm.name}: {arm.what} ", tag("small", f"n = {arm.n_pairs} pairs"))
        )
        parts.append(_name_whole(atlas, arm))
        parts.append(tag("div", arm_table(atlas, arm, sheet), class_="panel flush"))
        words = f"All pictures of this arm: {arm.name}"
        parts.append(fold(words, arm_pictures(atlas, arm, sheet), class_="panel"))
    parts.append(sections.raw_part(atlas))
    return join(parts)


def _name_whole(atlas: Any, arm: Any) -> Markup | None:
    """Say which sources are all that differs between donor and recipient where noise is equal."""
    rows = [row for row in atlas.carriers if row.arm == arm.name and row.role == "source"]
    varied = {field for row in rows for field in row.fields}
    whole = [row.name for row in rows if row.fields and set(row.fields) == varied]
    if arm.name != "shared noise" or not whole:
        return None
    said = f"{whole[0]} is all that differs in this arm: its donor share is 1 by construction."
    return tag("p", said, class_="how")


def _document(atlas: Any, main: Markup, sheet: Sheet, charts: sections.Charts) -> str:
    styles = "\n".join((_ASSETS / name).read_text("utf-8") for name in STYLES)
    scripts = [_plotly(), (_ASSETS / SCRIPT).read_text("utf-8")] if charts.figures else []
    links = [("verdict", "Verdict"), ("carriers", "Carriers")]
    links += [(key, short) for key, _, short, _ in _CHARTS] + [("limits", "Limits")]
    bar = tag(
        "header",
        tag("span", "interp", class_="brand"),
        tag("nav", [tag("a", name, href=f"#{key}") for key, name in links], aria_label="Sections"),
        id="bar",
    )
    data = to_script_json({"figures": [json.loads(one.to_json()) for one in charts.figures]})
    body = join(
        tag("a", "Skip to content", class_="skip", href="#main"),
        bar,
        tag("main", main, id="main", tabindex="-1", class_="atlas"),
        tag("script", Markup(data), type="application/json", id="figures"),
        [Markup(f"<script>{script}</script>") for script in scripts],
    )
    title = f"Atlas of {atlas.model.spec}"
    head = join(
        tag("meta", charset="utf-8"),
        Markup(_MARK),
        tag("meta", http_equiv="Content-Security-Policy", content=_policy(scripts)),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="color-scheme", content="light"),
        tag("meta", name="referrer", content="no-referrer"),
        tag("title", title),
        Markup(f"<style>{styles}\n{_sheet_style(sheet)}</style>"),
    )
    page = tag("html", tag("head", head), tag("body", body), lang="en", data_theme="light")
    return f"<!doctype html>\n{page}\n"


def _plotly() -> str:
    import plotly

    path = Path(plotly.__file__).parent / "package_data" / "plotly.min.js"
    # Inside a script element, only this sequence could end it; in a string "\/" is "/".
    return path.read_text("utf-8").replace("</script", "<\\/script")


def _policy(scripts: list[str]) -> str:
    """Nothing may be loaded from anywhere; only the scripts of this file run."""
    digests = [base64.b64encode(hashlib.sha256(s.encode()).digest()).decode() for s in scripts]
    allowed = " ".join(f"'sha256-{digest}'" for digest in digests) or "'none'"
    # Plotly writes its own style sheet and style attributes.
    rules = ("default-src 'none'", f"script-src {allowed}", "style-src 'unsafe-inline'")
    return "; ".join((*rules, "img-src data:", "form-action 'none'", "base-uri 'none'"))


def _sheet_style(sheet: Sheet) -> str:
    if not sheet.count:
        return ""
    data = base64.b64encode(sheet.data).decode("ascii")
    h, w = sheet.size
    # Small pictures are shown as they are; a reader wants their pixels, not a blur.
    look = "pixelated" if max(h, w) <= 64 else "auto"
    return (
        f".tile{{background-image:url(data:image/webp;base64,{data});"
        f"background-size:{100 * sheet.columns}% {100 * sheet.rows}%;"
        f"aspect-ratio:{w}/{h};image-rendering:{look}}}"
    )
