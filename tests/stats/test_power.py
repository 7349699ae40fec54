"""What a sample could have found."""

import numpy as np
import pytest
from scipy import stats

from interp.errors import InputError
from interp.stats import detectable_difference, permutation_power


@pytest.mark.parametrize("df", [1, 2, 9, 19, 200])
@pytest.mark.parametrize("alpha", [0.05, 0.01])
def test_the_detectable_difference_has_the_power_that_it_promises(df: int, alpha: float) -> None:
    found = detectable_difference(0.5, df, alpha)
    cut = stats.t.ppf(1 - alpha / 2, df)
    # The lower tail counts as a find too, but is nothing here; scipy loses it to rounding.
    assert stats.nct.sf(cut, df, found / 0.5) == pytest.approx(0.8, abs=2e-6)


def test_the_detectable_difference_grows_with_the_error_and_the_power() -> None:
    both = detectable_difference(np.array([0.1, 0.2]), 19)
    assert both[1] == pytest.approx(2 * both[0])
    assert detectable_difference(0.1, 19, power=0.9) > both[0] > detectable_difference(0.1, 99)
    # 1.96 + 0.84 standard errors where the error is known.
    assert detectable_difference(1.0, 100_000) == pytest.approx(2.8016, abs=1e-3)


def test_a_difference_without_an_error_is_refused() -> None:
    with pytest.raises(InputError, match="negative or not finite"):
        detectable_difference(float("nan"), 19)
    with pytest.raises(InputError, match=r"alpha < power < 1"):
        detectable_difference(0.1, 19, alpha=0.9)


def test_power_against_a_shift_starts_at_the_level_and_ends_at_one() -> None:
    null = np.random.default_rng(0).normal(size=1000)
    power = permutation_power(null, [0.0, 1.0, 2.0, 9.0])
    assert power[0] == pytest.approx(0.05, abs=1e-9)
    assert power[1:3] == pytest.approx(stats.norm.sf([0.645, -0.355]), abs=0.04)
    assert power[3] == 1


def test_ties_cost_power() -> None:
    # Half of the values share the top: none of them can be told from chance.
    assert permutation_power(np.repeat([0.0, 1.0], 50), [0.0]) == 0
    with pytest.raises(InputError, match=r"10 permuted values .* 20 are needed"):
        permutation_power(np.zeros(10), [0.0])
