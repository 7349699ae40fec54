"""Overlaps of stored neighbor lists: mutual (cosine), Jaccard and cycle k-nearest neighbors.

With m_i = |N_X(i) & N_Y(i)| the neighbors that row i has in both graphs,

    mutual   1/n sum_i m_i / k
    Jaccard  1/n sum_i m_i / (2k - m_i)
    cycle    1/n sum_i [there is a j in N_Y(i) with i in N_X(j)].

All three need the neighbor ids only, found once per layer (`KNNLayer` of `neighbors`); a
permutation relabels them and a fold drops some. Each is a function of a count per row: m_i, or for
the cycle the number of neighbors in Y that have i as a neighbor in X.

Under a uniformly random pairing, N_Y(i) becomes a random set of k of the n - 1 other rows, so the
count of row i is hypergeometric and the means are exact: k / (n - 1) for mutual; `jaccard_null` for
Jaccard, smaller than mutual because m / (2k - m) <= m / k; `cycle_null` for the cycle, which knows
the in-degrees of X. The counts of different rows depend on each other; standard deviations come
from permutations, except mutual's (`knn_moments`).
"""

import math
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.errors import InputError
from interp.geometry.features import same_rows
from interp.geometry.measure import Measure
from interp.geometry.neighbors import (
    FRACTION,
    TABLE,
    KNNLayer,
    count_neighbors,
    kept_neighbors,
    kept_rows,
    knn_deleted,
    knn_moments,
    knn_permuted,
    knn_values,
    mutual_knn,
    prepare_knn,
)
from interp.geometry.search import nearest, tie_order


def mutual_knn_cosine(
    x: Float[Tensor, "n d"],
    y: Float[Tensor, "n e"],
    n_neighbors: float = FRACTION,
    seed: int = 0,
) -> float:
    """Mean share of k nearest neighbors by cosine in common: the published metric.

    m = 1 / (n k) sum_i |N_X(i) & N_Y(i)|, nearest by cosine about the origin, so that a shift of
    all rows changes the value. n_neighbors: k as a fraction of n (published: 10 of 1024). seed: of
    the order of tied rows. Returns a value in [0, 1].
    Raises InputError as `mutual_knn`, and for a zero row, which has no cosine.
    Source: Huh et al. 2024, app. A. Clipping and pooling are steps before, not part of it.
    """
    return mutual_knn(x, y, n_neighbors, "cosine", seed)


def jaccard_knn(
    x: Float[Tensor, "n d"],
    y: Float[Tensor, "n e"],
    n_neighbors: float = FRACTION,
    seed: int = 0,
) -> float:
    """Mean Jaccard index of two representations' neighbor sets.

    1/n sum_i |N_X(i) & N_Y(i)| / |N_X(i) | N_Y(i)|, nearest by Euclidean distance.
    n_neighbors: k as a fraction of n. seed: of the order of tied rows. Returns a value in [0, 1],
    never above `mutual_knn`. Cost n^2 (d + e), memory n k.
    Raises InputError for NaN, n < 4, a constant representation.
    Source: Wang et al. 2022, "Towards understanding the instability of network embedding".
    """
    first, second = _neighbor_lists(x, y, n_neighbors, seed)
    pairs = zip(map(set, first), map(set, second), strict=True)
    return sum(len(a & b) / len(a | b) for a, b in pairs) / len(first)


