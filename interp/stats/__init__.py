"""Nulls and intervals: permutations, max-T, Holm, the jackknife, power, training seeds."""

from interp.stats.closed import (
    Moments,
    expected_cka,
    expected_overlap,
    expected_r2,
    expected_r2_cca,
    u_centered_null,
)
from interp.stats.intervals import (
    FOLDS,
    Interval,
    bootstrap,
    jackknife,
    make_folds,
    student_quantile,
    subsample,
)
from interp.stats.models import SeedStatement, Trend, all_seeds, leave_one_out_trend
from interp.stats.multiplicity import (
    MIN_PERMUTATIONS,
    benjamini_hochberg,
    benjamini_yekutieli,
    check_permutations,
    holm,
    max_t,
    max_t_by_layer,
    needed_permutations,
)
from interp.stats.permuting import count_permutations, permutation_p, permutations, relative
from interp.stats.power import detectable_difference, permutation_power
from interp.stats.rates import (
    Rate,
    acceptance_band,
    estimate_coverage,
    estimate_rate,
    power_curve,
)

__all__ = [
    "FOLDS",
    "MIN_PERMUTATIONS",
    "Interval",
    "Moments",
    "Rate",
    "SeedStatement",
    "Trend",
    "acceptance_band",
    "all_seeds",
    "benjamini_hochberg",
    "benjamini_yekutieli",
    "bootstrap",
    "check_permutations",
    "count_permutations",
    "detectable_difference",
    "estimate_coverage",
    "estimate_rate",
    "expected_cka",
    "expected_overlap",
    "expected_r2",
    "expected_r2_cca",
    "holm",
    "jackknife",
    "leave_one_out_trend",
    "make_folds",
    "max_t",
    "max_t_by_layer",
    "needed_permutations",
    "permutation_p",
    "permutation_power",
    "permutations",
    "power_curve",
    "relative",
    "student_quantile",
    "subsample",
    "u_centered_null",
]
