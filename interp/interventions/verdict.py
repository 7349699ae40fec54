"""The two verdicts, compact and specialized, by a committed rule whose hash is printed."""

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from interp.errors import InputError
from interp.interventions.compactness import KEEP, Compactness
from interp.interventions.effects import LEVEL, Effect
from interp.interventions.excess import EXCESS_LEVEL, Excess
from interp.interventions.layers import AGREE, LayerShares

RULE_FILE = Path(__file__).with_name("rule.json")


@dataclass(frozen=True)
class Rule:
    """The committed decision rule."""

    values: dict[str, Any]
    sha256: str
    """Of the file's bytes."""


@dataclass(frozen=True)
class Check:
    """One number of one planted control against its truth."""

    control: str
    quantity: str
    expected: float | str
    found: float | str | None
    tolerance: float
    """Largest difference that passes; 0: equal."""
    passed: bool


@dataclass(frozen=True)
class Controls:
    """The planted controls, as run in this process; verdicts need all of them to pass."""

    checks: tuple[Check, ...]
    rule_sha256: str
    missing: tuple[str, ...] = ()
    """Controls that were not asked for."""

    @property
    def passed(self) -> bool:
        """Whether every control was run and every check passed."""
        complete = bool(self.checks) and not self.missing
        return complete and all(check.passed for check in self.checks)


@dataclass(frozen=True)
class SourceEvidence:
    """What is known about one source of a model: z, x_T, step noise, text or class."""

    effect: Effect
    others: Effect | None
    """All other sources swapped together; None where there is no other."""
    pca: Compactness
    jacobian: Compactness
    image: Compactness
    """d_img: PCA directions of held-out images that keep the same attributes."""


@dataclass(frozen=True)
class Answer:
    """Yes, no or undecided, and why."""

    answer: str
    reason: str
    smallest_effect: float | None = None
    """Undecided: the smallest value that this many pairs could have shown. None: not a matter of
    numbers, or no value could."""
    pairs_needed: int | None = None
    """Undecided: pairs that would decide it if the values stayed. None: no number would."""


@dataclass(frozen=True)
class Verdict:
    """Two answers, never one scale."""

    compact: Answer
    specialized: Answer
    corner: str
    """strict, broad, one of the two corners that contradict the dichotomy, or undecided."""
    rule_sha256: str

    def __str__(self) -> str:
        lines = []
        for name, answer in (("compact", self.compact), ("specialized", self.specialized)):
            line = f"{name}: {answer.answer}. {answer.reason}"
            if answer.smallest_effect is not None:
                line += f"; smallest detectable value {_three(answer.smallest_effect)}"
            if answer.answer == "undecided":
                needed = answer.pairs_needed
                line += f"; pairs that would decide it: {needed or 'no number of pairs'}"
            lines.append(line)
        lines.append(f"corner: {self.corner} (decision rule sha256 {self.rule_sha256})")
        return "\n".join(lines)


def load_rule() -> Rule:
    """Read the committed rule.

    Raises InputError where the file and the constants of the code have come apart.
    """
    data = RULE_FILE.read_bytes()
    values = json.loads(data)
    specialized = values["specialized"]
    file = (
        values["level"],
        values["compact"]["keep"],
        specialized["shares_agree_within"],
        specialized["excess_level"],
        *values["compact"]["least_pairs"],
    )
    least = values["compact"]["sufficiency_lower_at_least"]
    code = (LEVEL, KEEP, AGREE, EXCESS_LEVEL, *(_least_pairs(least, n) for n in (1, 2)))
    if file != code:
        raise InputError(
            f"{RULE_FILE.name} says level, keep, agreement, excess level, least pairs of one and "
            f"of two sources = {file}, the code computes with {code}"
        )
    return Rule(values, hashlib.sha256(data).hexdigest())


