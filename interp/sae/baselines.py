"""What an SAE has to beat with the same number of coefficients per row."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from interp.sae.labels import LabelAUC
from interp.sae.losses import unit_rows

# Rows that are refitted at once: k basis vectors of each are in memory.
_REFIT = 256


@dataclass(frozen=True)
class Baseline:
    """FVU of one code on a sample of the judged rows."""

    name: str
    fvu: float | None
    """None where it has seen all of the rows."""
    k: int
    """Coefficients per row."""
    fitted_on: str
    """Rows that it has seen."""
    labels: LabelAUC | None = None
    """How well single coefficients tell the categories apart; None where there are no labels."""


@dataclass(frozen=True)
class Rival:
    """A sparse code that is no SAE of these rows."""

    name: str
    k: int
    """Coefficients per row."""
    fitted_on: str
    """Rows that it has seen."""
    code: Callable[[Tensor], Tensor]
    """Raw rows [n, d] -> coefficients [n, c], at most k of a row other than 0."""
    reconstruct: Callable[[Tensor], Tensor]
    """Raw rows [n, d] -> their reconstruction [n, d]."""


def _fvu(error: Tensor, x: Tensor) -> float:
    return float(error.sum() / (x - x.mean(dim=0)).square().sum())


def judge(rival: Rival, x: Float[Tensor, "n d"], labels: LabelAUC | None = None) -> Baseline:
    """FVU of a rival's reconstruction of float64 rows, as a record."""
    error = (x - rival.reconstruct(x).double()).square()
    return Baseline(rival.name, _fvu(error, x), rival.k, rival.fitted_on, labels)


def pca_rival(fitting: Float[Tensor, "f d"], k: int, fitted_on: str) -> Rival:
    """Keep for each row the k principal components with the largest absolute scores.

    Args:
        fitting: [f, d] rows of which the components and the mean are computed, in float64.
        k: components per row, cut to d.
        fitted_on: name of the fitting rows, for the record.
    """
    fitting = fitting.double()
    mean = fitting.mean(dim=0)
    _, axes = torch.linalg.eigh((fitting - mean).T @ (fitting - mean))
    width = min(k, fitting.shape[1])

    def code(x: Tensor) -> Tensor:
        scores = (x.double() - mean) @ axes
        return _largest(scores, width)

    return Rival("k-sparse PCA", k, fitted_on, code, lambda x: code(x) @ axes.T + mean)


def random_rival(mean: Float[Tensor, " d"], n_latents: int, k: int, seed: int) -> Rival:
    """Fit each row by the k of m random unit directions nearest to it, by least squares.

    The code holds the inner products by which they are chosen.

    Args:
        mean: [d], subtracted first.
        n_latents: m.
        k: directions per row; k >= d explains everything.
        seed: of the directions.
    """
    mean = mean.double()
    d = len(mean)
    atoms = unit_rows(n_latents, d, seed).double()
    width = min(k, n_latents)

    def code(x: Tensor) -> Tensor:
        return _largest((x.double() - mean) @ atoms.T, width)

    def reconstruct(x: Tensor) -> Tensor:
        if k >= d:
            return x.double()
        parts = (x.double() - mean).split(_REFIT)
        return torch.cat([_refit(part, atoms, width) for part in parts]) + mean

    fitted_on = "nothing" if k >= d else "the mean of other rows"
    return Rival("random dictionary", k, fitted_on, code, reconstruct)


def _largest(scores: Tensor, k: int) -> Tensor:
    """The k scores of each row that are largest in absolute value; the others 0."""
    kept = scores.abs().topk(k, dim=1).indices
    return torch.zeros_like(scores).scatter_(1, kept, scores.gather(1, kept))


def _refit(centered: Tensor, atoms: Tensor, k: int) -> Tensor:
    """Projection [n, d] on the span of the k atoms with the largest |inner product|."""
    chosen = (centered @ atoms.T).abs().topk(k, dim=1).indices
    basis, _ = torch.linalg.qr(atoms[chosen].transpose(1, 2))
    return (basis @ (basis.transpose(1, 2) @ centered[:, :, None]))[:, :, 0]


def sparse_pca(
    x: Float[Tensor, "n d"], fitting: Float[Tensor, "f d"], k: int, fitted_on: str
) -> Baseline:
    """FVU of k-sparse PCA: the d - k smallest squared scores of each row about the fitted mean.

    Args:
        x: [n, d] float64 rows to judge.
        fitting: [f, d] float64 rows of which the components and the mean are computed.
        k: components per row.
        fitted_on: name of the fitting rows, for the record.
    """
    return judge(pca_rival(fitting, k, fitted_on), x)


def random_dictionary(
    x: Float[Tensor, "n d"], mean: Float[Tensor, " d"], n_latents: int, k: int, seed: int
) -> Baseline:
    """FVU of the least-squares fit by k of m random unit directions.

    Args:
        x: [n, d] float64 rows to judge.
        mean: [d] float64, subtracted first.
        n_latents: m.
        k: directions per row; k >= d explains everything.
        seed: of the directions.
    """
    return judge(random_rival(mean, n_latents, k, seed), x)
