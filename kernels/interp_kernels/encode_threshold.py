"""Threshold encoder: every pre-activation above its latent's threshold, as a CSR code.

    p = x W^T + b,   row r keeps the latents j with p[r, j] > theta[j], value p[r, j]

JumpReLU, and BatchTopK at inference, where theta is one number.
x [n, d], W [m, d], b [m] in one float dtype (fp32, bf16, fp16; float64 off Triton), theta [m] or
[]; offsets [n + 1] and indices [nnz] int64, ascending within a row, values [nnz].
Two passes: count per row and tile, one cumulative sum, then the same product again with the places
known. The product costs twice 2 n d m operations and no [n, m] matrix exists; deterministic. The
length of the result depends on the data, so the host waits once per chunk of rows.
Gradients reach x, W and b through the kept entries only; theta gets none here.
Source: Rajamanoharan et al. 2024 (arXiv 2407.14435), equation 3; Bussmann et al. 2024
(arXiv 2412.06410), section 3.2.
"""

from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from interp_kernels import _backend
from interp_kernels._backend import AotCase, ceil_div, launch, tl, triton
from interp_kernels._fused_topk import product_sides, product_tile
from interp_kernels.csc import CSR, csc_from_topk
from interp_kernels.encode_topk import CHUNK, CHUNK_ROWS, check_encoder

# Counts (and places) of one chunk of rows: 64 MB of int64.
BUDGET = 1 << 23


def encode_threshold_reference(
    x: Tensor, weight: Tensor, bias: Tensor, theta: Tensor | float
) -> CSR:
    """Readable twin of `encode_threshold`: all pre-activations under dense autograd."""
    pre = x @ weight.T + bias
    active = pre > theta
    offsets = F.pad(active.sum(dim=1).cumsum(0), (1, 0))
    return CSR(offsets, active.nonzero()[:, 1], pre[active])


@triton.jit
def _threshold_kernel(
    x_ptr, weight_ptr, bias_ptr, theta_ptr, counts_ptr, places_ptr, indices_ptr, values_ptr,
    N, M, D: tl.constexpr, TILES, WRITE: tl.constexpr, UPCAST: tl.constexpr,
    BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr,
):  # fmt: skip
    rows = tl.program_id(0) * BM + tl.arange(0, BM)
    columns = tl.program_id(1) * BN + tl.arange(0, BN)
    pre = product_tile(x_ptr, weight_ptr, bias_ptr, rows, columns, N, M, D, UPCAST, BM, BN, BK)
    theta = tl.load(theta_ptr + columns, mask=columns < M, other=0.0)
    inside = (rows < N)[:, None] & (columns < M)[None, :]
    active = (inside & (pre > theta[None, :])).to(tl.int32)
    tile = rows.to(tl.int64) * TILES + tl.program_id(1)
    if WRITE:
        first = tl.load(places_ptr + tile, mask=rows < N, other=0)
        place = first[:, None] + tl.cumsum(active, axis=1) - 1
        latents = (columns[None, :] + tl.zeros([BM, BN], dtype=tl.int32)).to(tl.int64)
        tl.store(indices_ptr + place, latents, mask=active > 0)
        tl.store(values_ptr + place, pre.to(values_ptr.dtype.element_ty), mask=active > 0)
    else:
        tl.store(counts_ptr + tile, tl.sum(active, axis=1), mask=rows < N)


def _sides(dtype: torch.dtype, n: int) -> dict[str, int]:
    # 64 rows: the places take two registers an entry, and 128 rows spill.
    sides = product_sides(dtype, n)
    return {**sides, "BM": min(sides["BM"], 64)}


