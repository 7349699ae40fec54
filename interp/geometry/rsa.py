"""Representational similarity analysis: how alike the distances between images are.

    RSA = comparison(RDM(X), RDM(Y)),   RDM(X)_ij = dissimilarity of rows i and j, for i < j.

RDMs are Euclidean, squared Euclidean or one minus the Pearson correlation of two rows; they are
compared by Pearson, Spearman (tied ranks share their mean), Kendall's tau-b ("kendall") or tau-a
("kendall_a", Nili et al. 2014), the cosine, or the whitened cosine (Diedrichsen et al. 2021: V, up
to a factor, is the covariance of the distance estimates under iid noise),

    d_x' V^-1 d_y / sqrt(d_x' V^-1 d_x  d_y' V^-1 d_y),   V_(ij)(kl) = ((e_i - e_j)'(e_k - e_l))^2,

which is the cosine of the double-centered RDMs: of squared Euclidean ones it is biased linear CKA,
of Euclidean ones the squared distance correlation.

Distances between noisy rows are biased upwards by the noise. With r draws of each row (noise of a
diffusion model, say) `crossnobis` estimates squared distances without bias.

Under a uniformly random pairing Pearson, Spearman and both Kendalls have mean exactly 0; the sd of
the first two is exact too (`interp.geometry.pairs`).
"""

from collections.abc import Callable, Sequence
from functools import partial
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.errors import InputError
from interp.geometry.features import MIN_ROWS, center, same_rows
from interp.geometry.measure import Measure
from interp.geometry.pairs import (
    PairLayer,
    Project,
    as_square,
    blocks,
    check_rows,
    cut_folds,
    distances,
    make_layer,
    order_codes,
    pair_deleted,
    pair_moments,
    pair_permuted,
    pair_values,
    project_double,
    project_mean,
    project_none,
    project_ranks,
)

METRICS = ("euclidean", "squared", "correlation")
PROJECTIONS: MappingProxyType[str, Project] = MappingProxyType(
    {
        "pearson": project_mean,
        "spearman": project_ranks,
        "kendall": project_ranks,
        "kendall_a": project_ranks,
        "cosine": project_none,
        "whitened": project_double,
    }
)


def rdm_similarity(
    x: Float[Tensor, "n d"],
    y: Float[Tensor, "n e"],
    metric: str = "euclidean",
    comparison: str = "spearman",
) -> float:
    """Similarity of two representations by their dissimilarity matrices, written out.

    metric: "euclidean", "squared" or "correlation"; comparison: "pearson", "spearman", "kendall"
    (tau-b), "kendall_a", "cosine" or "whitened". Returns a value in [-1, 1]. Cost n^2 (d + e), for
    Kendall and Spearman n^2 log n more.
    Raises InputError for NaN, n < 4, n > 20,000, a constant representation, rows that are all
    equally far from each other, a constant row (or d = 1) under "correlation".
    Source: Kriegeskorte et al. 2008; module docstring.
    """
    same_rows(x, y)
    return compare_rdms(_condensed(x, metric, "x"), _condensed(y, metric, "y"), comparison)


def _condensed(x: Float[Tensor, "n d"], metric: str, name: str) -> Float[np.ndarray, " pairs"]:
    """The distances by subtraction, row from row."""
    if metric not in METRICS:
        raise InputError(f"no metric {metric!r}; there are {', '.join(METRICS)}")
    if metric == "correlation":
        return distances(x, metric, name).numpy()
    out = torch.pdist(center(x, name)).numpy()
    return out**2 if metric == "squared" else out


def compare_rdms(
    a: Float[np.ndarray, " pairs"], b: Float[np.ndarray, " pairs"], comparison: str = "spearman"
) -> float:
    """Similarity of two dissimilarity vectors, entries i < j row by row; see `rdm_similarity`."""
    from scipy import stats

    n = _count_rows(len(a))
    if len(a) != len(b):
        raise InputError(f"the RDMs have {len(a)} and {len(b)} entries; rows must be the same")
    first, second = (_layer(torch.as_tensor(z), n, comparison, w) for z, w in ((a, "x"), (b, "y")))
    if comparison == "pearson":
        return float(np.corrcoef(a, b)[0, 1])
    if comparison == "spearman":
        # Equal up to float32 is equal: `order_codes`.
        return float(np.corrcoef(*(stats.rankdata(z.astype(np.float32)) for z in (a, b)))[0, 1])
    if comparison in ("kendall", "kendall_a"):
        return _kendall(first.raw, second.raw, corrected=comparison == "kendall")
    if comparison == "cosine":
        return float(a @ b / np.sqrt((a @ a) * (b @ b)))
    centering = np.eye(n) - 1 / n
    c, d = (centering @ as_square(torch.as_tensor(z), n).numpy() @ centering for z in (a, b))
    return float((c * d).sum() / np.sqrt((c * c).sum() * (d * d).sum()))


