"""Rates: exact binomial intervals and bands, measured power and coverage."""

import math

import numpy as np
import pytest
from scipy import stats

from interp.errors import InputError
from interp.stats import (
    acceptance_band,
    estimate_coverage,
    estimate_rate,
    jackknife,
    permutation_p,
    power_curve,
)


@pytest.mark.parametrize(("count", "repeats"), [(0, 20), (1, 20), (7, 60), (60, 60)])
def test_the_interval_of_a_rate_is_that_of_clopper_and_pearson(count: int, repeats: int) -> None:
    expected = stats.binomtest(count, repeats).proportion_ci(method="exact")
    rate = estimate_rate(count, repeats)
    assert (rate.low, rate.high) == pytest.approx((expected.low, expected.high), abs=1e-9)
    assert rate.share == count / repeats


@pytest.mark.parametrize(("repeats", "cells"), [(60, 1), (300, 1), (300, 450), (40, 450)])
def test_the_band_is_the_narrowest_with_its_simultaneous_level(repeats: int, cells: int) -> None:
    low, high = acceptance_band(repeats, 0.05, cells)
    law, tail = stats.binom(repeats, 0.05), 0.001 / (2 * cells)
    assert law.cdf(low - 1) <= tail < law.cdf(low)
    assert law.sf(high) <= tail < law.sf(high - 1)


def test_what_is_no_rate_is_refused() -> None:
    with pytest.raises(InputError, match="3 of 2 repeats"):
        estimate_rate(3, 2)
    with pytest.raises(InputError, match=r"rate 1.0, 9 repeats"):
        acceptance_band(9, 1.0)
    with pytest.raises(InputError, match=r"\(2,\) lower and \(1,\) upper"):
        estimate_coverage(np.zeros(2), np.ones(1), 0.5)


def test_power_grows_with_what_is_planted_from_the_level_up() -> None:
    def test(strength: float, rng: np.random.Generator) -> float:
        null = rng.normal(size=99)
        return float(permutation_p(np.array(strength + rng.normal()), null))

    curve = power_curve(test, [0.0, 1.0, 2.0, 4.0], repeats=200)
    shares = [rate.share for rate in curve]
    assert shares == sorted(shares)
    assert curve[0].low <= 0.05 <= curve[0].high
    # One-sided at 1.645.
    assert curve[2].low <= stats.norm.sf(1.645 - 2) <= curve[2].high


def test_the_jackknife_of_a_mean_covers_as_it_says() -> None:
    rng = np.random.default_rng(0)
    ends = []
    for _ in range(300):
        x = rng.normal(size=20)
        ends.append(jackknife(np.float64(x.mean()), (x.sum() - x) / 19)[:2])
    rate = estimate_coverage(*np.array(ends).T, 0.0)
    assert abs(rate.share - 0.95) <= 3.3 * math.sqrt(0.95 * 0.05 / 300)
