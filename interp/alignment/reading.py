"""A comparison in plain words: what was asked, what the data say, and what they cannot say."""

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from interp.alignment.halves import Choices
from interp.alignment.outcome import Alignment
from interp.alignment.recipes import RecipeScore
from interp.alignment.records import Cell, Comparison, Level
from interp.alignment.words import GENERAL, level_words
from interp.geometry.explain import explain
from interp.geometry.measures import MEASURES

# The level of every test and interval here.
ALPHA = 0.05
# Levels that know nothing of the images: being above them is being above chance.
ONLY_CHANCE = ("spectrum",)


class Case(NamedTuple):
    """One pair of layers that stands for a pair of models under one measure."""

    models: tuple[str, str]
    layers: tuple[str, str]
    comparison: Comparison
    p: float
    """On all images, of the best layer pair among all, after Holm over model pairs and measures."""
    tested: Comparison
    """The comparison behind p."""
    levels: tuple[Level, ...]
    n_cells: int
    """Layer pairs among which it was chosen."""
    half: int | None
    """The half of the images that scored it, chosen on the other one; None: chosen and scored on
    the same images."""


class Verdict(NamedTuple):
    """What the data say of one pair of models under one measure."""

    word: str
    """"no", "yes", "undecided", "less" or "bare"."""
    text: str


def cases(alignment: Alignment) -> list[Case]:
    """The strongest cell of each pair of models and measure, chosen and scored on all images."""
    out = []
    for family in alignment.families:
        cell = alignment.cell(*family.best, family.measure)
        names = (alignment.layers[cell.i].name, alignment.layers[cell.j].name)
        models = (family.model_a, family.model_b)
        one, levels = cell.comparison, _levels(cell)
        out.append(Case(models, names, one, family.p_holm, one, levels, family.n_cells, None))
    return out


def held_out_cases(alignment: Alignment, choices: Choices) -> list[Case]:
    """The pairs of layers that one half of the images chose, scored on the other.

    Whether there is any pairing is tested on all images, with p counting the search: halves would
    only lose power. How much there is, and beside what, is read off the halves.
    """
    # A half may choose the direction from the second model to the first.
    whole = {(frozenset(one.models), one.comparison.measure): one for one in cases(alignment)}
    out = []
    for one in sorted(choices.choices, key=lambda choice: choice.half):
        on_all = whole.get((frozenset((one.model_a, one.model_b)), one.measure))
        if on_all is not None:
            layers, value = (one.layer_a, one.layer_b), one.comparison
            out.append(
                on_all._replace(layers=layers, comparison=value, levels=one.levels, half=one.half)
            )
    return out


def _levels(cell: Cell) -> tuple[Level, ...]:
    if cell.levels or cell.twin_value is None or cell.difference is None:
        return cell.levels
    # Files of before there were levels.
    bounds = (cell.difference_low, cell.difference_high, None, None)
    values = (cell.twin_value, (cell.twin_value,), None, cell.difference)
    return (Level("untrained twins", "both", *values, *bounds),)


def judge(case: Case) -> Verdict:
    """Say whether two models are alike beyond chance, and beyond which reference levels.

    The order of the questions: is any pairing there (p)? Is there less of it than at a reference
    level? Is the difference to one undecided? Only then "yes".
    """
    one = case.comparison
    if case.p > ALPHA:
        return Verdict("no", f"no, as much is found when images are shuffled{_missed(case.tested)}")
    groups: dict[str, list[str]] = {"above": [], "below": [], "undecided": []}
    for level in case.levels:
        names = groups[side(level, one.distance)]
        # In place of the first layer and of the second: once.
        names += [level.name] if level.name not in names else []
    if groups["below"]:
        less = _join(groups["below"])
        return Verdict("less", f"beyond chance, but less than the reference level: {less}")
    if groups["undecided"]:
        open_ones = _join(groups["undecided"])
        return Verdict("undecided", f"beyond chance; not shown to be more than {open_ones}")
    beyond = _join(["chance", *groups["above"]])
    if all(level.name in ONLY_CHANCE for level in case.levels):
        return Verdict(
            "bare",
            f"beyond {beyond}; beyond what else is not known, for no untrained twin, pixels or "
            "other features stand beside it: anything that both see in the images, such as color, "
            "may be all of it",
        )
    return Verdict("yes", f"yes, beyond {beyond}")


