"""Permutations move what they may, nothing else; their p-values count ties against us."""

import numpy as np
import pytest

from interp.errors import InputError
from interp.stats import count_permutations, permutation_p, permutations, relative


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


def test_claims_beyond_category_move_rows_within_source_and_category() -> None:
    source, category = list("aaaaaabbbbbb"), list("xxxyyyxxxyyy")
    both = list(zip(source, category, strict=True))
    for order in permutations(12, 20, strata=both):
        assert [both[i] for i in order] == both


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        ({}, 24),
        ({"strata": list("aabb")}, 4),
        # Two pairs change places, and rows inside each.
        ({"clusters": list("aabb")}, 8),
        ({"clusters": list("aabb"), "strata": list("xyxy")}, 2),
        ({"clusters": list("abbb")}, 6),
    ],
)
def test_reorderings_are_counted_and_every_one_is_drawn(labels, expected: int) -> None:
    assert count_permutations(4, **labels) == expected
    assert len(np.unique(permutations(4, 400, **labels), axis=0)) == expected


def test_reorderings_of_many_rows_are_past_counting() -> None:
    assert count_permutations(1000) == float("inf")
