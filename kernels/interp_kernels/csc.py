"""Latent-major order of a sparse code, and the weight gradient that it makes cheap.

A code of n rows with k active latents each is row-major: `indices[r, s]` names the latent in slot s
of row r. Gradients of the weights are sums per *latent*, so every backward pass needs the
transposed order: compressed sparse columns (CSC), one stable sort of the n k indices. A training
step sorts once and hands the order to every op that takes `order`.

indices int32 or int64; positions and offsets int64. A latent may be named by no slot or twice by
one row. Cost: a sort of n k integers; nothing waits for the device.
Source: Gao et al. 2024 (arXiv 2406.04093), appendix D.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from interp_kernels import _backend


class CSC(NamedTuple):
    """Latent-major order of a code: latent j owns positions[offsets[j] : offsets[j + 1]]."""

    positions: Tensor
    """[n k] int64, flat positions r k + s, ascending within a latent."""
    offsets: Tensor
    """[m + 1] int64."""


class CSR(NamedTuple):
    """A code of rows of any length: row r owns indices[offsets[r] : offsets[r + 1]]."""

    offsets: Tensor
    """[n + 1] int64."""
    indices: Tensor
    """[nnz] int64 latents, ascending within a row."""
    values: Tensor
    """[nnz]."""


def csc_from_topk_reference(indices: Tensor, n_latents: int) -> CSC:
    """Readable twin of `csc_from_topk`: look for each latent in turn."""
    flat = indices.flatten()
    owned = [(flat == latent).nonzero().squeeze(1) for latent in range(n_latents)]
    counts = torch.tensor([0, *(len(one) for one in owned)], device=flat.device)
    return CSC(torch.cat(owned), counts.cumsum(0))


def csc_from_topk(indices: Tensor, n_latents: _backend.Size) -> CSC:
    """Sort a code's slots by latent, rows ascending within a latent.

    Args:
        indices: [n, k] int32 or int64 latents, each in 0..n_latents - 1.
        n_latents: m, the number of latents.

    Returns:
        The latent-major order.

    Raises:
        KernelError: indices are no integers, or (looked at on a CPU) out of range.
    """
    _backend.check_tensors("csc_from_topk", floats={}, integers={"indices": indices})
    _backend.check_sizes("csc_from_topk", n_latents=n_latents)
    latents, positions = indices.flatten().sort(stable=True)
    if latents.numel() and _backend.checks_values(latents):
        # Sorted: the two ends are the extremes.
        _backend.check_indices("csc_from_topk", latents[:: max(1, len(latents) - 1)], n_latents)
    edges = torch.arange(n_latents + 1, device=indices.device, dtype=latents.dtype)  # type: ignore
    return CSC(positions, torch.searchsorted(latents, edges))


csc_from_indices = csc_from_topk


def scatter_rows_reference(
    indices: Tensor, weights: Tensor, rows: Tensor, n_latents: int
) -> Tensor:
    """Readable twin of `scatter_rows`: a dense [n, m] code, transposed, times the rows."""
    dense = rows.new_zeros(rows.shape[0], n_latents)
    dense = dense.scatter_add(1, indices.long(), weights)
    return dense.T @ rows


def scatter_rows(
    indices: Tensor, weights: Tensor, rows: Tensor, n_latents: int, order: CSC | None = None
) -> Tensor:
    """Sum weighted rows into the latents that they activate.

    out[j] = sum over (r, s) with indices[r, s] = j of weights[r, s] * rows[r]

    Args:
        indices: [n, k] integer latents.
        weights: [n, k], the dtype of rows.
        rows: [n, d].
        n_latents: m.
        order: the latent-major order of indices, where the caller has it.

    Returns:
        [m, d]; zero for latents that no slot names. The order of summation is fixed, so the same
        input gives the same bits.
    """
    if indices.numel() == 0:
        return rows.new_zeros(n_latents, rows.shape[1])
    order = csc_from_topk(indices, n_latents) if order is None else order
    return F.embedding_bag(
        order.positions // indices.shape[1],
        rows,
        order.offsets,
        mode="sum",
        per_sample_weights=weights.flatten()[order.positions],
        include_last_offset=True,
    )