def decide(
    sources: Sequence[SourceEvidence],
    shares: LayerShares,
    excess: Excess,
    bands: Excess | None,
    *,
    controls: Controls,
) -> Verdict:
    """Apply the committed rule to one model.

    Args:
        sources: one entry for every source of the model; descendants are refused.
        shares: of the layers, for whether they are additive.
        excess: specialization of the same layers beyond untrained twins, or beyond 0 where swaps
            move none of them (`exceed_nothing`).
        bands: beyond band twins (`play_bands`); None where layers have no grids, as without images.
        controls: what `check_controls()` returned in this process.

    Raises:
        InputError: a planted control failed or was run under another rule, a carrier is no source,
            `others` is missing, bounds are not corrected over all sources, or twins are too few.
    """
    rule = load_rule()
    failed = [f"{c.control} {c.quantity}" for c in controls.checks if not c.passed]
    failed += [f"{name} (not run)" for name in controls.missing]
    if not controls.passed or controls.rule_sha256 != rule.sha256:
        raise InputError(
            "no verdict: the planted controls did not pass under this rule; failed: "
            f"{', '.join(failed) or 'none, but the report is empty or of another rule'}; run "
            "check_controls()"
        )
    return decide_unchecked(sources, shares, excess, bands)


def decide_unchecked(
    sources: Sequence[SourceEvidence],
    shares: LayerShares,
    excess: Excess,
    bands: Excess | None,
) -> Verdict:
    """`decide` for the planted controls themselves, which cannot wait for their own passing."""
    rule = load_rule()
    _check_sources(sources)
    compact = _decide_compact(sources, rule.values["compact"])
    specialized = _decide_specialized(shares, excess, bands, rule.values["specialized"])
    key = f"compact {compact.answer}, specialized {specialized.answer}"
    corner = rule.values["corners"].get(key, "undecided")
    return Verdict(compact, specialized, corner, rule.sha256)


def _check_sources(sources: Sequence[SourceEvidence]) -> None:
    if not sources:
        raise InputError("no source was tested: give the evidence of every source of the model")
    for one in sources:
        if one.effect.role != "source":
            raise InputError(
                f"{one.effect.carrier!r} is a {one.effect.role}, not a source: it is reported, "
                "but decides nothing about a compact latent"
            )
        if len(sources) > 1 and one.others is None:
            raise InputError(
                f"the evidence of {one.effect.carrier!r} lacks the joint swap of the "
                f"{len(sources) - 1} other sources"
            )
        if one.effect.n_tests < len(sources):
            raise InputError(
                f"the bounds of {one.effect.carrier!r} are corrected over {one.effect.n_tests} "
                f"carriers, but {len(sources)} sources are tested: pass n_tests={len(sources)}"
            )


def _three(value: float) -> str:
    """Three decimals, without a negative zero."""
    return f"{round(value, 3) + 0.0:.3f}"


def _both(answers: Sequence[bool | None]) -> bool | None:
    """Three-valued and: None is unknown."""
    if any(answer is False for answer in answers):
        return False
    return None if any(answer is None for answer in answers) else True


def _least_pairs(sufficiency: float, n_tests: int) -> int:
    """Pairs that all succeed with a chance of (1 - level) / n_tests where each does with S.

    n = ln((1 - level) / n_tests) / ln S. With fewer, swaps that work wholly or not at all may show
    no failure though S is too small, and a bootstrap of equal pairs has no width.
    """
    return math.ceil(math.log((1 - LEVEL) / n_tests) / math.log(sufficiency))


