"""TopK encoder: the k largest pre-activations of each row, rectified.

    p = x W^T + b,   S(r) = the k largest entries of p[r] (ties: the lower latent),
    value = max(p, 0) on S

x [n, d], W [m, d], b [m] in one float dtype (fp32, bf16, fp16; float64 off Triton); values [n, k]
descending in that dtype, indices [n, k] int64.
Forward costs one product of 2 n d m operations. Selection, by backend:

    dense   all pre-activations at once, then exact selection by group maxima
    eager   the same by chunks of rows that stay in a cache: memory independent of n m
    triton  selection in the product's epilogue with a certificate (`_fused_topk`): no [n, m] at all

Backward touches only the n k selected entries: 6 n k d operations, no [n, m] gradient and no
[n k, d] intermediate (except on "dense", which multiplies matrices). An entry selected at p <= 0
has value 0 and passes no gradient.
Source: Gao et al. 2024 (arXiv 2406.04093), section 2.3; the rectifier is that of their released
code.
"""

from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from interp_kernels import _backend
from interp_kernels._fused_topk import fused_keys, pack_keys, unpack_keys
from interp_kernels.sparse_decode import _op as _decode
from interp_kernels.sparse_encode_bwd import sparse_encode_bwd

# Pre-activations in one chunk of the eager encoder: 16 MB in fp32. On one AVX-512 core, chunks of
# 512 rows at m = 8192 are 4 % faster than all 2048 at once, chunks of 128 are 16 % slower.
CHUNK = 1 << 22
CHUNK_ROWS = 256