def _count_rows(pairs: int) -> int:
    n = round((1 + (1 + 8 * pairs) ** 0.5) / 2)
    if n * (n - 1) // 2 != pairs or n < MIN_ROWS:
        raise InputError(f"{pairs} entries are not n (n - 1) / 2 of n >= {MIN_ROWS} rows")
    return n


def _layer(rdm: Tensor, n: int, comparison: str, name: str) -> PairLayer:
    if comparison not in PROJECTIONS:
        raise InputError(f"no comparison {comparison!r}; there are {', '.join(PROJECTIONS)}")
    project = PROJECTIONS[comparison]
    return make_layer(order_codes(rdm) if project is project_ranks else rdm, n, project, name)


def _kendall(a: Tensor, b: Tensor, corrected: bool = True) -> float:
    """tau-b of two vectors of codes, or tau-a: not corrected for ties."""
    from scipy import stats

    tau = float(stats.kendalltau(a.numpy(), b.numpy(), method="asymptotic")[0])  # pyright: ignore
    if corrected:
        return tau
    pairs = len(a) * (len(a) - 1) / 2
    counts = [torch.bincount(z).double() for z in (a, b)]
    untied = [1 - float((c * (c - 1)).sum()) / 2 / pairs for c in counts]
    return tau * (untied[0] * untied[1]) ** 0.5


def prepare_rsa(
    x: Float[Tensor, "n d"], name: str = "x", *, metric: str, comparison: str
) -> PairLayer:
    """Distances, ranked or centered once. Cost n^2 d / 2. Raises InputError as `rdm_similarity`."""
    rdm = distances(x, metric, name)
    return _layer(rdm, x.shape[0], comparison, name)


def kendall_values(xs: Sequence[PairLayer], ys: Sequence[PairLayer]) -> Float[Tensor, "a b"]:
    """tau-b of every pair of layers. Cost a b n^2 log n."""
    same_rows(xs[0].sums, ys[0].sums)
    return torch.tensor([[_kendall(p.raw, q.raw) for q in ys] for p in xs], dtype=torch.float64)


def kendall_permuted(
    xs: Sequence[PairLayer], ys: Sequence[PairLayer], orders: Int[np.ndarray, "p n"]
) -> Float[Tensor, "p a b"]:
    """tau-b after the rows of the second list are reordered. Each costs a b n^2 log n."""
    n = same_rows(xs[0].sums, ys[0].sums)
    out = torch.zeros(len(orders), len(xs), len(ys), dtype=torch.float64)
    for j, q in enumerate(ys):
        square = as_square(q.raw, n)
        for b, order in enumerate(torch.as_tensor(orders)):
            moved = torch.cat([square[order[rows], order[cols]] for _, rows, cols in blocks(n)])
            for i, p in enumerate(xs):
                out[b, i, j] = _kendall(p.raw, moved)
    return out


def kendall_deleted(
    xs: Sequence[PairLayer], ys: Sequence[PairLayer], folds: Int[np.ndarray, " n"]
) -> Float[Tensor, "f a b"]:
    """tau-b of every pair with fold f left out, for each f."""
    return torch.stack([kendall_values(*parts) for parts in cut_folds(xs, ys, folds)])


def crossnobis(
    draws: Float[Tensor, "n r d"], noise: Float[Tensor, "..."] | None = None
) -> Float[Tensor, " pairs"]:
    """Cross-validated squared distances of rows i < j, from r >= 2 draws of each row.

    With the differences g_a = x_ia - x_ja of draw a,

        d_ij = 1 / (r (r - 1)) sum_{a != b} g_a' S^-1 g_b,

    unbiased where draws are independent: its expectation is the squared distance of the noiseless
    rows, and 0 for equal ones, so that estimates can be negative. Noise that all rows of a draw
    share cancels. noise: S, variances [d] or a covariance [d, d] of one draw about its row, as from
    `noise_variances`; None: the identity, squared Euclidean distances. Cost n^2 r d.
    Raises InputError for NaN, n < 4, n > 20,000, r < 2, a noise that is not positive.
    Source: Walther et al. 2016, sec. 2 (there divided by the number of columns).
    """
    rows = _check_draws(draws, "draws")
    n, r, _ = rows.shape
    if noise is not None:
        rows = _whitened(rows, torch.as_tensor(noise, dtype=torch.float64))
    # sum over a != b = |sum over a|^2 - sum over a of |g_a|^2; rows near the origin keep digits.
    rows = rows - rows.mean((0, 1))
    parts = []
    for _, i, j in blocks(n):
        out = torch.zeros(len(i), dtype=torch.float64)
        for z, sign in [(rows.sum(1), 1), *((rows[:, a], -1) for a in range(r))]:
            out += sign * _squared(z, i, j)
        parts.append(out / (r * (r - 1)))
    return torch.cat(parts)


