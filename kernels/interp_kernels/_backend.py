"""Where a kernel runs, what it accepts, how it is launched: the ground that every op stands on.

Backends of an op:

    dense    plain matrix products over all m latents: fastest when m / k is small
    eager    stock torch operations over the n k active slots: deterministic, the oracle, any device
    triton   the kernels, on a GPU; on a CPU only inside Triton's interpreter, which tests turn on
    auto     one of them, by device, m / k and dtype (`CROSSOVER`)

An explicit argument wins over `using_backend`, which wins over `auto`.
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from typing import Any, Literal, NamedTuple, get_args

import torch
from torch import Tensor

try:
    import triton
    import triton.language as tl
except ImportError:
    # Kernels are still defined where triton is absent, only never run: `jit` gives them back.
    class _Absent:
        constexpr = object
        jit = staticmethod(lambda function=None, **_: function or (lambda one: one))

    triton = tl = _Absent()  # type: ignore[assignment]
    _TRITON, _INTERPRETING = False, False
else:
    # `triton.jit` reads this once, when a kernel is defined: so does this module.
    _TRITON, _INTERPRETING = True, bool(triton.knobs.runtime.interpret)  # type: ignore

Backend = Literal["auto", "dense", "eager", "triton"]

# A length; in traced code it may be a symbol.
Size = int | torch.SymInt

FLOATS = (torch.float32, torch.bfloat16, torch.float16)
INTEGERS = (torch.int32, torch.int64)

# Smallest m / k at which the sparse backend is chosen, by device and dtype.
CROSSOVER: dict[str, dict[torch.dtype, float]] = {
    # Computed, not yet measured on a GPU: one gather of n k rows of d numbers takes as long as one
    # matrix product when m / k = (FLOP/s) / (bytes/s) = 790e12 / 4.3e12, both of an H200 in bf16.
    # Single precision multiplies at most half as fast and gathers twice the bytes: a fourth.
    "cuda": {torch.bfloat16: 184.0, torch.float16: 184.0, torch.float32: 46.0},
    # `python -m benchmarks.run kernels`, one AVX2 core, d = 512: a step is as fast either way at 4
    # in single precision, 1.4 times faster at 8 and 3.2 at 128; in bf16, 6 times at 4.
    "cpu": {torch.bfloat16: 4.0, torch.float16: 4.0, torch.float32: 5.0, torch.float64: 5.0},
}


class KernelError(ValueError):
    """An input that a kernel cannot take; the message names the numbers and what would fit."""


class AotCase(NamedTuple):
    """One kernel at one width, to be compiled ahead of time: no GPU is needed for that."""

    name: str
    kernel: Any
    """The `@triton.jit` function."""
    signature: dict[str, str]
    """Argument -> Triton type ("*fp32", "*bf16", "*i32", "i32", ...), constexprs excluded."""
    constexprs: dict[str, Any]
    num_warps: int
    num_stages: int
    max_registers: int
    """Registers per thread that the gate allows."""
    tensor_cores: bool = False
    """Whether the code must hold matrix instructions."""


_BACKEND: ContextVar[str] = ContextVar("interp_kernels_backend", default="auto")
# What `torch.compile` reads, which cannot trace a ContextVar: it guards on this value and compiles
# again when it changes.
_TRACED = {"backend": "auto"}
_CHECKING: ContextVar[bool] = ContextVar("interp_kernels_checking", default=False)


@contextmanager
def using_backend(name: Backend) -> Iterator[None]:
    """Run every op inside with this backend, unless a call names its own.

    Args:
        name: "auto", "dense", "eager" or "triton".

    Yields:
        Nothing; the earlier choice is back afterwards.

    Raises:
        KernelError: the name is none of the four.
    """
    _known(name)
    token, traced = _BACKEND.set(name), _TRACED["backend"]
    _TRACED["backend"] = name
    try:
        yield
    finally:
        _BACKEND.reset(token)
        _TRACED["backend"] = traced


@contextmanager
def checking_values(on: bool = True) -> Iterator[None]:
    """Check values (indices in range, finite numbers) on a GPU too, where each check waits for it.

    Args:
        on: False gives back the default: values are checked on a CPU only.

    Yields:
        Nothing; the earlier choice is back afterwards.
    """
    token = _CHECKING.set(on)
    try:
        yield
    finally:
        _CHECKING.reset(token)


def interpreting() -> bool:
    """Whether this process runs kernels in Triton's interpreter, so that "triton" takes a CPU."""
    return _INTERPRETING


