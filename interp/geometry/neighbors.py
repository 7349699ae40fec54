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

import hashlib
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.errors import InputError
from interp.geometry.features import as_rows, center, same_rows
from interp.geometry.measure import Measure
from interp.geometry.moments import pairing_moments, share_sums

# Huh et al. (2024) use k = 10 of n = 1024.
FRACTION = 0.01
# Floats in one slab of distances: 32 MB in float64.
SLAB = 1 << 22
# A float32 matrix of all dissimilarities is kept up to this size (n = 8192), which halves the
# products; beyond, slabs.
MAX_WHOLE_BYTES = 1 << 28
# Side of its tiles.
TILE = 256
# Squared distances below this share of the squared norms are rounding: the rows are equal.
EQUAL = 1e-13
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


def nearest(
    x: Float[Tensor | np.ndarray, "n d"],
    width: int,
    *,
    units: np.ndarray | None = None,
    metric: str = "euclidean",
    ties: Int[np.ndarray, " n"] | None = None,
) -> Int[Tensor, "n w"]:
    """Ids of the `width` nearest rows of each row, nearest first; int32.

    Distances are taken in float64 and compared in float32, so that rows at equal distance tie
    instead of being ordered by rounding. Cost n^2 d / 2 up to n = 8192; beyond, n^2 d in slabs:
    never an n x n array above 256 MB.

    units: [n]; rows of the same unit (positions of one image) are not neighbors of each other.
    metric: "euclidean"; "cosine" about the origin or "dot", the largest inner product: these two
    are not translation-invariant, and under "dot" rows of large norm are everybody's neighbors.
    ties: [n] places of the rows on a circle, a permutation of 0..n - 1 as from `tie_order`: of rows
    at equal distance the next after row i come first. None: the lower id first, which must not be
    used on both sides of a comparison.
    Raises InputError for NaN, n < 4, a constant representation, a zero row under cosine.
    """
    rows = metric_rows(x, metric)
    n = rows.shape[0]
    own = None if units is None else torch.as_tensor(units)
    places = torch.arange(n) if ties is None else torch.as_tensor(ties).long()
    starts = torch.zeros_like(places) if ties is None else places
    ids = places.argsort().int()
    out = torch.empty(n, width, dtype=torch.int32)
    norms = rows.square().sum(1)
    whole = _symmetric(rows, norms, metric) if 4 * n * n <= MAX_WHOLE_BYTES else None
    for part in _parts(n, max(1, SLAB // n)):
        everything = slice(0, n)
        apart = _apart(rows, norms, part, everything, metric) if whole is None else whole[part]
        if own is None:
            apart.diagonal(part.start).fill_(torch.inf)
        else:
            apart[own[part, None] == own[None, :]] = torch.inf
        best = apart.topk(min(width + 1, n), largest=False, sorted=True)
        out[part] = best.indices[:, :width]
        # A tie inside the list or at its end: the circle decides.
        again = (best.values[:, 1:] == best.values[:, :-1]).any(1).nonzero().flatten()
        begin = starts[part][again, None]
        way = (places[None, :] - begin) % n
        keys = (_sortable(apart[again]).long() << 32) | way
        found = keys.topk(width, dim=1, largest=False, sorted=True).values
        out[part.start + again] = ids[((found & 0xFFFFFFFF) + begin) % n]
    return out


def _parts(n: int, step: int) -> list[slice]:
    return [slice(start, min(n, start + step)) for start in range(0, n, step)]


def _symmetric(rows: Tensor, norms: Tensor, metric: str) -> Float[Tensor, "n n"]:
    """Dissimilarities of all pairs, float32, at half of the products."""
    n = len(norms)
    out = torch.empty(n, n)
    for first in (blocks := _parts(n, TILE)):
        for second in blocks[blocks.index(first) :]:
            tile = _apart(rows, norms, first, second, metric)
            out[first, second] = tile
            out[second, first] = tile.T
    return out


def _apart(rows: Tensor, norms: Tensor, first: slice, second: slice, metric: str) -> Tensor:
    """Dissimilarities of two ranges of rows, in float64 and then rounded to float32."""
    products = rows[first] @ rows[second].T
    if metric == "dot":
        # Inner products that are only rounding are 0.
        lengths = norms[first, None] * norms[None, second]
        return -products.masked_fill_(products.square() <= EQUAL**2 * lengths, 0).float()
    both = norms[first, None] + norms[None, second]
    squared = products.mul_(-2).add_(both)
    return squared.masked_fill_(squared <= both.mul_(EQUAL), 0).float()


def _sortable(values: Tensor) -> Int[Tensor, "*s"]:
    """int32 in the order of the values rounded to float32; 0 and -0 are equal."""
    bits = (values.float() + 0.0).view(torch.int32)
    return bits ^ ((bits >> 31) & 0x7FFFFFFF)


def metric_rows(
    x: Float[Tensor | np.ndarray, "n d"], metric: str, name: str = "x"
) -> Float[Tensor, "n d"]:
    """The checked rows whose nearest are searched, as the metric has them.

    Centered and of norm 1 ("euclidean"), each of norm 1 ("cosine"), or the whole of norm 1 ("dot").
    Raises InputError as `center`, for a zero row under cosine, and for another metric.
    """
    if metric == "euclidean":
        return center(x, name)
    rows = as_rows(x, name)
    if metric == "cosine":
        return _unit_rows(rows, name)
    if metric == "dot":
        rows = rows / rows.abs().max().clamp(min=torch.finfo(rows.dtype).tiny)
        return rows / torch.linalg.vector_norm(rows).clamp(min=1)
    raise InputError(f"metric {metric!r} is euclidean, cosine or dot")


def tie_order(n: int, name: str, seed: int = 0) -> Int[np.ndarray, " n"]:
    """Places [n] of n rows on a circle: random, the same for a name and a seed.

    Orders of different names are independent, which makes permutation tests exact under ties.
    """
    digest = hashlib.sha256(f"ties of {name}".encode()).digest()
    return np.random.default_rng([seed, int.from_bytes(digest[:8], "big")]).permutation(n)


def _unit_rows(rows: Tensor, name: str) -> Tensor:
    peaks = rows.abs().amax(1, keepdim=True)
    if bool((peaks == 0).any()):
        raise InputError(
            f"{name}: {int((peaks == 0).sum())} rows are zero and have no cosine; use euclidean"
        )
    rows = rows / peaks
    return rows / torch.linalg.vector_norm(rows, dim=1, keepdim=True)


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

    x: Tensor  # [n, d] as `metric_rows` has them
    ids: Tensor  # [n, w] int32, nearest first, w >= k
    k: int
    units: np.ndarray | None
    ties: np.ndarray  # [n] places on the circle that orders tied rows
    metric: str = "euclidean"


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
    center(x, name)
    rows = metric_rows(x, metric, name)
    n = rows.shape[0]
    k = count_neighbors(n, n_neighbors)
    largest = 1 if units is None else int(np.bincount(units).max())
    if k > n - largest:
        raise InputError(f"{name}: k = {k} neighbors, but only {n - largest} rows of other images")
    # Wide enough that few rows run out of neighbors without a fold of up to half the rows.
    width = min(n - largest, 4 * k + 32, 2 * k + 128)
    ties = tie_order(n, name, seed) if ties is None else ties
    ids = nearest(rows, width, units=units, metric=metric, ties=ties)
    return KNNLayer(rows, ids, k, units, ties, metric)


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
        units = None if layer.units is None else layer.units[kept]
        # The same circle, of the rows that are left.
        ties = layer.ties[kept].argsort().argsort()
        again = nearest(layer.x[kept], layer.k, units=units, metric=layer.metric, ties=ties)
        again = again[short].numpy()
        out[short] = kept[again]
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
