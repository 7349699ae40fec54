"""Decoder of a sparse code: a weighted sum of k dictionary rows.

    out[r] = offset + sum over s of values[r, s] * weight[indices[r, s]]

values [n, k], indices [n, k] int32 or int64 (a latent may stand twice), weight [m, d], offset [d],
out [n, d]; one float dtype (fp32, bf16, fp16; float64 off Triton), sums in fp32 (float64 for
float64), in slot order. Forward reads n k rows of d numbers instead of multiplying [n, m] by
[m, d]: m / k times fewer operations, n k d + 2 n k + n d numbers moved.
Backward: dvalues[r, s] = <grad[r], weight[indices[r, s]]> and dweight as a sum per latent, both in
one latent-major pass (`sparse_decode_bwd`); doffset = sum over rows of grad.
Source: Gao et al. 2024 (arXiv 2406.04093), appendix D.
"""

from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from interp_kernels import _backend
from interp_kernels._backend import AotCase, ceil_div, launch, power_of_two, tl, triton
from interp_kernels.csc import CSC
from interp_kernels.sparse_decode_bwd import latent_sums, slot_products, sparse_decode_bwd


def sparse_decode_reference(
    values: Tensor, indices: Tensor, weight: Tensor, offset: Tensor | None = None
) -> Tensor:
    """Readable twin of `sparse_decode`: gather the rows, multiply, sum under dense autograd."""
    out = (values[..., None] * weight[indices.long()]).sum(dim=1)
    return out if offset is None else out + offset


@triton.jit
def decode_tile(
    values_ptr, indices_ptr, weight_ptr, row, columns, K: tl.constexpr, D,
    KB: tl.constexpr, BD: tl.constexpr,
):  # fmt: skip
    """Columns of one decoded row [BD]: KB dictionary rows in flight, added in a fixed order."""
    lane = tl.arange(0, KB)
    total = tl.zeros([KB, BD], dtype=tl.float32)
    for t in range(0, K, KB):
        slots = t + lane
        latents = tl.load(indices_ptr + row * K + slots, mask=slots < K, other=0).to(tl.int64)
        values = tl.load(values_ptr + row * K + slots, mask=slots < K, other=0.0)
        mask = (slots < K)[:, None] & (columns < D)[None, :]
        places = weight_ptr + latents[:, None] * D + columns[None, :]
        rows = tl.load(places, mask=mask, other=0.0).to(tl.float32)
        total += values.to(tl.float32)[:, None] * rows
    return tl.sum(total, axis=0)


