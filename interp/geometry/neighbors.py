"""Mutual k-nearest neighbors: how much of each image's neighborhood two representations share.

    m = 1 / (n k) sum_i |N_X(i) & N_Y(i)|,   N_X(i) the k rows nearest to row i, itself excluded.

Huh et al. (2024, app. A) take the nearest by cosine; the default here is the Euclidean distance,
which is also translation-invariant and under which leaving rows out never moves the others, so that
the jackknife is exact. `metric="cosine"` gives theirs. k is a fraction of n: at fixed k the overlap
falls as n grows.

Under a uniformly random pairing the mean is exactly k / (n - 1); the standard deviation follows
exactly from the in-degrees and the reciprocated edges of the two graphs (Mantel 1967: moments of
sum_ij A_ij B_p(i)p(j)) and is larger than the hypergeometric one, because hubs are shared.

Ties. Each representation has a random circular order of its rows, drawn from its name and a seed
and kept for all permutations and folds; of rows at equal distance (one-hot features, rectified ones
that are mostly zero, repeated rows) those that follow row i on the circle come first. Elsewhere in
this library ties go to the lower id. Here that is wrong: both representations would choose the same
low ids, an overlap that the pairing has and that relabeled pairings lose, and unrelated one-hot
features would be "aligned" in every sample. An order that knows neither features nor images leaves
the rows of a representation exchangeable, so that the permutation test is exact with ties too; a
circle gives each row other winners, so that ties make no hubs, which cost power. What ties leave
open counts as chance: two representations with the same ties overlap by less than 1. Without ties
the order changes nothing, and the value is that of the definition to the last bit.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.errors import InputError
from interp.geometry.features import center, same_rows
from interp.geometry.measure import Measure
from interp.geometry.moments import pairing_moments, share_sums
from interp.geometry.search import check_width, metric_rows, nearest, search_rows, tie_order

# Huh et al. (2024) use k = 10 of n = 1024.
FRACTION = 0.01
# Floats of one lookup table: 256 MB in float32.
TABLE = 1 << 26


def count_neighbors(n: int, fraction: float = FRACTION) -> int:
    """k = round(fraction * n), at least 1. Raises InputError unless 0 < fraction and k <= n - 2."""
    k = max(1, round(fraction * n))
    if not 0 < fraction < 1 or k > n - 2:
        raise InputError(
            f"n_neighbors = {fraction} of n = {n} rows gives k = {k}; it is a fraction of n with "
            f"1 <= k <= n - 2 = {n - 2}, for example {FRACTION}"
        )
    return k


def list_width(n: int, k: int) -> int:
    """Neighbors that are kept of each row, so that few run out of k where a tenth is left out.

    Rows that do are searched again. Up to n / 64 torch.topk goes its short way.
    """
    return max(k + k // 4 + 6, min(n // 64 - 1, 2 * k + 16))


def mutual_knn(
    x: Float[Tensor, "n d"],
    y: Float[Tensor, "n e"],
    n_neighbors: float = FRACTION,
    metric: str = "euclidean",
    seed: int = 0,
) -> float:
    """Mean share of k nearest neighbors that two representations have in common.

    n_neighbors: k as a fraction of n. seed: of the order of tied rows. Returns a value in
    [0, 1]; 1 for equal neighborhoods without ties, expectation k / (n - 1) for unrelated ones. Cost
    n^2 (d + e), memory n k.
    Raises InputError for NaN, n < 4, a constant representation.
    Source: Huh et al. 2024, app. A (module docstring for the difference).
    """
    n = same_rows(x, y)
    k = count_neighbors(n, n_neighbors)
    a, b = (
        nearest(z, k, metric=metric, ties=tie_order(n, name, seed)).tolist()
        for name, z in (("x", x), ("y", y))
    )
    return sum(len(set(p) & set(q)) for p, q in zip(a, b, strict=True)) / (n * k)


class KNNLayer(NamedTuple):
    """Neighbor ids of one representation, wider than k so that rows can be left out."""

    x: Tensor | np.ndarray  # [n, d] as they were given, not copied: do not write into them
    ids: Tensor  # [n, w] int32, nearest first, w >= k
    k: int
    units: np.ndarray | None
    ties: np.ndarray  # [n] places on the circle that orders tied rows
    metric: str = "euclidean"

    @property
    def rows(self) -> Float[Tensor, "n d"]:
        """The rows as `metric_rows` has them, made anew: kept, they would be large in float64."""
        return metric_rows(self.x, self.metric)


def prepare_knn(
    x: Float[Tensor, "n d"],
    name: str = "x",
    *,
    n_neighbors: float = FRACTION,
    units: np.ndarray | None = None,
    seed: int = 0,
    ties: Int[np.ndarray, " n"] | None = None,
    metric: str = "euclidean",
) -> KNNLayer:
    """Find each row's neighbors once. Cost n^2 d.

    n_neighbors: k as a fraction of n. units: [n], as in `nearest`. metric: as in `nearest`.
    name, seed: of the order of tied rows; the two sides of a comparison need different names.
    ties: the order itself, in place of both.
    """
    if metric != "euclidean":
        # Rows that are all equal are refused under every metric.
        center(x, name)
    rows = metric_rows(x, metric, name)
    n = rows.shape[0]
    k = count_neighbors(n, n_neighbors)
    largest = 1 if units is None else int(np.bincount(units).max())
    if k > n - largest:
        raise InputError(f"{name}: k = {k} neighbors, but only {n - largest} rows of other images")
    width = min(n - largest, list_width(n, k))
    ties = tie_order(n, name, seed) if ties is None else ties
    ids = search_rows(rows, width, units, metric, ties)
    return KNNLayer(x, ids, k, units, ties, metric)


def knn_values(xs: Sequence[KNNLayer], ys: Sequence[KNNLayer]) -> Float[Tensor, "a b"]:
    """Overlap of every pair of a first and a second list of layers. Cost n k a b."""
    n = same_rows(xs[0].ids, ys[0].ids)
    order = np.arange(n)[None]
    return knn_permuted(xs, ys, order)[0]


def knn_permuted(
    xs: Sequence[KNNLayer], ys: Sequence[KNNLayer], orders: Int[np.ndarray, "p n"]
) -> Float[Tensor, "p a b"]:
    """Overlap of every pair after the rows of the second list are reordered: y[orders[b]].

    Only ids are relabeled: neighbor j of the row now at i stands at inverse(j). Exact: the order of
    tied rows moves with the rows.
    """
    n = same_rows(xs[0].ids, ys[0].ids)
    k = xs[0].k
    first = torch.stack([p.ids[:, :k] for p in xs]).long()
    second = torch.stack([q.ids[:, :k] for q in ys]).long()
    relabeled = [(torch.as_tensor(order), torch.as_tensor(np.argsort(order))) for order in orders]
    out = torch.zeros(len(orders), len(xs), len(ys), dtype=torch.float64)
    step = max(1, TABLE // (n * len(xs)))
    for start in range(0, n, step):
        part = slice(start, min(n, start + step))
        table = torch.zeros(min(step, n - start) * n, len(xs))
        _mark(table, first[:, part], n, 1.0)
        for b, (order, inverse) in enumerate(relabeled):
            out[b] += _count(table, inverse[second[:, order[part]]], n).T
    return out / (n * k)


def _mark(table: Tensor, ids: Int[Tensor, "a rows k"], n: int, value: float) -> None:
    """Set [row * n + neighbor, layer] of a [rows * n, a] table: a line per (row, neighbor)."""
    a, rows, k = ids.shape
    cell = torch.arange(rows)[:, None] * n + ids
    owner = torch.arange(a)[:, None, None].expand(a, rows, k)
    table[cell.flatten(), owner.flatten()] = value


def _count(table: Tensor, ids: Int[Tensor, "b rows k"], n: int) -> Float[Tensor, "b a"]:
    cells = torch.arange(ids.shape[1])[:, None] * n + ids
    return torch.nn.functional.embedding_bag(cells.flatten(1), table, mode="sum").double()


def knn_deleted(
    xs: Sequence[KNNLayer], ys: Sequence[KNNLayer], folds: Int[np.ndarray, " n"]
) -> Float[Tensor, "f a b"]:
    """Overlap of every pair with fold f left out, for each f; k stays that of the whole sample.

    The neighbors of a kept row are its first k kept ids; a row whose list runs out is searched
    again, so that the result is exact.
    """
    n, k = same_rows(xs[0].ids, ys[0].ids), xs[0].k
    step = max(1, TABLE // (n * len(xs)))
    table = torch.zeros(min(step, n) * n, len(xs))
    out = []
    for kept in kept_rows(folds, k):
        first, second = (
            torch.stack([kept_neighbors(p, kept) for p in layers]) for layers in (xs, ys)
        )
        counts = torch.zeros(len(xs), len(ys), dtype=torch.float64)
        for start in range(0, len(kept), step):
            part = slice(start, start + step)
            _mark(table, first[:, part], n, 1.0)
            counts += _count(table, second[:, part], n).T
            # Wiping the marks is cheaper than a new table.
            _mark(table, first[:, part], n, 0.0)
        out.append(counts / (len(kept) * k))
    return torch.stack(out)


def kept_rows(folds: Int[np.ndarray, " n"], k: int) -> Iterator[np.ndarray]:
    """Rows outside each fold in turn. Raises InputError where they are too few for k neighbors."""
    for f in range(int(folds.max()) + 1):
        kept = np.flatnonzero(folds != f)
        if len(kept) < max(4, k + 2):
            raise InputError(
                f"fold {f} leaves {len(kept)} of {len(folds)} rows for k = {k}: use more folds"
            )
        yield kept


def kept_neighbors(layer: KNNLayer, kept: np.ndarray) -> Int[Tensor, "m k"]:
    """The k nearest kept rows of each kept row, in the numbering of the whole sample."""
    units = None if layer.units is None else layer.units[kept]
    check_width(len(kept), layer.k, units)
    ids = layer.ids.numpy()[kept]
    alive = np.zeros(layer.ids.shape[0], dtype=bool)
    alive[kept] = True
    good = alive[ids]
    reach = np.cumsum(good, axis=1, dtype=np.int32)
    take = good & (reach <= layer.k)
    short = np.flatnonzero(reach[:, -1] < layer.k)
    take[short] = np.arange(ids.shape[1]) < layer.k
    out = ids[take].reshape(len(kept), layer.k).astype(np.int64)
    if len(short):
        # The same circle, of the rows that are left.
        ties = layer.ties[kept].argsort().argsort()
        rows = layer.rows[torch.from_numpy(kept)]
        out[short] = kept[search_rows(rows, layer.k, units, layer.metric, ties, short).numpy()]
    return torch.from_numpy(out)


def knn_moments(
    xs: Sequence[KNNLayer], ys: Sequence[KNNLayer]
) -> tuple[Float[Tensor, "a b"], Float[Tensor, "a b"]]:
    """Exact mean k / (n - 1) and sd over all n! pairings, from each graph's degrees."""
    n, k = same_rows(xs[0].ids, ys[0].ids), xs[0].k
    sums_x, sums_y = (torch.stack([edge_sums(p) for p in layers]) for layers in (xs, ys))
    mean, sd = pairing_moments(sums_x, sums_y, n)
    return mean / (n * k), sd / (n * k)