def side(level: Level, distance: bool) -> str:
    """ "above", "below" or "undecided": more alike than the level, less, or not shown."""
    if level.low is None or level.high is None:
        return "undecided"
    low, high = (-level.high, -level.low) if distance else (level.low, level.high)
    return "above" if low > 0 else "below" if high < 0 else "undecided"


def read(
    alignment: Alignment,
    *,
    judged: Sequence[Case] | None = None,
    scores: Sequence[RecipeScore] = (),
    problems: Sequence[str] = (),
    made_by: str = "",
    unit: str = "image",
) -> str:
    """The whole reading as Markdown.

    Args:
        alignment: the comparison.
        judged: the pairs of layers that carry the verdicts, as `held_out_cases` of `Choices`; None:
            those of `cases`.
        scores: published scores beside their calibrated values.
        problems: what was asked for and could not be computed, one sentence each.
        made_by: the command or call that made it.
        unit: what a row is.

    Returns:
        Markdown with one heading per question; equal records give equal text.
    """
    judged = cases(alignment) if judged is None else judged
    parts = [
        f"# How alike: {_join(alignment.models)}",
        _section("In short", _short(alignment, judged, problems)),
        _section("What was asked", _asked(alignment, judged, unit)),
        _section("The numbers", _numbers(judged)),
        _section("Not decided", _undecided(judged)),
        _section("What each is compared with", level_words(judged_levels(judged))),
        _section("Published scores", _published(scores)),
        _section("What the models share by their making", _leaks(alignment)),
        _section("What the numbers can and cannot show", _limits(alignment)),
        _section("How it was computed", _computed(alignment, made_by)),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def judged_levels(judged: Sequence[Case]) -> list[str]:
    """Names of the levels beside some cases, each once."""
    return list(dict.fromkeys(level.name for case in judged for level in case.levels))


def summary(judged: Sequence[Case]) -> list[str]:
    """A line per pair of models and verdict: the measures that give it, with their values."""
    groups: dict[tuple[tuple[str, str], str], list[Case]] = {}
    for case in judged:
        groups.setdefault((case.models, case.comparison.measure), []).append(case)
    lines: dict[tuple[tuple[str, str], str], list[str]] = {}
    for (models, measure), group in groups.items():
        lines.setdefault((models, _together(group)), []).append(f"{measure} {_values(group)}")
    return [
        f"{models[0]} and {models[1]}: {text}. By {_join(measures)}."
        for (models, text), measures in lines.items()
    ]


def _together(group: Sequence[Case]) -> str:
    """The verdict of the halves of one pair and measure, which must agree."""
    found = [judge(case) for case in group]
    if len({verdict.word for verdict in found}) == 1:
        return found[0].text
    halves = [f"half {c.half}: {v.text}" for c, v in zip(group, found, strict=True)]
    return f"undecided, for the two halves of the images disagree ({'; '.join(halves)})"


def _values(group: Sequence[Case]) -> str:
    values = _join([_number(case.comparison.value) for case in group])
    small = "; smaller is more alike" * group[0].comparison.distance
    return f"{values} (by chance {_number(group[0].comparison.null_mean)}{small})"


def _section(title: str, lines: Sequence[str] | Iterator[str]) -> str:
    body = list(lines)
    return "\n\n".join([f"## {title}", "\n".join(body)]) if body else ""


def _short(alignment: Alignment, judged: Sequence[Case], problems: Sequence[str]) -> Iterator[str]:
    if not judged and alignment.n_permutations:
        yield (
            f"- Nothing was tested: {_join(alignment.measures)} does not see the pairing of rows, "
            "which is what shuffling would change, so no number has a p."
        )
    elif not judged:
        yield "- Nothing was tested: no permutations were asked for, so no number has a p."
    yield from (f"- {line}" for line in summary(judged))
    yield from (f"- Not computed: {problem}" for problem in problems)


def _asked(alignment: Alignment, judged: Sequence[Case], unit: str) -> Iterator[str]:
    counts = [
        f"{model} ({_count(sum(one.model == model for one in alignment.layers), 'layer')})"
        for model in alignment.models
    ]
    yield (
        f"How alike are {_join(counts)} on {_count(alignment.n, unit)}"
        + (f" ({alignment.sample_set})" if unit == "image" else "")
        + f", by {_join(alignment.measures)}?"
    )
    yield ""
    kept = {"free": "freely"}.get(alignment.strata, alignment.strata)
    yield (
        f"The null hypothesis: which {unit} of one model stands beside which of the other does not "
        f"matter. {_count(alignment.n_permutations, 'time')} the {unit}s of a model were shuffled "
        f"({kept}), all its layers together; p is the share of shuffles whose best layer pair "
        "stands out as much, after Holm over all pairs of models and measures. Rejecting it says "
        f"that some pairing exists, which two models that only tell two kinds of {unit}s apart "
        "also have. So what counts is the difference to reference levels."
    )
    yield ""
    if any(case.half is not None for case in judged):
        yield (
            f"p is of all {unit}s. Layers were then chosen on one half of them and scored on the "
            "other, and the other way round: the values and differences below do not profit from "
            "the search."
        )
    elif any(case.n_cells > 1 for case in judged):
        yield (
            f"Each number below is the strongest of many layer pairs, on the {unit}s on which it "
            "was chosen: p counts the search, the value and its interval do not, and are too good."
        )


def _numbers(judged: Sequence[Case]) -> Iterator[str]:
    if not judged:
        return
    head = (
        "layers",
        "measure",
        "n",
        "value [95 %]",
        "by chance",
        "p",
        "beside",
        "difference [95 %]",
    )
    yield "| " + " | ".join(head) + " |"
    yield "|" + " --- |" * len(head)
    for case in judged:
        one = case.comparison
        pair = one.direction or f"{case.layers[0]} ~ {case.layers[1]}"
        back = "" if one.reverse is None else f"; the other way {_number(one.reverse)}"
        value = f"{_number(one.value)}{_interval(one.low, one.high)}{back}"
        row = (pair, one.measure, str(one.n), value, _number(one.null_mean), f"{case.p:.4f}")
        for place, level in enumerate(case.levels or (None,)):
            start = row if place == 0 else ("",) * len(row)
            yield "| " + " | ".join((*start, *_beside(level))) + " |"


def _beside(level: Level | None) -> tuple[str, str]:
    if level is None:
        return "-", "-"
    sizes = f" of {len(level.values)}" if len(level.values) > 1 else ""
    spread = "" if level.spread is None else f" (sd {_number(level.spread)}{sizes})"
    difference = f"{level.difference:+.3f}{_interval(level.low, level.high, '+')}"
    return f"{_named(level)}: {_number(level.value)}{spread}", difference


def _undecided(judged: Sequence[Case]) -> Iterator[str]:
    for case in judged:
        one, pair = (
            case.comparison,
            f"{case.layers[0]} ~ {case.layers[1]}, {case.comparison.measure}",
        )
        if case.p > ALPHA:
            yield f"- {pair}: p = {case.p:.3f}{_missed(case.tested)}."
        for level in case.levels:
            if side(level, one.distance) != "undecided":
                continue
            found = "no interval was computed"
            if level.detectable is not None:
                found = (
                    f"the smallest difference that {one.n} images would have shown with 80 % power "
                    f"is {_number(level.detectable)}"
                )
            yield (
                f"- {pair}, against {_named(level)}: "
                f"{level.difference:+.3f}{_interval(level.low, level.high, '+')}; {found}."
            )


def _missed(one: Comparison) -> str:
    if one.detectable is None or one.null_mean is None:
        return ""
    return (
        f"; a likeness of less than {_number(one.detectable)} from chance would have been missed "
        "more often than one time in five"
    )


def _published(scores: Sequence[RecipeScore]) -> Iterator[str]:
    if not scores:
        return
    one = scores[0]
    yield (
        f"The score of Huh et al. (2024), exactly: {one.preprocessing}; k = {one.k} of "
        f"n = {one.n}. "
        "Being the largest of many pairs of layers it lies above chance where nothing is aligned. "
        f"Calibrated, it is 0 at what the same search finds by chance in {one.alpha:.0%} of "
        "shuffles and 1 for equal neighborhoods."
    )
    yield ""
    head = ("models", "score", "one pair by chance", "search by chance", "critical", "calibrated")
    yield "| " + " | ".join((*head, "p (Holm)", "untrained")) + " |"
    yield "|" + " --- |" * (len(head) + 2)
    for s in scores:
        numbers = (s.value, s.chance, s.null_mean, s.tau, s.calibrated)
        ends = (f"{s.p_holm:.4f}", _number(s.twin_value))
        row = (f"{s.model_a}, {s.model_b}", *(_number(value) for value in numbers), *ends)
        yield "| " + " | ".join(row) + " |"
    for s in scores:
        if s.p_holm > ALPHA:
            yield ""
            yield f"{s.model_a} and {s.model_b}: no, the score is what the search finds by chance."
        elif s.twin_value is not None and s.twin_value >= s.value:
            yield ""
            yield f"{s.model_a} and {s.model_b}: untrained networks score as high."


def _leaks(alignment: Alignment) -> Iterator[str]:
    for leak, models in alignment.shared_leaks:
        yield f"- {leak}: {_join(models)}. Their likeness may come from that."
    # Every network that has a name says that it is itself.
    said = [(one.model, leak) for one in alignment.layers for leak in one.leaks]
    known = {model for model, leak in said if not leak.startswith("network: ")}
    if blank := [model for model in alignment.models if model not in known]:
        yield (
            f"- Not recorded: what {_join(blank)} {'was' if len(blank) == 1 else 'were'} trained "
            "on, and with which labels, texts or teachers. Common training images are not ruled "
            "out."
        )


def _limits(alignment: Alignment) -> Iterator[str]:
    yield from (f"- {line}" for line in GENERAL)
    for name in alignment.measures:
        if name in MEASURES:
            yield ""
            yield explain(name)


def _computed(alignment: Alignment, made_by: str) -> Iterator[str]:
    yield f"- Features: {alignment.preprocessing or 'as given'}."
    folds = f"{alignment.n_folds} folds of whole clusters" if alignment.n_folds else "none"
    yield f"- Intervals: 95 % jackknife, {folds}. Seed: {alignment.seed}."
    yield f"- Images: {alignment.n}, SHA-256 of their ids {alignment.sample_hash[:16]}."
    if made_by:
        yield f"- Made by: `{made_by}`"


def _named(level: Level) -> str:
    place = {"i": "in place of the first", "j": "in place of the second"}.get(level.stands_for)
    return f"{level.name} ({place})" if place else level.name


def _number(value: float | None) -> str:
    if value is None or not math.isfinite(value):
        return "-"
    return f"{value:.3f}" if abs(value) < 1000 else f"{value:.4g}"


def _interval(low: float | None, high: float | None, sign: str = "") -> str:
    return "" if low is None or high is None else f" [{low:{sign}.3f}, {high:{sign}.3f}]"


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}" + ("" if number == 1 else "s")


def _join(words: Sequence[str]) -> str:
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)