@triton.jit
def _decode_kernel(
    values_ptr, indices_ptr, weight_ptr, offset_ptr, out_ptr, K: tl.constexpr, D,
    HAS_OFFSET: tl.constexpr, KB: tl.constexpr, BD: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    columns = tl.program_id(1) * BD + tl.arange(0, BD)
    total = decode_tile(values_ptr, indices_ptr, weight_ptr, row, columns, K, D, KB, BD)
    if HAS_OFFSET:
        total += tl.load(offset_ptr + columns, mask=columns < D, other=0.0).to(tl.float32)
    out = total.to(out_ptr.dtype.element_ty)
    tl.store(out_ptr + row * D + columns, out, mask=columns < D)


def tile(k: int, d: int) -> dict[str, int]:
    """Sides of a tile and its warps: at most 32 sums a thread, 1 KB of a half-precision row."""
    columns = power_of_two(d, low=16, high=512)
    slots = power_of_two(k, high=8)
    return {"KB": slots, "BD": columns, "num_warps": power_of_two(slots * columns // 1024, high=4)}


def _launch(values: Tensor, indices: Tensor, weight: Tensor, offset: Tensor | None) -> Tensor:
    (n, k), d = values.shape, weight.shape[1]
    out = values.new_empty(n, d)
    sizes = tile(k, d)
    blocks = ceil_div(d, sizes["BD"])
    shift = weight if offset is None else offset
    launch(
        _decode_kernel, (n, blocks), values, indices, weight, shift, out, k, d,
        HAS_OFFSET=offset is not None, **sizes,
    )  # fmt: skip
    return out


def _wide(tensor: Tensor) -> Tensor:
    return tensor if tensor.dtype == torch.float64 else tensor.float()


def decode_eager(
    values: Tensor, indices: Tensor, weight: Tensor, offset: Tensor | None = None
) -> Tensor:
    """The decoder by `embedding_bag`, summed in fp32: [n, d] in fp32 (float64)."""
    if indices.numel() == 0:
        out = _wide(values).new_zeros(values.shape[0], weight.shape[1])
    else:
        out = F.embedding_bag(indices, _wide(weight), mode="sum", per_sample_weights=_wide(values))
    return out if offset is None else out + _wide(offset)


def decode_dense(
    values: Tensor, indices: Tensor, weight: Tensor, offset: Tensor | None = None
) -> Tensor:
    """The decoder as one product of the dense [n, m] code with the dictionary: [n, d]."""
    code = values.new_zeros(values.shape[0], weight.shape[0])
    out = code.scatter_add_(1, indices.long(), values) @ weight
    return out if offset is None else out + offset


@torch.library.custom_op("interp::sparse_decode", mutates_args=())
def _op(
    values: Tensor, indices: Tensor, weight: Tensor, offset: Tensor | None, backend: str
) -> Tensor:
    _backend.check_indices("sparse_decode", indices, weight.shape[0])
    if backend == "triton":
        return _launch(values, indices, weight, offset)
    decode = decode_dense if backend == "dense" else decode_eager
    return decode(values, indices, weight, offset).to(values.dtype)


@_op.register_fake
def _(values, indices, weight, offset, backend):
    return values.new_empty(values.shape[0], weight.shape[1])


@register_flop_formula(torch.ops.interp.sparse_decode)
def _flops(values, indices, weight, offset, backend, *, out_shape=None, **_) -> int:
    # Shapes, not tensors; "dense" does m / k times as many.
    return 2 * values[0] * values[1] * weight[1]


def _save(ctx: Any, inputs: tuple, output: Tensor) -> None:
    values, indices, weight, _, ctx.backend = inputs
    ctx.save_for_backward(values, indices, weight)


def decode_gradients(
    grad: Tensor,
    saved: tuple[Tensor, Tensor, Tensor],
    needs: tuple[bool, bool],
    order: CSC | None,
    backend: str,
) -> tuple[Tensor | None, Tensor | None]:
    """Gradients by values and weight, where wanted; both come from one pass.

    Args:
        grad: [n, d], gradient by the decoded rows.
        saved: values [n, k], indices [n, k], weight [m, d].
        needs: which of the two gradients.
        order: latent-major order of indices, or None.
        backend: resolved.

    Returns:
        dvalues [n, k] or None, dweight [m, d] or None.
    """
    values, indices, weight = saved
    if backend == "eager" and needs == (True, False):
        found = slot_products(_wide(grad).contiguous(), indices, _wide(weight))
        return found.to(values.dtype), None
    if backend == "eager" and needs == (False, True) and order is not None:
        rows = latent_sums(_wide(grad), _wide(values), order.positions, order.offsets)
        return None, rows.to(weight.dtype)
    dvalues, dweight = sparse_decode_bwd(grad, values, indices, weight, order, backend=backend)
    return dvalues if needs[0] else None, dweight if needs[1] else None


def _backward(ctx: Any, grad: Tensor):
    needs = ctx.needs_input_grad
    dvalues = dweight = None
    if needs[0] or needs[2]:
        dvalues, dweight = decode_gradients(
            grad, ctx.saved_tensors, (needs[0], needs[2]), None, ctx.backend
        )
    return dvalues, None, dweight, grad.sum(dim=0) if needs[3] else None, None


_op.register_autograd(_backward, setup_context=_save)


def check_code(
    op: str, values: Tensor, indices: Tensor, weight: Tensor, **others: Tensor | None
) -> None:
    """Refuse a code and a dictionary that do not fit each other.

    Args:
        op: name of the op, for the message.
        values: [n, k].
        indices: [n, k].
        weight: [m, d].
        others: further float tensors of the call; `offset` is [d], `target` [n, d].

    Raises:
        KernelError: with the numbers.
    """
    given = {name: tensor for name, tensor in others.items() if tensor is not None}
    _backend.check_tensors(
        op, floats={"values": values, "weight": weight, **given}, integers={"indices": indices}
    )
    _backend.check_shape(op, "weight", weight, {"m": None, "d": None})
    _backend.check_shape(op, "values", values, {"n": None, "k": None})
    (m, d), (n, k) = weight.shape, values.shape
    _backend.check_sizes(op, m=m, d=d, k=k)
    _backend.check_shape(op, "indices", indices, {"n": n, "k": k})
    for name, tensor in given.items():
        _backend.check_shape(op, name, tensor, {"d": d} if name == "offset" else {"n": n, "d": d})


def sparse_decode(
    values: Float[Tensor, "n k"],
    indices: Int[Tensor, "n k"],
    weight: Float[Tensor, "m d"],
    offset: Float[Tensor, " d"] | None = None,
    *,
    backend: str | None = None,
) -> Float[Tensor, "n d"]:
    """Sum the k dictionary rows of each code, with exact gradients that cost O(n k d).

    out[r] = offset + sum_s values[r, s] weight[indices[r, s]]

    Args:
        values: [n, k] coefficients.
        indices: [n, k] int32 or int64 latents in 0..m - 1.
        weight: [m, d] dictionary, one row per latent, the dtype of values.
        offset: [d] added to every row, or None for 0.
        backend: "auto", "dense", "eager" or "triton"; None asks `using_backend`.

    Returns:
        [n, d], the dtype of values.

    Raises:
        KernelError: shapes, dtypes, devices or (on a CPU) indices do not fit; the backend cannot
            run here.

    Source: Gao et al. 2024 (arXiv 2406.04093), appendix D.
    """
    check_code("sparse_decode", values, indices, weight, offset=offset)
    chosen = _backend.resolve(
        backend,
        device=values.device,
        n_latents=weight.shape[0],
        k=values.shape[1],
        dtype=values.dtype,
    )
    values, indices, weight = values.contiguous(), indices.contiguous(), weight.contiguous()
    return _op(values, indices, weight, None if offset is None else offset.contiguous(), chosen)


def aot_cases(d: int) -> list[AotCase]:
    """The kernel at width d, for ahead-of-time compilation."""
    sizes = tile(32, d)
    warps = sizes.pop("num_warps")
    signature = {
        "values_ptr": "*bf16", "indices_ptr": "*i64", "weight_ptr": "*bf16",
        "offset_ptr": "*bf16", "out_ptr": "*bf16", "D": "i32",
    }  # fmt: skip
    constexprs = {"K": 32, "HAS_OFFSET": True, **sizes}
    return [AotCase("sparse_decode", _decode_kernel, signature, constexprs, warps, 2, 128)]
