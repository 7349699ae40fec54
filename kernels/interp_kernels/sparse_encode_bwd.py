"""Backward of a sparse encoder: gradients of its weights, in one latent-major pass.

Forward: values[r, s] = max(p, 0) with p = <x[r], W[indices[r, s]]> + b. With v = dL / d values,

    dp[r, s] = v[r, s] where values[r, s] > 0, else 0
    dW[j] = sum over latent j's slots of dp[r, s] x[r],    db[j] = the same sum of dp[r, s]

A slot with value 0 passes no gradient. Reads n k rows of d numbers, writes m rows; the dense
product takes 2 n m d operations. No [n, m] and no [n k, d] array is formed. An encoder that
subtracts b_dec from its rows needs no gradient of [n, d] rows for it: with the shift moved into the
bias, b - W b_dec, the gradient of b_dec is -W^T db: one product of m d numbers.

x [n, d], v and values [n, k] in one dtype (fp32, bf16, fp16; float64 off Triton); sums in fp32
(float64 for float64), heavy latents cut as in `sparse_decode_bwd`.
Source: the derivative; Gao et al. 2024 (arXiv 2406.04093), section 2.3 for the rectifier.
"""

import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from interp_kernels import _backend
from interp_kernels._backend import AotCase, launch, tl, triton
from interp_kernels.csc import CSC, csc_from_indices
from interp_kernels.sparse_decode_bwd import (
    HEAVY,
    _gather,
    _sum_parts,
    heavy_chunks,
    latent_sums,
    tile,
)


def sparse_encode_bwd_reference(
    grad_values: Tensor, values: Tensor, indices: Tensor, x: Tensor, n_latents: int
) -> tuple[Tensor, Tensor]:
    """Readable twin of `sparse_encode_bwd`: a dense [n, m] gradient, in float64."""
    slots = torch.where(values > 0, grad_values, 0).double()
    dense = torch.zeros(len(values), n_latents, dtype=torch.float64, device=values.device)
    dense.scatter_add_(1, indices.long(), slots)
    return dense.T @ x.double(), dense.sum(dim=0)


@triton.jit
def _encode_slots(
    x_ptr, slots_ptr, values_ptr, positions_ptr, low, high, K, D,
    KB: tl.constexpr, BD: tl.constexpr,
):  # fmt: skip
    """Slots low..high of one latent: their sums of dp times x and of dp."""
    total = tl.zeros([BD], dtype=tl.float32)
    bias = tl.zeros([KB], dtype=tl.float32)
    t = low
    while t < high:
        positions, valid, rows = _gather(x_ptr, positions_ptr, t, high, K, D, KB, BD)
        values = tl.load(values_ptr + positions, mask=valid, other=0.0).to(tl.float32)
        slots = tl.load(slots_ptr + positions, mask=valid, other=0.0).to(tl.float32)
        slots = tl.where(values > 0, slots, 0.0)
        # 0 times inf is NaN: a row whose slot passes nothing must not count.
        total += tl.sum(tl.where(slots[:, None] != 0, slots[:, None] * rows, 0.0), axis=0)
        bias += slots
        t += KB
    return total, tl.sum(bias, axis=0)


@triton.jit
def _heavy_kernel(
    x_ptr, slots_ptr, values_ptr, positions_ptr, offsets_ptr, latents_ptr, starts_ptr,
    parts_ptr, biases_ptr, M, K, D, SIZE: tl.constexpr, KB: tl.constexpr, BD: tl.constexpr,
):  # fmt: skip
    chunk = tl.program_id(0)
    if chunk < tl.load(starts_ptr + M):
        latent = tl.load(latents_ptr + chunk).to(tl.int64)
        low = tl.load(offsets_ptr + latent) + (chunk - tl.load(starts_ptr + latent)) * SIZE
        high = tl.minimum(low + SIZE, tl.load(offsets_ptr + latent + 1))
        columns = tl.arange(0, BD)
        total, bias = _encode_slots(
            x_ptr, slots_ptr, values_ptr, positions_ptr, low, high, K, D, KB, BD
        )
        tl.store(parts_ptr + chunk * D + columns, total, mask=columns < D)
        tl.store(biases_ptr + chunk, bias)


