"""What is done to features before a measure sees them: part of the identity of every result.

Clipping and normalizing rows change scores, and papers do both without saying so in the name of
their measure. Here they are steps of a record, which a comparison carries as text.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from interp.errors import InputError


@dataclass(frozen=True)
class Preprocessing:
    """Steps applied in the order of the fields; `str()` names them, "" where there are none."""

    demean: bool = False
    """Of [n, p, d]: take off the mean over rows of each position (U-Net tokens encode theirs)."""
    clip: float | None = None
    """Quantile of the absolute values beyond which values are clipped."""
    normalize: bool = False
    """Scale every row to length 1."""

    def __post_init__(self) -> None:
        if self.clip is not None and not 0 < self.clip <= 1:
            raise InputError(f"clip = {self.clip}: a quantile with 0 < clip <= 1, such as 0.95")

    def apply(self, x: Float[Tensor, "n ..."], name: str = "x") -> Float[Tensor, "n ..."]:
        """Return the features after all steps, in float64 if there are any.

        Raises InputError for NaN, or rows of length 0 that cannot be scaled to 1.
        """
        if self.demean:
            x = demean(x, name)
        if self.clip is not None:
            x = clip(x, self.clip, name=name)
        return normalize(x, name) if self.normalize else x

    def __str__(self) -> str:
        steps = ["mean of each position removed"] if self.demean else []
        if self.clip is not None:
            steps.append(f"clipped at the {self.clip:g} quantile of absolute values")
        return ", ".join(steps + ["rows of length 1"] * self.normalize)


# What Huh et al. (2024, app. A) do before they look for neighbors: outliers cut at the 95th
# percentile, then cosine.
PRH = Preprocessing(clip=0.95, normalize=True)


def demean(x: Float[Tensor, "n ..."], name: str = "x") -> Float[Tensor, "n ..."]:
    """Take the mean over rows off every position and column. Raises InputError as `clip`."""
    x = _numbers(x, name)
    return x - x.mean(0)


def clip_threshold(xs: Sequence[Float[Tensor, "_ ..."]], quantile: float = 0.95) -> float:
    """The value number floor(q N), counted from 0, of all N sorted absolute values.

    xs: one or more arrays that share a threshold. Cost: one selection, linear in N.
    Raises InputError for an empty list, NaN or a quantile outside (0, 1].
    Source: Huh et al. 2024, app. A; the released code's exact variant takes this order statistic.
    """
    if not xs or not 0 < quantile <= 1:
        raise InputError(f"{len(xs)} arrays and quantile {quantile}: at least one, 0 < q <= 1")
    sizes = torch.cat([_numbers(x).abs().flatten() for x in xs])
    place = min(math.floor(quantile * len(sizes)), len(sizes) - 1)
    return float(sizes.kthvalue(place + 1).values)


def clip(
    x: Float[Tensor, "n ..."],
    quantile: float = 0.95,
    *,
    threshold: float | None = None,
    name: str = "x",
) -> Float[Tensor, "n ..."]:
    """Clip to [-c, c], c = `threshold`, or `clip_threshold` of x itself; float64.

    quantile 1 changes nothing. Not invariant to rotation or translation of x; invariant to scale
    and to a permutation of columns.
    Raises InputError for NaN, infinite values or a quantile outside (0, 1].
    Source: Huh et al. 2024, app. A.
    """
    x = _numbers(x, name)
    c = clip_threshold([x], quantile) if threshold is None else threshold
    return x.clamp(-c, c)


def normalize(x: Float[Tensor, "n ..."], name: str = "x") -> Float[Tensor, "n ..."]:
    """Scale every row (of every position) to Euclidean length 1, in float64.

    The nearest rows by Euclidean distance are then those of the largest cosine.
    Raises InputError for NaN and for rows of length 0, which have no direction.
    """
    x = _numbers(x, name)
    norms = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
    if bool((norms == 0).any()):
        zeros = int((norms == 0).sum())
        raise InputError(
            f"{name}: {zeros} of {norms.numel()} rows are zero and have no direction, so they "
            "cannot be scaled to length 1; leave the layer out, or compare without normalization"
        )
    return x / norms


def _numbers(x, name: str = "x") -> Tensor:
    x = torch.as_tensor(x)
    if x.is_complex() or x.ndim < 2:
        raise InputError(f"{name} has dtype {x.dtype} and shape {tuple(x.shape)}: real [n, d]")
    x = x.detach().double()
    if not bool(x.isfinite().all()):
        bad = int((~x.isfinite()).sum())
        raise InputError(f"{name} has {bad} NaN or infinite values of {x.numel()}")
    return x
