"""CKNNA: kernel alignment over shared nearest neighbors, as its paper and as its code have it.

K = X X', L = Y Y' for features as given; the k nearest are those of the largest inner product
(cosine where rows have norm 1, as in the paper's recipe). With A(i, j) = 1 where j is a neighbor of
i in both, and Kc_ij = K_ij - mean_l K_il,

    paper:  a(K, L) = sum_ij A(i, j) Kc_ij Lc_ij
    code:   a(K, L) = sum_ij P_ij Q_ji + sum P sum Q / ((n-1)(n-2)) - 2/(n-2) sum (P Q),
            P = A * K and Q = A * L entry by entry (HSIC of Song et al. 2012, eq. 5),

and the value is a(K, L) / sqrt(a(K, K) a(L, L)), where a(K, K) takes all neighbors of K. They are
different numbers. The paper's is the cosine of two sparse matrices, in [-1, 1]. The code's first
sum pairs P_ij with Q_ji, so that it counts only pairs that are neighbors in both directions, and
sum (P Q) is not that of (Q P), so that the value depends on the order of the two. The code adds
1e-6 to the denominator, which makes the value depend on the scale of the features; we do not. Where
a self-term is not positive (orthogonal features: every kernel entry is 0) we raise.

Both need the neighbor ids and n k inner products per layer; no n x n array.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.errors import InputError
from interp.geometry.features import same_rows
from interp.geometry.measure import Measure
from interp.geometry.moments import pairing_moments, share_sums
from interp.geometry.neighbors import (
    FRACTION,
    KNNLayer,
    count_neighbors,
    kept_neighbors,
    kept_rows,
    prepare_knn,
)
from interp.geometry.overlaps import Query, neighbor_ids, walk
from interp.geometry.search import SLAB, metric_rows, nearest, tie_order

# A self-term below this share of the sum of squared kernel entries is rounding.
DEGENERATE = 1e-12


def cknna(
    x: Float[Tensor, "n d"],
    y: Float[Tensor, "n e"],
    n_neighbors: float = FRACTION,
    seed: int = 0,
) -> float:
    """CKNNA, the formula of the paper (module docstring), written out with n x n arrays.

    n_neighbors: k as a fraction of n. seed: of the order of tied rows. Returns a value in [-1, 1];
    not translation-invariant, as its neighbors are those of the largest inner product.
    Raises InputError for NaN, n < 4, a constant representation, a kernel that is 0 at neighbors.
    Source: Huh et al. 2024, app. A.
    """
    (k, a), (el, b) = _dense(x, y, n_neighbors, seed)
    p, q = (a * (k - k.mean(1, keepdim=True)), b * (el - el.mean(1, keepdim=True)))
    return float((p * q).sum() / (_positive((p * p).sum(), k) * _positive((q * q).sum(), el)))


def cknna_code(
    x: Float[Tensor, "n d"],
    y: Float[Tensor, "n e"],
    n_neighbors: float = FRACTION,
    seed: int = 0,
) -> float:
    """CKNNA, the released code without its epsilon (module docstring), written out.

    n_neighbors: k as a fraction of n. seed: of the order of tied rows. cknna_code(y, x) is another
    number.
    Raises InputError as `cknna`, and where a self-term is not positive.
    Source: Huh et al. 2024, released code (cknna, unbiased=True).
    """
    (k, a), (el, b) = _dense(x, y, n_neighbors, seed)
    both = a * b
    self_x, self_y = _hsic(a * k, a * k), _hsic(b * el, b * el)
    return float(_hsic(both * k, both * el) / (_positive(self_x, k) * _positive(self_y, el)))


def _dense(x, y, n_neighbors: float, seed: int) -> list[tuple[Tensor, Tensor]]:
    """Kernel and directed neighbor mask of both."""
    k, out = count_neighbors(same_rows(x, y), n_neighbors), []
    for name, z in (("x", x), ("y", y)):
        rows = metric_rows(z, "dot", name)
        ids = nearest(rows, k, metric="dot", ties=tie_order(len(rows), name, seed))
        mask = torch.zeros(len(rows), len(rows), dtype=torch.float64).scatter_(1, ids.long(), 1.0)
        out.append((rows @ rows.T, mask))
    return out


def _hsic(p: Tensor, q: Tensor) -> Tensor:
    """HSIC_1 of Song et al. times n (n - 3), for matrices that need not be symmetric."""
    n = len(p)
    sums = p.sum() * q.sum() / ((n - 1) * (n - 2))
    return (p * q.T).sum() + sums - 2 / (n - 2) * (p.sum(0) @ q.sum(1))


def _positive(own: Tensor, kernel: Tensor) -> Tensor:
    """Root of a self-term."""
    if not bool(own > DEGENERATE * kernel.square().sum() / len(kernel)):
        raise InputError(_MESSAGE.format(float(own)))
    return own.sqrt()


_MESSAGE = (
    "the self-term of a representation is {:.3g}, not positive: its kernel says nothing at its "
    "nearest neighbors (rows of large norm are everybody's neighbors); scale rows to norm 1, or "
    "take more neighbors"
)


def prepare_dot(x: Float[Tensor, "n d"], name: str = "x", **options) -> KNNLayer:
    """Find each row's neighbors by inner product once; options as of `prepare_knn`."""
    return prepare_knn(x, name, metric="dot", **options)


