"""Neighbor lists in order: the packed routes against textbook tables, exact nulls."""

import itertools

import numpy as np
import pytest
import torch

from interp.errors import InputError
from interp.geometry import MEASURES, mutual_knn
from interp.geometry.sequences import (
    edit_knn,
    lcs_knn,
    lcs_null,
    list_edits,
    list_lcs,
    packed_edits,
    packed_lcs,
)

PAIRINGS = np.array(list(itertools.permutations(range(6))))


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def lists(rows: int, k: int, universe: int, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.stack([torch.randperm(universe, generator=generator)[:k] for _ in range(rows)])


def tables(a: list[int], b: list[int]) -> tuple[int, int]:
    """Length of the longest common subsequence and Levenshtein distance, cell by cell."""
    common = np.zeros((len(a) + 1, len(b) + 1), dtype=int)
    cost = np.add.outer(np.arange(len(a) + 1), np.arange(len(b) + 1))
    for i, j in itertools.product(range(1, len(a) + 1), range(1, len(b) + 1)):
        same = int(a[i - 1] == b[j - 1])
        common[i, j] = max(common[i - 1, j], common[i, j - 1], common[i - 1, j - 1] + same)
        cost[i, j] = min(cost[i - 1, j] + 1, cost[i, j - 1] + 1, cost[i - 1, j - 1] + 1 - same)
    return int(common[-1, -1]), int(cost[-1, -1])


def ranks(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    equal = a[:, None, :] == b[:, :, None]
    return (equal * torch.arange(1, a.shape[1] + 1)).sum(2)


# Around one word of 62 and two.
@pytest.mark.parametrize(
    ("k", "universe"), [(1, 2), (4, 6), (61, 70), (62, 70), (63, 66), (125, 140)]
)
def test_packed_routes_equal_the_textbook_tables(k: int, universe: int) -> None:
    a, b = lists(6, k, universe, 0), lists(6, k, universe, 1)
    b[0] = a[0]
    b[1] = a[1].flip(0)
    b[2] = torch.arange(k) + universe
    expected = torch.tensor([tables(p, q) for p, q in zip(a.tolist(), b.tolist(), strict=True)])
    found = ranks(a, b)
    for i, routes in enumerate(((list_lcs, packed_lcs), (list_edits, packed_edits))):
        assert routes[0](a, b).tolist() == expected[:, i].tolist()
        assert routes[1](found, k).tolist() == expected[:, i].tolist()


def test_equal_lists_are_1_and_reversed_lists_share_one_entry() -> None:
    a = torch.arange(8)[None]
    assert int(list_lcs(a, a)) == 8
    assert int(list_edits(a, a)) == 0
    assert int(list_lcs(a, a.flip(1))) == 1
    assert int(list_edits(a, a.flip(1))) == 8


def test_lists_with_repeated_entries_are_compared_too() -> None:
    a, b = torch.tensor([[1, 1, 2, 3, 1]]), torch.tensor([[1, 2, 1, 1, 3]])
    expected = tables(a[0].tolist(), b[0].tolist())
    assert (int(list_lcs(a, b)), int(list_edits(a, b))) == expected


@pytest.mark.parametrize("k", [1, 2, 3, 4])
def test_the_mean_of_lcs_over_all_pairings_is_exact(k: int) -> None:
    xs, ys = (
        [MEASURES["lcs_knn"].prepare(draw(6, 2, seed=k + s), n_neighbors=k / 6)] for s in (0, 5)
    )
    values = MEASURES["lcs_knn"].permuted(xs, ys, PAIRINGS)
    assert float(values.mean()) == pytest.approx(lcs_null(6, k), abs=1e-12)


@pytest.mark.parametrize("k", [1, 2, 3, 4])
def test_the_mean_of_edit_over_all_pairings_is_at_least_that_of_equal_places(k: int) -> None:
    xs, ys = (
        [MEASURES["edit_knn"].prepare(draw(6, 2, seed=k + s), n_neighbors=k / 6)] for s in (0, 5)
    )
    values = MEASURES["edit_knn"].permuted(xs, ys, PAIRINGS)
    assert float(values.min()) >= 0
    assert float(values.mean()) >= 1 / 5 - 1e-12


def test_the_exact_null_of_lcs_refuses_overlaps_that_it_cannot_sum() -> None:
    with pytest.raises(InputError, match="k = 100 of n = 200: more than 30 chance neighbors"):
        lcs_null(200, 100)


def test_ordered_measures_lie_below_the_overlap_that_forgets_the_order() -> None:
    x = draw(60, 4)
    y = x + 0.3 * draw(60, 4, seed=1)
    overlap = mutual_knn(x, y, 0.2)
    assert 0 < edit_knn(x, y, 0.2) <= lcs_knn(x, y, 0.2) < overlap
