"""The words of an atlas: verdicts, rule, controls, how to read, limits, provenance."""

from typing import Any

from interp.dashboards.atlas_html import (
    ALPHA,
    MINUS,
    Markup,
    facts,
    fold,
    join,
    known,
    missing,
    number,
    table,
    tag,
)
from interp.dashboards.atlas_protocol import protocol_part, words_of

# Question of a verdict, and what its answers mean.
QUESTIONS = {
    "compact": (
        "Does one compact latent decide the image?",
        {
            "yes": "One source alone decides the image, through no more of its directions than the "
            "images themselves need.",
            "no": "No source alone decides the image through that few directions.",
            "undecided": "These numbers settle neither yes nor no.",
        },
    ),
    "specialized": (
        "Do layers divide the labor?",
        {
            "yes": "Layers differ in what they decide, more so than in untrained twins and than "
            "their sizes alone explain.",
            "no": "Layers do not differ in what they decide more than in untrained twins, or than "
            "their sizes alone explain.",
            "undecided": "These numbers settle neither yes nor no.",
        },
    ),
}
# (compact, specialized) -> name of the corner and what it says of the paper's dichotomy.
CORNERS = {
    ("yes", "no"): ("strict", "the paper's synthesis in the strict sense"),
    ("yes", "yes"): ("compact and specialized", "contradicts the dichotomy"),
    ("no", "no"): ("neither", "contradicts the dichotomy"),
    ("no", "yes"): ("broad", "the paper's synthesis in the broad sense"),
}
BAND_TWINS = (
    "Band twins: stages that only deal out the images' frequencies by their grid sizes, and learn "
    "nothing."
)
_TWINS = "#specialization"
READING = (
    ("A, B, C", "donor image, recipient image, and the recipient's run with the donor's carrier."),
    (
        f"{ALPHA}, donor share",
        "0: the picture stayed the recipient's; 1: it became the donor's. The bar is a 95 % "
        "bootstrap interval over disjoint pairs. Nothing is clipped at 0.",
    ),
    (
        "S, sufficiency",
        f"the smallest {ALPHA} over the attributes: what of the donor the carrier brings in all of "
        "them. Its bounds are one-sided, 95 %, corrected over the carriers of the table.",
    ),
    (
        "random",
        "the upright tick: the same rows moved as far in random directions. A carrier says "
        f"something only where {ALPHA} lies beyond its tick.",
    ),
    (
        "dmg, damage",
        f"the part of the picture that is neither donor nor recipient (1 {MINUS} R²). No cell is "
        "left out for its damage; read it beside that of the random push.",
    ),
    (
        "τ, transfer ratio",
        "the classical ratio, for comparison with earlier work only: an image unrelated to both "
        "reads .5 (dashed), so a high τ does not show a transfer.",
    ),
    (
        "Pictures",
        "one swap serves all attributes; the columns show different pairs of it, in order, chosen "
        "by nobody.",
    ),
)


def verdict_part(atlas: Any) -> Markup:
    """Return both verdicts in words, the corner, the rule and the controls."""
    one = atlas.verdict
    if one is None:
        reasons = tag("ul", [tag("li", text) for text in atlas.warnings])
        words = "No verdict is printed: a part that the decision rule needs is missing or failed."
        return join(tag("div", tag("p", words), reasons, class_="caution"), controls_part(atlas))
    cards = [_answer(name, getattr(one, name), atlas.n_pairs) for name in QUESTIONS]
    rule = fold("The decision rule", tag("pre", one.rule_text, tabindex="0"), class_="rule")
    digest = tag("p", "Decision rule, a committed file: sha256 ", tag("code", one.rule_sha256))
    warned = [tag("p", text, class_="caution") for text in atlas.warnings]
    below = tag(
        "div", tag("div", digest, rule, controls_part(atlas)), _corners(one), class_="below"
    )
    return join(tag("div", cards, class_="verdicts"), below, warned)


def _answer(name: str, one: Any, n_pairs: int) -> Markup:
    question, meanings = QUESTIONS[name]
    lines = [tag("p", meanings.get(one.answer, ""), class_="meaning"), tag("p", one.reason)]
    if one.answer == "undecided":
        lines.append(tag("p", _what_would_decide(one, n_pairs), class_="open"))
    if name == "specialized":
        lines.append(tag("p", BAND_TWINS, " ", tag("a", "How far layers differ", href=_TWINS)))
    head = tag("h3", question)
    word = tag("p", tag("span", f"{name}: "), tag("b", one.answer), class_="answer")
    return tag("div", head, word, lines, class_="verdict", data_answer=one.answer)


