"""Statements about models need every seed; trends need every model."""

import numpy as np
import pytest
from scipy import stats

from interp.errors import InputError
from interp.stats import Interval, all_seeds, leave_one_out_trend


def interval(low: float, high: float) -> Interval:
    return Interval(low, high, (high - low) / 4)


def test_a_statement_holds_where_every_seed_shows_it() -> None:
    shown = {0: interval(0.1, 0.2), 1: interval(0.3, 0.4), 2: interval(0.05, 0.5)}
    statement = all_seeds(shown)
    assert statement.holds
    assert statement.text == "above 0 in 3 of 3 training seeds"
    assert statement.shown == shown


def test_one_seed_is_enough_to_take_a_statement_back() -> None:
    shown = {0: interval(0.1, 0.2), 1: interval(-0.4, -0.3), 2: interval(-0.1, 0.5)}
    above, below = all_seeds(shown), all_seeds(shown, side="below")
    assert not above.holds
    assert not below.holds
    assert (above.agree, above.against, above.open) == ((0,), (1,), (2,))
    assert (below.agree, below.against, below.open) == ((1,), (0,), (2,))
    assert above.text == (
        "above 0 in 1 of 3 training seeds, on the other side in 1, undecided in 1: "
        "no statement about the model"
    )
    assert all_seeds(shown, bound=-0.5).holds


def test_seeds_of_two_models_are_crossed() -> None:
    shown = {(a, b): interval(0.1, 0.2) for a in range(2) for b in range(3)}
    assert all_seeds(shown).holds
    del shown[1, 2]
    with pytest.raises(InputError, match=r"seeds are crossed, and \[\(1, 2\)\] of 1 missing"):
        all_seeds(shown)


def test_one_training_seed_speaks_of_one_network() -> None:
    with pytest.raises(InputError, match=r"1 training seed: .* train another"):
        all_seeds({0: interval(0.1, 0.2)})
    with pytest.raises(InputError, match="1 training seed"):
        all_seeds({(0, b): interval(0.1, 0.2) for b in range(3)})
    with pytest.raises(InputError, match="mixed"):
        all_seeds({0: interval(0, 1), (1, 2): interval(0, 1)})
    with pytest.raises(InputError, match="there are above, below"):
        all_seeds({0: interval(0, 1), 1: interval(0, 1)}, side="over")


def test_a_trend_is_spearmans_with_its_exact_p() -> None:
    rng = np.random.default_rng(0)
    for ties in (False, True):
        x, y = rng.normal(size=5), rng.normal(size=5)
        if ties:
            x, y = x.round(), y.round()
        trend = leave_one_out_trend(x, y)
        expected = stats.permutation_test(
            (x,), lambda z, y=y: stats.spearmanr(z, y).statistic, permutation_type="pairings",
            n_resamples=np.inf,
        )  # fmt: skip
        assert trend.rho == pytest.approx(expected.statistic)
        far = np.abs(expected.null_distribution) >= abs(expected.statistic) - 1e-12
        assert trend.p == pytest.approx(far.mean())
        assert trend.exact


def test_each_model_is_left_out_once() -> None:
    x = np.arange(6.0)
    y = np.array([0, 1, 2, 3, 4, -5.0])
    trend = leave_one_out_trend(x, y, list("abcdef"))
    assert list(trend.without) == list("abcdef")
    # Without the one that breaks it, the trend is perfect: 2 of 5! orders are as extreme.
    assert trend.without["f"] == pytest.approx((1, 2 / 120))
    assert trend.highest == pytest.approx(1)
    assert trend.lowest < trend.rho < trend.highest


def test_families_are_left_out_whole() -> None:
    trend = leave_one_out_trend(np.arange(6.0), np.arange(6.0), list("aabbcc"))
    assert list(trend.without) == ["a", "b", "c"]
    assert trend.without["a"] == pytest.approx((1, 2 / 24))


def test_orders_of_many_models_are_drawn_the_same_each_time() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(2, 12))
    trend = leave_one_out_trend(x, y, n_draws=2000)
    assert not trend.exact
    assert trend == leave_one_out_trend(x, y, n_draws=2000)
    assert trend.p == pytest.approx(stats.spearmanr(x, y).pvalue, abs=0.05)


@pytest.mark.parametrize(
    ("x", "y", "names", "message"),
    [
        ([1, 2, 3], [1, 2, 3], None, "3 models: 3! = 6 orders"),
        ([1, 2, 3, 4], [1, 2, 3], None, "4 x, 3 y"),
        ([1, 2, 3, 4], [1, 2, 3, np.nan], None, "NaN"),
        ([1, 2, 3, 4], [1, 1, 1, 1], None, "4 models have one value"),
        ([1, 2, 3, 4], [1, 2, 3, 4], list("aabb"), "without 'a' 2 models are left"),
    ],
)
def test_too_few_models_are_refused(x, y, names, message: str) -> None:
    with pytest.raises(InputError, match=message):
        leave_one_out_trend(np.array(x, float), np.array(y, float), names)
