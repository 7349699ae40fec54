"""Neighbor lists compared in order: longest common subsequence and edit distance.

Row i has its k neighbors in a representation as a list, nearest first. With a_i and b_i the lists
of X and Y,

    lcs    1/n sum_i L(a_i, b_i) / k        L: length of the longest common subsequence
    edit   1 - 1/n sum_i D(a_i, b_i) / k    D: Levenshtein distance (insert, delete, substitute 1)

Both are similarities in [0, 1] and 1 for equal lists. The released code of Huh et al. returns L
itself, 0..k, and calls the second, which is a similarity, edit distance; as D of two lists of
length k is at most k, it is never negative.

L and D run over all rows and layers at once. `list_lcs` and `list_edits` are the textbook dynamic
programs, vectorized over rows. The fast route packs a column of the table into bits (Hyyro 2004
for L; Myers 1999 and Hyyro 2003 for D), 62 rows of it to a word, so that a list of k takes
k ceil(k / 62) steps instead of k^2.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int, Integer
from torch import Tensor

from interp.errors import InputError
from interp.geometry.features import same_rows
from interp.geometry.measure import Measure
from interp.geometry.neighbors import FRACTION, KNNLayer, count_neighbors, kept_rows, prepare_knn
from interp.geometry.overlaps import (
    Query,
    as_they_are,
    kept_ids,
    neighbor_ids,
    overlap_chances,
    relabeled,
    walk,
)
from interp.geometry.search import nearest, tie_order

# Bits of a word that are used: one of 64 is the sign, one takes the carry.
WORD = 62
FULL = (1 << WORD) - 1
# Partitions are summed up to this size: 28629 in all, a second.
EXACT_LIS = 30
# Weight of larger overlaps that is neglected.
NEGLECTED = 1e-9


def lcs_knn(
    x: Float[Tensor, "n d"],
    y: Float[Tensor, "n e"],
    n_neighbors: float = FRACTION,
    seed: int = 0,
) -> float:
    """Mean longest common subsequence of two representations' neighbor lists, as a share of k.

    1/(n k) sum_i L(a_i, b_i), nearest first by Euclidean distance. n_neighbors: k as a fraction of
    n. seed: of the order of tied rows. Returns a value in [0, 1], never above `mutual_knn`, which
    forgets the order. Cost n^2 (d + e) + n k^2.
    Raises InputError for NaN, n < 4, a constant representation.
    Source: Huh et al. 2024, released code (lcs_knn, there times k).
    """
    a, b = _lists(x, y, n_neighbors, seed)
    return float(list_lcs(a, b).double().mean()) / a.shape[1]


def edit_knn(
    x: Float[Tensor, "n d"],
    y: Float[Tensor, "n e"],
    n_neighbors: float = FRACTION,
    seed: int = 0,
) -> float:
    """One minus the mean edit distance of two representations' neighbor lists, as a share of k.

    1 - 1/(n k) sum_i D(a_i, b_i), nearest first by Euclidean distance: a similarity.
    n_neighbors: k as a fraction of n. seed: of the order of tied rows. Returns a value in [0, 1].
    Cost n^2 (d + e) + n k^2.
    Raises InputError for NaN, n < 4, a constant representation.
    Source: Huh et al. 2024, released code (edit_distance_knn); Levenshtein 1966.
    """
    a, b = _lists(x, y, n_neighbors, seed)
    return 1 - float(list_edits(a, b).double().mean()) / a.shape[1]


def _lists(x, y, n_neighbors: float, seed: int) -> tuple[Tensor, Tensor]:
    n = same_rows(x, y)
    k = count_neighbors(n, n_neighbors)
    a, b = (nearest(z, k, ties=tie_order(n, name, seed)) for name, z in (("x", x), ("y", y)))
    return a, b


def list_lcs(a: Int[Tensor, "n k"], b: Int[Tensor, "n l"]) -> Int[Tensor, " n"]:
    """Length of the longest common subsequence of each row of a and of b.

    best[i, j] over the first i of a and j of b is best[i - 1, j - 1] + 1 where they end alike, else
    the larger of best[i - 1, j] and best[i, j - 1].
    """
    best = torch.zeros(len(b), b.shape[1] + 1, dtype=torch.int32)
    for column in a.T:
        met = best[:, :-1] + (b == column[:, None])
        best[:, 1:] = torch.maximum(best[:, 1:], met).cummax(1).values
    return best[:, -1]


def list_edits(a: Int[Tensor, "n k"], b: Int[Tensor, "n l"]) -> Int[Tensor, " n"]:
    """Levenshtein distance of each row of a and of b.

    cost[i, j] is the least of cost[i - 1, j - 1] plus 1 unless they end alike, cost[i - 1, j] + 1
    and cost[i, j - 1] + 1; the last runs along j as a cumulative minimum of cost - j.
    """
    along = torch.arange(b.shape[1] + 1, dtype=torch.int32)
    cost = along.repeat(len(b), 1)
    for column in a.T:
        swapped = cost[:, :-1] + (b != column[:, None])
        cost = cost + 1
        cost[:, 1:] = torch.minimum(cost[:, 1:], swapped)
        cost = (cost - along).cummin(1).values + along
    return cost[:, -1]


def packed_lcs(ranks: Integer[Tensor, "q k"], k: int) -> Int[Tensor, " q"]:
    """Length of the longest common subsequence from the places of one list in another.

    ranks[:, j]: 1 + the place of b's j-th entry in a, 0 where a lacks it; a has k entries, each
    once. A 0 bit of the state marks where the table grows by 1 along a.
    Source: Hyyro 2004, "Bit-parallel LCS-length computation revisited".
    """
    state = [torch.full((len(ranks),), full, dtype=torch.long) for full in _words(k)]
    for column in ranks.T.long():
        carry = torch.zeros_like(column)
        for w, full in enumerate(_words(k)):
            old = state[w]
            met = old & _bit(column, w)
            grown = old + met + carry
            carry = grown >> WORD
            state[w] = ((grown & full) | (old ^ met)) & full
    ones = sum(torch.from_numpy(np.bitwise_count(one.numpy())) for one in state)
    return k - torch.as_tensor(ones).long()


def packed_edits(ranks: Integer[Tensor, "q k"], k: int) -> Int[Tensor, " q"]:
    """Levenshtein distance from the places of one list in another, as in `packed_lcs`.

    The state holds where the table rises and falls by 1 along a; `step` is its change along b at
    the border of two words. Source: Myers 1999; Hyyro 2003 for the distance of whole lists.
    """
    rises = [torch.full((len(ranks),), full, dtype=torch.long) for full in _words(k)]
    falls = [torch.zeros(len(ranks), dtype=torch.long) for _ in rises]
    cost = torch.full((len(ranks),), k, dtype=torch.long)
    for column in ranks.T.long():
        step = torch.ones_like(column)
        for w, full in enumerate(_words(k)):
            rises[w], falls[w], step = _edit_word(rises[w], falls[w], _bit(column, w), step, full)
        cost += step
    return cost


def _edit_word(
    rise: Tensor, fall: Tensor, met: Tensor, step: Tensor, full: int
) -> tuple[Tensor, Tensor, Tensor]:
    """One word of one column; step: change along b above it (1, 0, -1), returned for below."""
    below, above = (step < 0).long(), (step > 0).long()
    down = met | fall
    met = met | below
    across = (((met & rise) + rise) ^ rise) | met
    up, less = fall | (full & ~(across | rise)), rise & across
    top = full.bit_length() - 1
    out = ((up >> top) & 1) - ((less >> top) & 1)
    up, less = ((up << 1) | above) & full, ((less << 1) | below) & full
    return less | (full & ~(down | up)), up & down, out


def _words(k: int) -> list[int]:
    """All used bits of each word of a list of k."""
    return [FULL] * (k // WORD) + ([(1 << k % WORD) - 1] if k % WORD else [])


def _bit(ranks: Integer[Tensor, " q"], w: int) -> Tensor:
    """The bit of a rank within word w, or 0."""
    at = ranks - 1 - w * WORD
    inside = (at >= 0) & (at < WORD)
    return inside.long() << at.clamp(0, WORD - 1)


class Ordered(NamedTuple):
    """A mean over rows of a function of two ordered lists."""

    # ranks [q, k], k -> a number per list: [q].
    compute: Callable[[Tensor, int], Tensor]
    # Whether the number counts differences.
    differs: bool = False

    def values(self, xs: Sequence[KNNLayer], ys: Sequence[KNNLayer]) -> Float[Tensor, "a b"]:
        """The value of every pair. Cost n k ceil(k / 62) a b."""
        n = same_rows(xs[0].ids, ys[0].ids)
        return self.permuted(xs, ys, np.arange(n)[None])[0]

    def permuted(
        self, xs: Sequence[KNNLayer], ys: Sequence[KNNLayer], orders: Int[np.ndarray, "p n"]
    ) -> Float[Tensor, "p a b"]:
        """The same after the rows of the second list are reordered: y[orders[b]]."""
        same_rows(xs[0].ids, ys[0].ids)
        first, second = neighbor_ids(xs), neighbor_ids(ys)
        n = first.shape[1]
        return self._mean(first, [relabeled(second, order) for order in orders], n)

    def deleted(
        self, xs: Sequence[KNNLayer], ys: Sequence[KNNLayer], folds: Int[np.ndarray, " n"]
    ) -> Float[Tensor, "f a b"]:
        """The same with fold f left out, for each f; k stays that of the whole sample."""
        same_rows(xs[0].ids, ys[0].ids)
        return torch.stack(list(self._without(xs, ys, folds)))

    def _without(self, xs, ys, folds) -> Iterator[Tensor]:
        for kept in kept_rows(folds, xs[0].k):
            first, second = kept_ids(xs, kept), kept_ids(ys, kept)
            yield self._mean(first, [as_they_are(second)], len(folds))[0]

    def _mean(self, first: Tensor, questions, n: int) -> Tensor:
        m, k = first.shape[1:]
        cells, ranks = _ranked(first, n)

        def answer(table: Tensor, query: Query) -> Tensor:
            b, rows, _ = query.cells.shape
            # [b, rows, k, a] -> a list per (b, row, a).
            found = table[query.cells].transpose(2, 3).reshape(-1, k)
            return self.compute(found, k).view(b, rows, -1).sum(1).double()

        mean = walk(cells, ranks, (m, n), questions, answer).mT / (m * k)
        return 1 - mean if self.differs else mean


def _ranked(ids: Int[Tensor, "a m k"], n: int) -> tuple[list[Tensor], list[Tensor]]:
    """Ascending cells row * n + neighbor of each layer, and the neighbor's rank, from 1."""
    m, k = ids.shape[1:]
    dtype = torch.uint8 if k < 256 else torch.int16
    lines = torch.arange(m)[:, None] * n
    ordered = [one.sort(1) for one in ids]
    ranks = [(at.indices + 1).to(dtype).flatten() for at in ordered]
    return [(lines + at.values).flatten() for at in ordered], ranks