def _what_would_decide(one: Any, n_pairs: int) -> str:
    said = []
    if known(one.smallest_effect):
        value = number(one.smallest_effect, 3)
        said.append(f"Smallest value that {n_pairs} pairs could have shown: {value}.")
    if one.pairs_needed:
        said.append(f"Pairs that would decide it if the values stayed: {one.pairs_needed}.")
    else:
        said.append("No number of pairs would decide it: what is open is not a matter of sampling.")
    return " ".join(said)


def _corners(one: Any) -> Markup:
    """The four corners as a table; where the model stands is marked and said."""
    place = (one.compact.answer, one.specialized.answer)
    rows = []
    for compact in ("yes", "no"):
        cells = []
        for specialized in ("no", "yes"):
            name, says = CORNERS[compact, specialized]
            here = (compact, specialized) == place
            mark = tag("em", "this model") if here else None
            inner = (tag("b", name), tag("small", says), mark)
            cells.append(tag("td", inner, class_="here" if here else None))
        rows.append(tag("tr", tag("th", f"compact: {compact}", scope="row"), cells))
    head = tag(
        "tr",
        tag("td"),
        [tag("th", f"specialized: {word}", scope="col") for word in ("no", "yes")],
    )
    caption = f"Corner: {one.corner}"
    if place not in CORNERS:
        caption += ". An undecided answer puts the model in none of the four."
    parts = (tag("caption", caption), tag("thead", head), tag("tbody", rows))
    return tag("div", tag("table", *parts, class_="corners"), class_="corner-box")


def controls_part(atlas: Any) -> Markup:
    """Return how many checks of the planted controls passed, and all of them."""
    checks = atlas.controls
    if not checks:
        return missing("Planted controls were not run, so no verdict may be read from this page.")
    failed = [one for one in checks if not one.passed]
    names = ", ".join(dict.fromkeys(one.control for one in checks))
    state = f"{len(checks) - len(failed)} of {len(checks)} checks passed"
    said = f"Planted controls ({names}): {state}."
    rows = [
        (
            one.control,
            one.quantity,
            one.expected_word or number(one.expected, 3),
            one.found_word or number(one.found, 3),
            f"{one.tolerance:g}" if one.tolerance else "equal",
            "passed" if one.passed else "FAILED",
        )
        for one in checks
    ]
    headings = ("control", "quantity", "truth", "found", "tolerance", "")
    listed = fold("Every check", table(headings, rows, "Checks of the planted controls"))
    return join(tag("p", said, class_="caution" if failed else None), listed)


def reading_part() -> Markup:
    """Return how the table's cells are read."""
    rows = [tag("div", tag("dt", name), tag("dd", text)) for name, text in READING]
    return fold("How to read this", tag("dl", rows, class_="reading"), open_=True, class_="panel")


def limits_part(atlas: Any) -> Markup:
    """Return what this run does not show, and the flaws of a protocol that it followed."""
    items = [tag("li", text) for text in atlas.not_measured]
    listed = tag("ul", items) if items else missing("The record names nothing.")
    return tag("div", listed, protocol_part(atlas.protocol), class_="panel prose")


def provenance_part(atlas: Any) -> Markup:
    """Return what made the record: model, recipe, settings, seeds, versions, seconds."""
    model = atlas.model
    known_facts = [
        ("made by", atlas.made_by),
        ("model", f"{model.spec} ({model.family}, {model.class_name})"),
        ("weights sha256", model.weights_sha256),
        ("training seeds that exist", ", ".join(model.training_seeds)),
        ("recipe", words_of(atlas.recipe)),
        ("settings", words_of(_note_used(atlas))),
        ("first seeds", words_of(atlas.seeds)),
        ("reference images", atlas.n_reference),
        ("versions", words_of(model.versions)),
        ("seconds", words_of({k: round(v, 1) for k, v in atlas.seconds.items() if known(v)})),
    ]
    return fold("Provenance", facts(known_facts), class_="panel")


def _note_used(atlas: Any) -> dict[str, Any]:
    """Settings as they were asked for, each with what was used in its place."""
    used = {"n_pairs": atlas.n_pairs}
    used |= {name: atlas.recipe.get(name) for name in ("steps", "scheduler")}
    for name, field in (("fit", "n_fit"), ("gradients", "n_gradients")):
        used[name] = max((getattr(one, field) for one in atlas.compactness), default=0)
    return {
        name: f"{words_of(value) or 'unset'} (used: {words_of(used[name])})"
        if used.get(name) and used[name] != value
        else value
        for name, value in atlas.config.items()
    }
