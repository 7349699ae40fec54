"""Overlaps of neighbor lists: definitions, exact nulls, what each can and cannot see."""

import itertools

import numpy as np
import pytest
import torch

from interp.errors import InputError
from interp.geometry import MEASURES, k_curve, mutual_knn
from interp.geometry.neighbors import prepare_knn
from interp.geometry.overlaps import (
    cycle_knn,
    cycle_null,
    jaccard_knn,
    jaccard_null,
    mutual_knn_cosine,
    overlap_chances,
    prepare_cosine,
)
from interp.geometry.search import nearest, tie_order
from interp.stats import make_folds

PAIRINGS = np.array(list(itertools.permutations(range(6))))


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def all_pairings(name: str, k: int) -> tuple[torch.Tensor, list, list]:
    xs, ys = ([MEASURES[name].prepare(draw(6, 2, seed=k + s), n_neighbors=k / 6)] for s in (0, 5))
    return MEASURES[name].permuted(xs, ys, PAIRINGS).flatten(), xs, ys


@pytest.mark.parametrize("k", [1, 2, 3, 4])
def test_the_mean_of_mutual_knn_by_cosine_over_all_pairings_is_k_of_n_minus_1(k: int) -> None:
    values, xs, ys = all_pairings("mutual_knn_cosine", k)
    mean, sd = MEASURES["mutual_knn_cosine"].moments(xs, ys)  # pyright: ignore
    assert float(values.mean()) == pytest.approx(k / 5, abs=1e-9)
    assert float(mean) == pytest.approx(k / 5, abs=1e-12)
    assert float(sd) == pytest.approx(float(values.std(correction=0)), abs=1e-9)


@pytest.mark.parametrize("k", [1, 2, 3, 4])
def test_the_mean_of_jaccard_over_all_pairings_is_the_hypergeometric_one(k: int) -> None:
    values, _, _ = all_pairings("jaccard_knn", k)
    assert float(values.mean()) == pytest.approx(jaccard_null(6, k), abs=1e-12)
    assert (jaccard_null(6, k) < k / 5) == (k > 1)


@pytest.mark.parametrize("k", [1, 2, 3])
def test_the_mean_of_the_cycle_over_all_pairings_follows_from_the_first_graph(k: int) -> None:
    values, xs, _ = all_pairings("cycle_knn", k)
    assert float(values.mean()) == pytest.approx(cycle_null(xs[0]), abs=1e-12)


def test_chances_of_an_overlap_sum_to_1_with_mean_k_squared_of_n_minus_1() -> None:
    chances = overlap_chances(100, 7)
    assert chances.sum() == pytest.approx(1, abs=1e-12)
    assert chances @ np.arange(8) == pytest.approx(49 / 99, abs=1e-12)


def test_mutual_knn_by_cosine_equals_overlaps_of_sorted_inner_products() -> None:
    x, y = draw(50, 5), draw(50, 7, seed=1)
    lists = []
    for z in (x, y):
        unit = z / z.norm(dim=1, keepdim=True)
        lists.append((unit @ unit.T).fill_diagonal_(-2).argsort(1, descending=True)[:, :5].tolist())
    expected = np.mean([len(set(a) & set(b)) / 5 for a, b in zip(*lists, strict=True)])
    assert mutual_knn_cosine(x, y, 0.1) == pytest.approx(expected, abs=1e-12)


def test_cosine_neighbors_move_with_a_shift_and_not_with_row_norms() -> None:
    x = draw(40, 5)
    assert mutual_knn_cosine(x, x * draw(40, 1, seed=3).exp(), 0.1) == 1
    assert mutual_knn_cosine(x, x + 3, 0.1) < 0.9
    with pytest.raises(InputError, match="y: 1 rows are zero and have no cosine"):
        prepare_cosine(torch.cat([x, torch.zeros(1, 5)]), "y", n_neighbors=0.1)


def test_jaccard_is_m_of_2k_minus_m_per_row() -> None:
    x, y = draw(30, 3), draw(30, 3, seed=1)
    shared = [len({*a} & {*b}) for a, b in zip(*(_lists(z, 4) for z in (x, y)), strict=True)]
    expected = np.mean([m / (8 - m) for m in shared])
    assert jaccard_knn(x, y, 4 / 30) == pytest.approx(expected, abs=1e-12)
    assert jaccard_knn(x, y, 4 / 30) < mutual_knn(x, y, 4 / 30)


def _lists(x: torch.Tensor, k: int) -> list[list[int]]:
    return nearest(x, k).tolist()


def test_the_cycle_saturates_on_unrelated_features_and_depends_on_the_order() -> None:
    x, y = draw(100, 4), draw(100, 4, seed=1)
    forward, back = cycle_knn(x, y, 0.2), cycle_knn(y, x, 0.2)
    assert forward > 0.85
    assert back > 0.85
    assert forward != back
    assert mutual_knn(x, y, 0.2) < 0.3


def test_edges_of_the_cycle_are_the_same_both_ways() -> None:
    x, y = draw(40, 3), draw(40, 3, seed=1)
    first, second = _lists(x, 3), _lists(y, 3)
    pairs = [(i, j) for i in range(40) for j in second[i] if i in first[j]]
    assert cycle_knn(x, y, 3 / 40) == pytest.approx(len({i for i, _ in pairs}) / 40)
    assert cycle_knn(y, x, 3 / 40) == pytest.approx(len({j for _, j in pairs}) / 40)


