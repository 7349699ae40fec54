"""Row-local optimizer of a dictionary: gradient projection, Adam and renormalization in one pass.

For each row w with gradient g and moments a, b, step t = 1, 2, ... (unit rows only: marked *)

    g <- g - <g, w> w *
    a <- a + (1 - beta1) (g - a),   b <- beta2 b + (1 - beta2) g^2
    w <- w - lr / (1 - beta1^t) * a / (sqrt(b / (1 - beta2^t)) + eps)
    w <- w / |w| *      (a row of zeros stays zero)

One read of w, g, a, b and one write of w, a, b (and of a working copy in the dtype of `copy`, where
given): 28 bytes per number in fp32 and 30 with a bf16 copy, against about 54 for the chain of
separate operations. For data-parallel runs, whose gradients must be summed between backward and
step; alone, `fused_bwd_adam` needs no gradient at all.

w, a, b are fp32 (float64 off Triton), g any float dtype; `lr` and `step` are numbers on the device,
so a captured graph replays with new ones.
Source: Kingma and Ba 2014 (arXiv 1412.6980), algorithm 1; Bricken et al. 2023, "Towards
Monosemanticity", appendix "Autoencoder training", for the projection.
"""

import torch
from torch import Tensor

from interp_kernels import _backend
from interp_kernels._backend import AotCase, KernelError, launch, power_of_two, tl, triton

# As torch.optim.Adam(betas=(0.9, 0.99), eps=1e-8): the library's own training uses these.
BETAS = (0.9, 0.99)
EPS = 1e-8


def project_adam_renorm_reference(
    weight: Tensor,
    grad: Tensor,
    exp_avg: Tensor,
    exp_avg_sq: Tensor,
    lr: float,
    step: int,
    *,
    unit_rows: bool = True,
    betas: tuple[float, float] = BETAS,
    eps: float = EPS,
) -> tuple[Tensor, Tensor, Tensor]:
    """Readable twin of `project_adam_renorm_`: new weight and moments, in float64."""
    w, g, a, b = (tensor.double() for tensor in (weight, grad, exp_avg, exp_avg_sq))
    if unit_rows:
        g = g - (g * w).sum(dim=1, keepdim=True) * w
    a = betas[0] * a + (1 - betas[0]) * g
    b = betas[1] * b + (1 - betas[1]) * g * g
    w = w - lr / (1 - betas[0] ** step) * a / ((b / (1 - betas[1] ** step)).sqrt() + eps)
    if unit_rows:
        norm = w.norm(dim=1, keepdim=True)
        w = w / torch.where(norm > 0, norm, 1.0)
    return w, a, b


def step_rates(lr: Tensor, step: Tensor, betas: tuple[float, float]) -> Tensor:
    """The two numbers that change from step to step, on the device.

    Args:
        lr: [] learning rate.
        step: [] number of this step, from 1.
        betas: of Adam.

    Returns:
        [2] fp32: lr / (1 - beta1^t) and 1 / sqrt(1 - beta2^t).
    """
    t, rate = step.double(), lr.double()
    return torch.stack([rate / (1 - betas[0] ** t), (1 - betas[1] ** t).rsqrt()]).float()


@triton.jit
def _adam(w, g, a, b, rates_ptr, beta1: tl.constexpr, beta2: tl.constexpr, eps: tl.constexpr):
    """One Adam step of a row (or a number): new w, a, b."""
    a = a + (1 - beta1) * (g - a)
    b = beta2 * b + (1 - beta2) * g * g
    rate = tl.load(rates_ptr)
    width = tl.sqrt(b) * tl.load(rates_ptr + 1) + eps
    return w - rate * a / width, a, b


@triton.jit
def _unit(w):
    """The row at norm 1; a row of zeros stays zero."""
    norm = tl.sqrt(tl.sum(w * w, axis=0))
    return w / tl.where(norm > 0, norm, 1.0)