def _squared(z: Float[Tensor, "n d"], i: Tensor, j: Tensor) -> Tensor:
    first, last = int(i[0]), int(i[-1]) + 1
    norms, products = z.square().sum(1), z[first:last] @ z.T
    return norms[i] + norms[j] - 2 * products[i - first, j]


def _check_draws(draws: Any, name: str) -> Float[Tensor, "n r d"]:
    draws = torch.as_tensor(draws)
    if draws.ndim != 3 or draws.shape[1] < 2:
        raise InputError(
            f"{name} have shape {tuple(draws.shape)}; crossnobis takes [n rows, r >= 2 draws, d]"
        )
    n, r, d = draws.shape
    flat = draws.reshape(n, r * d)
    center(flat, name)
    check_rows(n, name)
    return draws.detach().to(torch.float64)


def _whitened(rows: Float[Tensor, "n r d"], noise: Tensor) -> Tensor:
    d = rows.shape[2]
    if noise.shape == (d,) and bool((noise > 0).all()):
        return rows / noise.sqrt()
    if noise.shape == (d, d):
        factor, failed = torch.linalg.cholesky_ex((noise + noise.T) / 2)
        if not int(failed):
            flat = rows.reshape(-1, d).T
            return torch.linalg.solve_triangular(factor, flat, upper=False).T.reshape(rows.shape)
    raise InputError(
        f"noise of shape {tuple(noise.shape)} for d = {d} must be {d} positive variances or a "
        "positive definite covariance; leave out columns without noise, or shrink the covariance"
    )


def noise_variances(draws: Float[Tensor, "n r d"]) -> Float[Tensor, " d"]:
    """Variance of one draw about its row, pooled over rows, per column: n (r - 1) df."""
    return _check_draws(draws, "draws").var(1).mean(0)


def prepare_crossnobis(
    draws: Float[Tensor, "n r d"],
    name: str = "x",
    *,
    comparison: str = "pearson",
    noise: Float[Tensor, "..."] | None = None,
) -> PairLayer:
    """A layer of crossnobis distances for the fast paths of the RSA of that comparison."""
    rdm = crossnobis(_check_draws(draws, name), noise)
    return _layer(rdm, draws.shape[0], comparison, name)


def rsa_crossnobis(
    x: Float[Tensor, "n r d"], y: Float[Tensor, "n s e"], comparison: str = "pearson"
) -> float:
    """RSA on crossnobis distances of repeated draws; see `crossnobis` and `rdm_similarity`.

    Noise shared by the draws of x and y still correlates the two: draw it independently.
    """
    same_rows(x, y)
    return compare_rdms(crossnobis(x).numpy(), crossnobis(y).numpy(), comparison)


_EUCLIDEAN = frozenset({"orthogonal", "scale", "translation", "permutation"})
_CORRELATION = frozenset({"scale", "permutation"})


def _rsa(metric: str, comparison: str, definition: str, **fields: Any) -> Measure:
    fast: tuple[Callable[..., Any], ...] = (pair_values, pair_permuted, pair_deleted)
    if comparison == "kendall":
        fast = kendall_values, kendall_permuted, kendall_deleted
    known = {
        "source": "Kriegeskorte et al. 2008",
        "cost": "n^2 D once; a pair or a permutation n^2 a b",
        "bias": "noise adds to every distance: with repeated draws use crossnobis",
        "null": "0 exactly; the sd follows exactly from the row sums of the RDMs",
        "invariances": _CORRELATION if metric == "correlation" else _EUCLIDEAN,
        "min_width": 2 if metric == "correlation" else 1,
        "moments": None if comparison == "kendall" else pair_moments,
    }
    return Measure(
        partial(rdm_similarity, metric=metric, comparison=comparison),
        partial(prepare_rsa, metric=metric, comparison=comparison),
        *fast,
        definition=definition,
        **{**known, **fields},
    )


MEASURES: dict[str, Measure] = {
    "rsa_pearson": _rsa("euclidean", "pearson", "Pearson correlation of Euclidean distances"),
    "rsa_spearman": _rsa("euclidean", "spearman", "Spearman correlation of Euclidean distances"),
    "rsa_kendall": _rsa(
        "euclidean",
        "kendall",
        "Kendall's tau-b of Euclidean distances",
        cost="n^2 D once; a pair or a permutation a b n^2 log n: the costly comparison",
        null="0 exactly",
    ),
    "rsa_squared_pearson": _rsa(
        "squared", "pearson", "Pearson correlation of squared Euclidean distances"
    ),
    "rsa_correlation_pearson": _rsa(
        "correlation", "pearson", "Pearson correlation of 1 - r, r that of two rows over columns"
    ),
    "rsa_correlation_spearman": _rsa(
        "correlation", "spearman", "Spearman correlation of 1 - r, r that of two rows over columns"
    ),
}