@pytest.mark.parametrize("name", ["jaccard_knn", "cycle_knn", "lcs_knn", "edit_knn", "cknna"])
def test_small_tables_give_the_same_values(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    xs, ys = (
        [MEASURES[name].prepare(draw(40, 4, seed=s + t), n_neighbors=0.1) for t in range(2)]
        for s in (0, 5)
    )
    orders = np.stack([np.random.default_rng(s).permutation(40) for s in range(3)])
    whole = MEASURES[name].permuted(xs, ys, orders)
    monkeypatch.setattr("interp.geometry.overlaps.TABLE", 500)
    assert torch.allclose(MEASURES[name].permuted(xs, ys, orders), whole, rtol=0, atol=1e-12)


def test_layers_that_count_different_neighbors_are_refused() -> None:
    xs = [prepare_knn(draw(40, 3), n_neighbors=k) for k in (0.1, 0.2)]
    with pytest.raises(InputError, match=r"layers with k = \[4, 8\] neighbors"):
        MEASURES["jaccard_knn"].values(xs, xs)


@pytest.mark.parametrize("name", ["mutual_knn", "mutual_knn_cosine", "edit_knn", "cknna"])
def test_a_k_curve_holds_the_value_of_each_k(name: str) -> None:
    x, y = draw(60, 4), draw(60, 6, seed=1)
    curve = k_curve(x, y, (0.05, 0.1, 0.3), measure=name)
    assert curve.k == (3, 6, 18)
    for fraction, value in zip(curve.fractions, curve.values, strict=True):
        assert value == pytest.approx(MEASURES[name].function(x, y, fraction), abs=1e-12)


def test_a_k_curve_refuses_a_measure_without_neighbors_and_no_fractions() -> None:
    x = draw(20, 3)
    with pytest.raises(InputError, match="procrustes counts no neighbors; those that do: "):
        k_curve(x, x, (0.1,), measure="procrustes")
    with pytest.raises(InputError, match="a k-curve needs at least one fraction"):
        k_curve(x, x, ())


def tied(kind: str, seed: int) -> torch.Tensor:
    x = draw(40, 3, seed=seed)
    if kind == "one_hot":
        return torch.eye(4, dtype=torch.float64)[x[:, 0].mul(100).long() % 4]
    if kind == "rectified":
        return (x - 0.5).relu()
    return x[torch.arange(40) // 3]


TIED = ["one_hot", "rectified", "duplicated"]
# Rows of zeros have no cosine.
COUNTING = [
    name for name, one in MEASURES.items() if one.uses_neighbors and name != "mutual_knn_cosine"
]


@pytest.mark.parametrize("name", COUNTING)
@pytest.mark.parametrize("kind", TIED)
def test_the_order_of_ties_moves_with_the_rows(name: str, kind: str) -> None:
    one, order = MEASURES[name], np.random.default_rng(0).permutation(40)
    ties = tie_order(40, "y")
    first = one.prepare(tied(kind, 0), "x", n_neighbors=0.1)
    second, moved = (
        one.prepare(tied(kind, 1)[at], "y", n_neighbors=0.1, ties=ties[at])
        for at in (np.arange(40), order)
    )
    relabeled = one.permuted([first], [second], order[None])[0]
    assert torch.allclose(relabeled, one.values([first], [moved]), rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", COUNTING)
@pytest.mark.parametrize("kind", TIED)
def test_a_fold_left_out_leaves_the_order_of_ties(name: str, kind: str) -> None:
    one, x, y = MEASURES[name], tied(kind, 0), tied(kind, 1)
    folds = make_folds([str(i // 2) for i in range(40)], 3)
    first, second = (one.prepare(z, label, n_neighbors=0.1) for z, label in ((x, "x"), (y, "y")))
    fast = one.deleted([first], [second], folds)
    for f in range(3):
        kept = np.flatnonzero(folds != f)
        parts = [
            one.prepare(z[kept], n_neighbors=4 / len(kept), ties=p.ties[kept].argsort().argsort())
            for z, p in ((x, first), (y, second))
        ]
        slow = one.values(parts[:1], parts[1:])
        assert float(fast[f]) == pytest.approx(float(slow), abs=1e-12)


@pytest.mark.parametrize("name", COUNTING)
def test_rows_of_one_unit_count_for_no_neighbor_measure(name: str) -> None:
    # Four positions of each image: alike within an image only.
    image = draw(20, 6).repeat_interleave(4, 0)
    x, y = (
        image + 0.01 * draw(80, 6, seed=1),
        image @ draw(6, 5, seed=2) + 0.01 * draw(80, 5, seed=3),
    )
    order = np.random.default_rng(0).permutation(20)
    spread = (order[:, None] * 4 + np.arange(4)).ravel()
    units = np.arange(20).repeat(4)
    one = MEASURES[name]
    values = []
    for more in ({}, {"units": units}):
        first, second = (
            one.prepare(z, label, n_neighbors=3 / 80, **more) for z, label in ((x, "x"), (y, "y"))
        )
        ids = first.ids[:, :3].long().numpy()
        same = (units[ids] == units[:, None]).mean()
        assert same == 0 if more else same > 0.2
        values.append(float(one.permuted([first], [second], spread[None])[0]))
    assert values[0] != values[1]