@triton.jit
def _row_kernel(
    weight_ptr, grad_ptr, avg_ptr, sq_ptr, copy_ptr, rates_ptr, D,
    beta1: tl.constexpr, beta2: tl.constexpr, eps: tl.constexpr,
    UNIT: tl.constexpr, COPY: tl.constexpr, BD: tl.constexpr,
):  # fmt: skip
    columns = tl.arange(0, BD)
    mask = columns < D
    at = tl.program_id(0).to(tl.int64) * D + columns
    w = tl.load(weight_ptr + at, mask=mask, other=0.0)
    g = tl.load(grad_ptr + at, mask=mask, other=0.0).to(tl.float32)
    if UNIT:
        g -= tl.sum(g * w, axis=0) * w
    a = tl.load(avg_ptr + at, mask=mask, other=0.0)
    b = tl.load(sq_ptr + at, mask=mask, other=0.0)
    w, a, b = _adam(w, g, a, b, rates_ptr, beta1, beta2, eps)
    if UNIT:
        w = _unit(w)
    tl.store(weight_ptr + at, w, mask=mask)
    tl.store(avg_ptr + at, a, mask=mask)
    tl.store(sq_ptr + at, b, mask=mask)
    if COPY:
        tl.store(copy_ptr + at, w.to(copy_ptr.dtype.element_ty), mask=mask)


