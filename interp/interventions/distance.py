"""How far edited activations are from clean ones: in the clean covariance, and to clean rows."""

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from interp.errors import InputError

# Of the clean rows one in twenty is beyond this; the same level as every interval.
LEVEL = 0.95
# The nearest row alone would make the distance depend on single odd rows.
NEIGHBORS = 5
# Rows by reference rows in one distance matrix: 256 MB of float64.
_CELLS = 2**25
# Squared distances come from products: equal rows are this close, relative to the longest.
_SAME = 1e-12


class Deviation(NamedTuple):
    """One distance of edited rows, beside that of held-out clean rows."""

    rows: Float[Tensor, " n"]
    held_out: Float[Tensor, " m"]
    p: Float[Tensor, " n"]
    """(1 + held-out rows at least as far) / (1 + m): uniform for one more clean row."""
    limit: float
    """The ceil(.95 (m + 1))-th smallest held-out distance: a clean row is beyond it with
    probability at most .05."""
    outside: float
    """Share of the rows beyond the limit."""


@dataclass(frozen=True)
class OffDistribution:
    """How far rows are from clean ones; both distances are raw, the clean level beside them."""

    mahalanobis: Deviation
    """sqrt((x - mean)' C^-1 (x - mean)), C the shrunk covariance of the reference rows."""
    neighbor: Deviation
    """Distance to the fifth nearest reference row, over its mean among the held-out rows."""
    shrinkage: float
    """Weight of the multiple of the identity in C, in [0, 1]."""
    n_reference: int


def off_distribution(
    rows: Float[Tensor, "n d"], reference: Float[Tensor, "r d"], held_out: Float[Tensor, "m d"]
) -> OffDistribution:
    """Measure how far edited activations are from clean ones, and how far clean ones are.

    A direction that moves images by moving activations to where the network never was shows
    damage, not a handle. Mahalanobis distance sees a shift along directions of little variance,
    the neighbor distance also rows that lie between the modes of a distribution. The p-values hold
    row by row where clean rows are exchangeable; rows of one image are not independent, so that
    their number is no sample size.

    Args:
        rows: edited activations.
        reference: clean activations that the covariance and the neighbors come from; at least 20.
        held_out: other clean activations, from other images; at least 20.

    Raises:
        InputError: widths differ, values are not finite, there are fewer than 20 clean rows on a
            side, the reference rows are all equal, or the held-out rows are among them.
    """
    x, clean, other = _check(rows, reference, held_out)
    if bool((clean == clean[0]).all()):
        raise InputError(f"the {len(clean)} reference rows are all equal: nothing is far or near")
    mean = clean.mean(0)
    x, clean, other = x - mean, clean - mean, other - mean
    values, axes, floor = _shrink(clean)
    far = [_mahalanobis(side, values, axes, floor) for side in (x, other)]
    near = [_neighbor(side, clean) for side in (x, other)]
    scale = float(near[1][0].mean())
    if bool((near[1][1] <= math.sqrt(_SAME) * float(clean.norm(dim=1).max())).all()):
        raise InputError(
            f"all {len(other)} held-out rows are among the reference rows: give clean rows of "
            "other images, or their level says nothing"
        )
    return OffDistribution(
        _deviate(far[0], far[1]),
        _deviate(near[0][0] / scale, near[1][0] / scale),
        float(floor / _mean_variance(clean)),
        len(clean),
    )


def _check(*sides: Tensor) -> list[Tensor]:
    names = ("rows", "reference", "held_out")
    shapes = [tuple(side.shape) for side in sides]
    if any(side.ndim != 2 or 0 in side.shape for side in sides) or len({s[-1] for s in shapes}) > 1:
        raise InputError(f"rows {shapes}: three matrices [n, d] of one width are needed")
    if min(len(side) for side in sides[1:]) < 20:
        raise InputError(
            f"{shapes[1][0]} reference and {shapes[2][0]} held-out rows: 20 or more of each are "
            "needed to say what is usual"
        )
    for name, side in zip(names, sides, strict=True):
        if not bool(side.isfinite().all()):
            raise InputError(f"{name} hold NaN or infinite values")
    return [side.detach().double() for side in sides]


def _mean_variance(x: Tensor) -> Tensor:
    return x.square().sum() / x.numel()


def _shrink(x: Float[Tensor, "r d"]) -> tuple[Tensor, Tensor, Tensor]:
    """Shrunk covariance of centered rows: variances along its axes, the axes, and all others' one.

    C = w mu I + (1 - w) S, S = X'X / r, mu = tr S / d, w = min(1, b2 / d2), d2 = |S - mu I|^2,
    b2 = sum_i |x_i x_i' - S|^2 / r^2 (Frobenius norms).
    Source: Ledoit and Wolf 2004, eq. 12-14.
    """
    r, d = x.shape
    mu = _mean_variance(x)
    _, singular, axes = torch.linalg.svd(x, full_matrices=False)
    variances = singular.square() / r
    square = variances.square().sum()
    spread = square - d * mu.square()
    noise = (x.square().sum(1).square().sum() / r - square) / r
    weight = (noise / spread).clamp(0, 1) if spread > 0 else torch.ones_like(mu)
    return weight * mu + (1 - weight) * variances, axes, weight * mu


def _mahalanobis(x: Tensor, values: Tensor, axes: Tensor, floor: Tensor) -> Float[Tensor, " n"]:
    along = x @ axes.T
    inside = (along.square() / values).sum(1)
    if len(axes) == x.shape[1]:
        return inside.sqrt()
    rest = (x.square().sum(1) - along.square().sum(1)).clamp(min=0)
    return (inside + rest / floor).sqrt()


def _neighbor(x: Tensor, clean: Tensor) -> tuple[Tensor, Tensor]:
    """Distances to the fifth nearest and to the nearest reference row."""
    parts = [
        torch.cdist(part, clean).topk(NEIGHBORS, largest=False).values[:, [NEIGHBORS - 1, 0]]
        for part in x.split(max(1, _CELLS // len(clean)))
    ]
    found = torch.cat(parts)
    return found[:, 0], found[:, 1]


def _deviate(rows: Tensor, held_out: Tensor) -> Deviation:
    m = len(held_out)
    ordered = held_out.sort().values
    at_least = m - torch.searchsorted(ordered, rows.contiguous())
    # As an integer: .95 (m + 1) itself may round up past a whole number.
    place = math.ceil(round(LEVEL * (m + 1), 9))
    limit = float(ordered[min(place, m) - 1])
    outside = float((rows > limit).double().mean())
    return Deviation(rows, held_out, (1 + at_least) / (1 + m), limit, outside)
