"""Intrinsic dimension of one representation from the distances to its nearest neighbors.

Where the density is constant up to the k-th neighbor, volumes of shells between neighbors are
exponential, so ratios of distances know the dimension D of the manifold and not the density:

    TwoNN    r_2 / r_1 has the distribution function 1 - mu^-D
    Gride    r_2m / r_m, the same at a larger scale
    MLE      the mean of log(r_k / r_j) over j < k estimates 1 / D.

All fall short in high dimensions: n rows fill a ball of D = 50 so thinly that neighbors are far and
near the surface. Read them as a curve over n (`n_curve`) or over scales (`gride_curve`).

Equal rows have distance 0, for which no ratio exists: that is an error with their number;
`distinct_rows` drops repeats and says how many.
"""

from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from interp.errors import InputError
from interp.geometry.features import MIN_ROWS, as_rows, center
from interp.geometry.neighbors import FRACTION, count_neighbors
from interp.geometry.search import SLAB, nearest

# Share of the smallest ratios in the fit: the largest scatter most. Facco et al. 2017, Methods.
KEPT = 0.9
# Order of the nearer neighbor of Gride: the first scale beyond TwoNN, which is Gride at 1.
GRIDE_ORDER = 2
# Dimensions among which Gride's likelihood is maximal: no features here are wider.
HIGHEST = 1e6
# Logs of ratios below this are rounding: the distances are equal.
EQUAL = 1e-12
# Neighbors without which the maximum-likelihood estimate has no mean of logs to speak of.
LEAST_NEIGHBORS = 3


