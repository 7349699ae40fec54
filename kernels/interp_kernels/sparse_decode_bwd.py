"""Backward of a sparse decode, one latent-major pass for both gradients.

Forward: out[r] = sum_s values[r, s] W[indices[r, s]]. With g = dL / d out, latent j owning the
slots (r, s) that name it:

    dvalues[r, s] = <g[r], W[j]>,    dW[j] = sum over its slots of values[r, s] g[r]

Both need the row g[r] of the same slot, so one gather serves both: 2 n k d numbers read (g) + m d
read (W) + m d written, against 4 n m d operations of the two dense products.

g [n, d], values [n, k], W [m, d] in one dtype (fp32, bf16, fp16; float64 off Triton); indices and
order int32 or int64; sums in fp32 (float64 for float64). A latent with more than `HEAVY` slots is
cut into chunks of `HEAVY`, summed apart and then added in their order: the work of a program is
bounded whatever the distribution, and the bits are the same from run to run.
Source: the derivative; latent-major order as in Gao et al. 2024 (arXiv 2406.04093), appendix D.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from interp_kernels import _backend
from interp_kernels._backend import AotCase, launch, power_of_two, tl, triton
from interp_kernels.csc import CSC, csc_from_indices

# Slots per program: 16 times the mean of the usual shapes (n k / m = 4..16 at 8192 rows), so that
# few latents are cut, while the longest program stays within a few microseconds.
HEAVY = 256

# Elements of the gathered tile that the eager fall-back holds at once: 4 MB in fp32.
_CHUNK = 1 << 20


class Heavy(NamedTuple):
    """The chunks of latents with more than `size` slots; all sizes are known without a sync."""

    latents: Tensor
    """[p] int32, the latent of each chunk; p bounds their number, the rest is unused."""
    starts: Tensor
    """[m + 1] int32, chunks of latent j: starts[j]..starts[j + 1] (none where it is not cut)."""
    size: int
    """Slots per chunk."""


def heavy_chunks(offsets: Tensor, n_slots: int, size: int = HEAVY) -> Heavy:
    """Cut the latents that more than `size` slots name into chunks of `size`.

    Args:
        offsets: [m + 1] of the latent-major order.
        n_slots: n k, the number of slots.
        size: slots per chunk.

    Returns:
        The chunks. Their number is at most 2 n_slots / size, since ceil(c / size) <= 2 c / size
        for c > size: the bound needs no look at the device.
    """
    counts = offsets.diff()
    chunks = torch.where(counts > size, (counts + size - 1) // size, 0)
    starts = F.pad(chunks.cumsum(0), (1, 0)).to(torch.int32)
    places = torch.arange(2 * n_slots // size, device=offsets.device, dtype=torch.int32)
    latents = torch.searchsorted(starts, places, right=True, out_int32=True) - 1
    return Heavy(latents.clamp_(max=len(counts) - 1), starts, size)


def sparse_decode_bwd_reference(
    grad: Tensor, values: Tensor, indices: Tensor, weight: Tensor
) -> tuple[Tensor, Tensor]:
    """Readable twin of `sparse_decode_bwd`: the two dense products, in float64."""
    dense = torch.zeros(len(values), len(weight), dtype=torch.float64, device=values.device)
    dense.scatter_add_(1, indices.long(), values.double())
    dvalues = (grad.double() @ weight.double().T).gather(1, indices.long())
    return dvalues, dense.T @ grad.double()


@triton.jit
def _gather(rows_ptr, positions_ptr, t, high, K, D, KB: tl.constexpr, BD: tl.constexpr):
    """Rows of the slots t..t + KB of a latent: their flat positions, validity and [KB, BD] tile."""
    lane = t + tl.arange(0, KB)
    valid = lane < high
    positions = tl.load(positions_ptr + lane, mask=valid, other=0).to(tl.int64)
    columns = tl.arange(0, BD)
    mask = valid[:, None] & (columns < D)[None, :]
    rows = tl.load(
        rows_ptr + (positions // K)[:, None] * D + columns[None, :], mask=mask, other=0.0
    )
    return positions, valid, rows.to(tl.float32)


@triton.jit
def _decode_slots(
    grad_ptr, values_ptr, positions_ptr, dvalues_ptr, row, low, high, K, D,
    KB: tl.constexpr, BD: tl.constexpr,
):  # fmt: skip
    """Slots low..high of one latent: writes their dvalues, returns their sum of values times g."""
    total = tl.zeros([BD], dtype=tl.float32)
    t = low
    while t < high:
        positions, valid, rows = _gather(grad_ptr, positions_ptr, t, high, K, D, KB, BD)
        values = tl.load(values_ptr + positions, mask=valid, other=0.0).to(tl.float32)
        found = tl.sum(rows * row[None, :], axis=1)
        tl.store(dvalues_ptr + positions, found.to(dvalues_ptr.dtype.element_ty), mask=valid)
        total += tl.sum(values[:, None] * rows, axis=0)
        t += KB
    return total


@triton.jit
def _heavy_kernel(
    grad_ptr, values_ptr, positions_ptr, offsets_ptr, weight_ptr, latents_ptr, starts_ptr,
    dvalues_ptr, parts_ptr, M, K, D, SIZE: tl.constexpr, KB: tl.constexpr, BD: tl.constexpr,
):  # fmt: skip
    chunk = tl.program_id(0)
    if chunk < tl.load(starts_ptr + M):
        latent = tl.load(latents_ptr + chunk).to(tl.int64)
        low = tl.load(offsets_ptr + latent) + (chunk - tl.load(starts_ptr + latent)) * SIZE
        high = tl.minimum(low + SIZE, tl.load(offsets_ptr + latent + 1))
        columns = tl.arange(0, BD)
        row = tl.load(weight_ptr + latent * D + columns, mask=columns < D, other=0.0)
        total = _decode_slots(
            grad_ptr, values_ptr, positions_ptr, dvalues_ptr, row.to(tl.float32), low, high, K, D,
            KB, BD,
        )  # fmt: skip
        tl.store(parts_ptr + chunk * D + columns, total, mask=columns < D)


@triton.jit
def _sum_parts(parts_ptr, low, high, D, BD: tl.constexpr):
    """Sum of the rows low..high of [p, d], in their order."""
    columns = tl.arange(0, BD)
    total = tl.zeros([BD], dtype=tl.float32)
    t = low
    while t < high:
        total += tl.load(parts_ptr + t * D + columns, mask=columns < D, other=0.0)
        t += 1
    return total


@triton.jit
def _latent_kernel(
    grad_ptr, values_ptr, positions_ptr, offsets_ptr, weight_ptr, starts_ptr, parts_ptr,
    dvalues_ptr, dweight_ptr, K, D, SIZE: tl.constexpr, KB: tl.constexpr, BD: tl.constexpr,
):  # fmt: skip
    latent = tl.program_id(0).to(tl.int64)
    low = tl.load(offsets_ptr + latent)
    high = tl.load(offsets_ptr + latent + 1)
    columns = tl.arange(0, BD)
    if high - low > SIZE:
        first = tl.load(starts_ptr + latent).to(tl.int64)
        last = tl.load(starts_ptr + latent + 1).to(tl.int64)
        total = _sum_parts(parts_ptr, first, last, D, BD)
    else:
        row = tl.load(weight_ptr + latent * D + columns, mask=columns < D, other=0.0)
        total = _decode_slots(
            grad_ptr, values_ptr, positions_ptr, dvalues_ptr, row.to(tl.float32), low, high, K, D,
            KB, BD,
        )  # fmt: skip
    out = total.to(dweight_ptr.dtype.element_ty)
    tl.store(dweight_ptr + latent * D + columns, out, mask=columns < D)


def tile(d: int) -> tuple[int, int, int]:
    """Slots and columns of a tile, and its warps: 16 numbers per thread and tile, whole rows."""
    columns = power_of_two(d, low=16)
    slots = 8 if columns <= 1024 else 4
    return slots, columns, power_of_two(slots * columns // 512, low=1, high=16)


def _launch(
    grad: Tensor, values: Tensor, positions: Tensor, offsets: Tensor, weight: Tensor
) -> tuple[Tensor, Tensor]:
    (n, k), (m, d) = values.shape, weight.shape
    dvalues, dweight = torch.empty_like(values), torch.empty_like(weight)
    slots, columns, warps = tile(d)
    heavy = heavy_chunks(offsets, n * k)
    parts = torch.empty(len(heavy.latents), d, dtype=torch.float32, device=grad.device)
    sizes = {"SIZE": heavy.size, "KB": slots, "BD": columns, "num_warps": warps}
    launch(_heavy_kernel, (len(heavy.latents),),
        grad, values, positions, offsets, weight, heavy.latents, heavy.starts,
        dvalues, parts, m, k, d, **sizes,
    )  # fmt: skip
    launch(_latent_kernel, (m,),
        grad, values, positions, offsets, weight, heavy.starts, parts, dvalues, dweight, k, d,
        **sizes,
    )  # fmt: skip
    return dvalues, dweight


def latent_sums(rows: Tensor, weights: Tensor, positions: Tensor, offsets: Tensor) -> Tensor:
    """Sum weighted rows per latent, with stock torch operations.

    out[j] = sum over latent j's slots (r, s), in row order, of weights[r, s] rows[r]

    Args:
        rows: [n, d].
        weights: [n, k], the dtype of rows.
        positions: [n k] of the latent-major order.
        offsets: [m + 1] of the latent-major order.

    Returns:
        [m, d]; the same bits from run to run.
    """
    if weights.numel() == 0:
        return rows.new_zeros(len(offsets) - 1, rows.shape[1])
    return F.embedding_bag(
        positions // weights.shape[1],
        rows,
        offsets.to(positions.dtype),
        mode="sum",
        per_sample_weights=weights.flatten()[positions],
        include_last_offset=True,
    )


def slot_products(grad: Tensor, indices: Tensor, weight: Tensor) -> Tensor:
    """Inner product of each slot's row and latent, <grad[r], weight[indices[r, s]]>.

    Args:
        grad: [n, d].
        indices: [n, k].
        weight: [m, d], the dtype of grad.

    Returns:
        [n, k].
    """
    n, k = indices.shape
    if indices.numel() == 0 or grad.dtype not in (torch.float32, torch.float64):
        return slot_products_chunked(grad, indices, weight)
    # The derivative of embedding_bag by its weights: 7 times faster than gather and bmm. It is
    # private to torch, so a test pins it to the chunked twin.
    bags = torch.arange(n + 1, device=grad.device, dtype=indices.dtype) * k
    rows = torch.arange(n, device=grad.device, dtype=indices.dtype).repeat_interleave(k)
    found = torch.ops.aten._embedding_bag_per_sample_weights_backward(
        grad, weight, indices.flatten(), bags[:-1], rows, 0
    )
    return found.view(n, k)


def slot_products_chunked(grad: Tensor, indices: Tensor, weight: Tensor) -> Tensor:
    """Readable twin of `slot_products`: gather a chunk of latents, multiply, sum."""
    n, k = indices.shape
    rows = max(1, _CHUNK // max(1, k * grad.shape[1]))
    parts = [
        torch.einsum("nkd,nd->nk", weight[indices[at : at + rows].long()], grad[at : at + rows])
        for at in range(0, n, rows)
    ]
    return torch.cat(parts) if parts else grad.new_zeros(n, k)


def _eager(grad: Tensor, values: Tensor, indices: Tensor, order: CSC, weight: Tensor):
    wide = torch.float64 if grad.dtype == torch.float64 else torch.float32
    rows, table = grad.to(wide), weight.to(wide)
    dvalues = slot_products(rows, indices, table)
    dweight = latent_sums(rows, values.to(wide), order.positions, order.offsets)
    return dvalues.to(values.dtype), dweight.to(weight.dtype)


def _dense(grad: Tensor, values: Tensor, indices: Tensor, weight: Tensor):
    code = values.new_zeros(len(values), len(weight)).scatter_add_(1, indices.long(), values)
    return (grad @ weight.T).gather(1, indices.long()), code.T @ grad


@torch.library.custom_op("interp::sparse_decode_bwd", mutates_args=())
def _op(
    grad: Tensor,
    values: Tensor,
    indices: Tensor,
    positions: Tensor,
    offsets: Tensor,
    weight: Tensor,
    backend: str,
) -> tuple[Tensor, Tensor]:
    _backend.check_indices("sparse_decode_bwd", indices, len(weight))
    if backend == "dense":
        return _dense(grad, values, indices, weight)
    if backend == "triton":
        return _launch(grad, values, positions, offsets, weight)
    return _eager(grad, values, indices, CSC(positions, offsets), weight)


@_op.register_fake
def _(grad, values, indices, positions, offsets, weight, backend):
    return torch.empty_like(values), torch.empty_like(weight)


@register_flop_formula(torch.ops.interp.sparse_decode_bwd)
def _flops(grad, values, *_others, out_shape=None, **_named) -> int:
    return 4 * values[0] * values[1] * grad[1]


def sparse_decode_bwd(
    grad: Tensor,
    values: Tensor,
    indices: Tensor,
    weight: Tensor,
    order: CSC | None = None,
    *,
    backend: str | None = None,
) -> tuple[Tensor, Tensor]:
    """Gradients of `sparse_decode` by its values and its dictionary.

    dvalues[r, s] = <grad[r], weight[indices[r, s]]>,   dweight[j] = sum of values[r, s] grad[r]

    Args:
        grad: [n, d], gradient of the loss by the decoded rows.
        values: [n, k].
        indices: [n, k] int32 or int64 latents; a latent may stand in a row twice.
        weight: [m, d].
        order: the latent-major order of indices, where the caller has it.
        backend: "auto", "dense", "eager" or "triton"; see `using_backend`.

    Returns:
        dvalues [n, k] and dweight [m, d]; a latent that no slot names gets zeros.

    Raises:
        KernelError: shapes, dtypes, devices or indices do not fit.

    Source: the derivative of `sparse_decode`.
    """
    name = "sparse_decode_bwd"
    _backend.check_tensors(
        name,
        floats={"grad": grad, "values": values, "weight": weight},
        integers={"indices": indices},
    )
    _backend.check_shape(name, "weight", weight, {"m": None, "d": None})
    (m, d) = weight.shape
    _backend.check_sizes(name, m=m, d=d)
    _backend.check_shape(name, "values", values, {"n": None, "k": None})
    n, k = values.shape
    _backend.check_shape(name, "grad", grad, {"n": n, "d": d})
    _backend.check_shape(name, "indices", indices, {"n": n, "k": k})
    _backend.check_sizes(name, k=k)
    chosen = _backend.resolve(backend, device=grad.device, n_latents=m, k=k, dtype=grad.dtype)
    order = csc_from_indices(indices, m) if order is None else order
    grad, values, indices, weight = (t.contiguous() for t in (grad, values, indices, weight))
    return _op(grad, values, indices, order.positions, order.offsets, weight, chosen)


def aot_cases(d: int) -> list[AotCase]:
    """The kernels at width d, for ahead-of-time compilation."""
    slots, columns, warps = tile(d)
    shared = {"positions_ptr": "*i64", "offsets_ptr": "*i64", "starts_ptr": "*i32"}
    data = {"grad_ptr": "*bf16", "values_ptr": "*bf16", "weight_ptr": "*bf16"}
    out = {"dvalues_ptr": "*bf16", "parts_ptr": "*fp32", "K": "i32", "D": "i32"}
    sizes = {"SIZE": HEAVY, "KB": slots, "BD": columns}
    return [
        AotCase(
            "sparse_decode_bwd.heavy", _heavy_kernel,
            {**data, **shared, **out, "latents_ptr": "*i32", "M": "i32"}, sizes, warps, 2, 128,
        ),
        AotCase(
            "sparse_decode_bwd.latent", _latent_kernel,
            {**data, **shared, **out, "dweight_ptr": "*bf16"}, sizes, warps, 2, 128,
        ),
    ]  # fmt: skip