def _launch_chunk(x: Tensor, weight: Tensor, bias: Tensor, theta: Tensor):
    n, d = x.shape
    m = weight.shape[0]
    sides = _sides(x.dtype, n)
    tiles = ceil_div(m, sides["BN"])
    meta = {**sides, "UPCAST": _backend.interpreting(), "num_warps": 8, "num_stages": 3}
    grid = (ceil_div(n, sides["BM"]), tiles)
    counts = torch.empty(n, tiles, dtype=torch.int32, device=x.device)
    given = (x, weight, bias, theta, counts)
    none = counts.new_empty(1, dtype=torch.int64)
    launch(_threshold_kernel, grid, *given, none, none, x, n, m, d, tiles, WRITE=False, **meta)
    ends = counts.flatten().cumsum(0, dtype=torch.int64)
    places = ends - counts.flatten()
    size = int(ends[-1])
    indices = torch.empty(size, dtype=torch.int64, device=x.device)
    values = x.new_empty(size)
    launch(
        _threshold_kernel, grid, *given, places, indices, values, n, m, d, tiles,
        WRITE=True, **meta,
    )  # fmt: skip
    return counts.sum(dim=1), indices, values


def _launch(x: Tensor, weight: Tensor, bias: Tensor, theta: Tensor):
    rows = max(128, BUDGET // ceil_div(weight.shape[0], 128))
    theta = theta.float()
    return _chunked(lambda part: _launch_chunk(part, weight, bias, theta), x, rows)


def _encode_rows(x: Tensor, weight: Tensor, bias: Tensor, theta: Tensor):
    pre = F.linear(x, weight, bias)
    active = pre > theta
    return active.sum(dim=1), active.nonzero()[:, 1], pre[active]


def _chunked(encode: Any, x: Tensor, rows: int) -> tuple[Tensor, Tensor, Tensor]:
    starts = range(0, max(len(x), 1), rows)
    if len(x) == 0:
        none = torch.zeros(1, dtype=torch.int64, device=x.device)
        return x.new_empty(0), none, none[:0].clone()
    counts, indices, values = zip(*(encode(x[at : at + rows]) for at in starts), strict=True)
    offsets = F.pad(torch.cat(counts).cumsum(0, dtype=torch.int64), (1, 0))
    return torch.cat(values), offsets, torch.cat(indices)


@torch.library.custom_op("interp::encode_threshold", mutates_args=())
def _op(
    x: Tensor, weight: Tensor, bias: Tensor, theta: Tensor, backend: str
) -> tuple[Tensor, Tensor, Tensor]:
    # A NaN is above no threshold: it would vanish instead of reaching the values.
    for name, tensor in {"x": x, "weight": weight, "bias": bias, "theta": theta}.items():
        _backend.check_finite("encode_threshold", tensor[:, None], name)
    if backend == "triton":
        found = _launch(x, weight, bias, theta)
    else:
        rows = max(CHUNK_ROWS, CHUNK // len(weight)) if backend == "eager" else max(len(x), 1)
        found = _chunked(lambda part: _encode_rows(part, weight, bias, theta), x, rows)
    _backend.check_finite("encode_threshold", found[0], "the pre-activations (an entry each)")
    return found


@_op.register_fake
def _(x, weight, bias, theta, backend):
    size = torch.library.get_ctx().new_dynamic_size()
    offsets = x.new_empty(len(x) + 1, dtype=torch.int64)
    return x.new_empty(size), offsets, x.new_empty(size, dtype=torch.int64)


def _save(ctx: Any, inputs: tuple, output: tuple[Tensor, Tensor, Tensor]) -> None:
    x, weight, _, _, _ = inputs
    ctx.save_for_backward(x, weight, output[1], output[2])
    ctx.mark_non_differentiable(output[1], output[2])


def _bags(table: Tensor, rows: Tensor, offsets: Tensor, weights: Tensor) -> Tensor:
    """out[i] = sum over offsets[i] : offsets[i + 1] of weights times rows of the table."""
    if rows.numel() == 0:
        return table.new_zeros(len(offsets) - 1, table.shape[1])
    wide = torch.float64 if table.dtype == torch.float64 else torch.float32
    return F.embedding_bag(
        rows,
        table.to(wide),
        offsets,
        mode="sum",
        per_sample_weights=weights.to(wide),
        include_last_offset=True,
    ).to(table.dtype)


@torch.library.custom_op("interp::encode_threshold_bwd", mutates_args=())
def _bwd_op(
    grad: Tensor, x: Tensor, weight: Tensor, offsets: Tensor, indices: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    order = csc_from_topk(indices, len(weight))
    rows = torch.repeat_interleave(offsets.diff())[order.positions]
    slots = grad[order.positions]
    grad_bias = _bags(x.new_ones(len(x), 1), rows, order.offsets, slots).squeeze(1)
    return (
        _bags(weight, indices, offsets, grad),
        _bags(x, rows, order.offsets, slots),
        grad_bias.clone(),
    )


@_bwd_op.register_fake
def _(grad, x, weight, offsets, indices):
    return torch.empty_like(x), torch.empty_like(weight), weight.new_empty(len(weight))


def _backward(ctx: Any, grad: Tensor, *_others: Tensor):
    return *_bwd_op(grad.contiguous(), *ctx.saved_tensors), None, None


_op.register_autograd(_backward, setup_context=_save)


def encode_threshold(
    x: Float[Tensor, "n d"],
    weight: Float[Tensor, "m d"],
    bias: Float[Tensor, " m"],
    theta: Tensor | float,
    *,
    backend: str | None = None,
) -> CSR:
    """Encode rows by their pre-activations above a threshold, as many as there are.

    row r keeps the latents j with (x W^T + b)[r, j] > theta[j]

    Args:
        x: [n, d] rows.
        weight: [m, d], one encoder row per latent.
        bias: [m].
        theta: [m] or one number; at 0 or above the values are rectified by it.
        backend: "auto", "dense", "eager" or "triton"; None asks `using_backend`. Only "dense"
            holds all pre-activations at once.

    Returns:
        offsets [n + 1], indices [nnz] ascending within a row, values [nnz] with gradients to x,
        weight and bias.

    Raises:
        KernelError: shapes, dtypes or devices do not fit; (on a CPU) an input holds NaN or inf;
            the backend cannot run here.

    Source: Rajamanoharan et al. 2024 (arXiv 2407.14435), equation 3.
    """
    name = "encode_threshold"
    check_encoder(name, x, weight, bias)
    limit = torch.as_tensor(theta, dtype=x.dtype, device=x.device)
    if isinstance(theta, Tensor):
        limit = theta
        _backend.check_tensors(name, floats={"x": x, "theta": theta}, integers={})
        if theta.ndim:
            _backend.check_shape(name, "theta", theta, {"m": len(weight)})
    chosen = _backend.resolve_streaming(backend, device=x.device, dtype=x.dtype)
    limit = limit.detach().expand(len(weight)).contiguous()
    found = _op(x.contiguous(), weight.contiguous(), bias.contiguous(), limit, chosen)
    return CSR(found[1], found[2], found[0])


def aot_cases(d: int) -> list[AotCase]:
    """The kernel at width d, for ahead-of-time compilation: both of its passes."""
    signature = {
        "x_ptr": "*bf16", "weight_ptr": "*bf16", "bias_ptr": "*bf16", "theta_ptr": "*fp32",
        "counts_ptr": "*i32", "places_ptr": "*i64", "indices_ptr": "*i64", "values_ptr": "*bf16",
        "N": "i32", "M": "i32", "TILES": "i32",
    }  # fmt: skip
    sides = {"D": d, "UPCAST": False, "BM": 64, "BN": 128, "BK": 64}
    return [
        AotCase(f"encode_threshold.{name}", _threshold_kernel, signature,
                {"WRITE": write, **sides}, 8, 3, 255, True)
        for name, write in (("count", False), ("write", True))
    ]  # fmt: skip