class Sparse(NamedTuple):
    """The kernel of one representation at the neighbors of its rows."""

    ids: Tensor  # [m, k] ascending in each row, in the numbering of the whole sample
    kernel: Tensor  # [m, k] K_ij
    centered: Tensor  # [m, k] K_ij - mean_l K_il
    both: Tensor  # [m, k] 1.0 where i is a neighbor of j too
    rows: Tensor  # [m] kept rows


def _sparse(layer: KNNLayer, ids: Int[Tensor, "m k"], rows: Int[Tensor, " m"]) -> Sparse:
    x, ids = layer.rows, ids.long().sort(1).values
    n = len(x)
    step = max(1, SLAB // (ids.shape[1] * x.shape[1]))
    slabs = zip(rows.split(step), ids.split(step), strict=True)
    kernel = torch.cat([torch.einsum("rd,rkd->rk", x[i], x[j]) for i, j in slabs])
    means = x[rows] @ x[rows].mean(0)
    there, back = rows[:, None] * n + ids, ids * n + rows[:, None]
    both = torch.isin(back, there).double()
    return Sparse(ids, kernel, kernel - means[:, None], both, rows)


def _whole(layers: Sequence[KNNLayer]) -> list[Sparse]:
    rows = torch.arange(len(layers[0].ids))
    return [_sparse(p, ids, rows) for p, ids in zip(layers, neighbor_ids(layers), strict=True)]


def _kept(layers: Sequence[KNNLayer], kept: np.ndarray) -> list[Sparse]:
    rows = torch.as_tensor(kept)
    return [_sparse(p, kept_neighbors(p, kept), rows) for p in layers]


def cknna_values(xs: Sequence[KNNLayer], ys: Sequence[KNNLayer]) -> Float[Tensor, "a b"]:
    """CKNNA of every pair. Cost n k d per layer, then n k a b."""
    n = same_rows(xs[0].ids, ys[0].ids)
    return cknna_permuted(xs, ys, np.arange(n)[None])[0]


def cknna_permuted(
    xs: Sequence[KNNLayer], ys: Sequence[KNNLayer], orders: Int[np.ndarray, "p n"]
) -> Float[Tensor, "p a b"]:
    """CKNNA of every pair after the rows of the second list are reordered: y[orders[b]]."""
    n = same_rows(xs[0].ids, ys[0].ids)
    return _cosines(_whole(xs), _whole(ys), n, orders)


def cknna_deleted(
    xs: Sequence[KNNLayer], ys: Sequence[KNNLayer], folds: Int[np.ndarray, " n"]
) -> Float[Tensor, "f a b"]:
    """CKNNA of every pair with fold f left out, for each f; k stays that of the whole sample."""
    n = same_rows(xs[0].ids, ys[0].ids)
    parts = ((_kept(xs, kept), _kept(ys, kept)) for kept in kept_rows(folds, xs[0].k))
    return torch.stack([_cosines(a, b, n)[0] for a, b in parts])


def _cosines(first: list[Sparse], second: list[Sparse], n: int, orders=None) -> Tensor:
    m = len(first[0].ids)
    lines = torch.arange(m)[:, None] * n
    ids = torch.stack([q.ids for q in second])
    weights = torch.stack([q.centered for q in second])

    def question(order):
        rows = torch.arange(m) if order is None else torch.as_tensor(order)
        inverse = torch.arange(n) if order is None else torch.as_tensor(np.argsort(order))
        return lambda part: (inverse[ids[:, rows[part]]], rows[part])

    def answer(table: Tensor, query: Query) -> Tensor:
        return torch.nn.functional.embedding_bag(
            query.cells.flatten(1),
            table,
            mode="sum",
            per_sample_weights=weights[:, query.rows].flatten(1),
        )

    cells = [(lines + p.ids).flatten() for p in first]
    held = [p.centered.flatten() for p in first]
    questions = [question(order) for order in ([None] if orders is None else orders)]
    own = [torch.stack([_own_cosine(p) for p in part]) for part in (first, second)]
    return walk(cells, held, (m, n), questions, answer).mT / (own[0][:, None] * own[1][None, :])


def cknna_moments(
    xs: Sequence[KNNLayer], ys: Sequence[KNNLayer]
) -> tuple[Float[Tensor, "a b"], Float[Tensor, "a b"]]:
    """Exact mean and sd over all n! pairings: the value is sum_ij P_ij Q_ij for fixed P and Q."""
    n = same_rows(xs[0].ids, ys[0].ids)
    sums_x, sums_y = (torch.stack([_cosine_sums(p) for p in _whole(part)]) for part in (xs, ys))
    return pairing_moments(sums_x, sums_y, n)


def _cosine_sums(p: Sparse) -> Float[Tensor, "8"]:
    own = _own_cosine(p)
    there = p.centered / own
    means = p.kernel[:, 0] - p.centered[:, 0]
    back = p.both * (p.kernel - means[p.ids]) / own
    incoming = torch.zeros(len(p.ids), dtype=torch.float64)
    incoming.index_add_(0, p.ids.flatten(), there.flatten())
    return share_sums(there.sum(1), incoming, 1.0, float((there * back).sum()))


def _own_cosine(p: Sparse) -> Tensor:
    own = p.centered.square().sum()
    if not bool(own > DEGENERATE * p.kernel.square().sum()):
        raise InputError(_MESSAGE.format(float(own)))
    return own.sqrt()


def code_values(xs: Sequence[KNNLayer], ys: Sequence[KNNLayer]) -> Float[Tensor, "a b"]:
    """The code's CKNNA of every pair. Cost n k d per layer, then n k log(k) a b."""
    n = same_rows(xs[0].ids, ys[0].ids)
    return code_permuted(xs, ys, np.arange(n)[None])[0]


def code_permuted(
    xs: Sequence[KNNLayer], ys: Sequence[KNNLayer], orders: Int[np.ndarray, "p n"]
) -> Float[Tensor, "p a b"]:
    """The code's CKNNA after the rows of the second list are reordered: y[orders[b]]."""
    same_rows(xs[0].ids, ys[0].ids)
    first, second = _whole(xs), _whole(ys)
    own = _own_codes(first)[:, None] * _own_codes(second)[None, :]
    return torch.stack([_codes(first, [_moved(q, o) for q in second]) / own for o in orders])


def code_deleted(
    xs: Sequence[KNNLayer], ys: Sequence[KNNLayer], folds: Int[np.ndarray, " n"]
) -> Float[Tensor, "f a b"]:
    """The code's CKNNA with fold f left out, for each f; k stays that of the whole sample."""
    same_rows(xs[0].ids, ys[0].ids)
    out = []
    for kept in kept_rows(folds, xs[0].k):
        first, second = _kept(xs, kept), _kept(ys, kept)
        own = _own_codes(first)[:, None] * _own_codes(second)[None, :]
        out.append(_codes(first, second) / own)
    return torch.stack(out)


def _moved(q: Sparse, order: np.ndarray) -> Sparse:
    places, inverse = torch.as_tensor(order), torch.as_tensor(np.argsort(order))
    ids = inverse[q.ids[places]]
    return Sparse(ids, q.kernel[places], q.centered[places], q.both[places], q.rows)


def _codes(first: list[Sparse], second: list[Sparse]) -> Tensor:
    return torch.stack([torch.stack([_code(p, q) for q in second]) for p in first])


def _code(p: Sparse, q: Sparse) -> Tensor:
    """HSIC_1 times n (n - 3) over the entries that are neighbors in both (module docstring)."""
    m, k = p.ids.shape
    at = torch.searchsorted(p.ids, q.ids).clamp(max=k - 1)
    hit = p.ids.gather(1, at) == q.ids
    left, right = p.kernel.gather(1, at) * hit, q.kernel * hit
    pairs = (left * right * p.both.gather(1, at) * q.both).sum()
    columns = torch.zeros(int(q.rows[-1]) + 1, dtype=torch.float64)
    columns.index_add_(0, q.ids.flatten(), left.flatten())
    sums = left.sum() * right.sum() / ((m - 1) * (m - 2))
    return pairs + sums - 2 / (m - 2) * (columns[q.rows] @ right.sum(1))


def _own_codes(layers: list[Sparse]) -> Float[Tensor, " a"]:
    return torch.stack([_own_code(p) for p in layers])


def _own_code(p: Sparse) -> Tensor:
    own = _code(p, p)
    if not bool(own > DEGENERATE * p.kernel.square().sum()):
        raise InputError(_MESSAGE.format(float(own)))
    return own.sqrt()


_INVARIANCES = frozenset({"orthogonal", "scale", "permutation"})

MEASURES: dict[str, Measure] = {
    "cknna": Measure(
        function=cknna,
        prepare=prepare_dot,
        values=cknna_values,
        permuted=cknna_permuted,
        deleted=cknna_deleted,
        moments=cknna_moments,
        definition="cosine of the two row-centered inner-product kernels, each kept at its own k "
        "nearest (by inner product) and 0 elsewhere: the paper's formula",
        source="Huh et al. 2024, app. A",
        cost="n^2 D once per layer; a pair or a permutation n k a b",
        bias="noisy: only the shared neighbors count; at fixed k falls as n grows",
        null="exact mean and sd from row, column and reciprocal sums (Mantel 1967)",
        invariances=_INVARIANCES,
        uses_neighbors=True,
    ),
    "cknna_code": Measure(
        function=cknna_code,
        prepare=prepare_dot,
        values=code_values,
        permuted=code_permuted,
        deleted=code_deleted,
        moments=None,
        definition="HSIC_1 of the two inner-product kernels kept at the shared k nearest (by inner "
        "product), over the roots of the self-terms: the released code, without its epsilon",
        source="Huh et al. 2024, released code (cknna, unbiased=True)",
        cost="n^2 D once per layer; a pair or a permutation n k log(k) a b",
        bias="noisy: counts pairs that are neighbors both ways in both; not symmetric",
        null="not known",
        invariances=_INVARIANCES,
        uses_neighbors=True,
        symmetric=False,
    ),
}
