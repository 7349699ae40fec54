"""How good an SAE is where the truth is known, and how well it reconstructs where it is not.

Directions are compared by |cosine|; a learned row and its negative are the same direction.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from interp.errors import InputError

__all__ = [
    "FOUND",
    "MATCHED",
    "Detection",
    "Recovery",
    "cosines",
    "dead",
    "detection",
    "fvu",
    "matched",
    "mcc",
    "recovery",
    "relative_bias",
    "shrinkage",
    "uniqueness",
]

# An atom counts as found above this |cosine| (Sharkey et al. 2022, "Taking features out of
# superposition with sparse autoencoders").
FOUND = 0.9
# Two latents of different runs count as the same above this decoder cosine: Paulo and Belrose 2025
# (arXiv 2501.16615).
MATCHED = 0.7
_CHUNK = 4096


class Recovery(NamedTuple):
    """How well learned directions cover planted ones."""

    recovered: float
    """Share of atoms with |cosine| above .9 to some learned direction."""
    mmcs: float
    """Mean over atoms of the largest |cosine| (Sharkey et al. 2022)."""


class Detection(NamedTuple):
    """Latents as detectors of the atoms that they match best; means over latents."""

    f1: float
    """2 precision recall / (precision + recall)."""
    precision: float
    """Share of the latent's rows in which the atom is."""
    recall: float
    """Share of the atom's rows on which the latent fires."""


def cosines(learned: Float[Tensor, "m d"], other: Float[Tensor, "a d"]) -> Float[Tensor, "m a"]:
    """|cosine| of every pair of rows, float64; 0 for a row of zeros.

    Raises:
        InputError: the widths differ, a value is not finite, or a side has no row.
    """
    if learned.ndim != 2 or other.ndim != 2 or learned.shape[1] != other.shape[1]:
        raise InputError(
            f"directions of shape {tuple(learned.shape)} and {tuple(other.shape)} do not compare"
        )
    if not len(learned) or not len(other):
        raise InputError(f"{len(learned)} and {len(other)} directions: there is none to compare")
    if not bool(learned.isfinite().all() and other.isfinite().all()):
        raise InputError("directions hold NaN or infinity")
    sides = (F.normalize(side.detach().double(), dim=1) for side in (learned, other))
    left, right = sides
    return (left @ right.T).abs()


def recovery(
    learned: Float[Tensor, "m d"], atoms: Float[Tensor, "a d"], threshold: float = FOUND
) -> Recovery:
    """Compare learned directions with planted atoms by their largest absolute cosine.

    recovered = mean_a [max_m |cos| > threshold],  mmcs = mean_a max_m |cos|

    Args:
        learned: [m, d] rows of any norm.
        atoms: [a, d] rows of any norm.
        threshold: above which an atom counts as found.
    """
    best = cosines(learned, atoms).amax(dim=0)
    return Recovery(float((best > threshold).double().mean()), float(best.mean()))


def mcc(learned: Float[Tensor, "m d"], atoms: Float[Tensor, "a d"]) -> float:
    """Mean |cosine| over the one-to-one match of latents and atoms that maximizes it.

    Over min(m, a) pairs (Hungarian algorithm), so that an SAE with fewer latents than there are
    atoms can reach 1.

    Args:
        learned: [m, d] rows of any norm.
        atoms: [a, d] rows of any norm.

    Source: Song et al. 2025 (arXiv 2505.20254); as in SynthSAEBench (arXiv 2602.14687).
    """
    from scipy.optimize import linear_sum_assignment

    cosine = cosines(learned, atoms).numpy()
    rows, columns = linear_sum_assignment(cosine, maximize=True)
    return float(cosine[rows, columns].mean())


def uniqueness(learned: Float[Tensor, "m d"], atoms: Float[Tensor, "a d"]) -> float:
    """Number of atoms that are the best match of some latent, over the number of latents.

    1 where every latent follows an atom of its own (SynthSAEBench, arXiv 2602.14687).
    """
    return len(cosines(learned, atoms).argmax(dim=1).unique()) / len(learned)


