"""Intervals: exact where they are exact, right on average where they are not."""

import math

import numpy as np
import pytest

from interp.errors import InputError
from interp.stats import bootstrap, jackknife, make_folds, student_quantile, subsample


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def test_folds_are_unions_of_whole_clusters_of_like_size() -> None:
    clusters = [f"c{i // 7}" for i in range(70)] + [f"d{i}" for i in range(130)]
    folds = make_folds(clusters, 10)
    for name in set(clusters):
        assert len({f for f, c in zip(folds.tolist(), clusters, strict=True) if c == name}) == 1
    assert np.bincount(folds).tolist() == [20] * 10
    assert np.array_equal(folds, make_folds(clusters, 10))
    assert not np.array_equal(folds, make_folds(clusters, 10, seed=1))


def test_more_folds_than_clusters_are_refused() -> None:
    with pytest.raises(InputError, match="20 folds from 3 clusters"):
        make_folds(list("aabbcc"), 20)


def test_the_jackknife_of_a_mean_is_its_t_interval() -> None:
    x = rng().normal(size=20)
    deleted = (x.sum() - x) / 19
    interval = jackknife(np.float64(x.mean()), deleted)
    se = x.std(ddof=1) / math.sqrt(20)
    assert interval.se == pytest.approx(se)
    assert interval.high - x.mean() == pytest.approx(2.093024 * se, rel=1e-6)


def test_no_jackknife_of_a_maximum() -> None:
    with pytest.raises(InputError, match="no jackknife interval for a maximum"):
        jackknife(np.float64(1), np.ones(5), statistic="maximum")
    with pytest.raises(InputError, match="at least two folds"):
        jackknife(np.float64(1), np.ones(1))


@pytest.mark.parametrize(
    ("p", "df", "expected"),
    [(0.975, 1, 12.706205), (0.975, 9, 2.262157), (0.975, 19, 2.093024), (0.995, 4, 4.604095)],
)
def test_student_quantiles_are_those_of_the_tables(p: float, df: int, expected: float) -> None:
    assert student_quantile(p, df) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("measure", ["mutual_knn", "jaccard_knn", "twonn", "cka", "maximum"])
def test_a_bootstrap_that_repeated_rows_break_is_refused_with_the_reason(measure: str) -> None:
    with pytest.raises(InputError, match=rf"no bootstrap of {measure}: .*; use the jackknife"):
        bootstrap(lambda rows: 0.0, list("abcd"), measure=measure)


def test_the_bootstrap_draws_whole_clusters() -> None:
    clusters = [f"c{i // 2}" for i in range(40)]
    x = np.repeat(rng().normal(size=20), 2)
    interval = bootstrap(lambda rows: x[rows].mean(), clusters, measure="mean", n_resamples=400)
    # Twenty clusters, not forty rows, carry the information.
    assert interval.se == pytest.approx(x[::2].std() / math.sqrt(20), rel=0.15)
    assert interval.low < x.mean() < interval.high
    with pytest.raises(InputError, match="at least two clusters"):
        bootstrap(lambda rows: 0.0, ["a", "a"], measure="mean")


def test_the_subsampling_interval_of_a_mean_is_its_own() -> None:
    x = rng().normal(size=200)
    # Half of a cluster of two equal rows is never kept.
    interval = subsample(lambda rows: x[rows // 2].mean(), np.repeat(range(200), 2).tolist())
    se = x.std(ddof=1) / math.sqrt(200)
    assert interval.se == pytest.approx(se, rel=0.15)
    assert (interval.high - interval.low) / 2 == pytest.approx(1.96 * se, rel=0.2)
    assert interval.low < x.mean() < interval.high


@pytest.mark.parametrize("share", [0.2, 0.5, 0.8])
def test_the_subsampling_width_does_not_depend_on_the_share(share: float) -> None:
    x = rng().normal(size=(100, 2))
    interval = subsample(lambda rows: x[rows].mean(0), range(100), share=share, n_resamples=600)
    assert interval.se == pytest.approx(x.std(0, ddof=1) / 10, rel=0.15)


def test_subsampling_is_refused_where_too_few_neighbors_are_left() -> None:
    with pytest.raises(InputError, match=r"k b / n = 3\.5 of them .* b = 50 rows.*use k >= 8"):
        subsample(lambda rows: 0.0, range(100), k=7)
    assert subsample(lambda rows: float(rows[0] * 0 + 1), range(100), k=8).low == 1


def test_no_subsampling_of_a_maximum_or_of_too_few_clusters() -> None:
    with pytest.raises(InputError, match=r"no subsampling interval for a maximum: .* not smooth"):
        subsample(lambda rows: 0.0, range(100), measure="maximum")
    with pytest.raises(InputError, match="at least two are kept and two left out"):
        subsample(lambda rows: 0.0, list("aabbcc"))