def has_triton() -> bool:
    """Whether triton can be imported."""
    return _TRITON


def resolve(
    backend: str | None,
    *,
    device: torch.device,
    n_latents: Size,
    k: Size,
    dtype: torch.dtype,
) -> str:
    """Choose the backend of one call.

    Args:
        backend: asked for by the caller; None leaves it to `using_backend`.
        device: of the tensors.
        n_latents: m.
        k: active latents per row (a mean will do).
        dtype: of the values.

    Returns:
        "dense", "eager" or "triton".

    Raises:
        KernelError: the name is unknown, or "triton" cannot run on this device or dtype.
    """
    name = backend or _current()
    _known(name)
    if name == "triton":
        _require_triton(device, dtype)
    if name != "auto":
        return name
    table = CROSSOVER.get(device.type, CROSSOVER["cpu"])
    if n_latents < table.get(dtype, CROSSOVER["cpu"][torch.float32]) * k:
        return "dense"
    return "triton" if device.type == "cuda" and _TRITON and dtype in FLOATS else "eager"


def resolve_streaming(backend: str | None, *, device: torch.device, dtype: torch.dtype) -> str:
    """`resolve` for an op that is sparse at any size: `auto` is never "dense".

    Raises:
        KernelError: as `resolve`.
    """
    return resolve(backend, device=device, n_latents=1 << 31, k=1, dtype=dtype)


def _current() -> str:
    return _TRACED["backend"] if torch.compiler.is_compiling() else _BACKEND.get()


def _known(name: str) -> None:
    if name not in get_args(Backend):
        raise KernelError(f"backend {name!r} is none of {', '.join(get_args(Backend))}")


def _require_triton(device: torch.device, dtype: torch.dtype) -> None:
    if not _TRITON:
        raise KernelError('backend "triton": triton is not installed; use "eager" or "dense"')
    if device.type != "cuda" and not _INTERPRETING:
        raise KernelError(
            f'backend "triton" needs a GPU and the tensors are on {device}: move them, or use '
            '"eager" or "dense"'
        )
    if dtype not in FLOATS:
        raise KernelError(
            f'backend "triton" takes {_names(FLOATS)}, not {_name(dtype)}; use "eager" or "dense"'
        )


def check_tensors(op: str, *, floats: dict[str, Tensor], integers: dict[str, Tensor]) -> None:
    """Refuse tensors of one call that differ in device or float dtype, or that no kernel takes.

    Args:
        op: name of the op, for the message.
        floats: argument name -> tensor; one dtype, fp32, bf16, fp16 (or float64, never on triton).
        integers: argument name -> tensor; int32 or int64 each.

    Raises:
        KernelError: with both names and both devices or dtypes.
    """
    named = [*floats.items(), *integers.items()]
    first, lead = named[0]
    for name, tensor in named:
        if tensor.device != lead.device:
            raise KernelError(
                f"{op}: {name} is on {tensor.device} and {first} on {lead.device}; move one"
            )
    for name, tensor in floats.items():
        if tensor.dtype not in (*FLOATS, torch.float64):
            raise KernelError(
                f"{op}: {name} is {_name(tensor.dtype)}; it takes {_names(FLOATS)} or float64"
            )
        if tensor.dtype != lead.dtype and first in floats:
            raise KernelError(
                f"{op}: {name} is {_name(tensor.dtype)} and {first} {_name(lead.dtype)}; cast one"
            )
    for name, tensor in integers.items():
        if tensor.dtype not in INTEGERS:
            raise KernelError(f"{op}: {name} is {_name(tensor.dtype)}; it takes int32 or int64")