def neighbor_distances(x: Float[Tensor | np.ndarray, "n d"], width: int) -> Float[Tensor, "n w"]:
    """Distances to the `width` nearest rows, ascending, of the centered rows of norm 1.

    Differences are taken entry by entry, so that equal rows have distance 0 and near ones keep
    their digits. Cost n^2 d in slabs, then n w d.
    Raises InputError for NaN, n < 4, a constant representation, width > n - 1, equal rows.
    """
    rows = center(x)
    n, d = rows.shape
    if not 1 <= width <= n - 1:
        raise InputError(f"{width} neighbors of n = {n} rows: there are {n - 1}")
    ids = nearest(rows, width).long()
    step = max(1, SLAB // (width * d))
    slabs = zip(rows.split(step), ids.split(step), strict=True)
    out = [torch.linalg.vector_norm(rows[near] - own[:, None], dim=2) for own, near in slabs]
    distances = torch.cat(out).sort(1).values
    if zero := int((distances[:, 0] == 0).sum()):
        raise InputError(
            f"{zero} of n = {n} rows equal another row: their nearest distance is 0 and has no "
            "ratio; drop the repeats with distinct_rows, and report how many"
        )
    return distances


def _log_ratio(far: Tensor, near: Tensor) -> Tensor:
    logs = (far / near).log()
    return torch.where(logs > EQUAL, logs, 0.0)


class Distinct(NamedTuple):
    """Rows without repeats."""

    x: Float[Tensor, "m d"]
    kept: Bool[Tensor, " n"]
    dropped: int


def distinct_rows(x: Float[Tensor | np.ndarray, "n d"]) -> Distinct:
    """The first of each set of equal rows, and how many were dropped.

    Equal means equal in every entry. Raises InputError for NaN, n < 4, fewer than 4 distinct rows.
    """
    rows = as_rows(x)
    _, group = torch.unique(rows, dim=0, return_inverse=True)
    first = torch.full((int(group.max()) + 1,), len(rows), dtype=torch.long)
    first.scatter_reduce_(0, group, torch.arange(len(rows)), "amin")
    kept = torch.zeros(len(rows), dtype=torch.bool)
    kept[first] = True
    if len(first) < MIN_ROWS:
        raise InputError(f"{len(first)} distinct rows of n = {len(rows)}; {MIN_ROWS} are needed")
    return Distinct(rows[kept], kept, len(rows) - len(first))


def twonn(x: Float[Tensor | np.ndarray, "n d"], method: str = "fit") -> float:
    """Intrinsic dimension from the ratio of the distances to the two nearest rows.

    With mu_i = r_2 / r_1 in ascending order,

        "fit"  slope of -log(1 - i / n) over log mu_i through the origin, of the first 90 %
        "ml"   n / sum_i log mu_i, over all rows; times (n - 1) / n it is unbiased.

    Returns the dimension. Falls short of the truth in high dimensions and rises with n; the scale
    is the finest there is, so that noise counts as dimensions. Cost n^2 d, memory 2 n.
    Raises InputError as `neighbor_distances`, for another method, and where r_1 = r_2 in all rows.
    Source: Facco et al. 2017, Methods ("fit"); Denti et al. 2022 ("ml").
    """
    if method not in ("fit", "ml"):
        raise InputError(f"method {method!r} is fit or ml")
    distances = neighbor_distances(x, 2)
    logs = _log_ratio(distances[:, 1], distances[:, 0]).sort().values
    n, kept = len(logs), int(KEPT * len(logs))
    if bool(logs[kept - 1] <= 0):
        raise InputError(
            f"the two nearest rows are equally far from {kept} of n = {n} rows (a lattice?): "
            "the dimension is not defined"
        )
    if method == "ml":
        return n / float(logs.sum())
    below = torch.arange(1, kept + 1, dtype=torch.float64) / n
    part = logs[:kept]
    return float((part * -torch.log1p(-below)).sum() / part.square().sum())


def gride(x: Float[Tensor | np.ndarray, "n d"], order: int = GRIDE_ORDER) -> float:
    """Intrinsic dimension from the ratio of the distances to the order-th and 2 order-th row.

    The D that maximizes the likelihood of mu_i = r_2m / r_m, m = order: the density of mu is
    D (mu^D - 1)^(m - 1) / (B(m, m) mu^((2m - 1) D + 1)); its logarithm is concave in D. order = 1
    is `twonn(x, "ml")`. Cost n^2 d, memory 2 m n.
    Raises InputError as `neighbor_distances`, and for order < 1 or 2 order > n - 1.
    Source: Denti et al. 2022, Gride with n_1 = m, n_2 = 2m.
    """
    if order < 1:
        raise InputError(f"order {order} of the nearer neighbor is at least 1")
    distances = neighbor_distances(x, 2 * order)
    return _gride(distances, order)


def _gride(distances: Tensor, order: int) -> float:
    logs = _log_ratio(distances[:, 2 * order - 1], distances[:, order - 1])
    if bool((logs <= 0).all()):
        raise InputError(
            f"neighbors {order} and {2 * order} are equally far from every row (a lattice?): the "
            "dimension is not defined"
        )
    low, high = 0.0, HIGHEST
    # Enough halvings for all digits of the dimension.
    for _ in range(80):
        middle = (low + high) / 2
        low, high = (middle, high) if _slope(logs, order, middle) > 0 else (low, middle)
    return (low + high) / 2


def _slope(logs: Tensor, order: int, dimension: float) -> float:
    """Derivative of the log-likelihood: it falls with the dimension."""
    out = len(logs) / dimension - (2 * order - 1) * logs.sum()
    if order > 1:
        # mu^D log mu / (mu^D - 1), whose limit at mu = 1 is 1 / D.
        grown = dimension * logs
        ratio = torch.where(grown > 0, logs / -torch.expm1(-grown.clamp(min=1e-300)), 1 / dimension)
        out = out + (order - 1) * ratio.sum()
    return float(out)


class GrideCurve(NamedTuple):
    """Gride over scales. Entries of the same place belong together."""

    orders: tuple[int, ...]
    # Mean distance to the 2 order-th neighbor, rows centered and of Frobenius norm sqrt(n).
    scale: tuple[float, ...]
    dimension: tuple[float, ...]


def gride_curve(x: Float[Tensor, "n d"], largest: float = 0.05) -> GrideCurve:
    """Gride at orders 1, 2, 4, ... from one graph; a plateau is the dimension.

    largest: the farthest neighbor used, as a fraction of n. Noise dominates small scales and
    curvature large ones. Cost n^2 d, memory n k.
    Raises InputError as `gride`, and for a fraction that leaves no scale.
    Source: Denti et al. 2022 (scale-dependent estimates).
    """
    distances = neighbor_distances(x, max(2, count_neighbors(len(x), largest)))
    orders, order = [], 1
    while 2 * order <= distances.shape[1]:
        orders.append(order)
        order *= 2
    scale = tuple(float(distances[:, 2 * m - 1].mean()) * len(x) ** 0.5 for m in orders)
    return GrideCurve(tuple(orders), scale, tuple(_gride(distances, m) for m in orders))


def mle(x: Float[Tensor | np.ndarray, "n d"], n_neighbors: float = FRACTION) -> float:
    """Intrinsic dimension by maximum likelihood over k neighbors, inverses averaged over rows.

    D = [1/n sum_i 1/(k - 1) sum_(j < k) log(r_ik / r_ij)]^-1. n_neighbors: k as a fraction of n, at
    least 3. Averaging 1 / D rather than D is what maximizes the joint likelihood and removes most
    of the upward bias of small k. Cost n^2 d, memory n k.
    Raises InputError as `neighbor_distances`, for k > n - 2, and where all k are equally far.
    Source: Levina and Bickel 2004, sec. 2; MacKay and Ghahramani 2005 for the average.
    """
    k = max(LEAST_NEIGHBORS, count_neighbors(len(as_rows(x)), n_neighbors))
    distances = neighbor_distances(x, k)
    logs = _log_ratio(distances[:, -1:], distances[:, :-1]).mean()
    if float(logs) <= 0:
        raise InputError(
            f"the {k} nearest rows are equally far from every row: the dimension is not defined"
        )
    return 1 / float(logs)
