"""Counters of silent latents: steps since each latent had a positive value.

    silent[j] <- 0 where some slot (r, s) of latent j has values[r, s] > 0, else silent[j] + 1

Reads n k values and indices and updates m counters. Nothing is counted on the host, and no program
needs another's result: the zeros that several slots store into one counter are all the same.
Source: Gao et al. 2024 (arXiv 2406.04093), appendix A.2 (a latent is dead after a number of steps
without firing).
"""

import torch
from torch import Tensor

from interp_kernels import _backend
from interp_kernels._backend import AotCase, KernelError, ceil_div, launch, tl, triton

_BLOCK = 1024


def dead_update_reference(silent: Tensor, values: Tensor, indices: Tensor) -> Tensor:
    """Readable twin of `dead_update_`: new counters from a dense code."""
    dense = torch.zeros(len(values), len(silent), dtype=torch.bool, device=values.device)
    for slot in range(values.shape[1]):
        hits = dense.new_zeros(dense.shape).scatter_(1, indices[:, slot : slot + 1].long(), True)
        dense |= hits & (values[:, slot : slot + 1] > 0)
    return torch.where(dense.any(dim=0), 0, silent + 1)


@triton.jit
def _count_kernel(silent_ptr, M, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    silent = tl.load(silent_ptr + at, mask=at < M, other=0)
    tl.store(silent_ptr + at, silent + 1, mask=at < M)


@triton.jit
def _reset_kernel(silent_ptr, values_ptr, indices_ptr, N_SLOTS, BLOCK: tl.constexpr):
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    values = tl.load(values_ptr + at, mask=at < N_SLOTS, other=0.0).to(tl.float32)
    indices = tl.load(indices_ptr + at, mask=at < N_SLOTS, other=0)
    zero = tl.zeros([BLOCK], dtype=silent_ptr.dtype.element_ty)
    tl.store(silent_ptr + indices, zero, mask=(at < N_SLOTS) & (values > 0))


def _launch(silent: Tensor, values: Tensor, indices: Tensor) -> None:
    m, slots = len(silent), values.numel()
    launch(_count_kernel, (ceil_div(m, _BLOCK),), silent, m, BLOCK=_BLOCK, num_warps=4)
    launch(
        _reset_kernel,
        (ceil_div(slots, _BLOCK),),
        silent,
        values,
        indices,
        slots,
        BLOCK=_BLOCK,
        num_warps=4,
    )


@torch.library.custom_op("interp::dead_update_", mutates_args=("silent",))
def _op(silent: Tensor, values: Tensor, indices: Tensor, backend: str) -> None:
    _backend.check_indices("dead_update_", indices, len(silent))
    if backend == "triton":
        return _launch(silent, values, indices)
    m = len(silent)
    # Slots without a value fall into one counter more, which is dropped: no length is looked at.
    fired = torch.zeros(m + 1, dtype=torch.bool, device=silent.device)
    fired[torch.where(values > 0, indices, m).flatten().long()] = True
    silent.add_(1).masked_fill_(fired[:m], 0)


@_op.register_fake
def _(silent, values, indices, backend):
    return None


def dead_update_(
    silent: Tensor, values: Tensor, indices: Tensor, *, backend: str | None = None
) -> None:
    """Count one more silent step for every latent without a positive value, in place.

    Args:
        silent: [m] int64 or int32, steps since each latent fired; changed.
        values: [n, k] of a code.
        indices: [n, k] int32 or int64 latents.
        backend: "auto", "dense" (as "eager"), "eager" or "triton".

    Raises:
        KernelError: shapes, dtypes, devices or indices do not fit.

    Source: Gao et al. 2024 (arXiv 2406.04093), appendix A.2.
    """
    name = "dead_update_"
    _backend.check_tensors(
        name, floats={"values": values}, integers={"indices": indices, "silent": silent}
    )
    _backend.check_shape(name, "silent", silent, {"m": None})
    m = len(silent)
    _backend.check_sizes(name, m=m)
    _backend.check_shape(name, "values", values, {"n": None, "k": None})
    n, k = values.shape
    _backend.check_shape(name, "indices", indices, {"n": n, "k": k})
    if not silent.is_contiguous():
        raise KernelError(f"{name}: silent has strides {silent.stride()}; it must be contiguous")
    chosen = _backend.resolve(backend, device=silent.device, n_latents=m, k=1, dtype=values.dtype)
    _op(silent, values.contiguous(), indices.contiguous(), chosen)


def aot_cases(d: int) -> list[AotCase]:
    """The kernels, for ahead-of-time compilation; they do not depend on d."""
    reset = {"silent_ptr": "*i64", "values_ptr": "*bf16", "indices_ptr": "*i64", "N_SLOTS": "i32"}
    return [
        AotCase(
            "dead_update.count", _count_kernel, {"silent_ptr": "*i64", "M": "i32"},
            {"BLOCK": _BLOCK}, 4, 1, 64,
        ),
        AotCase("dead_update.reset", _reset_kernel, reset, {"BLOCK": _BLOCK}, 4, 1, 64),
    ]  # fmt: skip
