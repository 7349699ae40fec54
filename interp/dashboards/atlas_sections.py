"""The charts of an atlas: one section per question, each with its figures and their numbers."""

from collections.abc import Callable, Sequence
from typing import Any

from interp.dashboards import atlas_figures as draw
from interp.dashboards import atlas_layers as layers
from interp.dashboards.atlas_grid import Sheet, pictures_table
from interp.dashboards.atlas_html import (
    ALPHA,
    MINUS,
    Markup,
    fold,
    interval,
    join,
    missing,
    number,
    table,
    tag,
)
from interp.errors import InputError

KINDS = {
    "additive": "shares add up: each layer does its part, whatever the others do",
    "redundant": "layers repeat each other: alone each does much, in company little; no shares",
    "synergistic": "layers need each other: alone each does little, in company much; no shares",
    "mixed": "some layers repeat each other, some need each other; no shares",
    "undecided": "too few pairs to say whether shares add up",
}


class Charts:
    """The figures of a page, in the order in which they are placed."""

    def __init__(self, sheet: Sheet) -> None:
        self.sheet = sheet
        self.figures: list[Any] = []

    def place(self, make: Callable[[], Any]) -> Markup:
        """Draw a figure and return its place on the page, or the reason why there is none."""
        try:
            figure = make()
        except InputError as error:
            return missing(str(error))
        title, caption = figure.layout.title.text, figure.layout.annotations[-1].text
        figure.layout.annotations = ()
        figure.update_layout(title=None, margin=_MARGIN)
        self.figures.append(figure)
        chart = tag(
            "div",
            class_="chart",
            role="img",
            aria_label=_unmarked(title),
            data_figure=len(self.figures) - 1,
            style=f"height:{figure.layout.height}px",
        )
        words = tag("figcaption", _unmarked(caption))
        return tag("figure", tag("h3", _unmarked(title)), chart, words, class_="panel")


_MARGIN = {"l": 8, "r": 8, "t": 30, "b": 8}


def _unmarked(text: str) -> str:
    """Text that was escaped for Plotly, as it was before."""
    return text.replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&")


def note(text: str) -> Markup:
    """Return a sentence on how a section is read."""
    return tag("p", text, class_="how")


def steps_part(atlas: Any, charts: Charts) -> Markup:
    """Return the maps of step window by layer, one figure per attribute."""
    if not atlas.maps:
        return missing(
            "No map: this model makes its images in one call, or the run did not look at steps."
        )
    how = note(
        "Each cell swaps one layer during one window of steps. Read along a row for when a layer "
        "acts, down a column for which layers act then. Light is more of the donor."
    )
    parts = [how]
    for which, one in enumerate(atlas.maps):
        parts.append(tag("h3", one.name, tag("small", f" {_role(one.role)}")))
        figures = [
            charts.place(lambda a=name, i=which: draw.step_map_figure(atlas, a, i))
            for name in _names(atlas)
            if name in one.alpha
        ]
        parts.append(tag("div", figures, class_="row"))
        parts.append(fold("Numbers", _map_numbers(one)))
    return join(parts)


def _names(atlas: Any) -> list[str]:
    return [one.name for one in atlas.attributes]


def _role(role: str) -> str:
    return "graph cuts: reported, decide nothing" if role == "descendant" else f"{role}s"


def _map_numbers(one: Any) -> Markup:
    parts = [(f"{ALPHA} {name}", cells) for name, cells in one.alpha.items()]
    parts += [(f"damage {name}", cells) for name, cells in one.damage.items()]
    rows = [
        (layer, window, *(interval(cells[w][j]) for _, cells in parts))
        for j, layer in enumerate(one.layers)
        for w, window in enumerate(one.windows)
    ]
    return table(("layer", "steps", *(name for name, _ in parts)), rows, one.name)


def layers_part(atlas: Any, charts: Charts) -> Markup:
    """Return first-in, last-in and Shapley shares of every study of layers."""
    if not atlas.layers:
        return missing("No layers were played against each other in this run.")
    how = note(
        "First-in: what a layer brings alone. Last-in: what is lost where all but it are swapped. "
        "Shapley: the mean over all orders. Shares are a division of labor only where first-in "
        "and last-in agree (additive); elsewhere the bars are gray and are not to be read so."
    )
    parts = [how]
    for which, study in enumerate(atlas.layers):
        parts.append(_study_head(study))
        figures = [
            charts.place(lambda a=name, i=which: layers.shares_figure(atlas, a, i))
            for name in study.shares.attributes
        ]
        parts.append(tag("div", figures, class_="row"))
        parts.append(_labels(study.shares))
        parts.append(fold("Numbers", _share_numbers(study.shares)))
    return join(parts)


