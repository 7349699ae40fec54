"""Decoder, error and loss of a sparse code in one pass, and their gradient.

    error[r] = target[r] - offset - sum over s of values[r, s] weight[indices[r, s]]
    loss = (1/n) sum over r of ||error[r]||^2          (0 for n = 0)

With G = d/d loss and E = d/d error, the gradient by the decoded rows is -(2 G error / n + E): that
of values and weight follows in one latent-major pass (`sparse_decode_bwd`), that of the target is
its negative.
values, indices [n, k], weight [m, d], offset [d], target [n, d]; one float dtype, sums and the loss
in fp32 (float64 for float64). Moves n k d + 2 n d numbers; the decoded rows are never written.
Deterministic: squares are summed within a row's blocks, blocks and rows by one torch sum.
Source: Gao et al. 2024 (arXiv 2406.04093), section 2.1 and appendix D.
"""

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from interp_kernels import _backend
from interp_kernels._backend import AotCase, ceil_div, launch, tl, triton
from interp_kernels.sparse_decode import (
    check_code,
    decode_dense,
    decode_eager,
    decode_gradients,
    decode_tile,
    sparse_decode_reference,
    tile,
)


def decode_loss_reference(
    values: Tensor, indices: Tensor, weight: Tensor, offset: Tensor, target: Tensor
) -> tuple[Tensor, Tensor]:
    """Readable twin of `decode_loss` under dense autograd; n >= 1."""
    error = target - sparse_decode_reference(values, indices, weight, offset)
    return error.square().sum(dim=1).mean(), error


@triton.jit
def _loss_kernel(
    values_ptr, indices_ptr, weight_ptr, offset_ptr, target_ptr, error_ptr, squares_ptr,
    K: tl.constexpr, D,
    KB: tl.constexpr, BD: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    columns = tl.program_id(1) * BD + tl.arange(0, BD)
    inside = columns < D
    estimate = decode_tile(values_ptr, indices_ptr, weight_ptr, row, columns, K, D, KB, BD)
    offset = tl.load(offset_ptr + columns, mask=inside, other=0.0).to(tl.float32)
    target = tl.load(target_ptr + row * D + columns, mask=inside, other=0.0).to(tl.float32)
    error = target - (estimate + offset)
    tl.store(error_ptr + row * D + columns, error.to(error_ptr.dtype.element_ty), mask=inside)
    place = row * tl.num_programs(1) + tl.program_id(1)
    tl.store(squares_ptr + place, tl.sum(error * error, axis=0))


def _launch(
    values: Tensor, indices: Tensor, weight: Tensor, offset: Tensor, target: Tensor
) -> tuple[Tensor, Tensor]:
    (n, k), d = values.shape, weight.shape[1]
    sizes = tile(k, d)
    blocks = ceil_div(d, sizes["BD"])
    error = torch.empty_like(target)
    squares = torch.empty(n, blocks, dtype=torch.float32, device=target.device)
    launch(
        _loss_kernel, (n, blocks), values, indices, weight, offset, target, error, squares, k, d,
        **sizes,
    )  # fmt: skip
    return squares.sum() / max(n, 1), error


@torch.library.custom_op("interp::decode_loss", mutates_args=())
def _op(
    values: Tensor, indices: Tensor, weight: Tensor, offset: Tensor, target: Tensor, backend: str
) -> tuple[Tensor, Tensor]:
    _backend.check_indices("decode_loss", indices, weight.shape[0])
    if backend == "triton":
        return _launch(values, indices, weight, offset, target)
    decode = decode_dense if backend == "dense" else decode_eager
    error = target - decode(values, indices, weight, offset)
    wide = error if error.dtype == torch.float64 else error.float()
    return wide.square().sum() / max(len(target), 1), error.to(target.dtype)


@_op.register_fake
def _(values, indices, weight, offset, target, backend):
    wide = torch.float64 if target.dtype == torch.float64 else torch.float32
    return target.new_empty((), dtype=wide), torch.empty_like(target)


@register_flop_formula(torch.ops.interp.decode_loss)
def _flops(values, indices, weight, offset, target, backend, *, out_shape=None, **_) -> int:
    # Shapes, not tensors; "dense" does m / k times as many.
    return 2 * values[0] * values[1] * weight[1]


def _save(ctx: Any, inputs: tuple, output: tuple[Tensor, Tensor]) -> None:
    values, indices, weight, _, _, ctx.backend = inputs
    ctx.save_for_backward(values, indices, weight, output[1])
    ctx.set_materialize_grads(False)


def _backward(ctx: Any, grad_loss: Tensor | None, grad_error: Tensor | None):
    *code, error = ctx.saved_tensors
    needs = ctx.needs_input_grad
    grad = torch.zeros_like(error)
    if grad_loss is not None:
        grad = (error * (grad_loss * (-2 / max(len(error), 1)))).to(error.dtype)
    if grad_error is not None:
        grad = grad - grad_error
    dvalues = dweight = None
    if needs[0] or needs[2]:
        dvalues, dweight = decode_gradients(
            grad, tuple(code), (needs[0], needs[2]), None, ctx.backend
        )
    doffset = grad.sum(dim=0) if needs[3] else None
    return dvalues, None, dweight, doffset, -grad if needs[4] else None, None


_op.register_autograd(_backward, setup_context=_save)


def decode_loss(
    values: Float[Tensor, "n k"],
    indices: Int[Tensor, "n k"],
    weight: Float[Tensor, "m d"],
    offset: Float[Tensor, " d"],
    target: Float[Tensor, "n d"],
    *,
    backend: str | None = None,
) -> tuple[Float[Tensor, ""], Float[Tensor, "n d"]]:
    """Mean squared length of what a sparse code leaves of its targets, and that error.

    error = target - (offset + code W),   loss = (1/n) sum_r ||error[r]||^2

    Args:
        values: [n, k] coefficients.
        indices: [n, k] int32 or int64 latents in 0..m - 1.
        weight: [m, d] dictionary, one row per latent.
        offset: [d] added to every decoded row.
        target: [n, d] rows to explain; one dtype with the others.
        backend: "auto", "dense", "eager" or "triton"; None asks `using_backend`.

    Returns:
        loss [] in fp32 (float64 for float64 input), 0 for an empty batch, and error [n, d] in the
        dtype of target. Both carry gradients.

    Raises:
        KernelError: shapes, dtypes, devices or (on a CPU) indices do not fit; the backend cannot
            run here.

    Source: Gao et al. 2024 (arXiv 2406.04093), section 2.1.
    """
    check_code("decode_loss", values, indices, weight, offset=offset, target=target)
    chosen = _backend.resolve(
        backend,
        device=values.device,
        n_latents=weight.shape[0],
        k=values.shape[1],
        dtype=values.dtype,
    )
    given = (tensor.contiguous() for tensor in (values, indices, weight, offset, target))
    return _op(*given, chosen)


def aot_cases(d: int) -> list[AotCase]:
    """The kernel at width d, for ahead-of-time compilation."""
    sizes = tile(32, d)
    warps = sizes.pop("num_warps")
    signature = {
        "values_ptr": "*bf16", "indices_ptr": "*i64", "weight_ptr": "*bf16",
        "offset_ptr": "*bf16", "target_ptr": "*bf16", "error_ptr": "*bf16",
        "squares_ptr": "*fp32", "D": "i32",
    }  # fmt: skip
    return [AotCase("decode_loss", _loss_kernel, signature, {"K": 32, **sizes}, warps, 2, 128)]