def cycle_knn(
    x: Float[Tensor, "n d"],
    y: Float[Tensor, "n e"],
    n_neighbors: float = FRACTION,
    seed: int = 0,
) -> float:
    """Share of rows that return to themselves: a neighbor in Y, then a neighbor of it in X.

    1/n sum_i [exists j in N_Y(i) with i in N_X(j)], nearest by Euclidean distance. Asymmetric:
    cycle_knn(y, x) counts the ends of the same pairs (i, j) and not their starts; report both. One
    return is enough, so it saturates: unrelated features reach 1 - exp(-k^2 / n), which is 0.6 for
    k = sqrt(n), and hubs of X lower it (`cycle_null`).
    n_neighbors: k as a fraction of n. seed: of the order of tied rows. Returns a value in [0, 1];
    with itself it is the share of rows with a mutual neighbor, not 1.
    Raises InputError for NaN, n < 4, a constant representation.
    Source: Huh et al. 2024, released code (cycle_knn).
    """
    first, second = _neighbor_lists(x, y, n_neighbors, seed)
    lists = [set(ids) for ids in first]
    return sum(any(i in lists[j] for j in ids) for i, ids in enumerate(second)) / len(first)


def _neighbor_lists(x, y, n_neighbors: float, seed: int) -> tuple[list[list[int]], list[list[int]]]:
    k = count_neighbors(same_rows(x, y), n_neighbors)
    n = len(x)
    first, second = (
        nearest(z, k, ties=tie_order(n, name, seed)).tolist() for name, z in (("x", x), ("y", y))
    )
    return first, second


class Query(NamedTuple):
    """What some rows of the second list ask of the table."""

    cells: Int[Tensor, "b rows k"]  # row * n + neighbor, within the slab
    rows: Int[Tensor, " rows"]  # places of these rows in the second list