def matched(
    learned: Float[Tensor, "m d"], other: Float[Tensor, "a d"], threshold: float = MATCHED
) -> float:
    """Share of latents that have a partner in another run, one to one.

    Latents are paired by the match that maximizes the sum of cosines, with their sign, since a
    code is never negative; a pair counts where its cosine exceeds the threshold.

    Args:
        learned: [m, d] decoder rows.
        other: [a, d] decoder rows of the other run.
        threshold: .7, of the source.

    Source: Paulo and Belrose 2025, "Sparse autoencoders trained on the same data learn different
    features" (arXiv 2501.16615).
    """
    from scipy.optimize import linear_sum_assignment

    cosines(learned[:1], other[:1])
    sides = [F.normalize(side.detach().double(), dim=1) for side in (learned, other)]
    cosine = (sides[0] @ sides[1].T).numpy()
    rows, columns = linear_sum_assignment(cosine, maximize=True)
    return float((cosine[rows, columns] > threshold).sum() / len(cosine))


def detection(
    latents: Bool[Tensor, "n m"],
    atoms: Bool[Tensor, "n a"],
    best: Int[Tensor, " m"],
) -> Detection:
    """Score each latent as a detector of one atom; undefined values count as 0.

    tp, fp, fn count rows: both fire, the latent alone, the atom alone.
    precision = tp / (tp + fp),  recall = tp / (tp + fn),  F1 of both; then means over latents.

    Args:
        latents: [n, m] whether a latent fires.
        atoms: [n, a] whether an atom is in the row.
        best: [m] atom of each latent: that of its largest |cosine|.

    Raises:
        InputError: the shapes do not fit.

    Source: SynthSAEBench (arXiv 2602.14687).
    """
    if len(latents) != len(atoms) or latents.shape[1] != len(best):
        raise InputError(
            f"latents {tuple(latents.shape)}, atoms {tuple(atoms.shape)} and best "
            f"{tuple(best.shape)} do not fit"
        )
    both = torch.zeros(len(best), dtype=torch.float64)
    parts = zip(latents.split(_CHUNK), atoms.split(_CHUNK), strict=True)
    for ours, theirs in parts:
        both += (ours & theirs[:, best]).sum(dim=0)
    precision = _share(both, latents.sum(dim=0))
    recall = _share(both, atoms.sum(dim=0)[best])
    f1 = _share(2 * precision * recall, precision + recall)
    return Detection(*(float(value.mean()) for value in (f1, precision, recall)))


def _share(top: Tensor, bottom: Tensor) -> Tensor:
    return torch.where(bottom > 0, top / bottom.clamp(min=1e-300), 0.0)


def fvu(x: Float[Tensor, "n d"], x_hat: Float[Tensor, "n d"]) -> float:
    """Unexplained share of the variance: sum |x - x_hat|^2 / sum |x - mean|^2, float64.

    1 - explained variance. NaN for rows that are all equal.

    Args:
        x: [n, d] rows.
        x_hat: [n, d] their reconstruction.
    """
    x = x.double()
    spread = float((x - x.mean(dim=0)).square().sum())
    error = float((x - x_hat.double()).square().sum())
    return error / spread if spread else float("nan")


def dead(fired: Bool[Tensor, "n m"]) -> float:
    """Share of latents that fire in none of the rows."""
    return float((~fired.any(dim=0)).double().mean())


def shrinkage(x: Float[Tensor, "n d"], x_hat: Float[Tensor, "n d"]) -> float:
    """Mean over rows of |x_hat| / |x|; below 1 where a penalty shrinks the code.

    Rows of norm 0 are left out. Source: SynthSAEBench (arXiv 2602.14687).

    Args:
        x: [n, d] rows.
        x_hat: [n, d] their reconstruction.
    """
    norm = torch.linalg.vector_norm(x.double(), dim=1)
    kept = norm > 0
    return float((torch.linalg.vector_norm(x_hat.double(), dim=1)[kept] / norm[kept]).mean())


def relative_bias(x: Float[Tensor, "n d"], x_hat: Float[Tensor, "n d"]) -> float:
    """The factor by which reconstructions are off: argmin_g sum |x_hat / g - x|^2.

    g = sum |x_hat|^2 / sum <x_hat, x>; 1 is unbiased, below 1 shrunk.

    Args:
        x: [n, d] rows.
        x_hat: [n, d] their reconstruction.

    Source: Rajamanoharan et al. 2024 (arXiv 2404.16014), "relative reconstruction bias".
    """
    x, x_hat = x.double(), x_hat.double()
    return float(x_hat.square().sum() / (x_hat * x).sum())
