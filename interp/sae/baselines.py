"""What an SAE has to beat with the same number of coefficients per row."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from interp.sae.losses import unit_rows


@dataclass(frozen=True)
class Baseline:
    """FVU of one code on a sample of the judged rows."""

    name: str
    fvu: float
    k: int
    """Coefficients per row."""
    fitted_on: str
    """Rows that it has seen."""


def _fvu(error: Tensor, x: Tensor) -> float:
    return float(error.sum() / (x - x.mean(dim=0)).square().sum())


def sparse_pca(
    x: Float[Tensor, "n d"], fitting: Float[Tensor, "f d"], k: int, fitted_on: str
) -> Baseline:
    """Keep for each row the k principal components with the largest scores.

    error = sum over rows of the d - k smallest squared scores about the fitted mean

    Args:
        x: [n, d] float64 rows to judge.
        fitting: [f, d] float64 rows of which the components and the mean are computed.
        k: components per row.
        fitted_on: name of the fitting rows, for the record.
    """
    centered = fitting - fitting.mean(dim=0)
    _, axes = torch.linalg.eigh(centered.T @ centered)
    scores = ((x - fitting.mean(dim=0)) @ axes).square()
    smallest = scores.sort(dim=1).values[:, : max(0, x.shape[1] - k)]
    return Baseline("k-sparse PCA", _fvu(smallest.sum(dim=1), x), k, fitted_on)


def random_dictionary(
    x: Float[Tensor, "n d"], mean: Float[Tensor, " d"], n_latents: int, k: int, seed: int
) -> Baseline:
    """Fit each row by the k of m random unit directions nearest to it, by least squares.

    Args:
        x: [n, d] float64 rows to judge.
        mean: [d] float64, subtracted first.
        n_latents: m.
        k: directions per row; k >= d explains everything.
        seed: of the directions.
    """
    if k >= x.shape[1]:
        return Baseline("random dictionary", 0.0, k, "nothing")
    atoms = unit_rows(n_latents, x.shape[1], seed).double()
    error = [_refit_error(part, atoms, k) for part in (x - mean).split(256)]
    return Baseline("random dictionary", _fvu(torch.cat(error), x), k, "the mean of other rows")


def _refit_error(centered: Tensor, atoms: Tensor, k: int) -> Tensor:
    """Squared error [n] of the fit by the k atoms with the largest |inner product|."""
    chosen = (centered @ atoms.T).abs().topk(k, dim=1).indices
    basis, _ = torch.linalg.qr(atoms[chosen].transpose(1, 2))
    explained = (basis.transpose(1, 2) @ centered[:, :, None]).square().sum(dim=(1, 2))
    return centered.square().sum(dim=1) - explained