LCS = Ordered(packed_lcs)
EDIT = Ordered(packed_edits, differs=True)


def lcs_null(n: int, k: int) -> float:
    """Mean of `lcs_knn` under a uniformly random pairing: sum_m P(m) E[LIS_m] / k.

    The m shared neighbors (hypergeometric) stand in a random order in the second list, so their
    longest common subsequence is the longest increasing one of a random permutation.
    Raises InputError where more than 30 shared neighbors are likely (k^2 / n above about 12).
    """
    chances = overlap_chances(n, k)
    if (beyond := float(chances[EXACT_LIS + 1 :].sum())) > NEGLECTED:
        raise InputError(
            f"k = {k} of n = {n}: more than {EXACT_LIS} chance neighbors with probability "
            f"{beyond:.1e}, beyond the exact sum; take the mean over permutations"
        )
    kept = chances[: EXACT_LIS + 1].tolist()
    return sum(p * _mean_lis(m) for m, p in enumerate(kept)) / k


@cache
def _mean_lis(m: int) -> float:
    """Mean longest increasing subsequence of m: the first row of a shape of weight f^2 / m!.

    Source: Schensted 1961; f, the number of standard tableaux, by hook lengths.
    """
    total = sum(shape[0] * _tableaux(shape) ** 2 for shape in _partitions(m, m)) if m else 0
    return total / math.factorial(m)