@triton.jit
def _latent_kernel(
    x_ptr, slots_ptr, values_ptr, positions_ptr, offsets_ptr, starts_ptr, parts_ptr, biases_ptr,
    dweight_ptr, dbias_ptr, K, D, SIZE: tl.constexpr, KB: tl.constexpr, BD: tl.constexpr,
):  # fmt: skip
    latent = tl.program_id(0).to(tl.int64)
    low = tl.load(offsets_ptr + latent)
    high = tl.load(offsets_ptr + latent + 1)
    columns = tl.arange(0, BD)
    if high - low > SIZE:
        first = tl.load(starts_ptr + latent).to(tl.int64)
        last = tl.load(starts_ptr + latent + 1).to(tl.int64)
        total = _sum_parts(parts_ptr, first, last, D, BD)
        bias = tl.sum(_sum_parts(biases_ptr, first, last, 1, KB), axis=0)
    else:
        total, bias = _encode_slots(
            x_ptr, slots_ptr, values_ptr, positions_ptr, low, high, K, D, KB, BD
        )
    out = total.to(dweight_ptr.dtype.element_ty)
    tl.store(dweight_ptr + latent * D + columns, out, mask=columns < D)
    tl.store(dbias_ptr + latent, bias.to(dbias_ptr.dtype.element_ty))


def _launch(
    slots: Tensor, values: Tensor, positions: Tensor, offsets: Tensor, x: Tensor, m: int
) -> tuple[Tensor, Tensor]:
    (n, k), d = values.shape, x.shape[1]
    dweight, dbias = x.new_empty(m, d), x.new_empty(m)
    rows, columns, warps = tile(d)
    heavy = heavy_chunks(offsets, n * k)
    parts = torch.empty(len(heavy.latents), d, dtype=torch.float32, device=x.device)
    biases = torch.empty(len(heavy.latents), dtype=torch.float32, device=x.device)
    sizes = {"SIZE": heavy.size, "KB": rows, "BD": columns, "num_warps": warps}
    launch(_heavy_kernel, (len(heavy.latents),),
        x, slots, values, positions, offsets, heavy.latents, heavy.starts, parts, biases,
        m, k, d, **sizes,
    )  # fmt: skip
    launch(_latent_kernel, (m,),
        x, slots, values, positions, offsets, heavy.starts, parts, biases, dweight, dbias,
        k, d, **sizes,
    )  # fmt: skip
    return dweight, dbias


def slot_sums(slots: Tensor, order: CSC) -> Tensor:
    """Sum the numbers of each latent's slots: [n, k] -> [m], in row order."""
    if slots.numel() == 0:
        return slots.new_zeros(len(order.offsets) - 1)
    return torch.segment_reduce(
        slots.flatten()[order.positions], "sum", offsets=order.offsets, unsafe=True
    )


def _eager(slots: Tensor, order: CSC, x: Tensor) -> tuple[Tensor, Tensor]:
    wide = torch.float64 if x.dtype == torch.float64 else torch.float32
    dweight = latent_sums(x.to(wide), slots.to(wide), order.positions, order.offsets)
    return dweight.to(x.dtype), slot_sums(slots.to(wide), order).to(x.dtype)


def _dense(slots: Tensor, indices: Tensor, x: Tensor, m: int) -> tuple[Tensor, Tensor]:
    code = slots.new_zeros(len(slots), m).scatter_add_(1, indices.long(), slots)
    return code.T @ x, code.sum(dim=0)


