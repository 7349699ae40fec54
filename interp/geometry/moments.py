"""Exact moments of a sum over pairs under a uniformly random pairing of two samples."""

import torch
from jaxtyping import Float
from torch import Tensor


def pairing_moments(
    sums_x: Float[Tensor, "a 8"], sums_y: Float[Tensor, "b 8"], n: int
) -> tuple[Float[Tensor, "a b"], Float[Tensor, "a b"]]:
    """Mean and sd of sum_ij A_ij B_p(i)p(j) over all permutations p, for zero diagonals.

    sums: of A and of B, as `share_sums` gives them. Source: Mantel 1967.
    """
    ordered = torch.tensor([n * (n - 1), n * (n - 1) * (n - 2), n * (n - 1) * (n - 2) * (n - 3)])
    counts = ordered.double()[[0, 0, 1, 1, 1, 1, 2]]
    mean = sums_x[:, :1] / counts[0] @ sums_y[:, :1].T
    variance = (sums_x[:, 1:] / counts) @ sums_y[:, 1:].T - mean.square()
    return mean, variance.clamp(min=0).sqrt()


def share_sums(
    outgoing: Float[Tensor, " n"], incoming: Float[Tensor, " n"], squares: float, mutual: float
) -> Float[Tensor, "8"]:
    """Sum of A_ij, then of A_ij A_kl over the seven ways in which two pairs can share indices.

    outgoing, incoming: row and column sums of A. squares: sum A_ij^2. mutual: sum A_ij A_ji.
    """
    total = float(outgoing.sum())
    same_row = float(outgoing.square().sum()) - squares
    same_column = float(incoming.square().sum()) - squares
    chain = float(outgoing @ incoming) - mutual
    apart = total**2 - squares - mutual - same_row - same_column - 2 * chain
    return torch.tensor(
        [total, squares, mutual, same_row, same_column, chain, chain, apart], dtype=torch.float64
    )
