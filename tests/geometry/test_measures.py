"""Single measures: known values, null moments, routes, ties, what is refused."""

import itertools
import math

import numpy as np
import pytest
import torch

from interp.errors import InputError
from interp.geometry import MEASURES, angular_distance, debiased_cka, get_measure, mutual_knn
from interp.geometry import procrustes as procrustes_similarity
from interp.geometry.cka import cka_moments, cka_permuted, cka_values, prepare_cka
from interp.geometry.features import center
from interp.geometry.neighbors import count_neighbors, knn_moments, prepare_knn
from interp.geometry.search import nearest, tie_order
from interp.stats import make_folds
from tests.geometry.examples import draw, example, prepare


def test_an_unknown_measure_lists_the_known_ones() -> None:
    with pytest.raises(InputError, match=r"no measure 'ckaa'; there are .*cka, .*mutual_knn"):
        get_measure("ckaa")


def test_debiased_cka_of_one_odd_row_is_refused() -> None:
    x = torch.zeros(10, 3)
    x[4] = 1
    with pytest.raises(InputError, match="all rows but one are equal"):
        prepare_cka(x)
    with pytest.raises(InputError, match="all rows but one are equal"):
        debiased_cka(x, x)


def test_debiased_cka_equals_the_hsic_of_song() -> None:
    x, y = draw(12, 3), draw(12, 5, seed=1)
    n, ones = 12, torch.ones(12, dtype=torch.float64)

    def hsic(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        k, el = ((z @ z.T).fill_diagonal_(0) for z in (a, b))
        sums = (ones @ k @ ones) * (ones @ el @ ones) / ((n - 1) * (n - 2))
        return (torch.trace(k @ el) + sums - 2 / (n - 2) * (ones @ k @ el @ ones)) / (n * (n - 3))

    expected = hsic(x, y) / (hsic(x, x) * hsic(y, y)).sqrt()
    assert debiased_cka(x, y) == pytest.approx(float(expected), abs=1e-12)


@pytest.mark.parametrize(("n", "d", "e"), [(50, 8, 5), (30, 80, 7), (20, 90, 40)])
def test_feature_and_gram_routes_agree(n: int, d: int, e: int) -> None:
    xs = [prepare_cka(draw(n, d, seed=s)) for s in range(2)]
    ys = [prepare_cka(draw(n, e, seed=10 + s)) for s in range(3)]
    a, b = (cka_values(xs, ys, route) for route in ("feature", "gram"))
    assert torch.allclose(a, b, rtol=0, atol=1e-10)


def test_permuted_cka_agrees_on_both_routes(monkeypatch: pytest.MonkeyPatch) -> None:
    xs = [prepare_cka(draw(40, 30, seed=s)) for s in range(3)]
    ys = [prepare_cka(draw(40, 20, seed=10 + s)) for s in range(2)]
    orders = np.stack([np.random.default_rng(s).permutation(40) for s in range(4)])
    by_gram = cka_permuted(xs, ys, orders)
    monkeypatch.setattr("interp.geometry.cka_sums.MAX_GRAM_BYTES", 0)
    assert torch.allclose(by_gram, cka_permuted(xs, ys, orders), rtol=0, atol=2e-6)


@pytest.mark.parametrize("seed", [0, 1])
def test_cka_null_moments_are_exact_over_all_pairings(seed: int) -> None:
    x, y = draw(6, 2, seed=seed).exp(), draw(6, 9, seed=seed + 5)
    xs, ys = [prepare_cka(x)], [prepare_cka(y)]
    orders = np.array(list(itertools.permutations(range(6))))
    values = cka_permuted(xs, ys, orders).flatten()
    mean, sd = cka_moments(xs, ys)
    assert float(mean) == pytest.approx(float(values.mean()), abs=1e-6)
    assert float(sd) == pytest.approx(float(values.std(correction=0)), abs=1e-6)
    assert float(sd) == pytest.approx(math.sqrt(2 / (6 * 3)), abs=1e-12)


@pytest.mark.parametrize("k", [1, 2, 3])
def test_knn_null_moments_are_exact_over_all_pairings(k: int) -> None:
    x, y = draw(6, 2, seed=k), draw(6, 3, seed=k + 5)
    xs, ys = ([prepare_knn(z, n_neighbors=k / 6)] for z in (x, y))
    orders = np.array(list(itertools.permutations(range(6))))
    values = MEASURES["mutual_knn"].permuted(xs, ys, orders).flatten()
    mean, sd = knn_moments(xs, ys)
    assert float(mean) == pytest.approx(k / 5, abs=1e-12)
    assert float(values.mean()) == pytest.approx(k / 5, abs=1e-9)
    assert float(sd) == pytest.approx(float(values.std(correction=0)), abs=1e-9)


def test_independent_gaussians_have_no_debiased_cka() -> None:
    n, d = 300, 600
    values = [debiased_cka(draw(n, d, seed=s), draw(n, d, seed=s + 50)) for s in range(6)]
    # Biased CKA would be d / (n + d) = 0.67 here.
    assert abs(float(np.mean(values))) < 4 * math.sqrt(2 / (n * (n - 3))) / math.sqrt(6)


def test_procrustes_of_independent_gaussians_has_its_known_floor() -> None:
    n, d = 4000, 100
    expected = 0.8488 * math.sqrt(d / n)
    assert procrustes_similarity(draw(n, d), draw(n, d, seed=1)) == pytest.approx(
        expected, rel=0.02
    )


def test_procrustes_of_one_column_is_the_absolute_correlation() -> None:
    x, y = draw(30, 1), draw(30, 1, seed=1)
    r = float(np.corrcoef(x[:, 0], y[:, 0])[0, 1])
    assert procrustes_similarity(x, y) == pytest.approx(abs(r), abs=1e-12)


def test_angular_distance_obeys_the_triangle_inequality() -> None:
    layers = [draw(30, 5, seed=s) for s in range(6)]
    for a, b, c in itertools.permutations(layers, 3):
        ab, bc, ac = (
            angular_distance(procrustes_similarity(p, q)) for p, q in ((a, b), (b, c), (a, c))
        )
        assert ac <= ab + bc + 1e-9
    assert angular_distance(1 + 1e-12) == 0


def test_nearest_breaks_ties_by_the_lower_id() -> None:
    x = torch.tensor([[0.0], [1.0], [1.0], [1.0], [-1.0], [5.0]])
    assert nearest(x, 2)[0].tolist() == [1, 2]
    assert nearest(x, 2)[1].tolist() == [2, 3]
    assert nearest(x, 4)[0].tolist() == [1, 2, 3, 4]


def test_nearest_orders_ties_along_a_circle_that_starts_after_each_row() -> None:
    x = torch.tensor([[0.0], [1.0], [1.0], [1.0], [1.0], [5.0]])
    # The circle 3 2 1 0 5 4.
    ids = nearest(x, 3, ties=np.array([3, 2, 1, 0, 5, 4]))
    assert ids.tolist() == [[4, 3, 2], [4, 3, 2], [1, 4, 3], [2, 1, 4], [3, 2, 1], [4, 3, 2]]


def tied(kind: str, seed: int) -> torch.Tensor:
    x = draw(40, 3, seed=seed)
    if kind == "one_hot":
        return torch.eye(4, dtype=torch.float64)[x[:, 0].mul(100).long() % 4]
    if kind == "rectified":
        return (x - 1).relu()
    return x[torch.arange(40) // 3]


TIED = ["one_hot", "rectified", "duplicated"]


def test_without_ties_the_order_of_ties_changes_no_bit() -> None:
    x, y = draw(60, 5), draw(60, 7, seed=1)
    expected = nearest(x, 59)
    for seed in range(5):
        assert torch.equal(nearest(x, 59, ties=tie_order(60, "x", seed)), expected)
        assert mutual_knn(x, y, 0.1, seed=seed) == mutual_knn(x, y, 0.1)


def test_the_order_of_ties_is_that_of_the_name_and_the_seed() -> None:
    orders = [tie_order(50, name, seed) for name in ("a", "b") for seed in (0, 1)]
    assert len({order.tobytes() for order in orders}) == 4
    assert np.array_equal(orders[0], tie_order(50, "a", 0))
    x = tied("one_hot", 0)
    same, other, again = (prepare("mutual_knn", x, label=one).ids for one in "aba")
    assert torch.equal(same, again)
    assert not torch.equal(same, other)


@pytest.mark.parametrize("kind", TIED)
def test_the_order_of_ties_moves_with_the_rows(kind: str) -> None:
    x, y = tied(kind, 0), tied(kind, 1)
    order, ties = np.random.default_rng(0).permutation(40), tie_order(40, "y")
    first = prepare("mutual_knn", x)
    second, moved = (prepare("mutual_knn", y[at], ties=ties[at]) for at in (np.arange(40), order))
    relabeled = MEASURES["mutual_knn"].permuted([first], [second], order[None])
    assert torch.equal(relabeled[0], MEASURES["mutual_knn"].values([first], [moved]))
    # Both sides reordered alike: the same value.
    both = prepare("mutual_knn", x[order], ties=first.ties[order])
    before = MEASURES["mutual_knn"].values([first], [second])
    assert torch.equal(MEASURES["mutual_knn"].values([both], [moved]), before)


@pytest.mark.parametrize("kind", TIED)
@pytest.mark.parametrize("n_folds", [3, 8])
def test_a_fold_left_out_leaves_the_order_of_ties(kind: str, n_folds: int) -> None:
    x, y = tied(kind, 0), tied(kind, 1)
    folds = make_folds([str(i // 2) for i in range(40)], n_folds)
    first, second = prepare("mutual_knn", x), prepare("mutual_knn", y, label="y")
    fast = MEASURES["mutual_knn"].deleted([first], [second], folds)
    for f in range(n_folds):
        kept = np.flatnonzero(folds != f)
        places = [one.ties[kept].argsort().argsort() for one in (first, second)]
        parts = [
            prepare("mutual_knn", z[kept], 4 / len(kept), ties=at)
            for z, at in zip((x, y), places, strict=True)
        ]
        slow = MEASURES["mutual_knn"].values(parts[:1], parts[1:])
        assert float(fast[f]) == pytest.approx(float(slow), abs=1e-12)


def test_nearest_equals_a_stable_sort_of_distances() -> None:
    x = draw(30, 4)
    distances = torch.cdist(x, x).fill_diagonal_(torch.inf)
    assert torch.equal(nearest(x, 29)[:, :28], distances.argsort(dim=1, stable=True)[:, :28].int())


def test_no_row_is_its_own_neighbor_for_want_of_others() -> None:
    x = draw(6, 3)
    assert nearest(x, 5).shape == (6, 5)
    with pytest.raises(InputError, match="6 neighbors, but only 5 of 6 rows of other images"):
        nearest(x, 6)
    units = np.array([0, 0, 1, 1, 2, 3])
    with pytest.raises(InputError, match="5 neighbors, but only 4 of 6 rows of other images"):
        nearest(x, 5, units=units)


def test_large_equal_parts_leave_no_mean_behind() -> None:
    x = draw(400, 8).double()
    found = center(1 + 1e-10 * x)
    assert found.mean(0).abs().max() < 1e-15
    assert torch.allclose(found, center(x), atol=1e-5)


@pytest.mark.parametrize("metric", ["euclidean", "cosine", "dot"])
def test_nearest_in_slabs_is_nearest_by_symmetric_tiles(
    metric: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Integers: no rounding, and many ties.
    x = draw(300, 4).mul(2).round() + torch.tensor([0.0, 0.0, 0.0, 9.0])
    ties = tie_order(300, "x")
    whole = nearest(x, 40, metric=metric, ties=ties)
    monkeypatch.setattr("interp.geometry.search.MAX_WHOLE_BYTES", 0)
    monkeypatch.setattr("interp.geometry.search.SLAB", 1000)
    slabs = nearest(x, 40, metric=metric, ties=ties)
    assert float((slabs == whole).double().mean()) > 0.99


def test_rows_of_one_unit_are_not_neighbors() -> None:
    units = np.arange(20) // 4
    ids = nearest(draw(20, 3), 5, units=units)
    assert not bool((torch.as_tensor(units)[ids.long()] == torch.as_tensor(units)[:, None]).any())


def test_cosine_neighbors_ignore_row_norms_but_not_a_shift() -> None:
    x = draw(40, 5)
    scaled = x * draw(40, 1, seed=3).exp()
    assert mutual_knn(x, scaled, 0.1, "cosine") == 1
    assert mutual_knn(x, scaled, 0.1) < 0.9
    assert mutual_knn(x, x + 3, 0.1, "cosine") < 0.9
    with pytest.raises(InputError, match="1 rows are zero"):
        nearest(torch.cat([x, torch.zeros(1, 5)]), 2, metric="cosine")


def test_the_number_of_neighbors_is_a_checked_fraction() -> None:
    assert count_neighbors(1000) == 10
    assert count_neighbors(20) == 1
    for bad in (0.0, 1.5, 0.99):
        with pytest.raises(InputError, match=r"it is a fraction of n"):
            count_neighbors(40, bad)


def test_a_fold_that_leaves_too_little_is_refused() -> None:
    folds = np.array([0] * 38 + [1, 2])
    x = example("tall")
    for name in ("cka", "mutual_knn"):
        with pytest.raises(InputError, match=r"fold 0 leaves 2 of 40 rows"):
            MEASURES[name].deleted([prepare(name, x)], [prepare(name, x)], folds)
    alone = torch.zeros(40, 2)
    alone[0] = 1
    with pytest.raises(InputError, match=r"without fold 0 a representation is constant"):
        MEASURES["procrustes"].deleted(
            [prepare("procrustes", alone)], [prepare("procrustes", x)], folds
        )
