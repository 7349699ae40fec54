"""Latent-major order of a sparse code, and the weight gradient that it makes cheap.

A code of n rows with k active latents each is row-major: `indices[r, s]` names the latent in slot s
of row r. Gradients of the weights are sums per *latent*, so every backward pass needs the
transposed order: compressed sparse columns (CSC), one stable sort of the n k indices.

Cost: a sort of n k integers, then one read of n k rows of d numbers and one write of m rows of d.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor


class CSC(NamedTuple):
    """Latent-major order of a code: latent j owns positions[offsets[j] : offsets[j + 1]]."""

    positions: Tensor
    """[n k] int64, flat positions r k + s, ascending within a latent."""
    offsets: Tensor
    """[m + 1] int64."""


def csc_from_indices(indices: Tensor, n_latents: int) -> CSC:
    """Sort a code's slots by latent, rows ascending within a latent.

    Args:
        indices: [n, k] integer latents, each in 0..n_latents - 1.
        n_latents: m, the number of latents.

    Returns:
        The latent-major order.
    """
    latents, positions = indices.flatten().sort(stable=True)
    edges = torch.arange(n_latents + 1, device=indices.device, dtype=latents.dtype)
    return CSC(positions, torch.searchsorted(latents, edges))


def scatter_rows_reference(
    indices: Tensor, weights: Tensor, rows: Tensor, n_latents: int
) -> Tensor:
    """Readable twin of `scatter_rows`: a dense [n, m] code, transposed, times the rows."""
    dense = rows.new_zeros(rows.shape[0], n_latents)
    dense = dense.scatter_add(1, indices.long(), weights)
    return dense.T @ rows


def scatter_rows(indices: Tensor, weights: Tensor, rows: Tensor, n_latents: int) -> Tensor:
    """Sum weighted rows into the latents that they activate.

    out[j] = sum over (r, s) with indices[r, s] = j of weights[r, s] * rows[r]

    Args:
        indices: [n, k] integer latents.
        weights: [n, k], the dtype of rows.
        rows: [n, d].
        n_latents: m.

    Returns:
        [m, d]; zero for latents that no slot names. The order of summation is fixed, so the same
        input gives the same bits.
    """
    if indices.numel() == 0:
        return rows.new_zeros(n_latents, rows.shape[1])
    order = csc_from_indices(indices, n_latents)
    return F.embedding_bag(
        order.positions // indices.shape[1],
        rows,
        order.offsets,
        mode="sum",
        per_sample_weights=weights.flatten()[order.positions],
        include_last_offset=True,
    )