def row_warps(columns: int) -> int:
    """Warps for one row: 8 numbers per thread."""
    return power_of_two(columns // 256, low=1, high=16)


def project_rows_(grad: Tensor, weight: Tensor) -> None:
    """Remove from each row of a gradient its part along the unit row of the weight, in place."""
    grad.addcmul_(weight, torch.linalg.vecdot(grad, weight)[:, None], value=-1)


def renorm_rows_(weight: Tensor) -> None:
    """Give every row norm 1 in place; a row of zeros stays zero."""
    norm = torch.linalg.vector_norm(weight, dim=1, keepdim=True)
    weight.div_(norm.masked_fill_(norm == 0, 1.0))


def adam_(
    weights: list[Tensor],
    grads: list[Tensor],
    moments: tuple[list[Tensor], list[Tensor]],
    lr: Tensor,
    step: Tensor,
    betas: tuple[float, float],
    eps: float,
) -> None:
    """One Adam step of several tensors in place, by the kernel under torch.optim.Adam(fused=True).

    Args:
        weights: tensors of one dtype.
        grads: theirs, of the same dtype.
        moments: first and second ones.
        lr: [] learning rate.
        step: [] fp32, number of this step, from 1.
        betas: of Adam.
        eps: of Adam.
    """
    torch._fused_adam_(  # pyright: ignore[reportPrivateImportUsage]
        weights, grads, *moments, [], [step] * len(weights), lr=lr,
        beta1=betas[0], beta2=betas[1], weight_decay=0.0, eps=eps, amsgrad=False, maximize=False,
    )  # fmt: skip


@torch.library.custom_op(
    "interp::project_adam_renorm_", mutates_args=("weight", "exp_avg", "exp_avg_sq", "copy")
)
def _op(
    weight: Tensor,
    grad: Tensor,
    exp_avg: Tensor,
    exp_avg_sq: Tensor,
    lr: Tensor,
    step: Tensor,
    copy: Tensor | None,
    unit_rows: bool,
    beta1: float,
    beta2: float,
    eps: float,
    backend: str,
) -> None:
    check_step("project_adam_renorm_", step)
    if backend == "triton":
        m, d = weight.shape
        columns = power_of_two(d, low=16)
        launch(_row_kernel, (m,),
            weight, grad, exp_avg, exp_avg_sq, weight if copy is None else copy,
            step_rates(lr, step, (beta1, beta2)), d, beta1, beta2, eps,
            UNIT=unit_rows, COPY=copy is not None, BD=columns, num_warps=row_warps(columns),
        )  # fmt: skip
        return
    grad = grad.to(weight.dtype, copy=True)
    if unit_rows:
        project_rows_(grad, weight)
    adam_([weight], [grad], ([exp_avg], [exp_avg_sq]), lr, step, (beta1, beta2), eps)
    if unit_rows:
        renorm_rows_(weight)
    if copy is not None:
        copy.copy_(weight)


@_op.register_fake
def _(
    weight, grad, exp_avg, exp_avg_sq, lr, step, copy, unit_rows, beta1, beta2, eps, backend
):  # fmt: skip
    return None


def check_state(op: str, named: dict[str, Tensor], shape: tuple[int, ...]) -> None:
    """Refuse weights and moments that an in-place update cannot take.

    Raises:
        KernelError: with the tensor's name and what it is.
    """
    lead = next(iter(named.values()))
    for name, tensor in named.items():
        if tensor.shape != shape:
            raise KernelError(f"{op}: {name} is {list(tensor.shape)}, expected {list(shape)}")
        if tensor.device != lead.device:
            raise KernelError(
                f"{op}: {name} is on {tensor.device} and {next(iter(named))} on {lead.device}"
            )
        if tensor.dtype not in (torch.float32, torch.float64) or tensor.dtype != lead.dtype:
            raise KernelError(
                f"{op}: {name} is {tensor.dtype}; weights and moments are all float32 (or all "
                "float64): keep 16-bit numbers in the working copy"
            )
        if not tensor.is_contiguous():
            raise KernelError(
                f"{op}: {name} has strides {tensor.stride()}; it is updated in place and must be "
                "contiguous"
            )


def check_scalars(op: str, lr: Tensor, step: Tensor, lead: Tensor) -> None:
    """Refuse a rate or a step number that is not one number on the device of the weights.

    Raises:
        KernelError: with the shape, dtype or device found.
    """
    for name, tensor in {"lr": lr, "step": step}.items():
        if tensor.ndim != 0 or tensor.device != lead.device or tensor.dtype != torch.float32:
            raise KernelError(
                f"{op}: {name} is {tensor.dtype} {list(tensor.shape)} on {tensor.device}, expected "
                f"float32 [] on {lead.device}"
            )


def check_step(op: str, step: Tensor) -> None:
    """Refuse a step number below 1; called inside an op, where tensors hold values.

    Raises:
        KernelError: with the number.
    """
    if _backend.checks_values(step) and not float(step) >= 1:
        raise KernelError(f"{op}: step = {float(step)}, the first step is 1")


def project_adam_renorm_(
    weight: Tensor,
    grad: Tensor,
    exp_avg: Tensor,
    exp_avg_sq: Tensor,
    lr: Tensor,
    step: Tensor,
    *,
    unit_rows: bool = True,
    betas: tuple[float, float] = BETAS,
    eps: float = EPS,
    copy: Tensor | None = None,
    backend: str | None = None,
) -> None:
    """Project the gradient of unit rows, take an Adam step, give the rows norm 1; all in place.

    Args:
        weight: [m, d] fp32 (float64 off Triton), changed.
        grad: [m, d] any float dtype, kept.
        exp_avg: [m, d] first moment, changed.
        exp_avg_sq: [m, d] second moment, changed.
        lr: [] fp32 learning rate, on the device.
        step: [] fp32 number of this step, from 1, on the device.
        unit_rows: whether the rows have norm 1 and keep it; False is plain Adam.
        betas: of Adam.
        eps: of Adam.
        copy: [m, d] working copy in another dtype, overwritten.
        backend: "auto", "dense" (as "eager"), "eager" or "triton".

    Raises:
        KernelError: shapes, dtypes or devices do not fit.

    Source: Kingma and Ba 2014 (arXiv 1412.6980), algorithm 1.
    """
    name = "project_adam_renorm_"
    _backend.check_shape(name, "weight", weight, {"m": None, "d": None})
    m, d = weight.shape
    _backend.check_sizes(name, m=m, d=d)
    check_state(name, {"weight": weight, "exp_avg": exp_avg, "exp_avg_sq": exp_avg_sq}, (m, d))
    _backend.check_shape(name, "grad", grad, {"m": m, "d": d})
    check_scalars(name, lr, step, weight)
    if copy is not None and (copy.shape != weight.shape or not copy.is_contiguous()):
        raise KernelError(f"{name}: copy is {list(copy.shape)}, expected contiguous [{m}, {d}]")
    chosen = _backend.resolve(backend, device=weight.device, n_latents=m, k=1, dtype=weight.dtype)
    _op(
        weight, grad.contiguous(), exp_avg, exp_avg_sq, lr, step, copy, unit_rows, *betas, eps,
        chosen,
    )  # fmt: skip


def aot_cases(d: int) -> list[AotCase]:
    """The kernel at width d, for ahead-of-time compilation."""
    columns = power_of_two(d, low=16)
    signature = dict.fromkeys(("weight_ptr", "grad_ptr", "avg_ptr", "sq_ptr"), "*fp32")
    signature |= {"copy_ptr": "*bf16", "rates_ptr": "*fp32", "D": "i32"}
    numbers = {"beta1": BETAS[0], "beta2": BETAS[1], "eps": EPS}
    sizes = {**numbers, "UNIT": True, "COPY": True, "BD": columns}
    warps = row_warps(columns)
    return [AotCase("project_adam_renorm", _row_kernel, signature, sizes, warps, 1, 128)]
