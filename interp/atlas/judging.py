"""The verdict: evidence of every source, shares and excess, by the committed rule."""

import dataclasses
import functools
from collections.abc import Sequence

from interp.atlas.record import AnswerRecord, ControlCheck, Curve, VerdictRecord
from interp.interventions import (
    Answer,
    Check,
    Compactness,
    Controls,
    Excess,
    LayerShares,
    SourceEvidence,
    Verdict,
    check_controls,
    decide,
    load_rule,
)
from interp.interventions.verdict import RULE_FILE


@functools.cache
def run_controls() -> Controls:
    """The planted controls, run once in this process."""
    return check_controls()


def judge(
    sources: Sequence[SourceEvidence], shares: LayerShares, excess: Excess, bands: Excess
) -> VerdictRecord:
    """Decide by the committed rule; the planted controls run first, or have run in this process.

    Raises InputError as `interp.interventions.decide`: no verdict without passing controls.
    """
    return record_verdict(decide(sources, shares, excess, bands, controls=run_controls()))


def record_verdict(verdict: Verdict) -> VerdictRecord:
    """The verdict as plain data, with the rule."""
    return VerdictRecord(
        compact=_record_answer(verdict.compact),
        specialized=_record_answer(verdict.specialized),
        corner=verdict.corner,
        text=str(verdict),
        rule_sha256=load_rule().sha256,
        rule_text=RULE_FILE.read_text(encoding="utf-8"),
    )


def _record_answer(answer: Answer) -> AnswerRecord:
    return AnswerRecord(**{f.name: getattr(answer, f.name) for f in dataclasses.fields(answer)})


def record_check(check: Check) -> ControlCheck:
    """One check as plain data."""
    words = isinstance(check.expected, str) or isinstance(check.found, str)
    return ControlCheck(
        control=check.control,
        quantity=check.quantity,
        expected=None if words else float(check.expected),
        found=None if words or check.found is None else float(check.found),
        expected_word=str(check.expected) if words else "",
        found_word=str(check.found) if words else "",
        tolerance=float(check.tolerance),
        passed=check.passed,
    )


def record_curve(found: Compactness) -> Curve:
    """One count of directions as plain data."""
    return Curve(found.d_star, found.rank, found.full, tuple(sorted(found.kept.items())))


def read_curve(curve: Curve) -> Compactness:
    """The inverse of `record_curve`; a share that is undefined counts as none."""
    kept = {d: 0.0 if share is None else share for d, share in curve.kept}
    return Compactness(curve.d_star, curve.rank, curve.full or 0.0, kept)
