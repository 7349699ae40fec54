"""What each measure can and cannot show, in plain words, from what it says of itself."""

from collections.abc import Iterator, Sequence

from interp.geometry.measure import Measure
from interp.geometry.measures import MEASURES, get_measure

# Invariance -> the change of one representation that leaves the value as it is.
CHANGES = {
    "linear": "any invertible linear map of the features",
    "orthogonal": "rotating or reflecting the features",
    "scale": "multiplying all features by one number",
    "translation": "adding one vector to every row",
    "permutation": "reordering the features",
}


def explain(name: str) -> str:
    """Return a measure's definition, reading, null, bias and limits as Markdown.

    Raises InputError for an unknown name.
    """
    one = get_measure(name)
    return "\n".join([f"**{name}**: {one.definition} ({one.source}).", "", *_lines(one)])


def _lines(one: Measure) -> Iterator[str]:
    yield f"- {_direction(one)}"
    yield f"- Without alignment: {one.null}. In a finite sample: {one.bias}."
    yield f"- Left as it is by {_changes(one.invariances)}."
    if one.invariances_y is not None and one.invariances_y != one.invariances:
        yield f"- Of the second representation: left as it is by {_changes(one.invariances_y)}."
    yield from (f"- {line}" for line in _limits(one))
    yield f"- Cost: {one.cost}."


def _direction(one: Measure) -> str:
    way = "Smaller is more alike" if one.distance else "Larger is more alike"
    end = "" if one.equal is None else f"; a representation with itself gives {one.equal:g}"
    both = "" if one.symmetric else "; it has a direction: from the first to the second"
    return f"{way}{end}{both}."


def _changes(kept: frozenset[str]) -> str:
    # An invertible map may rotate, scale and reorder.
    covered = {"orthogonal", "scale", "permutation"} if "linear" in kept else set()
    if "orthogonal" in kept:
        covered.add("permutation")
    words = [text for key, text in CHANGES.items() if key in kept - covered]
    return "; ".join(words) or "nothing but equal features"


def _limits(one: Measure) -> Iterator[str]:
    kept = one.invariances
    if "linear" in kept:
        yield (
            "Cannot show agreement in wide features: from d = n - 1 on, every two representations "
            "span the same space and look equal"
        )
    if "orthogonal" in kept or "linear" in kept:
        yield "Cannot show which units agree: it sees the layout of the images, not the features"
    elif "permutation" in kept:
        yield "Sees single units: a rotation of the features, which a reader could undo, lowers it"
    if one.uses_neighbors:
        yield (
            "Sees who is near whom and nothing of the distances beyond: far images may be laid "
            "out differently. Values at different n or k do not compare"
        )
    elif "scale" in kept and "linear" not in kept:
        yield "A few directions of large variance may decide it alone: see the spectra"
    if "scale" not in kept:
        yield "The scale of the features counts: values of differently scaled layers do not compare"


def measure_rows(names: Sequence[str] | None = None) -> list[tuple[str, ...]]:
    """Rows of a table of measures, the first being the heading; None: all of them.

    Raises InputError for an unknown name.
    """
    rows: list[tuple[str, ...]] = [
        ("measure", "definition", "source", "left as it is by", "null", "bias", "cost")
    ]
    for name in sorted(MEASURES) if names is None else names:
        one = get_measure(name)
        kept = ", ".join(key for key in CHANGES if key in one.invariances) or "nothing"
        rows.append((name, one.definition, one.source, kept, one.null, one.bias, one.cost))
    return rows


def measures_markdown() -> str:
    """Return every measure: a table, then each one's reading and limits, as Markdown."""
    head, *rows = measure_rows()
    cells = [head, tuple("---" for _ in head), *rows]
    table = ["| " + " | ".join(c.replace("|", "\\|") for c in row) + " |" for row in cells]
    parts = [explain(row[0]) for row in rows]
    return "\n".join(["# Measures", "", *table, "", "\n\n".join(parts), ""])