def edge_sums(layer: KNNLayer) -> Float[Tensor, "8"]:
    """`share_sums` of the matrix of directed edges to the k nearest."""
    n, k = layer.ids.shape[0], layer.k
    ids = layer.ids[:, :k].long()
    incoming = torch.bincount(ids.flatten(), minlength=n).double()
    rows = torch.arange(n)[:, None]
    mutual = float(torch.isin((rows * n + ids).flatten(), (ids * n + rows).flatten()).sum())
    return share_sums(torch.full_like(incoming, k), incoming, n * k, mutual)


MEASURES: dict[str, Measure] = {
    "mutual_knn": Measure(
        function=mutual_knn,
        prepare=prepare_knn,
        values=knn_values,
        permuted=knn_permuted,
        deleted=knn_deleted,
        moments=knn_moments,
        definition="mean share of the k nearest (Euclidean) neighbors in common, k a fraction of n",
        source="Huh et al. 2024, app. A (there: cosine)",
        cost="n^2 D once per layer; a pair or a permutation n k a b",
        bias="k / (n - 1) for unrelated features; at fixed k falls as n grows",
        null="k / (n - 1) exactly",
        invariances=frozenset({"orthogonal", "scale", "translation", "permutation"}),
        uses_neighbors=True,
    ),
}