def check_shape(op: str, name: str, tensor: Tensor, shape: dict[str, Size | None]) -> None:
    """Refuse a tensor whose shape is not the one named, as in {"m": 4096, "d": None}.

    Args:
        op: name of the op.
        name: name of the argument.
        tensor: the argument.
        shape: dimension -> its length, None for any.

    Raises:
        KernelError: with the found and the expected shape.
    """
    expected = list(shape.values())
    fits = tensor.ndim == len(expected) and all(
        want is None or have == want for have, want in zip(tensor.shape, expected, strict=True)
    )
    if not fits:
        text = ", ".join(dim if n is None else f"{dim} = {n}" for dim, n in shape.items())
        raise KernelError(f"{op}: {name} is {list(tensor.shape)}, expected [{text}]")


def check_sizes(op: str, **sizes: Size) -> None:
    """Refuse a size below 1 (rows may be 0: do not pass n).

    Raises:
        KernelError: with the name and the number.
    """
    for name, size in sizes.items():
        if size < 1:
            raise KernelError(f"{op}: {name} = {size}, it must be at least 1")


def check_k(op: str, k: Size, n_latents: Size) -> None:
    """Refuse k outside 1..m.

    Raises:
        KernelError: with k and m.
    """
    check_sizes(op, n_latents=n_latents)
    if not 1 <= k <= n_latents:
        raise KernelError(f"{op}: k = {k} is not in 1..{n_latents} (the number of latents)")


def checks_values(tensor: Tensor) -> bool:
    """Whether values are looked at: real ones on a CPU, or anywhere inside `checking_values`.

    Traced tensors (fake, functional, meta) hold none.
    """
    if type(tensor) not in (Tensor, torch.nn.Parameter) or torch.compiler.is_compiling():
        return False
    return tensor.device.type == "cpu" or (tensor.is_cuda and _CHECKING.get())


def check_indices(op: str, indices: Tensor, n_latents: Size) -> None:
    """Refuse indices outside 0..m - 1; called inside an op, where tensors hold values.

    Raises:
        KernelError: with the smallest, the largest and m.
    """
    if indices.numel() == 0 or not checks_values(indices):
        return
    low, high = (int(edge) for edge in indices.aminmax())
    if low < 0 or high >= n_latents:
        raise KernelError(
            f"{op}: indices run from {low} to {high}, outside 0..{n_latents - 1} (n_latents = "
            f"{n_latents})"
        )


def check_finite(op: str, values: Tensor, source: str) -> None:
    """Refuse [n, ...] results with NaN or inf; called inside an op, where tensors hold values.

    Raises:
        KernelError: with the number of such rows, the first of them, and what to look at.
    """
    if not checks_values(values) or bool(values.isfinite().all()):
        return
    wrong = ~values.isfinite().reshape(values.shape[0], -1).all(dim=1)
    raise KernelError(
        f"{op}: {int(wrong.sum())} of {wrong.numel()} rows are NaN or inf, the first is row "
        f"{int(wrong.int().argmax())}; look for NaN, inf or overflow in {source}"
    )


def on_device(tensor: Tensor) -> AbstractContextManager[Any]:
    """The tensor's GPU as the current one, where kernels are launched."""
    return torch.cuda.device(tensor.device) if tensor.is_cuda else nullcontext()


def launch(kernel: Any, grid: tuple[int, ...], *arguments: Any, **meta: Any) -> None:
    """Start a kernel on the GPU of its first argument, a tensor; an empty grid starts nothing.

    Args:
        kernel: a `@triton.jit` function.
        grid: programs along up to three axes.
        arguments: of the kernel, in order.
        meta: its constexprs, num_warps, num_stages.
    """
    if all(grid):
        with on_device(arguments[0]):
            kernel[grid](*arguments, **meta)


def power_of_two(n: int, *, low: int = 1, high: int = 1 << 30) -> int:
    """The smallest power of two >= n, kept in low..high: the sides of a tile."""
    return min(max(1 << max(n - 1, 0).bit_length(), low), high)


def ceil_div(a: int, b: int) -> int:
    """a / b rounded up."""
    return -(-a // b)


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _names(dtypes: tuple[torch.dtype, ...]) -> str:
    return ", ".join(map(_name, dtypes))