def walk(
    cells: Sequence[Int[Tensor, " e"]],
    values: Sequence[Tensor],
    sizes: tuple[int, int],
    questions: Sequence[Callable[[slice], tuple[Int[Tensor, "b rows k"], Tensor]]],
    answer: Callable[[Tensor, Query], Float[Tensor, "b a"]],
) -> Float[Tensor, "p b a"]:
    """Look up neighbors of the second list in a table of the first, in slabs of rows.

    cells: of each first layer, ascending row * n + neighbor; values: what stands there (else 0).
    sizes: rows m and columns n. questions: one per permutation; of a slab of rows, the neighbor ids
    of every second layer and the places of these rows in it. answer(table [rows * n, a], query):
    sums over the slab; one line of the table serves all first layers.
    """
    m, n = sizes
    kind = values[0].dtype
    floats = len(cells) * torch.empty(0, dtype=kind).element_size() / 4
    step = max(1, int(TABLE // (n * floats)))
    out: Tensor | None = None
    for start in range(0, m, step):
        stop = min(m, start + step)
        table = torch.zeros((stop - start) * n, len(cells), dtype=kind)
        for i, (at, held) in enumerate(zip(cells, values, strict=True)):
            low, high = torch.searchsorted(at, torch.tensor([start * n, stop * n])).tolist()
            table[at[low:high] - start * n, i] = held[low:high]
        lines = torch.arange(stop - start)[:, None] * n
        asked = (ask(slice(start, stop)) for ask in questions)
        part = torch.stack([answer(table, Query(lines + ids, rows)) for ids, rows in asked])
        out = part if out is None else out + part
    assert out is not None
    return out


def edge_cells(
    ids: Int[Tensor, "m k"], kept: Int[Tensor, " m"], n: int, incoming: bool = False
) -> Int[Tensor, " e"]:
    """Cells of a layer's edges; row i holds its neighbors, or (incoming) the rows that have it.

    ids, kept: in the numbering of the whole sample, of n rows; row r of the table is kept[r].
    """
    m = len(kept)
    if not incoming:
        return (torch.arange(m)[:, None] * n + ids).sort(1).values.flatten()
    place = torch.zeros(n, dtype=torch.long)
    place[kept] = torch.arange(m)
    return (place[ids] * n + kept[:, None]).flatten().sort().values


def relabeled(
    ids: Int[Tensor, "b n k"], order: Int[np.ndarray, " n"]
) -> Callable[[slice], tuple[Int[Tensor, "b rows k"], Tensor]]:
    """The question of a permutation: the row now at i is order[i], its neighbors move alike."""
    places, inverse = torch.as_tensor(order), torch.as_tensor(np.argsort(order))
    return lambda part: (inverse[ids[:, places[part]]], places[part])


def as_they_are(
    ids: Int[Tensor, "b m k"],
) -> Callable[[slice], tuple[Int[Tensor, "b rows k"], Tensor]]:
    """The question of unpermuted rows."""
    rows = torch.arange(ids.shape[1])
    return lambda part: (ids[:, part], rows[part])


def neighbor_ids(layers: Sequence[KNNLayer]) -> Int[Tensor, "a n k"]:
    """The first k ids of every layer. Raises InputError where the layers count different k."""
    if len(counts := {p.k for p in layers}) > 1:
        raise InputError(f"layers with k = {sorted(counts)} neighbors: one k is needed")
    return torch.stack([p.ids[:, : p.k] for p in layers]).long()


def kept_ids(layers: Sequence[KNNLayer], kept: Int[np.ndarray, " m"]) -> Int[Tensor, "a m k"]:
    """The first k kept ids of every kept row of every layer, numbered as in the whole sample."""
    return torch.stack([kept_neighbors(p, kept) for p in layers])


class Overlap(NamedTuple):
    """A mean over rows of a function of a count."""

    # k -> score of 0..k: [k + 1].
    scores: Callable[[int], Tensor]
    # Whether the count is of neighbors in Y that have row i as a neighbor in X.
    incoming: bool = False

    def values(self, xs: Sequence[KNNLayer], ys: Sequence[KNNLayer]) -> Float[Tensor, "a b"]:
        """The mean score of every pair. Cost n k a b."""
        n = same_rows(xs[0].ids, ys[0].ids)
        return self.permuted(xs, ys, np.arange(n)[None])[0]

    def permuted(
        self, xs: Sequence[KNNLayer], ys: Sequence[KNNLayer], orders: Int[np.ndarray, "p n"]
    ) -> Float[Tensor, "p a b"]:
        """The same after the rows of the second list are reordered: y[orders[b]]."""
        same_rows(xs[0].ids, ys[0].ids)
        first, second = neighbor_ids(xs), neighbor_ids(ys)
        rows = torch.arange(first.shape[1])
        return self._mean(first, rows, [relabeled(second, order) for order in orders])

    def deleted(
        self, xs: Sequence[KNNLayer], ys: Sequence[KNNLayer], folds: Int[np.ndarray, " n"]
    ) -> Float[Tensor, "f a b"]:
        """The same with fold f left out, for each f; k stays that of the whole sample."""
        same_rows(xs[0].ids, ys[0].ids)
        return torch.stack(list(self._without(xs, ys, folds)))

    def _without(self, xs, ys, folds) -> Iterator[Tensor]:
        for kept in kept_rows(folds, xs[0].k):
            first, second = kept_ids(xs, kept), kept_ids(ys, kept)
            rows, n = torch.as_tensor(kept), len(folds)
            yield self._mean(first, rows, [as_they_are(second)], n)[0]

    def _mean(self, first: Tensor, kept: Tensor, questions, n: int | None = None) -> Tensor:
        m, k = first.shape[1:]
        n = m if n is None else n
        scores = self.scores(k).to(torch.float64)
        cells = [edge_cells(ids, kept, n, self.incoming) for ids in first]
        # float32 holds counts exactly.
        ones = [torch.ones(m * k)] * len(cells)

        def answer(table: Tensor, query: Query) -> Tensor:
            b, rows, _ = query.cells.shape
            bags = query.cells.flatten(0, 1)
            counts = torch.nn.functional.embedding_bag(bags, table, mode="sum").long()
            return scores[counts].view(b, rows, -1).sum(1)

        return walk(cells, ones, (m, n), questions, answer).mT / m


def _jaccard(k: int) -> Tensor:
    shared = torch.arange(k + 1, dtype=torch.float64)
    return shared / (2 * k - shared)


JACCARD = Overlap(_jaccard)
CYCLE = Overlap(lambda k: (torch.arange(k + 1) > 0).double(), incoming=True)


def overlap_chances(n: int, k: int) -> Float[np.ndarray, " k1"]:
    """P(m) for m = 0..k: two random sets of k of the n - 1 other rows share m (hypergeometric)."""
    total = math.comb(n - 1, k)
    return np.array(
        [math.comb(k, m) * math.comb(n - 1 - k, k - m) / total for m in range(k + 1)],
        dtype=np.float64,
    )


def jaccard_null(n: int, k: int) -> float:
    """Exact mean of `jaccard_knn` under a uniformly random pairing: sum_m P(m) m / (2k - m)."""
    shared = np.arange(k + 1)
    return float(overlap_chances(n, k) @ (shared / (2 * k - shared)))


def cycle_null(layer: KNNLayer) -> float:
    """Exact mean of `cycle_knn` under a uniformly random pairing, `layer` being the first one.

    Row i is the neighbor of a_i rows in X, and its k neighbors in Y are a random set:
    1/n sum_i (1 - C(n - 1 - a_i, k) / C(n - 1, k)).
    """
    n, k = layer.ids.shape[0], layer.k
    incoming = torch.bincount(layer.ids[:, :k].long().flatten(), minlength=n)
    degrees, counts = torch.unique(incoming, return_counts=True)
    total = math.comb(n - 1, k)
    missed = [math.comb(n - 1 - a, k) / total for a in degrees.tolist()]
    return 1 - float(np.dot(missed, counts.numpy())) / n


def prepare_cosine(x: Float[Tensor, "n d"], name: str = "x", **options) -> KNNLayer:
    """Find each row's neighbors by cosine once; options as of `prepare_knn`."""
    return prepare_knn(x, name, metric="cosine", **options)


_RIGID = frozenset({"orthogonal", "scale", "translation", "permutation"})
_COST = "n^2 D once per layer; a pair or a permutation n k a b"

MEASURES: dict[str, Measure] = {
    "mutual_knn_cosine": Measure(
        function=mutual_knn_cosine,
        prepare=prepare_cosine,
        values=knn_values,
        permuted=knn_permuted,
        deleted=knn_deleted,
        moments=knn_moments,
        definition="mean share of the k nearest neighbors by cosine in common, k a fraction of n",
        source="Huh et al. 2024, app. A",
        cost=_COST,
        bias="k / (n - 1) for unrelated features; at fixed k falls as n grows",
        null="k / (n - 1) exactly",
        invariances=_RIGID - {"translation"},
        uses_neighbors=True,
    ),
    "jaccard_knn": Measure(
        function=jaccard_knn,
        prepare=prepare_knn,
        values=JACCARD.values,
        permuted=JACCARD.permuted,
        deleted=JACCARD.deleted,
        moments=None,
        definition="mean Jaccard index of the sets of k nearest (Euclidean) neighbors",
        source="Wang et al. 2022 (instability of network embedding), k-NN Jaccard similarity",
        cost=_COST,
        bias="upwards by its null mean, which is below that of mutual_knn",
        null="sum_m P(m) m / (2k - m), P hypergeometric: exact mean (jaccard_null)",
        invariances=_RIGID,
        uses_neighbors=True,
    ),
    "cycle_knn": Measure(
        function=cycle_knn,
        prepare=prepare_knn,
        values=CYCLE.values,
        permuted=CYCLE.permuted,
        deleted=CYCLE.deleted,
        moments=None,
        definition="share of rows i with a j in N_Y(i) that has i in N_X(j); asymmetric, saturates",
        source="Huh et al. 2024, released code (cycle_knn)",
        cost=_COST,
        bias="upwards: about 1 - exp(-k^2 / n) for unrelated features, .6 at k = sqrt(n)",
        null="1/n sum_i (1 - C(n - 1 - a_i, k) / C(n - 1, k)), a_i in-degrees of X: exact mean",
        invariances=_RIGID,
        uses_neighbors=True,
        symmetric=False,
        equal=None,
    ),
}