def _study_head(study: Any) -> Markup:
    role = "the second verdict is drawn from these" if study.decides else _role(study.shares.role)
    players = [
        tag("li", tag("b", name), f": {', '.join(points)}")
        for name, points in study.players.items()
    ]
    return join(
        tag("h3", study.name, tag("small", f" {role}")),
        note(study.what),
        fold(f"The {len(players)} players", tag("ul", players)) if players else None,
    )


def _labels(shares: Any) -> Markup:
    rows = [
        (
            name,
            tag("b", kind, class_=f"kind {kind if kind in KINDS else ''}"),
            tag("span", KINDS.get(kind, ""), class_="long"),
            number(total),
            interval(redundancy),
        )
        for name, kind, total, redundancy in zip(
            shares.attributes, shares.kinds, shares.total, shares.redundancy, strict=True
        )
    ]
    headings = ("attribute", "shares are", "which means", "all layers together", "redundancy")
    return table(headings, rows, "What kind of shares")


def _share_numbers(shares: Any) -> Markup:
    rows = []
    for k, name in enumerate(shares.attributes):
        for j, layer in enumerate(shares.layers):
            low, high = number(shares.shapley_low[k][j]), number(shares.shapley_high[k][j])
            gap = f"[{number(shares.gap_low[k][j])}, {number(shares.gap_high[k][j])}]"
            cells = (shares.first_in[k][j], shares.last_in[k][j], shares.shapley[k][j])
            error = number(shares.shapley_se[k][j], 3)
            rows.append((layer, name, *map(number, cells), f"[{low}, {high}]", error, gap))
    headings = ("layer", "attribute", "first-in", "last-in", "Shapley", "95 %", "Monte Carlo error")
    return table((*headings, f"first {MINUS} last, corrected"), rows, "Shares of layers")


def interactions_part(atlas: Any, charts: Charts) -> Markup:
    """Return what pairs of layers add beyond what each does alone."""
    run = [i for i, study in enumerate(atlas.layers) if study.shares.interactions is not None]
    if not run:
        return missing("Pairs of layers were not run in this atlas.")
    how = note(
        "Two layers swapped together, minus each alone. Below 0: they repeat each other. Above 0: "
        "they need each other. 0: each does its part."
    )
    parts = [how]
    for which in run:
        study = atlas.layers[which]
        figures = [
            charts.place(lambda a=name, i=which: layers.interactions_figure(atlas, a, i))
            for name in study.shares.attributes
        ]
        role = tag("small", f" {_role(study.shares.role)}")
        parts += [tag("h3", study.name, role), tag("div", figures, class_="row")]
    return join(parts)


def specialization_part(atlas: Any, charts: Charts) -> Markup:
    """Return the specialization of each study beside its twins."""
    if not atlas.layers:
        return missing("No layers were played against each other in this run.")
    how = note(
        "How far layers differ in what they decide: 0 where all do alike, 1 where each has one "
        "attribute. Layers of networks with fresh weights differ too, by wiring alone, and so do "
        "stages that only deal out the images' frequencies by their grid sizes (band twins); the "
        "verdict is about the excess over both."
    )
    figures, rows, notes = [], [], []
    for which, study in enumerate(atlas.layers):
        figures.append(charts.place(lambda i=which: layers.specialization_figure(atlas, i)))
        cells = (study.specialization, study.given_step, study.over_steps)
        levels = [
            (interval(beyond), ", ".join(map(number, values)) or "none")
            for beyond, values in (
                (study.excess, study.twins),
                (study.band_excess, study.band_twins),
            )
        ]
        rows.append((study.name, *map(interval, cells), *levels[0], *levels[1]))
        notes += [note(f"{study.name}: {text}") for text in study.notes]
    headings = (
        *("study", "model", "given the step", "over steps"),
        *("excess over untrained twins (99 %)", "untrained twins"),
        *("excess over band twins (99 %)", "band twins"),
    )
    numbers = fold("Numbers", table(headings, rows, "Specialization"))
    return join(how, tag("div", figures, class_="row wide"), notes, numbers)