def _judge(one: SourceEvidence, rule: dict[str, Any]) -> tuple[bool | None, str]:
    """Whether a source is compact and sufficient, and what was seen."""
    s = one.effect.sufficiency
    least, most = rule["sufficiency_lower_at_least"], rule["other_sources_upper_at_most"]
    enough = True if s.lower >= least else False if s.upper < least else None
    said = f"{one.effect.carrier}: S = {_three(s.value)} [{_three(s.lower)}, {_three(s.upper)}]"
    if enough and one.effect.n_pairs < (needed := _least_pairs(least, one.effect.n_tests)):
        enough = None
        said += f" of only {one.effect.n_pairs} pairs, where {needed} could show a failure"
    alone: bool | None = True
    if one.others is not None:
        o = one.others.largest
        alone = True if o.upper <= most else False if o.lower > most else None
        said += f", other sources {_three(o.value)} [{_three(o.lower)}, {_three(o.upper)}]"
    bases = [_fits(basis, one.image) for basis in (one.pca, one.jacobian)]
    few = bases[0] if bases[0] == bases[1] else None
    said += (
        f", d* {_count(one.pca)} (PCA), {_count(one.jacobian)} (Jacobian), "
        f"d_img {_count(one.image)}"
    )
    if enough is not False and one.image.d_star is None:
        said += ", which is unknown: more held-out images would tell"
    elif enough is not False and bases[0] != bases[1]:
        said += ", the two bases disagree"
    return _both((enough, alone, few)), said


def _fits(basis: Compactness, image: Compactness) -> bool | None:
    """Whether d* <= d_img; None where it is unknown."""
    if image.d_star is None:
        # That all directions of a basis do not do says as much of the images that it was fitted on
        # as of d_img.
        return None
    if basis.d_star is not None:
        return basis.d_star <= image.d_star
    # All directions of the basis did not do, or the swap moves nothing to be counted.
    return False if basis.kept and basis.rank >= image.d_star else None


def _count(basis: Compactness) -> str:
    if basis.d_star is not None:
        return str(basis.d_star)
    return f"> {basis.rank}" if basis.kept else "undefined"


def _decide_compact(sources: Sequence[SourceEvidence], rule: dict[str, Any]) -> Answer:
    judged = [_judge(one, rule) for one in sources]
    said = "; ".join(text for _, text in judged)
    if any(answer for answer, _ in judged):
        return Answer("yes", said)
    if all(answer is False for answer, _ in judged):
        return Answer("no", said)
    open_ones = [one for one, (answer, _) in zip(sources, judged, strict=True) if answer is None]
    best = max(open_ones, key=lambda one: one.effect.sufficiency.value)
    s, least = best.effect.sufficiency, rule["sufficiency_lower_at_least"]
    if s.lower >= least:
        # What is open is the number of pairs, the other sources, or the two bases.
        value, needed = _open_others(best, rule)
        return Answer("undecided", said, value, _raise_to_least(best, needed, least))
    half = s.value - s.lower if s.value >= least else s.upper - s.value
    needed = _needed(best.effect.n_pairs, half, abs(s.value - least))
    return Answer("undecided", said, least + s.value - s.lower, needed)


def _raise_to_least(best: SourceEvidence, needed: int | None, sufficiency: float) -> int | None:
    """The pairs needed, or what the rule asks for where only their number is open."""
    pairs = _least_pairs(sufficiency, best.effect.n_tests)
    fits = [_fits(basis, best.image) for basis in (best.pca, best.jacobian)]
    if best.effect.n_pairs >= pairs:
        return needed
    return max(pairs, needed or 0) if fits == [True, True] else None


def _open_others(best: SourceEvidence, rule: dict[str, Any]) -> tuple[float | None, int | None]:
    most = rule["other_sources_upper_at_most"]
    if best.others is None or not best.others.largest.lower <= most < best.others.largest.upper:
        return None, None
    o = best.others.largest
    half = o.value - o.lower if o.value > most else o.upper - o.value
    return most + o.value - o.lower, _needed(best.effect.n_pairs, half, abs(o.value - most))


def _needed(n: int, half: float, distance: float) -> int | None:
    """Pairs at which a half-width that falls as 1 / sqrt(n) equals a distance."""
    return math.ceil(n * (half / distance) ** 2) if distance > 0 else None


