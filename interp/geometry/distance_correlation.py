"""Distance correlation: the cosine of double-centered Euclidean distance matrices.

With a_ij = |x_i - x_j|, b_ij = |y_i - y_j| and H = I - 11'/n, the V statistic is

    R_n^2 = <HaH, HbH> / (|HaH| |HbH|),

at least 0, and for population distributions 0 only under independence (Szekely et al. 2007,
def. 3: its root R_n is the sample distance correlation). It is biased upwards, for wide features to
nearly 1. The U statistic centers to zero diagonals and zero row sums instead (Szekely and Rizzo
2014, eq. 2.4 and 3.2), may be negative and is on the scale of the square.

Under a uniformly random pairing the square of the V statistic has the exact mean
tr(A) tr(B) / ((n - 1) |A| |B|) for A = HaH, B = HbH, and an exact sd (Kazi-Aoual et al. 1995); the
U statistic has mean 0 and sd sqrt(2 / (n (n - 3))), as debiased CKA and for the same reason.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.geometry.features import center, same_rows
from interp.geometry.measure import Measure
from interp.geometry.pairs import (
    PairLayer,
    Project,
    check_rows,
    distances,
    make_layer,
    pair_deleted,
    pair_moments,
    pair_permuted,
    pair_values,
    project_double,
    project_u,
)


def distance_correlation_v(x: Float[Tensor, "n d"], y: Float[Tensor, "n e"]) -> float:
    """Sample distance correlation R_n, written out.

    x, y: features of the same n >= 4 images, n <= 20,000. Returns a value in [0, 1]; 1 for
    geometries equal up to rotation, scale and shift. Cost n^2 (d + e), memory n^2.
    Raises InputError for NaN, n < 4, n > 20,000, a constant representation, rows that are all
    equally far from each other.
    Source: Szekely et al. 2007, def. 3.
    """
    return max(0.0, distance_correlation_squared(x, y)) ** 0.5


def distance_correlation_squared(x: Float[Tensor, "n d"], y: Float[Tensor, "n e"]) -> float:
    """R_n^2, whose permutation mean is known; see `distance_correlation_v`."""
    same_rows(x, y)
    a, b = (_double_centered(_square(z, name)) for z, name in ((x, "x"), (y, "y")))
    return float((a * b).sum() / (a.norm() * b.norm()))


def distance_correlation_u(x: Float[Tensor, "n d"], y: Float[Tensor, "n e"]) -> float:
    """Bias-corrected squared distance correlation, written out; expectation about 0 if unrelated.

    Arguments and errors as `distance_correlation_v`. Returns a value in [-1, 1].
    Source: Szekely and Rizzo 2014, eq. 2.4 (centering), eq. 3.2.
    """
    same_rows(x, y)
    n = len(x)
    parts = []
    for z, name in ((x, "x"), (y, "y")):
        a = _square(z, name)
        sums = a.sum(1)
        a = a - (sums[:, None] + sums[None, :]) / (n - 2) + sums.sum() / ((n - 1) * (n - 2))
        parts.append(a.fill_diagonal_(0))
    return float((parts[0] * parts[1]).sum() / (parts[0].norm() * parts[1].norm()))


def _square(x: Float[Tensor, "n d"], name: str) -> Float[Tensor, "n n"]:
    rows = center(x, name)
    check_rows(len(rows), name)
    # Refuses what has no structure.
    prepare_distances(x, name, project=project_u)
    return torch.cdist(rows, rows, compute_mode="donot_use_mm_for_euclid_dist")


def _double_centered(a: Tensor) -> Tensor:
    return a - a.mean(0) - a.mean(1)[:, None] + a.mean()


def prepare_distances(x: Float[Tensor, "n d"], name: str = "x", *, project: Project) -> PairLayer:
    """Distances, centered once. Cost n^2 d / 2. Raises InputError as `distance_correlation_v`."""
    return make_layer(distances(x, "euclidean", name), len(x), project, name)


def root_values(xs: Sequence[PairLayer], ys: Sequence[PairLayer]) -> Float[Tensor, "a b"]:
    """R_n of every pair of layers. Cost n^2 a b."""
    return _root(pair_values(xs, ys))


def root_permuted(
    xs: Sequence[PairLayer], ys: Sequence[PairLayer], orders: Int[np.ndarray, "p n"]
) -> Float[Tensor, "p a b"]:
    """R_n of every pair after the rows of the second list are reordered: y[orders[b]]."""
    return _root(pair_permuted(xs, ys, orders))


def root_deleted(
    xs: Sequence[PairLayer], ys: Sequence[PairLayer], folds: Int[np.ndarray, " n"]
) -> Float[Tensor, "f a b"]:
    """R_n of every pair with fold f left out, for each f."""
    return _root(pair_deleted(xs, ys, folds))


def _root(squares: Tensor) -> Tensor:
    return squares.clamp(min=0).sqrt()


def double_centered_moments(
    xs: Sequence[PairLayer], ys: Sequence[PairLayer]
) -> tuple[Float[Tensor, "a b"], Float[Tensor, "a b"]]:
    """Exact mean and sd of <A, B> over all n! pairings, for zero row sums.

    From the traces t = tr A and s = sum_i A_ii^2 of matrices of norm 1 (Kazi-Aoual et al. 1995).
    """
    n = same_rows(xs[0].sums, ys[0].sums)
    t, spread, rest = (z[:, None] for z in _traces(xs, n))
    u, spread_y, rest_y = (z[None, :] for z in _traces(ys, n))
    first = 2 * spread * spread_y / ((n - 1) ** 2 * (n + 1) * (n - 2))
    second = rest * rest_y / ((n + 1) * n * (n - 1) * (n - 2) * (n - 3))
    return t * u / (n - 1), (first + second).clamp(min=0).sqrt()


def _traces(layers: Sequence[PairLayer], n: int) -> tuple[Tensor, Tensor, Tensor]:
    diagonals = torch.stack([p.diagonal for p in layers if p.diagonal is not None])
    t, s = diagonals.sum(1), diagonals.square().sum(1)
    return t, (n - 1) - t**2, n * (n + 1) * s - (n - 1) * (t**2 + 2)


def _measure(function: Callable[..., float], project: Project, **fields: Any) -> Measure:
    known = {
        "function": function,
        "prepare": partial(prepare_distances, project=project),
        "values": pair_values,
        "permuted": pair_permuted,
        "deleted": pair_deleted,
        "cost": "n^2 D once; a pair or a permutation n^2 a b",
        "invariances": frozenset({"orthogonal", "scale", "translation", "permutation"}),
    }
    return Measure(**{**known, **fields})


MEASURES: dict[str, Measure] = {
    "distance_correlation": _measure(
        distance_correlation_v,
        project_double,
        values=root_values,
        permuted=root_permuted,
        deleted=root_deleted,
        moments=None,
        definition="root of the cosine of the double-centered Euclidean distance matrices",
        source="Szekely et al. 2007, def. 3",
        bias="upwards, for wide features to nearly 1",
        null="of its square: tr A tr B / ((n - 1) |A| |B|) exactly",
    ),
    "distance_correlation_squared": _measure(
        distance_correlation_squared,
        project_double,
        moments=double_centered_moments,
        definition="cosine of the double-centered Euclidean distance matrices",
        source="Szekely et al. 2007, def. 3",
        bias="upwards, for wide features to nearly 1",
        null="tr A tr B / ((n - 1) |A| |B|) exactly; the sd is exact too",
    ),
    "distance_correlation_u": _measure(
        distance_correlation_u,
        project_u,
        moments=pair_moments,
        definition="cosine of the U-centered Euclidean distance matrices",
        source="Szekely and Rizzo 2014, eq. 3.2",
        bias="numerator unbiased, the ratio slightly not; about 0 for unrelated features",
        null="0 exactly, sd sqrt(2 / (n (n - 3)))",
    ),
}
