"""Decoder of a sparse code: a weighted sum of k dictionary rows.

    out[r] = sum over s of values[r, s] * weight[indices[r, s]]

Forward reads n k rows of d numbers instead of multiplying [n, m] by [m, d]: m / k times fewer
operations.
Backward: grad_values[r, s] = <grad[r], weight[indices[r, s]]>, and the weight gradient is a sum per
latent in latent-major order (`csc.scatter_rows`). Source: Gao et al. 2024 (arXiv 2406.04093),
appendix D.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable

from interp_kernels.csc import scatter_rows


def sparse_decode_reference(values: Tensor, indices: Tensor, weight: Tensor) -> Tensor:
    """Readable twin of `sparse_decode`: gather the rows, multiply, sum under dense autograd."""
    return (values[..., None] * weight[indices.long()]).sum(dim=1)


class _WeightGradient(torch.autograd.Function):
    """Passes `out` through and gives `weight` the gradient that a detached decode withheld."""

    @staticmethod
    def forward(ctx, out: Tensor, values: Tensor, indices: Tensor, weight: Tensor):  # type: ignore[override]
        ctx.save_for_backward(values, indices)
        ctx.n_latents = weight.shape[0]
        return out.view_as(out)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor):  # type: ignore[override]
        values, indices = ctx.saved_tensors
        return grad, None, None, scatter_rows(indices, values, grad, ctx.n_latents)


def sparse_decode(
    values: Float[Tensor, "n k"], indices: Int[Tensor, "n k"], weight: Float[Tensor, "m d"]
) -> Float[Tensor, "n d"]:
    """Sum the k dictionary rows of each code, with exact gradients that cost O(n k d).

    Args:
        values: [n, k] coefficients.
        indices: [n, k] int32 or int64 latents.
        weight: [m, d] dictionary, one row per latent, the dtype of values.

    Returns:
        [n, d].
    """
    out = F.embedding_bag(indices, weight.detach(), mode="sum", per_sample_weights=values)
    if not (torch.is_grad_enabled() and weight.requires_grad):
        return out
    return _WeightGradient.apply(out, values.detach(), indices, weight)  # type: ignore[return-value]