def _decide_specialized(
    shares: LayerShares, untrained: Excess, bands: Excess | None, rule: dict[str, Any]
) -> Answer:
    kinds = sorted(set(shares.kinds))
    said = f"shares over {len(shares.layers)} layers are {' and '.join(kinds)}"
    if missing := _find_missing(untrained, bands, rule["minimum_twins"]):
        return Answer("undecided", f"{said}; {missing}")
    found = _beyond(untrained, "untrained")
    found += "" if bands is None else _beyond(bands, "band")
    above = [
        one is None or (one.low or 0) > rule["excess_lower_above"] for one in (untrained, bands)
    ]
    if all(above) and shares.role == "descendant":
        why = "but the layers are graph cuts, which support no such claim"
        return Answer("undecided", f"{said}, {why}{found}")
    if all(above) and kinds == ["additive"]:
        return Answer("yes", f"{said}{found}")
    if "undecided" in kinds:
        return Answer("undecided", f"{said}{found}", *_open_gap(shares))
    if not set(kinds) <= set(rule["no_if_shares_are"]):
        return Answer("undecided", f"{said}, so there are no shares to compare{found}")
    if all(above):
        return Answer("undecided", f"{said}: what does not add up is not interpreted{found}")
    if (untrained.high or 0) <= rule["no_if_excess_upper_at_most"]:
        return Answer("no", f"{said}{found}")
    open_one = bands if above[0] and bands is not None else untrained
    said += found + (", so that sizes alone may explain it" if open_one is bands else "")
    half = (open_one.high or 0) - (open_one.value or 0)
    return Answer("undecided", said, half, _pairs_for(open_one, half))


def _beyond(one: Excess, kind: str) -> str:
    numbers = f"{_three(one.value or 0)} [{_three(one.low or 0)}, {_three(one.high or 0)}]"
    if one.twins:
        return f"; excess over {len(one.twins)} {kind} twins {numbers}"
    return f"; specialization {numbers}, for swaps move none of {one.n_tried} {kind} twins"


def _find_missing(untrained: Excess, bands: Excess | None, minimum: int) -> str:
    """What the rule lacks, in words; "" for nothing. Raises InputError for too few twins."""
    for name, one in (("untrained", untrained), ("band", bands)):
        still = name == "untrained" and one is not None and not one.twins
        enough = 0 if one is None else one.n_tried if still else len(one.twins)
        if one is not None and one.value is not None and enough < minimum:
            raise InputError(
                f"{enough} {name} twins: the rule asks for {minimum} whose specialization is "
                "defined"
            )
    if untrained.value is None and 0 < len(untrained.twins) < minimum:
        return (
            f"swaps move {len(untrained.twins)} of {untrained.n_tried} untrained twins: "
            "specialization has no level"
        )
    if untrained.value is None and untrained.n_tried < minimum:
        return f"{untrained.n_tried} untrained twins were played: specialization has no level"
    if bands is not None and bands.value is None and len(bands.twins) < minimum:
        return f"{len(bands.twins)} band twins have a specialization: sizes have no level"
    if untrained.value is None or (bands is not None and bands.value is None):
        return "the total share is near 0, no specialization"
    return ""


def _open_gap(shares: LayerShares) -> tuple[float, int | None]:
    """What it takes to say of the widest difference of first-in and last-in what it is."""
    gap = np.abs(shares.first_in - shares.last_in)
    half = (shares.gap_high - shares.gap_low) / 2
    k, layer = np.unravel_index((gap + half).argmax(), gap.shape)
    widest, found = float(half[k, layer]), float(gap[k, layer])
    # Decided once the half-width is below the difference, or fits between it and "agree".
    return widest, _needed(shares.n_pairs, widest, max(AGREE - found, found))


def _pairs_for(excess: Excess, half: float) -> int | None:
    """Pairs that would bring the lower bound above 0; None where the twins' spread forbids it."""
    assert excess.value is not None
    assert excess.sampling is not None
    fixed = half**2 - excess.sampling**2
    room = excess.value**2 - fixed
    if excess.value <= 0 or room <= 0:
        return None
    return math.ceil(excess.n_pairs * excess.sampling**2 / room)
