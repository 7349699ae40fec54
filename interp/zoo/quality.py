"""How good samples are: distances between sets of features or pixels, in float64."""

import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor

CHUNK = 512


def frechet(x: Float[Tensor, "n d"], y: Float[Tensor, "m d"]) -> float:
    """Return ||mean_x - mean_y||^2 + tr(C_x + C_y - 2 (C_x C_y)^(1/2)), C with denominator n - 1.

    Source: Heusel et al. 2017 (arXiv 1706.08500), eq. 6; the features are the caller's, so it is
    not "FID".
    """
    x, y = x.double(), y.double()
    a, b = torch.cov(x.T), torch.cov(y.T)
    values, vectors = torch.linalg.eigh(a)
    root = vectors * values.clamp_min(0).sqrt() @ vectors.T
    # The trace of (ab)^(1/2) equals that of the symmetric (a^(1/2) b a^(1/2))^(1/2).
    cross = torch.linalg.eigvalsh(root @ b @ root).clamp_min(0).sqrt().sum()
    return float((x.mean(0) - y.mean(0)).square().sum() + a.trace() + b.trace() - 2 * cross)


def _within(
    x: Float[Tensor, "n d"], support: Float[Tensor, "m d"], radii: Float[Tensor, " m"]
) -> Bool[Tensor, " n"]:
    parts = [(torch.cdist(part, support) <= radii).any(1) for part in x.split(CHUNK)]
    return torch.cat(parts)


def _radii(x: Float[Tensor, "n d"], n_neighbors: int) -> Float[Tensor, " n"]:
    """Return each row's distance to its n-th nearest other row."""
    parts = [torch.cdist(part, x).kthvalue(n_neighbors + 1).values for part in x.split(CHUNK)]
    return torch.cat(parts)


def precision_recall(
    real: Float[Tensor, "n d"], fake: Float[Tensor, "m d"], *, n_neighbors: int = 3
) -> tuple[float, float]:
    """Return the share of fakes within the reals' manifold, and of reals within the fakes'.

    A set's manifold is the union of balls around its rows that reach to the k-th neighbour.
    Source: Kynkäänniemi et al. 2019 (arXiv 1904.06991), eq. 2; k = 3 as there.

    Args:
        real: features of real images.
        fake: features of samples; as many as the reals, as both shares depend on the numbers.
        n_neighbors: k.
    """
    real, fake = real.double(), fake.double()
    precision = _within(fake, real, _radii(real, n_neighbors)).double().mean()
    recall = _within(real, fake, _radii(fake, n_neighbors)).double().mean()
    return float(precision), float(recall)


def nearest(
    x: UInt8[Tensor, "n h w 3"], reference: UInt8[Tensor, "m h w 3"]
) -> Float[Tensor, " n"]:
    """Return each image's RMS pixel distance (0 to 1) to the nearest reference image."""
    a, b = x.flatten(1).double() / 255, reference.flatten(1).double() / 255
    return (
        torch.cat([torch.cdist(part, b).min(1).values for part in a.split(CHUNK)])
        / a.shape[1] ** 0.5
    )


def psnr(x: UInt8[Tensor, "n h w 3"], y: UInt8[Tensor, "n h w 3"]) -> float:
    """Return the mean over images of 10 log10(255^2 / mean squared error), in decibels."""
    error = (x.double() - y.double()).square().flatten(1).mean(1).clamp_min(1e-3)
    return float((10 * torch.log10(255**2 / error)).mean())
