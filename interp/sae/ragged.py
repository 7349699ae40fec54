"""Codes in which every row has a number of active latents of its own: entries, padding, gradients.

A selection (over a batch, or by a threshold) names entries (row, latent). `pad` lays them out as
the [n, w] slots that the sparse ops take, w the largest number of a row; `encode_entries` gives
their values gradients that cost O(n w d), as `encode_topk` does for k slots.
"""

from typing import Any, NamedTuple

import torch
from interp_kernels import CSR, encode_threshold, resolve, sparse_decode, sparse_encode_bwd
from jaxtyping import Float, Int
from torch import Tensor

from interp.sae.base import Code
from interp.sae.losses import exact, lowered

# A padded slot takes 12 bytes, an int64 latent and its fp32 value, an entry of a dense code 4.
DENSE = 3


class Entries(NamedTuple):
    """Active entries of a code, by row, then latent."""

    rows: Tensor
    """[e] int64, ascending."""
    latents: Tensor
    """[e] int64, ascending within a row."""
    values: Tensor
    """[e]."""


def entries_of(found: CSR) -> Entries:
    """The entries of a CSR code, with the row of each."""
    rows = torch.repeat_interleave(found.offsets.diff(), output_size=len(found.indices))
    return Entries(rows, found.indices, found.values)


def positive(entries: Entries) -> Entries:
    """The entries whose value is above 0."""
    kept = (entries.values > 0).nonzero().squeeze(1)
    return Entries(*(part[kept] for part in entries))


def pad(entries: Entries, n: int) -> tuple[Float[Tensor, "n w"], Int[Tensor, "n w"]]:
    """Lay entries out in slots, as many per row as the longest row has, at least one.

    Args:
        entries: of n rows.
        n: number of rows.

    Returns:
        values [n, w], differentiable where the entries' are, and latents [n, w]; empty slots hold
        0 and latent 0. On a GPU w is rounded up to a power of two, since each w is a kernel of its
        own, and the host waits for it.
    """
    rows, latents, values = entries
    edges = torch.searchsorted(rows, torch.arange(n + 1, device=rows.device))
    width = max(1, int(edges.diff().amax())) if n else 1
    if rows.device.type != "cpu":
        width = 1 << (width - 1).bit_length()
    places = rows * width + torch.arange(len(rows), device=rows.device) - edges[rows]
    slots = values.new_zeros(n * width).index_put((places,), values)
    indices = torch.zeros(n * width, dtype=torch.int64, device=rows.device)
    indices[places] = latents
    return slots.view(n, width), indices.view(n, width)


def code_of(entries: Entries, n: int, n_latents: int) -> Code:
    """The code of n rows with these entries: padded slots, or dense where that takes less memory.

    Args:
        entries: of n rows.
        n: number of rows.
        n_latents: m.
    """
    rows, latents, values = entries
    longest = int(torch.bincount(rows, minlength=1).amax()) if len(rows) else 0
    if longest * DENSE <= n_latents:
        return Code(*pad(entries, n), n_latents)
    places = rows * n_latents + latents
    dense = values.new_zeros(n * n_latents).index_put((places,), values)
    return Code(dense.view(n, n_latents), None, n_latents)


def encode_above(
    z: Float[Tensor, "n d"],
    weight: Float[Tensor, "m d"],
    bias: Float[Tensor, " m"],
    theta: Tensor,
) -> Code:
    """Code of the latents whose pre-activation exceeds their threshold; each row by itself.

    code[r, j] = p[r, j] where p[r, j] = (z W^T + b)[r, j] > theta[j]

    Args:
        z: [n, d] normalized rows.
        weight: [m, d].
        bias: [m].
        theta: [m] or [], never negative.

    Returns:
        The code, with gradients to z, weight and bias and none to theta.
    """
    with exact(z):
        found = encode_threshold(*lowered(z, weight, bias, theta.to(z.dtype)))
    found = found._replace(values=found.values.to(z.dtype))
    return code_of(entries_of(found), len(z), len(weight))


class _EncodeEntries(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, z: Tensor, weight: Tensor, bias: Tensor, values: Tensor, indices: Tensor
    ) -> Tensor:
        ctx.save_for_backward(z, weight, values, indices)
        # Of the forward pass: on a GPU the backward pass runs in a thread of its own.
        ctx.backend = resolve(
            None, device=z.device, n_latents=len(weight), k=values.shape[1], dtype=z.dtype
        )
        return values.clone()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore
        z, weight, values, indices = ctx.saved_tensors
        grad_z = grad_weight = grad_bias = None
        if ctx.needs_input_grad[0]:
            active = torch.where(values > 0, grad, 0)
            grad_z = sparse_decode(active, indices, weight, backend=ctx.backend)
        if ctx.needs_input_grad[1] or ctx.needs_input_grad[2]:
            grad_weight, grad_bias = sparse_encode_bwd(
                grad, values, indices, z, len(weight), backend=ctx.backend
            )
        return grad_z, grad_weight, grad_bias, None, None


def encode_entries(
    z: Float[Tensor, "n d"],
    weight: Float[Tensor, "m d"],
    bias: Float[Tensor, " m"],
    values: Float[Tensor, "n w"],
    indices: Int[Tensor, "n w"],
) -> Float[Tensor, "n w"]:
    """Give pre-activations that were selected without gradient the gradient of their product.

    values[r, s] = <z[r], W[indices[r, s]]> + b[indices[r, s]] where it is positive

    Args:
        z: [n, d] rows.
        weight: [m, d].
        bias: [m].
        values: [n, w] these numbers; a slot with value 0 is empty and passes no gradient.
        indices: [n, w] int64.

    Returns:
        The values, with gradients to z, weight and bias that cost O(n w d).
    """
    with exact(z):
        return _EncodeEntries.apply(z, weight, bias, values, indices)  # type: ignore[return-value]
