"""Nearest rows of each row, without the matrix of all distances.

    euclidean   ||q - x||^2 = ||q||^2 + ||x||^2 - 2 <q, x>   (rows centered first), smallest
    cosine      <q, x> / (||q|| ||x||), largest
    dot         <q, x>, largest

x [n, d] and queries [q, d] in one float dtype; values [q, k] and ids [q, k] int64, nearest first,
equal values by the lower id. float64 is computed in float64 and compared in fp32, so that rows at
equal distance tie instead of being ordered by rounding; narrower dtypes are computed in fp32. A
squared distance below `EQUAL` of the squared norms is rounding: it is 0.

    eager   slabs of `SLAB` scores, each merged into the best so far
    triton  ranks by <q, x> - ||x||^2 / 2 in the product's epilogue, with a certificate
            (`_fused_topk`); fp32 throughout

2 q n d operations; memory independent of q n.
Source: Huh et al. 2024 (arXiv 2405.07987), appendix A, for the use; the identity is elementary.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from interp_kernels import _backend
from interp_kernels._fused_topk import fused_keys, unpack_keys
from interp_kernels.encode_topk import _select

# Scores that exist at once: 16 MB in fp32.
SLAB = 1 << 22
ROWS = 1024
# Rounding of a squared distance as a share of both squared norms, by dtype of the computation.
EQUAL = {torch.float64: 1e-13, torch.float32: 2e-6}
METRICS = ("euclidean", "cosine", "dot")


def knn_topk_reference(
    x: Tensor, n_neighbors: int, queries: Tensor | None = None, metric: str = "euclidean"
) -> tuple[Tensor, Tensor]:
    """Readable twin of `knn_topk`: all scores in float64 and a stable sort; itself excluded."""
    rows = x.double()
    asked = rows if queries is None else queries.double()
    if metric == "cosine":
        rows, asked = F.normalize(rows, dim=1), F.normalize(asked, dim=1)
    scores = asked @ rows.T
    if metric == "euclidean":
        scores = -(asked[:, None] - rows[None]).square().sum(dim=2)
    if queries is None:
        scores.fill_diagonal_(-torch.inf)
    values, ids = scores.float().sort(dim=1, descending=True, stable=True)
    sign = -1 if metric == "euclidean" else 1
    return sign * values[:, :n_neighbors], ids[:, :n_neighbors]


def _prepare(x: Tensor, queries: Tensor, metric: str) -> tuple[Tensor, Tensor]:
    """Rows and queries in the dtype of the computation, centered or of norm 1."""
    wide = torch.float64 if x.dtype == torch.float64 else torch.float32
    rows, asked = x.to(wide), queries.to(wide)
    if metric == "euclidean":
        center = rows.mean(dim=0)
        return rows - center, asked - center
    if metric == "cosine":
        return F.normalize(rows, dim=1), F.normalize(asked, dim=1)
    return rows, asked


def _distances(products: Tensor, both: Tensor) -> Tensor:
    """Squared distances of inner products and summed squared norms; rounding becomes 0."""
    squared = both - 2 * products
    return torch.where(squared <= EQUAL[squared.dtype] * both, 0, squared)


def _scores(asked: Tensor, rows: Tensor, metric: str) -> Tensor:
    """fp32 scores [q, n], larger is nearer."""
    products = asked @ rows.T
    if metric != "euclidean":
        return products.float()
    both = asked.square().sum(dim=1)[:, None] + rows.square().sum(dim=1)
    return -_distances(products, both).float()


def _stream(asked: Tensor, rows: Tensor, own: Tensor, other: Tensor, k: int, metric: str):
    """Best [q, k] of one slab of queries, over blocks of rows with ascending ids."""
    width = max(1, SLAB // max(len(asked), 1))
    best = ids = None
    for start in range(0, len(rows), width):
        part = slice(start, start + width)
        scores = _scores(asked, rows[part], metric)
        scores.masked_fill_(own[:, None] == other[part], -torch.inf)
        values, found = _select(scores, min(k, scores.shape[1]))
        found = found + start
        if best is not None and ids is not None:
            # The best so far stand first: their ids are lower than those of this block.
            both, places = torch.cat([best, values], dim=1), torch.cat([ids, found], dim=1)
            values, order = _select(both, min(k, both.shape[1]))
            found = places.gather(1, order)
        best, ids = values, found
    assert best is not None and ids is not None  # noqa: PT018
    return best, ids


def _eager(asked: Tensor, rows: Tensor, own: Tensor, other: Tensor, k: int, metric: str):
    values = torch.empty(len(asked), k, dtype=torch.float32, device=rows.device)
    ids = torch.empty(len(asked), k, dtype=torch.int64, device=rows.device)
    for start in range(0, len(asked), ROWS):
        part = slice(start, start + ROWS)
        values[part], ids[part] = _stream(asked[part], rows, own[part], other, k, metric)
    return values, ids


def _triton(asked: Tensor, rows: Tensor, own: Tensor, other: Tensor, k: int, metric: str):
    norms = rows.square().sum(dim=1)
    bias = -norms / 2 if metric == "euclidean" else torch.zeros_like(norms)
    keys = fused_keys(asked, rows, bias, k, (own, other))
    allowed = keys != -(1 << 63)
    values, ids = unpack_keys(keys)
    ids = torch.where(allowed, ids, 0)
    if metric == "euclidean":
        both = asked.square().sum(dim=1)[:, None] + norms[ids]
        values = -_distances(values + norms[ids] / 2, both)
    return torch.where(allowed, values, -torch.inf), ids


@torch.library.custom_op("interp::knn_topk", mutates_args=())
def _op(
    x: Tensor, queries: Tensor, own: Tensor, other: Tensor, k: int, metric: str, backend: str
) -> tuple[Tensor, Tensor]:
    _backend.check_finite("knn_topk", x, "x")
    _backend.check_finite("knn_topk", queries, "queries")
    rows, asked = _prepare(x, queries, metric)
    search = _triton if backend == "triton" else _eager
    values, ids = search(asked, rows, own, other, k, metric)
    ids = torch.where(values == -torch.inf, -1, ids)
    return -values if metric == "euclidean" else values, ids


@_op.register_fake
def _(x, queries, own, other, k, metric, backend):
    values = x.new_empty((len(queries), k), dtype=torch.float32)
    return values, torch.empty_like(values, dtype=torch.int64)


def knn_topk(
    x: Float[Tensor, "n d"],
    n_neighbors: int,
    *,
    queries: Float[Tensor, "q d"] | None = None,
    groups: Int[Tensor, " n"] | None = None,
    metric: str = "euclidean",
    exclude_self: bool = True,
    backend: str | None = None,
) -> tuple[Float[Tensor, "q k"], Int[Tensor, "q k"]]:
    """Find the nearest rows of each row (or query); equal ones by the lower id.

    Args:
        x: [n, d] rows.
        n_neighbors: k, at most the number of rows that may be found.
        queries: [q, d] to look up in x; None takes the rows of x themselves.
        groups: [n] integers; rows of one group (positions of one image) are no neighbors of each
            other. Only without queries.
        metric: "euclidean", "cosine" (a zero row has cosine 0) or "dot".
        exclude_self: a row is not its own neighbor; without meaning beside queries.
        backend: "auto", "eager" or "triton" ("dense" is "eager"); None asks `using_backend`.

    Returns:
        values [q, k] fp32, squared distances ascending ("euclidean") or similarities descending,
        and ids [q, k] int64. Where groups leave fewer than k rows: inf (-inf) and -1. No gradients.

    Raises:
        KernelError: sizes, dtypes, devices or the metric do not fit; (on a CPU) a row holds NaN or
            inf; the backend cannot run here.
    """
    name = "knn_topk"
    asked = x if queries is None else queries
    integers = {} if groups is None else {"groups": groups}
    _backend.check_tensors(name, floats={"x": x, "queries": asked}, integers=integers)
    _backend.check_shape(name, "x", x, {"n": None, "d": None})
    n, d = x.shape
    _backend.check_sizes(name, d=d, n_neighbors=n_neighbors)
    _backend.check_shape(name, "queries", asked, {"q": None, "d": d})
    if metric not in METRICS:
        raise _backend.KernelError(f"{name}: metric {metric!r} is none of {', '.join(METRICS)}")
    if groups is not None:
        _backend.check_shape(name, "groups", groups, {"n": n})
        if queries is not None:
            raise _backend.KernelError(f"{name}: groups are of x's own rows; leave out queries")
    alone = queries is None and exclude_self
    if n_neighbors > n - alone:
        raise _backend.KernelError(
            f"{name}: n_neighbors = {n_neighbors} of n = {n} rows, at most {n - alone}"
        )
    chosen = _backend.resolve_streaming(backend, device=x.device, dtype=x.dtype)
    own, other = _groups(x, asked, groups, alone)
    return _op(x.contiguous(), asked.contiguous(), own, other, n_neighbors, metric, chosen)


def _groups(x: Tensor, asked: Tensor, groups: Tensor | None, alone: bool) -> tuple[Tensor, Tensor]:
    """int32 labels of queries and rows; a query never finds a row of its own label."""
    if groups is not None:
        labels = groups.contiguous()
        if groups.dtype == torch.int64:
            labels = torch.unique(groups, return_inverse=True)[1].int()
        return labels, labels
    other = torch.arange(len(x), dtype=torch.int32, device=x.device)
    if alone:
        return other, other
    return torch.full((len(asked),), -1, dtype=torch.int32, device=x.device), other
