"""Nulls and intervals: permutations within strata, max-T, Holm, the jackknife over clusters."""

from interp.stats.intervals import (
    FOLDS,
    Interval,
    bootstrap,
    jackknife,
    make_folds,
    student_quantile,
)
from interp.stats.multiplicity import (
    MIN_PERMUTATIONS,
    check_permutations,
    holm,
    max_t,
    needed_permutations,
)
from interp.stats.permuting import permutation_p, permutations, relative

__all__ = [
    "FOLDS",
    "MIN_PERMUTATIONS",
    "Interval",
    "bootstrap",
    "check_permutations",
    "holm",
    "jackknife",
    "make_folds",
    "max_t",
    "needed_permutations",
    "permutation_p",
    "permutations",
    "relative",
    "student_quantile",
]
