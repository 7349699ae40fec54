"""TopK encoder: the k largest pre-activations of each row, rectified.

    p = x W^T + b,   S(r) = the k largest entries of p[r] (ties: the lower latent),   value = max(p,
    0) on S

Forward costs one GEMM of n d m and one selection over [n, m]. Backward touches only the n k
selected entries: no [n, m] gradient is ever formed. An entry selected at p <= 0 has value 0 and
passes no gradient.
Source: Gao et al. 2024 (arXiv 2406.04093), section 2.3; the rectifier is that of their released
code.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable

from interp_kernels.csc import scatter_rows


def select_topk(pre: Float[Tensor, "n m"], k: int) -> tuple[Tensor, Tensor]:
    """Pick the k largest entries of each row, descending; equal ones by the lower index.

    `torch.topk` leaves ties open, so the rows in which two of the k + 1 largest entries are equal
    are sorted stably instead. NaN counts as the largest value.

    Args:
        pre: [n, m].
        k: entries per row, 1 <= k <= m.

    Returns:
        values [n, k] and indices [n, k] int64.
    """
    width = min(k + 1, pre.shape[1])
    values, indices = pre.topk(width, dim=1)
    tied = (values[:, 1:] == values[:, :-1]).any(dim=1)
    values, indices = values[:, :k], indices[:, :k]
    if bool(tied.any()):
        ordered, order = pre[tied].sort(dim=1, descending=True, stable=True)
        values, indices = values.clone(), indices.clone()
        values[tied], indices[tied] = ordered[:, :k], order[:, :k]
    return values, indices


def encode_topk_reference(x: Tensor, weight: Tensor, bias: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Readable twin of `encode_topk`: stable sort of all pre-activations under dense autograd."""
    pre = x @ weight.T + bias
    values, indices = pre.sort(dim=1, descending=True, stable=True)
    return values[:, :k].relu(), indices[:, :k]


class _EncodeTopK(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor, bias: Tensor, k: int):  # type: ignore[override]
        values, indices = select_topk(F.linear(x, weight, bias), k)
        values = values.relu()
        ctx.save_for_backward(x, weight, values, indices)
        ctx.mark_non_differentiable(indices)
        return values, indices

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_values: Tensor, _grad_indices: Tensor):  # type: ignore[override]
        x, weight, values, indices = ctx.saved_tensors
        grad_pre = grad_values * (values > 0)
        grad_x = grad_weight = grad_bias = None
        if ctx.needs_input_grad[0]:
            grad_x = F.embedding_bag(indices, weight, mode="sum", per_sample_weights=grad_pre)
        if ctx.needs_input_grad[1]:
            grad_weight = scatter_rows(indices, grad_pre, x, weight.shape[0])
        if ctx.needs_input_grad[2]:
            flat = weight.new_zeros(weight.shape[0])
            grad_bias = flat.index_add_(0, indices.flatten(), grad_pre.flatten())
        return grad_x, grad_weight, grad_bias, None


def encode_topk(
    x: Float[Tensor, "n d"], weight: Float[Tensor, "m d"], bias: Float[Tensor, " m"], k: int
) -> tuple[Float[Tensor, "n k"], Int[Tensor, "n k"]]:
    """Encode rows by their k largest pre-activations, with exact gradients that cost O(n k d).

    Args:
        x: [n, d] rows.
        weight: [m, d], one encoder row per latent.
        bias: [m].
        k: active latents per row, 1 <= k <= m.

    Returns:
        values [n, k] >= 0 in descending order and their latents [n, k] int64.
    """
    return _EncodeTopK.apply(x, weight, bias, k)  # type: ignore[return-value]