def compactness_part(atlas: Any, charts: Charts) -> Markup:
    """Return how few directions of each source do, in both bases, beside the images' own."""
    if not atlas.compactness:
        return missing("Directions of sources were not counted in this run.")
    how = note(
        "Only the first d directions of a source come from the donor. d* keeps 95 % of the full "
        "swap in every attribute. Compact needs d* ≤ d_img, the directions that the images "
        "themselves need, in the PCA basis and in the Jacobian (causal) basis alike."
    )
    figures = [
        charts.place(lambda i=i: draw.compactness_figure(atlas, i))
        for i in range(len(atlas.compactness))
    ]
    rows = [
        (
            one.source,
            one.width,
            interval(one.sufficiency),
            interval(one.others),
            _count(one.pca),
            _count(one.jacobian),
            _count(atlas.image_curve),
        )
        for one in atlas.compactness
    ]
    headings = ("source", "numbers in it", "S", "all other sources", "d* PCA", "d* Jacobian")
    notes = [note(f"{one.source}: {text}") for one in atlas.compactness for text in one.notes]
    listed = table((*headings, "d_img"), rows, "Compactness of sources")
    return join(how, tag("div", figures, class_="row wide"), listed, notes)


def _count(curve: Any) -> str:
    if curve is None:
        return "not run"
    if curve.d_star is not None:
        return str(curve.d_star)
    return f"more than {curve.rank}" if curve.kept else "undefined: the swap moves too little"


def kinds_part(atlas: Any, charts: Charts) -> Markup:
    """Return swaps and mean ablations by kind of module."""
    if not atlas.kinds:
        return missing("Kinds of module were not swapped or ablated in this run.")
    how = note(
        f"All writes of one kind of module: swapped for the donor's ({ALPHA}: how much of the "
        "donor comes with them), and replaced by their mean (damage: how much of the picture was "
        "theirs)."
    )
    names = _names(atlas)
    figures = [charts.place(lambda a=name: draw.kinds_figure(atlas, a)) for name in names]
    rows = [(kind.name, len(kind.points), *_kind_cells(kind, names)) for kind in atlas.kinds]
    heads = [f"{what} {name}" for name in names for what in (ALPHA, "damage")]
    numbers = fold("Numbers", table(("kind", "points", *heads), rows, "Kinds of module"))
    return join(
        how, tag("div", figures, class_="row"), _kind_pictures(atlas, charts.sheet), numbers
    )


def _kind_pictures(atlas: Any, sheet: Sheet) -> Markup | None:
    """What swapping and ablating each kind made of the first arm's recipients."""
    rows = [(f"{kind.name}, swapped", kind.swapped_images) for kind in atlas.kinds]
    rows += [(f"{kind.name}, mean-ablated", kind.ablated_images) for kind in atlas.kinds]
    rows = [row for row in rows if row[1]]
    if not rows or not atlas.arms:
        return None
    table = pictures_table(atlas.arms[0], rows, sheet)
    return fold("Pictures of the kinds", table, class_="panel")


def _kind_cells(kind: Any, names: Sequence[str]) -> list[str]:
    found = []
    for name in names:
        swapped, ablated = kind.swapped.get(name), kind.ablated.get(name)
        found.append(interval(None if swapped is None else swapped.alpha))
        found.append(interval(None if ablated is None else ablated.damage))
    return found


def raw_part(atlas: Any) -> Markup:
    """Return raw measures, off-distribution distances and p of every carrier, as numbers."""
    rows = []
    for row in atlas.carriers:
        raw = [
            f"{name}: to donor {number(one.to_donor)}, to recipient {number(one.to_recipient)}, "
            f"donor to recipient {number(one.between)}"
            for name, one in row.raw.items()
        ]
        off = [
            f"{name}: {number(one.edited)} (clean {number(one.clean)})"
            for name, one in row.off.items()
        ]
        p = [f"{name}: {number(value, 4)}" for name, value in row.p.items()]
        if raw or off or p:
            lists = [tag("ul", [tag("li", text) for text in part]) for part in (raw, off, p)]
            rows.append((f"{row.name} ({row.arm})", *lists))
    if not rows:
        return missing("No raw measures are in this record.")
    confirmatory = sum(row.confirmatory for row in atlas.carriers)
    headings = (
        "carrier",
        "raw similarity, mean over pairs",
        "edited activations off their distribution",
        f"p of {ALPHA} = 0 (Holm over the {confirmatory} sources and writes)",
    )
    listed = table(headings, rows, "Raw measures")
    return fold("Raw measures, distance from clean activations, p", listed, class_="panel")