@torch.library.custom_op("interp::sparse_encode_bwd", mutates_args=())
def _op(
    grad_values: Tensor,
    values: Tensor,
    indices: Tensor,
    positions: Tensor,
    offsets: Tensor,
    x: Tensor,
    n_latents: int,
    backend: str,
) -> tuple[Tensor, Tensor]:
    _backend.check_indices("sparse_encode_bwd", indices, n_latents)
    if backend == "triton":
        return _launch(grad_values, values, positions, offsets, x, n_latents)
    slots = torch.where(values > 0, grad_values, 0)
    if backend == "dense":
        return _dense(slots, indices, x, n_latents)
    return _eager(slots, CSC(positions, offsets), x)


@_op.register_fake
def _(grad_values, values, indices, positions, offsets, x, n_latents, backend):
    return x.new_empty(n_latents, x.shape[1]), x.new_empty(n_latents)


@register_flop_formula(torch.ops.interp.sparse_encode_bwd)
def _flops(grad_values, values, indices, positions, offsets, x, *_others, **_named) -> int:
    return 2 * values[0] * values[1] * x[1]


def sparse_encode_bwd(
    grad_values: Tensor,
    values: Tensor,
    indices: Tensor,
    x: Tensor,
    n_latents: int,
    order: CSC | None = None,
    *,
    backend: str | None = None,
) -> tuple[Tensor, Tensor]:
    """Gradients of `encode_topk` (any sparse rectified encoder) by its weight and its bias.

    dweight[j] = sum over latent j's slots with a positive value of grad_values[r, s] x[r]

    Args:
        grad_values: [n, k], gradient of the loss by the values.
        values: [n, k] rectified values; a slot with value 0 passes no gradient.
        indices: [n, k] int32 or int64 latents.
        x: [n, d] rows that were encoded.
        n_latents: m.
        order: the latent-major order of indices, where the caller has it.
        backend: "auto", "dense", "eager" or "triton"; see `using_backend`.

    Returns:
        dweight [m, d] and dbias [m]; a latent that no slot names gets zeros.

    Raises:
        KernelError: shapes, dtypes, devices or indices do not fit.

    Source: Gao et al. 2024 (arXiv 2406.04093), section 2.3, differentiated.
    """
    name = "sparse_encode_bwd"
    floats = {"x": x, "grad_values": grad_values, "values": values}
    _backend.check_tensors(name, floats=floats, integers={"indices": indices})
    _backend.check_shape(name, "x", x, {"n": None, "d": None})
    n, d = x.shape
    _backend.check_shape(name, "values", values, {"n": n, "k": None})
    k = values.shape[1]
    _backend.check_sizes(name, n_latents=n_latents, d=d, k=k)
    _backend.check_shape(name, "grad_values", grad_values, {"n": n, "k": k})
    _backend.check_shape(name, "indices", indices, {"n": n, "k": k})
    chosen = _backend.resolve(backend, device=x.device, n_latents=n_latents, k=k, dtype=x.dtype)
    order = csc_from_indices(indices, n_latents) if order is None else order
    slots, values, indices, x = (t.contiguous() for t in (grad_values, values, indices, x))
    return _op(slots, values, indices, order.positions, order.offsets, x, n_latents, chosen)


def aot_cases(d: int) -> list[AotCase]:
    """The kernels at width d, for ahead-of-time compilation."""
    rows, columns, warps = tile(d)
    data = {"x_ptr": "*bf16", "slots_ptr": "*bf16", "values_ptr": "*bf16", "K": "i32", "D": "i32"}
    order = {"positions_ptr": "*i64", "offsets_ptr": "*i64", "starts_ptr": "*i32"}
    parts = {"parts_ptr": "*fp32", "biases_ptr": "*fp32"}
    sizes = {"SIZE": HEAVY, "KB": rows, "BD": columns}
    return [
        AotCase(
            "sparse_encode_bwd.heavy", _heavy_kernel,
            {**data, **order, **parts, "latents_ptr": "*i32", "M": "i32"}, sizes, warps, 2, 128,
        ),
        AotCase(
            "sparse_encode_bwd.latent", _latent_kernel,
            {**data, **order, **parts, "dweight_ptr": "*bf16", "dbias_ptr": "*bf16"},
            sizes, warps, 2, 128,
        ),
    ]  # fmt: skip