def _partitions(m: int, largest: int) -> Iterator[tuple[int, ...]]:
    if m == 0:
        yield ()
        return
    for part in range(min(m, largest), 0, -1):
        yield from ((part, *rest) for rest in _partitions(m - part, part))


def _tableaux(shape: tuple[int, ...]) -> int:
    columns = [sum(row > j for row in shape) for j in range(shape[0])]
    hooks = [row - j + columns[j] - i - 1 for i, row in enumerate(shape) for j in range(row)]
    return math.factorial(sum(shape)) // math.prod(hooks)


_RIGID = frozenset({"orthogonal", "scale", "translation", "permutation"})
_COST = "n^2 D once per layer; a pair or a permutation n k ceil(k / 62) a b"

MEASURES: dict[str, Measure] = {
    "lcs_knn": Measure(
        function=lcs_knn,
        prepare=prepare_knn,
        values=LCS.values,
        permuted=LCS.permuted,
        deleted=LCS.deleted,
        moments=None,
        definition="mean longest common subsequence of the ordered k-neighbor lists, divided by k",
        source="Huh et al. 2024, released code (lcs_knn, there not divided by k)",
        cost=_COST,
        bias="upwards by its null mean, which is below that of mutual_knn",
        null="sum_m P(m) E[LIS_m] / k, P hypergeometric: exact mean (lcs_null)",
        invariances=_RIGID,
        uses_neighbors=True,
    ),
    "edit_knn": Measure(
        function=edit_knn,
        prepare=prepare_knn,
        values=EDIT.values,
        permuted=EDIT.permuted,
        deleted=EDIT.deleted,
        moments=None,
        definition="1 - mean Levenshtein distance of the ordered neighbor lists / k: a similarity",
        source="Huh et al. 2024, released code (edit_distance_knn); Levenshtein 1966",
        cost=_COST,
        bias="upwards by its null mean, which is at least that of equal places, 1 / (n - 1)",
        null="not known; at least 1 / (n - 1)",
        invariances=_RIGID,
        uses_neighbors=True,
    ),
}
