"""The k largest entries of a whole batch, exactly, without sorting it.

    S = the k_total largest of all n m entries (ties: the lower row, then the lower latent)

pre [n, m] in fp32, bf16, fp16 (float64 off Triton) -> a CSR code (offsets [n + 1], indices
[k_total] ascending within a row, values [k_total]) and the smallest selected value [], which
BatchTopK averages into its threshold.

    eager   maxima of groups of 16: the k_total-th largest maximum is a bound that at least k_total
            entries reach, and few more; only those are sorted. Reads n m numbers twice.
    triton  radix selection, four histograms of 8 bits, then count, scan and compact: reads n m
            numbers six times, waits for nothing, deterministic (integer atomics).

Source: Bussmann et al. 2024 (arXiv 2412.06410), section 3.1.
"""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from interp_kernels import _backend
from interp_kernels._backend import AotCase, ceil_div, launch, tl, triton
from interp_kernels._fused_topk import _ordered
from interp_kernels.csc import CSR

# Members of a group of the eager path.
GROUP = 16
# Entries of one program: 8 per thread.
BLOCK = 1024


def batch_topk_reference(pre: Tensor, k_total: int) -> tuple[CSR, Tensor]:
    """Readable twin of `batch_topk`: a stable sort of everything; k_total >= 1."""
    n, m = pre.shape
    values, flat = pre.flatten().sort(descending=True, stable=True)
    places = flat[:k_total].sort().values
    counts = torch.bincount(places // m, minlength=n)
    offsets = torch.nn.functional.pad(counts.cumsum(0), (1, 0))
    return CSR(offsets, places % m, pre.flatten()[places]), values[k_total - 1]


@triton.jit
def _digits(pre_ptr, N, BLOCK: tl.constexpr):
    """Places of a program, and its entries as integers 0..2^32 - 1 that sort like the numbers."""
    places = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    values = tl.load(pre_ptr + places, mask=places < N, other=0.0).to(tl.float32)
    return places, _ordered(values).to(tl.int64) + 2147483648


@triton.jit
def _histogram_kernel(
    pre_ptr, prefix_ptr, counts_ptr, N, SHIFT: tl.constexpr, BLOCK: tl.constexpr
):  # fmt: skip
    places, digits = _digits(pre_ptr, N, BLOCK)
    # The prefix of the last pass is as wide as its digits; at the first pass both are 0.
    same = (digits >> (SHIFT + 8)) == tl.load(prefix_ptr)
    digit = tl.where(same & (places < N), (digits >> SHIFT) & 255, 256)
    found = tl.histogram(digit.to(tl.int32), 512)
    tl.atomic_add(counts_ptr + tl.arange(0, 512), found.to(tl.int64))


@triton.jit
def _count_kernel(pre_ptr, bound_ptr, above_ptr, equal_ptr, N, BLOCK: tl.constexpr):
    places, digits = _digits(pre_ptr, N, BLOCK)
    bound = tl.load(bound_ptr)
    above = ((digits > bound) & (places < N)).to(tl.int32)
    equal = ((digits == bound) & (places < N)).to(tl.int32)
    tl.store(above_ptr + tl.program_id(0), tl.sum(above, axis=0))
    tl.store(equal_ptr + tl.program_id(0), tl.sum(equal, axis=0))


@triton.jit
def _compact_kernel(
    pre_ptr, bound_ptr, need_ptr, above_ptr, equal_ptr, places_ptr, N, K, BLOCK: tl.constexpr
):  # fmt: skip
    places, digits = _digits(pre_ptr, N, BLOCK)
    bound, need = tl.load(bound_ptr), tl.load(need_ptr)
    above = ((digits > bound) & (places < N)).to(tl.int32)
    equal = ((digits == bound) & (places < N)).to(tl.int32)
    larger = tl.load(above_ptr + tl.program_id(0)) + tl.cumsum(above, axis=0)
    rank = tl.load(equal_ptr + tl.program_id(0)) + tl.cumsum(equal, axis=0)
    take = (above > 0) | ((equal > 0) & (rank <= need))
    at = larger + tl.minimum(rank, need) - 1
    tl.store(places_ptr + at, places, mask=take & (at < K))


def _launch(pre: Tensor, k: int) -> Tensor:
    """Flat places [k] of the k largest, ascending."""
    size, blocks = pre.numel(), ceil_div(pre.numel(), BLOCK)
    prefix = torch.zeros(1, dtype=torch.int64, device=pre.device)
    need = torch.full((1,), k, dtype=torch.int64, device=pre.device)
    for shift in (24, 16, 8, 0):
        counts = torch.zeros(512, dtype=torch.int64, device=pre.device)
        launch(_histogram_kernel, (blocks,), pre, prefix, counts, size, SHIFT=shift, BLOCK=BLOCK)
        down = counts[:256].flip(0).cumsum(0)
        passed = down < need
        prefix = prefix * 256 + 255 - passed.sum()
        need = need - torch.where(passed, down, 0).amax()
    above = torch.empty(blocks, dtype=torch.int64, device=pre.device)
    equal = torch.empty_like(above)
    launch(_count_kernel, (blocks,), pre, prefix, above, equal, size, BLOCK=BLOCK)
    before = (above.cumsum(0) - above, equal.cumsum(0) - equal)
    places = torch.empty(k, dtype=torch.int64, device=pre.device)
    launch(_compact_kernel, (blocks,), pre, prefix, need, *before, places, size, k, BLOCK=BLOCK)
    return places


def _select(pre: Tensor, k: int) -> Tensor:
    """Flat places [k] of the k largest, ascending, by a bound from group maxima."""
    flat = pre.flatten()
    count = len(flat) // GROUP
    if count < 2 * k:
        return flat.sort(descending=True, stable=True).indices[:k].sort().values
    body = flat[: count * GROUP].view(GROUP, count)
    bound = body.amax(dim=0).kthvalue(count - k + 1).values
    places = (flat >= bound).nonzero().squeeze(1)
    best = flat[places].sort(descending=True, stable=True).indices[:k]
    return places[best].sort().values


@torch.library.custom_op("interp::batch_topk", mutates_args=())
def _op(pre: Tensor, k: int, backend: str) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    n, m = pre.shape
    if _backend.checks_values(pre) and bool(pre.isnan().any()):
        _backend.check_finite("batch_topk", torch.where(pre.isnan(), pre, 0), "pre")
    if k == 0:
        places = torch.empty(0, dtype=torch.int64, device=pre.device)
    else:
        places = _launch(pre, k) if backend == "triton" else _select(pre, k)
    values = pre.flatten()[places]
    edges = torch.arange(n + 1, device=pre.device) * m
    smallest = values.amin() if k else pre.new_full((), torch.inf)
    return values, smallest, torch.searchsorted(places, edges), places % m


@_op.register_fake
def _(pre, k, backend):
    whole = pre.new_empty(len(pre) + 1, dtype=torch.int64)
    return pre.new_empty(k), pre.new_empty(()), whole, pre.new_empty(k, dtype=torch.int64)


def _save(ctx: Any, inputs: tuple, output: tuple[Tensor, ...]) -> None:
    _, smallest, offsets, indices = output
    ctx.shape = inputs[0].shape
    ctx.save_for_backward(offsets, indices)
    ctx.mark_non_differentiable(offsets, indices, smallest)


def _backward(ctx: Any, grad: Tensor, *_others: Tensor):
    offsets, indices = ctx.saved_tensors
    n, m = ctx.shape
    rows = torch.repeat_interleave(offsets.diff(), output_size=len(indices))
    return grad.new_zeros(n * m).index_put((rows * m + indices,), grad).view(n, m), None, None


_op.register_autograd(_backward, setup_context=_save)


def batch_topk(
    pre: Float[Tensor, "n m"], k_total: int, *, backend: str | None = None
) -> tuple[CSR, Float[Tensor, ""]]:
    """Pick the k_total largest entries of a batch; equal ones by the lower row, then latent.

    Args:
        pre: [n, m].
        k_total: entries in all, usually n k; 0 <= k_total <= n m.
        backend: "auto", "eager" or "triton" ("dense" is "eager"); None asks `using_backend`.
            "eager" waits for a GPU.

    Returns:
        The selected entries as a CSR code, values with gradients to pre, and the smallest of them
        (inf for k_total = 0), without gradient.

    Raises:
        KernelError: k_total is out of range, pre is no matrix of floats or (looked at on a CPU)
            holds NaN; the backend cannot run here.

    Source: Bussmann et al. 2024 (arXiv 2412.06410), section 3.1.
    """
    _backend.check_tensors("batch_topk", floats={"pre": pre}, integers={})
    _backend.check_shape("batch_topk", "pre", pre, {"n": None, "m": None})
    n, m = pre.shape
    _backend.check_sizes("batch_topk", m=m)
    if not 0 <= k_total <= n * m:
        raise _backend.KernelError(f"batch_topk: k_total = {k_total} is not in 0..{n * m} (n m)")
    chosen = _backend.resolve_streaming(backend, device=pre.device, dtype=pre.dtype)
    values, smallest, offsets, indices = _op(pre.contiguous(), k_total, chosen)
    return CSR(offsets, indices, values), smallest


def aot_cases(d: int) -> list[AotCase]:
    """The kernels, for ahead-of-time compilation; they do not depend on the width."""
    data, size, block = {"pre_ptr": "*bf16"}, {"N": "i64"}, {"BLOCK": BLOCK}
    pair = {"above_ptr": "*i64", "equal_ptr": "*i64"}
    return [
        AotCase(
            "batch_topk.histogram", _histogram_kernel,
            {**data, "prefix_ptr": "*i64", "counts_ptr": "*i64", **size},
            {"SHIFT": 16, **block}, 4, 2, 80,
        ),
        AotCase(
            "batch_topk.count", _count_kernel, {**data, "bound_ptr": "*i64", **pair, **size},
            block, 4, 2, 64,
        ),
        AotCase(
            "batch_topk.compact", _compact_kernel,
            {**data, "bound_ptr": "*i64", "need_ptr": "*i64", **pair, "places_ptr": "*i64",
             **size, "K": "i64"}, block, 4, 2, 64,
        ),
    ]  # fmt: skip