def select_topk_reference(pre: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Readable twin of `select_topk`: a stable sort of everything."""
    values, indices = pre.sort(dim=1, descending=True, stable=True)
    return values[:, :k], indices[:, :k]


def _select_packed(pre: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Selection on int64 keys in which the index breaks ties; float64 has no room for it."""
    if pre.dtype == torch.float64:
        return select_topk_reference(pre, k)
    keys = pack_keys(pre, torch.arange(pre.shape[1], device=pre.device))
    indices = unpack_keys(keys.topk(k, dim=1).values)[1]
    return pre.gather(1, indices), indices


def _group_size(m: int, k: int) -> int:
    """Members of a group in the first stage, or 1 where two stages do not pay.

    The stages look at m / g maxima and g k candidates; 8 and 16 were the fastest on a CPU.
    """
    size = 16 if m >= 32768 else 8
    return size if m // size >= 3 * (k + 1) else 1


def _select_branch_free(pre: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Selection that never looks at a value on the host: contiguous groups, keys in both stages.

    With groups ranked by (maximum, lower group), the k largest entries lie in the first k groups:
    a group outside has k groups before it, each with an entry that ranks before all of its own.
    """
    n, m = pre.shape
    g = _group_size(m, k)
    if g == 1 or pre.dtype == torch.float64:
        return _select_packed(pre, k)
    body = m // g * g
    tops = pre[:, :body].unflatten(1, (-1, g)).amax(dim=2)
    groups = _select_packed(tops, k)[1]
    inner = torch.arange(g, device=pre.device)
    tail = torch.arange(body, m, device=pre.device).expand(n, -1)
    columns = torch.cat([(groups[:, :, None] * g + inner).flatten(1), tail], dim=1)
    keys = pack_keys(pre.gather(1, columns), columns)
    indices = unpack_keys(keys.topk(k, dim=1).values)[1]
    return pre.gather(1, indices), indices


def _select_grouped(pre: Tensor, k: int) -> tuple[Tensor, Tensor, Tensor]:
    """Two stages with interleaved groups, whose maxima a CPU takes by whole vectors.

    Returns values, indices and the rows [n] in which a tie leaves the choice open: two of the k + 1
    largest candidates are equal, or a group outside may hold the k-th value once more.
    """
    n, m = pre.shape
    g = _group_size(m, k)
    width = min(k + 1, m)
    if g == 1:
        values, indices = pre.topk(width, dim=1)
        tied = (values[:, 1:] == values[:, :-1]).any(dim=1)
        return values[:, :k], indices[:, :k], tied | values[:, 0].isnan()
    body, count = m // g * g, m // g
    tops, groups = pre[:, :body].view(n, g, count).amax(dim=1).topk(width, dim=1, sorted=False)
    step = torch.arange(g, device=pre.device)[:, None] * count
    tail = torch.arange(body, m, device=pre.device).expand(n, -1)
    columns = torch.cat([(groups[:, None, :] + step).flatten(1), tail], dim=1)
    values, slots = pre.gather(1, columns).topk(width, dim=1)
    tied = (values[:, 1:] == values[:, :-1]).any(dim=1) | values[:, 0].isnan()
    tied |= tops.amin(dim=1) >= values[:, k - 1]
    return values[:, :k], columns.gather(1, slots[:, :k]), tied


def _select(pre: Tensor, k: int) -> tuple[Tensor, Tensor]:
    if pre.device.type != "cpu":
        return _select_branch_free(pre, k)
    values, indices, tied = _select_grouped(pre.contiguous(), k)
    rows = tied.nonzero().squeeze(1)
    if len(rows) == 0:
        return values.contiguous(), indices.contiguous()
    fixed = _select_packed(pre if len(rows) == len(pre) else pre[rows], k)
    return values.index_copy(0, rows, fixed[0]), indices.index_copy(0, rows, fixed[1])


@torch.library.custom_op("interp::select_topk", mutates_args=())
def _select_op(pre: Tensor, k: int) -> tuple[Tensor, Tensor]:
    return _select(pre, k)


@_select_op.register_fake
def _(pre, k):
    return pre.new_empty(len(pre), k), pre.new_empty((len(pre), k), dtype=torch.int64)


def _save_selection(ctx: Any, inputs: tuple, output: tuple[Tensor, Tensor]) -> None:
    ctx.save_for_backward(output[1])
    ctx.mark_non_differentiable(output[1])
    ctx.width = inputs[0].shape[1]


def _backward_selection(ctx: Any, grad: Tensor, _grad_indices: Tensor):
    [indices] = ctx.saved_tensors
    return grad.new_zeros(len(grad), ctx.width).scatter(1, indices, grad), None


_select_op.register_autograd(_backward_selection, setup_context=_save_selection)


def select_topk(pre: Float[Tensor, "n m"], k: int) -> tuple[Tensor, Tensor]:
    """Pick the k largest entries of each row, descending; equal ones by the lower index.

    Two exact stages: maxima of groups, then the members of the k best groups. NaN counts as the
    largest value. On a GPU nothing waits for the device.

    Args:
        pre: [n, m].
        k: entries per row, 1 <= k <= m.

    Returns:
        values [n, k], with gradients, and indices [n, k] int64.

    Raises:
        KernelError: k is out of range, pre is no matrix of floats.
    """
    _backend.check_tensors("select_topk", floats={"pre": pre}, integers={})
    _backend.check_shape("select_topk", "pre", pre, {"n": None, "m": None})
    _backend.check_k("select_topk", k, pre.shape[1])
    return _select_op(pre, k)


def encode_topk_reference(x: Tensor, weight: Tensor, bias: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Readable twin of `encode_topk`: stable sort of all pre-activations under dense autograd."""
    values, indices = select_topk_reference(x @ weight.T + bias, k)
    return values.relu(), indices


def _encode_rows(x: Tensor, weight: Tensor, bias: Tensor, k: int) -> tuple[Tensor, Tensor]:
    values, indices = _select(F.linear(x, weight, bias), k)
    _backend.check_finite("encode_topk", values, "x, weight and bias")
    return values.relu(), indices


def _encode_chunks(x: Tensor, weight: Tensor, bias: Tensor, k: int) -> tuple[Tensor, Tensor]:
    rows = max(CHUNK_ROWS, CHUNK // len(weight))
    if len(x) <= rows:
        return _encode_rows(x, weight, bias, k)
    values = x.new_empty(len(x), k)
    indices = torch.empty(len(x), k, dtype=torch.int64, device=x.device)
    for start in range(0, len(x), rows):
        part = slice(start, start + rows)
        values[part], indices[part] = _encode_rows(x[part], weight, bias, k)
    return values, indices


@torch.library.custom_op("interp::encode_topk", mutates_args=())
def _op(x: Tensor, weight: Tensor, bias: Tensor, k: int, backend: str) -> tuple[Tensor, Tensor]:
    if backend == "dense":
        return _encode_rows(x, weight, bias, k)
    if backend == "eager":
        return _encode_chunks(x, weight, bias, k)
    values, indices = unpack_keys(fused_keys(x, weight, bias, k))
    _backend.check_finite("encode_topk", values, "x, weight and bias")
    return values.relu().to(x.dtype), indices


@_op.register_fake
def _(x, weight, bias, k, backend):
    return x.new_empty(len(x), k), x.new_empty((len(x), k), dtype=torch.int64)


@register_flop_formula(torch.ops.interp.encode_topk)
def _flops(x, weight, bias, k, backend, *, out_shape=None, **_) -> int:
    # Shapes, not tensors.
    return 2 * x[0] * x[1] * weight[0]


def _save(ctx: Any, inputs: tuple, output: tuple[Tensor, Tensor]) -> None:
    x, weight, _, _, ctx.backend = inputs
    ctx.save_for_backward(x, weight, *output)
    ctx.mark_non_differentiable(output[1])


def _backward(ctx: Any, grad_values: Tensor, _grad_indices: Tensor):
    x, weight, values, indices = ctx.saved_tensors
    grad_x = grad_weight = grad_bias = None
    grad_values = grad_values.contiguous()
    if ctx.needs_input_grad[0]:
        active = torch.where(values > 0, grad_values, 0)
        grad_x = _decode(active, indices, weight, None, ctx.backend)
    if ctx.needs_input_grad[1] or ctx.needs_input_grad[2]:
        grad_weight, grad_bias = sparse_encode_bwd(
            grad_values, values, indices, x, len(weight), backend=ctx.backend
        )
    return grad_x, grad_weight, grad_bias, None, None


_op.register_autograd(_backward, setup_context=_save)


def encode_topk(
    x: Float[Tensor, "n d"],
    weight: Float[Tensor, "m d"],
    bias: Float[Tensor, " m"],
    k: int,
    *,
    backend: str | None = None,
) -> tuple[Float[Tensor, "n k"], Int[Tensor, "n k"]]:
    """Encode rows by their k largest pre-activations, with exact gradients that cost O(n k d).

    Args:
        x: [n, d] rows.
        weight: [m, d], one encoder row per latent.
        bias: [m].
        k: active latents per row, 1 <= k <= m.
        backend: "auto", "dense", "eager" or "triton"; None asks `using_backend`.

    Returns:
        values [n, k] >= 0 in descending order and their latents [n, k] int64.

    Raises:
        KernelError: shapes, dtypes, devices or k do not fit; a selected pre-activation is NaN or
            inf (looked at on a CPU; on a GPU it passes into the values, see `checking_values`);
            the backend cannot run here.

    Source: Gao et al. 2024 (arXiv 2406.04093), section 2.3.
    """
    check_encoder("encode_topk", x, weight, bias)
    _backend.check_k("encode_topk", k, weight.shape[0])
    chosen = _backend.resolve(
        backend, device=x.device, n_latents=weight.shape[0], k=k, dtype=x.dtype
    )
    return _op(x.contiguous(), weight.contiguous(), bias.contiguous(), k, chosen)


def check_encoder(op: str, x: Tensor, weight: Tensor, bias: Tensor) -> None:
    """Refuse rows and an encoder that do not fit each other.

    Args:
        op: name of the op, for the message.
        x: [n, d].
        weight: [m, d].
        bias: [m].

    Raises:
        KernelError: with the numbers.
    """
    _backend.check_tensors(op, floats={"x": x, "weight": weight, "bias": bias}, integers={})
    _backend.check_shape(op, "weight", weight, {"m": None, "d": None})
    m, d = weight.shape
    _backend.check_sizes(op, n_latents=m, d=d)
    _backend.check_shape(op, "x", x, {"n": None, "d": d})
    _backend.check_shape(op, "bias", bias, {"m": m})
