"""Nulls and intervals: exact where they are exact, right on average where they are not."""

import math

import numpy as np
import pytest

from interp.errors import InputError
from interp.stats import (
    bootstrap,
    check_permutations,
    holm,
    jackknife,
    make_folds,
    max_t,
    needed_permutations,
    permutation_p,
    permutations,
    relative,
    student_quantile,
)


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def test_permutations_reorder_every_row_once() -> None:
    orders = permutations(30, 5)
    assert orders.shape == (5, 30)
    assert all(sorted(order) == list(range(30)) for order in orders.tolist())


def test_each_model_has_its_own_reproducible_stream() -> None:
    a, b = permutations(30, 5, model="a"), permutations(30, 5, model="b")
    assert np.array_equal(a, permutations(30, 5, model="a"))
    assert not np.array_equal(a, b)
    assert not np.array_equal(a, permutations(30, 5, seed=1, model="a"))
    # Asking for more continues the stream.
    assert np.array_equal(a, permutations(30, 9, model="a")[:5])


def test_rows_move_only_within_their_stratum() -> None:
    strata = np.array(list("aabbbbaacc"))
    for order in permutations(10, 20, strata=strata):
        assert np.array_equal(strata[order], strata)


def test_whole_clusters_change_places() -> None:
    clusters = np.array(list("aabbccdefggg"))
    strata = np.array(list("112211112222"))
    moved = set()
    for order in permutations(12, 200, strata=strata, clusters=clusters):
        assert np.array_equal(strata[order], strata)
        for c in "abcdefg":
            sources = clusters[order[clusters == c]]
            assert len(set(sources)) == 1
            assert (clusters == sources[0]).sum() == (clusters == c).sum()
            moved.add((c, sources[0]))
    # a and c are alike (two rows of stratum 1), b has nobody to change with.
    assert ("a", "c") in moved
    assert not {("b", "a"), ("b", "c"), ("e", "f"), ("d", "f")} & moved
    assert ("d", "e") in moved or ("e", "d") in moved


def test_permutations_that_cannot_move_anything_are_refused() -> None:
    with pytest.raises(InputError, match="no two of the 4 rows may change places"):
        permutations(4, 3, strata=list("abcd"))
    with pytest.raises(InputError, match="strata has 3 entries for 4 rows"):
        permutations(4, 3, strata=list("abc"))


def test_all_pairings_are_equally_likely() -> None:
    orders = permutations(3, 6000)
    counts = np.unique(orders, axis=0, return_counts=True)[1]
    assert len(counts) == 6
    # chi-square with 5 degrees of freedom stays below 25.7 but once in ten thousand.
    assert ((counts - 1000) ** 2 / 1000).sum() < 25.7


def test_the_relative_order_pairs_the_same_rows() -> None:
    a, b = permutations(8, 4, model="a"), permutations(8, 4, model="b")
    for p, q, r in zip(a, b, relative(a, b), strict=True):
        pairs = set(zip(p.tolist(), q.tolist(), strict=True))
        assert pairs == set(zip(range(8), r.tolist(), strict=True))


def test_p_counts_ties_against_us_and_is_never_zero() -> None:
    permuted = np.array([[0.1, 0.5], [0.9, 0.5], [0.3, 0.5]])
    assert permutation_p(np.array([0.95, 0.5]), permuted).tolist() == [0.25, 1.0]
    assert permutation_p(np.array([0.9, 0.6]), permuted).tolist() == [0.5, 0.25]


def test_max_t_of_one_cell_is_the_plain_p() -> None:
    permuted = rng().normal(size=(199, 1))
    for value in (-1.0, 0.3, 2.0, 9.0):
        observed = np.array([value])
        assert max_t(observed, permuted)[0] == permutation_p(observed, permuted)[0]


def test_max_t_equals_the_definition_of_step_down() -> None:
    permuted, observed = rng().normal(size=(99, 6)), rng(1).normal(size=6) * 2
    mean, sd = np.zeros(6), np.ones(6)
    expected, last = np.empty(6), 0.0
    order = np.argsort(-observed)
    for place, cell in enumerate(order):
        rest = order[place:]
        b = sum(row[rest].max() >= observed[cell] for row in permuted)
        last = expected[cell] = max(last, (1 + b) / 100)
    assert max_t(observed, permuted, mean, sd) == pytest.approx(expected)


def test_max_t_is_stricter_than_each_cell_alone_and_ignores_units() -> None:
    permuted, observed = rng().normal(size=(199, 20)), rng(1).normal(size=20) + 1
    adjusted = max_t(observed, permuted)
    assert (adjusted >= permutation_p(observed, permuted) - 1e-12).all()
    scale = np.logspace(-6, 6, 20)
    assert max_t(observed * scale + 3 * scale, permuted * scale + 3 * scale) == pytest.approx(
        adjusted
    )


def test_max_t_refuses_cells_that_do_not_vary() -> None:
    with pytest.raises(InputError, match="1 of 2 cells do not vary"):
        max_t(np.array([0.0, 1.0]), np.array([[0.0, 2.0]] * 3 + [[0.0, 1.0]]))
    with pytest.raises(InputError, match="at least one permutation"):
        max_t(np.zeros(2), np.zeros((0, 2)))


@pytest.mark.slow
def test_max_t_holds_the_family_wise_error() -> None:
    # 40 dependent cells; rejecting any at 5 % happens in 5 % of families: binomial 99.9 % bound.
    draws = rng()
    shared = draws.normal(size=(40, 40))
    rejected = 0
    for _ in range(400):
        scores = (draws.normal(size=(200, 40)) @ shared) ** 3
        rejected += max_t(scores[0], scores[1:]).min() <= 0.05
    assert rejected / 400 <= 0.05 + 3.1 * math.sqrt(0.05 * 0.95 / 400)
    assert rejected / 400 >= 0.05 - 3.1 * math.sqrt(0.05 * 0.95 / 400)


def test_holm_on_a_worked_example() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]).tolist() == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.8]).tolist() == [1.0, 1.0]


def test_too_few_permutations_name_the_number_needed() -> None:
    assert needed_permutations(1) == 200
    assert needed_permutations(30) == 599
    check_permutations(599, 30)
    with pytest.raises(InputError, match=r"598 permutations cannot .* 30 families .*=599"):
        check_permutations(598, 30)
    with pytest.raises(InputError, match="use n_permutations=200"):
        check_permutations(19, 1)


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


@pytest.mark.parametrize("measure", ["mutual_knn", "cka", "maximum"])
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
