"""Backward, gradient projection, Adam and renormalization of a TopK autoencoder in one pass.

The step of the loss L = (1/n) sum_r |z_hat_r - z_r|^2 with p = <z - b_dec, W_enc> + b_enc,
values = max(p, 0) on the selected slots, z_hat = sum_s values W_dec + b_dec, from g = dL / d z_hat.
For each latent j with slots (r, s):

    dv = <g[r], W_dec[j]>,  dp = dv where values > 0 else 0,    db[j] = sum dp
    dW_dec[j] = sum values g[r],    dW_enc[j] = sum dp z[r] - db[j] b_dec
    back += db[j] W_enc[j]   (before the update; the gradient of b_dec is sum_r g[r] - back)
    W_dec[j], W_enc[j], b_enc[j] <- `project_adam_renorm_` (decoder rows stay unit rows)

A latent's gradients are complete inside one program, so no [m, d] gradient is written. Memory: g
and z gathered once (2 n k d numbers), weights and moments read and written once: 24 bytes per
parameter and 26 with a bf16 working copy, against about 54 for gradients, projection, Adam, norms
and copies apart. `back` needs [m / 8, d] partial sums. Several autoencoders of one shape are a
stack: parameters [S m, d], latents of number s from s m on, rows of number s from s n on.

g, z, values in one dtype (fp32, bf16, fp16), parameters and moments fp32 (all float64 off Triton),
sums in fp32. Heavy latents are cut as in `sparse_decode_bwd`; the same bits from run to run.
Source: the derivative; fusing an optimizer into the backward pass is known from embedding tables
(FBGEMM, "table batched embeddings").
"""

import torch
from torch import Tensor

from interp_kernels import _backend
from interp_kernels._backend import AotCase, KernelError, ceil_div, launch, tl, triton
from interp_kernels._fused_eager import Extra, Weights, dense_update, eager_update
from interp_kernels.csc import CSC, csc_from_indices
from interp_kernels.project_adam_renorm import (
    BETAS,
    EPS,
    _adam,
    _unit,
    check_scalars,
    check_state,
    check_step,
    project_adam_renorm_reference,
    step_rates,
)
from interp_kernels.sparse_decode_bwd import (
    HEAVY,
    _gather,
    _sum_parts,
    heavy_chunks,
    sparse_decode_bwd_reference,
    tile,
)
from interp_kernels.sparse_encode_bwd import sparse_encode_bwd_reference

# Latents per program: `back` then costs 1/8 of a gradient, and 16k latents still fill a GPU.
_LATENTS = 8


def fused_bwd_adam_reference(
    grad: Tensor,
    values: Tensor,
    indices: Tensor,
    z: Tensor,
    weights: Weights,
    moments: tuple[Weights, Weights],
    b_dec: Tensor,
    lr: float,
    step: int,
) -> tuple[Weights, Weights, Weights, Tensor]:
    """Readable twin of `fused_bwd_adam` for one autoencoder: new weights, moments and back."""
    m = len(weights.bias)
    dvalues, d_dec = sparse_decode_bwd_reference(grad, values, indices, weights.decoder)
    d_enc, db = sparse_encode_bwd_reference(dvalues, values, indices, z, m)
    back = db @ weights.encoder.double()
    d_enc = d_enc - db[:, None] * b_dec.double()
    new = []
    grads = (d_dec, d_enc, db)
    for part, (w, g, a, b) in enumerate(zip(weights, grads, *moments, strict=True)):
        new.append(project_adam_renorm_reference(w, g, a, b, lr, step, unit_rows=part == 0))
    stacked = [Weights(*parts) for parts in zip(*new, strict=True)]
    return stacked[0], stacked[1], stacked[2], back


@triton.jit
def _both_slots(
    grad_ptr, z_ptr, values_ptr, positions_ptr, row, low, high, K, D,
    KB: tl.constexpr, BD: tl.constexpr,
):  # fmt: skip
    """Slots low..high of one latent: dW_dec, dW_enc (without its bias share) and db."""
    decoder = tl.zeros([BD], dtype=tl.float32)
    encoder = tl.zeros([BD], dtype=tl.float32)
    bias = tl.zeros([KB], dtype=tl.float32)
    t = low
    while t < high:
        positions, valid, rows = _gather(grad_ptr, positions_ptr, t, high, K, D, KB, BD)
        values = tl.load(values_ptr + positions, mask=valid, other=0.0).to(tl.float32)
        decoder += tl.sum(values[:, None] * rows, axis=0)
        slots = tl.where(values > 0, tl.sum(rows * row[None, :], axis=1), 0.0)
        positions, valid, rows = _gather(z_ptr, positions_ptr, t, high, K, D, KB, BD)
        encoder += tl.sum(slots[:, None] * rows, axis=0)
        bias += slots
        t += KB
    return decoder, encoder, tl.sum(bias, axis=0)


@triton.jit
def _heavy_kernel(
    grad_ptr, z_ptr, values_ptr, positions_ptr, offsets_ptr, decoder_ptr, latents_ptr, starts_ptr,
    d_decoder_ptr, d_encoder_ptr, d_bias_ptr, M, K, D,
    SIZE: tl.constexpr, KB: tl.constexpr, BD: tl.constexpr,
):  # fmt: skip
    chunk = tl.program_id(0)
    if chunk < tl.load(starts_ptr + M):
        latent = tl.load(latents_ptr + chunk).to(tl.int64)
        low = tl.load(offsets_ptr + latent) + (chunk - tl.load(starts_ptr + latent)) * SIZE
        high = tl.minimum(low + SIZE, tl.load(offsets_ptr + latent + 1))
        columns = tl.arange(0, BD)
        row = tl.load(decoder_ptr + latent * D + columns, mask=columns < D, other=0.0)
        decoder, encoder, bias = _both_slots(
            grad_ptr, z_ptr, values_ptr, positions_ptr, row, low, high, K, D, KB, BD
        )
        tl.store(d_decoder_ptr + chunk * D + columns, decoder, mask=columns < D)
        tl.store(d_encoder_ptr + chunk * D + columns, encoder, mask=columns < D)
        tl.store(d_bias_ptr + chunk, bias)


@triton.jit
def _update_row(
    weight_ptr, avg_ptr, sq_ptr, copy_ptr, rates_ptr, at, mask, w, g,
    beta1: tl.constexpr, beta2: tl.constexpr, eps: tl.constexpr,
    UNIT: tl.constexpr, COPY: tl.constexpr,
):  # fmt: skip
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


@triton.jit
def _add_extra(
    slots_ptr, decoder_ptr, encoder_ptr, bias_ptr, latent, decoder, encoder, bias, D,
    BD: tl.constexpr,
):  # fmt: skip
    """The gradients of one latent and what comes from elsewhere, where something does."""
    extra = tl.load(slots_ptr + latent).to(tl.int64)
    if extra >= 0:
        columns = tl.arange(0, BD)
        at = extra * D + columns
        decoder += tl.load(decoder_ptr + at, mask=columns < D, other=0.0)
        encoder += tl.load(encoder_ptr + at, mask=columns < D, other=0.0)
        bias += tl.load(bias_ptr + extra)
    return decoder, encoder, bias


@triton.jit
def _fused_kernel(
    grad_ptr, z_ptr, values_ptr, positions_ptr, offsets_ptr, starts_ptr,
    d_decoder_ptr, d_encoder_ptr, d_bias_ptr,
    decoder_ptr, encoder_ptr, bias_ptr, decoder_avg_ptr, encoder_avg_ptr, bias_avg_ptr,
    decoder_sq_ptr, encoder_sq_ptr, bias_sq_ptr, decoder_copy_ptr, encoder_copy_ptr,
    b_dec_ptr, extra_slots_ptr, extra_decoder_ptr, extra_encoder_ptr, extra_bias_ptr,
    back_ptr, rates_ptr, M, K, D,
    beta1: tl.constexpr, beta2: tl.constexpr, eps: tl.constexpr, EXTRA: tl.constexpr,
    COPY: tl.constexpr, LATENTS: tl.constexpr, SIZE: tl.constexpr, KB: tl.constexpr,
    BD: tl.constexpr,
):  # fmt: skip
    member = tl.program_id(1)
    columns = tl.arange(0, BD)
    mask = columns < D
    b_dec = tl.load(b_dec_ptr + member * D + columns, mask=mask, other=0.0)
    back = tl.zeros([BD], dtype=tl.float32)
    first = tl.program_id(0) * LATENTS
    for i in range(LATENTS):
        if first + i < M:
            latent = member.to(tl.int64) * M + first + i
            at = latent * D + columns
            low = tl.load(offsets_ptr + latent)
            high = tl.load(offsets_ptr + latent + 1)
            row = tl.load(decoder_ptr + at, mask=mask, other=0.0)
            if high - low > SIZE:
                p = tl.load(starts_ptr + latent).to(tl.int64)
                q = tl.load(starts_ptr + latent + 1).to(tl.int64)
                d_decoder = _sum_parts(d_decoder_ptr, p, q, D, BD)
                d_encoder = _sum_parts(d_encoder_ptr, p, q, D, BD)
                d_bias = tl.sum(_sum_parts(d_bias_ptr, p, q, 1, KB), axis=0)
            else:
                d_decoder, d_encoder, d_bias = _both_slots(
                    grad_ptr, z_ptr, values_ptr, positions_ptr, row, low, high, K, D, KB, BD
                )
            weight = tl.load(encoder_ptr + at, mask=mask, other=0.0)
            back += d_bias * weight
            if EXTRA:
                d_decoder, d_encoder, d_bias = _add_extra(
                    extra_slots_ptr, extra_decoder_ptr, extra_encoder_ptr, extra_bias_ptr, latent,
                    d_decoder, d_encoder, d_bias, D, BD,
                )  # fmt: skip
            d_encoder -= d_bias * b_dec
            _update_row(
                decoder_ptr, decoder_avg_ptr, decoder_sq_ptr, decoder_copy_ptr, rates_ptr, at, mask,
                row, d_decoder, beta1, beta2, eps, True, COPY,  # type: ignore[arg-type]
            )  # fmt: skip
            _update_row(
                encoder_ptr, encoder_avg_ptr, encoder_sq_ptr, encoder_copy_ptr, rates_ptr, at, mask,
                weight, d_encoder, beta1, beta2, eps, False, COPY,  # type: ignore[arg-type]
            )  # fmt: skip
            b, a, s = _adam(
                tl.load(bias_ptr + latent), d_bias, tl.load(bias_avg_ptr + latent),
                tl.load(bias_sq_ptr + latent), rates_ptr, beta1, beta2, eps,
            )  # fmt: skip
            tl.store(bias_ptr + latent, b)
            tl.store(bias_avg_ptr + latent, a)
            tl.store(bias_sq_ptr + latent, s)
    program = member * tl.num_programs(0) + tl.program_id(0)
    tl.store(back_ptr + program.to(tl.int64) * D + columns, back, mask=mask)


def _launch(
    grad: Tensor, z: Tensor, values: Tensor, order: CSC, weights: Weights, first: Weights,
    second: Weights, b_dec: Tensor, rates: Tensor, extra: Extra | None, copies: list[Tensor],
    betas: tuple[float, float], eps: float,
) -> Tensor:  # fmt: skip
    (n, k), (total, d) = values.shape, weights.decoder.shape
    members = len(b_dec)
    m = total // members
    slots, columns, warps = tile(d)
    heavy = heavy_chunks(order.offsets, n * k)
    parts = [
        torch.empty(len(heavy.latents), *tail, dtype=torch.float32, device=grad.device)
        for tail in ((d,), (d,), ())
    ]
    back = torch.empty(members, ceil_div(m, _LATENTS), d, dtype=torch.float32, device=grad.device)
    extras = [rates, rates, rates, rates]
    if extra is not None:
        places = torch.full((total,), -1, dtype=torch.int32, device=grad.device)
        numbers = torch.arange(len(extra.latents), dtype=torch.int32, device=grad.device)
        places[extra.latents] = numbers
        extras = [places, *(t.float().contiguous() for t in extra[1:])]
    sizes = {"SIZE": heavy.size, "KB": slots, "BD": columns, "num_warps": warps}
    launch(_heavy_kernel, (len(heavy.latents),),
        grad, z, values, order.positions, order.offsets, weights.decoder, heavy.latents,
        heavy.starts, *parts, total, k, d, **sizes,
    )  # fmt: skip
    launch(_fused_kernel, (back.shape[1], members),
        grad, z, values, order.positions, order.offsets, heavy.starts, *parts,
        *weights, *first, *second, *(copies or weights[:2]), b_dec, *extras, back, rates,
        m, k, d, *betas, eps, EXTRA=extra is not None, COPY=bool(copies), LATENTS=_LATENTS,
        **sizes,
    )  # fmt: skip
    return back.sum(dim=1)


@torch.library.custom_op(
    "interp::fused_bwd_adam", mutates_args=("weights", "first", "second", "copies")
)
def _op(
    grad: Tensor,
    values: Tensor,
    indices: Tensor,
    positions: Tensor,
    offsets: Tensor,
    z: Tensor,
    weights: list[Tensor],
    first: list[Tensor],
    second: list[Tensor],
    copies: list[Tensor],
    b_dec: Tensor,
    lr: Tensor,
    step: Tensor,
    extra: list[Tensor],
    betas: list[float],
    eps: float,
    backend: str,
) -> Tensor:
    _backend.check_indices("fused_bwd_adam", indices, len(weights[0]))
    check_step("fused_bwd_adam", step)
    order, more = CSC(positions, offsets), Extra(*extra) if extra else None
    now, pair = Weights(*weights), (betas[0], betas[1])
    if backend == "triton":
        rates = step_rates(lr, step, pair)
        return _launch(
            grad, z, values, order, now, Weights(*first), Weights(*second), b_dec, rates, more,
            copies, pair, eps,
        )  # fmt: skip
    grad, z, values = (t.to(now.bias.dtype) for t in (grad, z, values))
    state = (now, Weights(*first), Weights(*second), b_dec, more, (lr, step, pair, eps))
    if backend == "dense":
        back = dense_update(grad, z, values, indices, *state)
    else:
        back = eager_update(grad, z, values, order, *state)
    for copy, weight in zip(copies, weights, strict=False):
        copy.copy_(weight)
    return back


@_op.register_fake
def _(
    grad, values, indices, positions, offsets, z, weights, first, second, copies, b_dec, lr, step,
    extra, betas, eps, backend,
):  # fmt: skip
    return torch.empty_like(b_dec)


def fused_bwd_adam(
    grad: Tensor,
    values: Tensor,
    indices: Tensor,
    z: Tensor,
    weights: Weights,
    moments: tuple[Weights, Weights],
    b_dec: Tensor,
    lr: Tensor,
    step: Tensor,
    *,
    order: CSC | None = None,
    extra: Extra | None = None,
    copies: tuple[Tensor, Tensor] | None = None,
    betas: tuple[float, float] = BETAS,
    eps: float = EPS,
    backend: str | None = None,
) -> Tensor:
    """Take one training step of decoder, encoder and encoder bias in place; formula above.

    Args:
        grad: [S n, d], gradient of the loss by z_hat.
        values: [S n, k] rectified values of the code.
        indices: [S n, k] latents 0..S m - 1 (member s has s m..(s + 1) m - 1).
        z: [S n, d] normalized rows that were encoded.
        weights: changed; S m rows.
        moments: first and second ones of Adam, changed.
        b_dec: [S, d] or [d], offset that the encoder subtracts from z; kept.
        lr: [] fp32 learning rate, on the device.
        step: [] fp32 number of this step, from 1, on the device.
        order: the latent-major order of indices, where the caller has it.
        extra: gradients to add.
        copies: [S m, d] working copies of decoder and encoder, overwritten.
        betas: of Adam.
        eps: of Adam.
        backend: "auto", "dense", "eager" or "triton".

    Returns:
        back, the shape of b_dec: sum_j db[j] W_enc[j] over each member's latents. The gradient of
        b_dec is the sum of its rows of grad minus back.

    Raises:
        KernelError: shapes, dtypes, devices or indices do not fit.

    Source: the derivative; Kingma and Ba 2014 (arXiv 1412.6980), algorithm 1.
    """
    name = "fused_bwd_adam"
    stack = b_dec[None] if b_dec.ndim == 1 else b_dec
    chosen, m = _check(name, grad, values, indices, z, weights, moments, stack, backend)
    check_scalars(name, lr, step, weights.bias)
    if copies is not None and any(c.shape != weights.decoder.shape for c in copies):
        raise KernelError(f"{name}: copies must be {list(weights.decoder.shape)} each")
    order = csc_from_indices(indices, m) if order is None else order
    grad, values, indices, z = (t.contiguous() for t in (grad, values, indices, z))
    back = _op(
        grad, values, indices, order.positions, order.offsets, z, list(weights), list(moments[0]),
        list(moments[1]), list(copies or ()), stack.contiguous(), lr, step, list(extra or ()),
        list(betas), eps, chosen,
    )  # fmt: skip
    return back.view_as(b_dec)


def _check(
    name: str, grad: Tensor, values: Tensor, indices: Tensor, z: Tensor, weights: Weights,
    moments: tuple[Weights, Weights], b_dec: Tensor, backend: str | None,
) -> tuple[str, int]:  # fmt: skip
    floats = {"grad": grad, "values": values, "z": z}
    _backend.check_tensors(name, floats=floats, integers={"indices": indices})
    _backend.check_shape(name, "decoder", weights.decoder, {"m": None, "d": None})
    m, d = weights.decoder.shape
    _backend.check_sizes(name, m=m, d=d)
    groups = {"": weights, " first moment": moments[0], " second moment": moments[1]}
    for part, shape in {"decoder": (m, d), "encoder": (m, d), "bias": (m,)}.items():
        named = {part + label: getattr(group, part) for label, group in groups.items()}
        check_state(name, named, shape)
    _backend.check_shape(name, "values", values, {"n": None, "k": None})
    n, k = values.shape
    _backend.check_sizes(name, k=k)
    _backend.check_shape(name, "indices", indices, {"n": n, "k": k})
    _backend.check_shape(name, "grad", grad, {"n": n, "d": d})
    _backend.check_shape(name, "z", z, {"n": n, "d": d})
    _backend.check_shape(name, "b_dec", b_dec, {"S": None, "d": d})
    if len(b_dec) < 1 or m % len(b_dec) or n % len(b_dec):
        raise KernelError(
            f"{name}: {m} latents and {n} rows are no stack of {len(b_dec)} (rows of b_dec)"
        )
    if grad.device != weights.bias.device:
        raise KernelError(
            f"{name}: grad is on {grad.device}, the weights on {weights.bias.device}; move one"
        )
    chosen = _backend.resolve(
        backend, device=grad.device, n_latents=m // len(b_dec), k=k, dtype=grad.dtype
    )
    return chosen, m


def aot_cases(d: int) -> list[AotCase]:
    """The kernels at width d, for ahead-of-time compilation."""
    slots, columns, warps = tile(d)
    data = dict.fromkeys(("grad_ptr", "z_ptr", "values_ptr"), "*bf16")
    order = {"positions_ptr": "*i64", "offsets_ptr": "*i64", "starts_ptr": "*i32"}
    grads = {f"d_{name}_ptr": "*fp32" for name in ("decoder", "encoder", "bias")}
    state = {
        f"{part}{kind}_ptr": "*fp32"
        for kind in ("", "_avg", "_sq")
        for part in ("decoder", "encoder", "bias")
    }
    copies = {"decoder_copy_ptr": "*bf16", "encoder_copy_ptr": "*bf16"}
    extra = {f"extra_{part}_ptr": "*fp32" for part in ("decoder", "encoder", "bias")}
    numbers = {"M": "i32", "K": "i32", "D": "i32"}
    rest = {"b_dec_ptr": "*fp32", "back_ptr": "*fp32", "rates_ptr": "*fp32"}
    sizes = {"SIZE": HEAVY, "KB": slots, "BD": columns}
    flags = {"beta1": BETAS[0], "beta2": BETAS[1], "eps": EPS, "EXTRA": True, "COPY": True}
    heavy = {"decoder_ptr": "*fp32", "latents_ptr": "*i32"}
    return [
        AotCase(
            "fused_bwd_adam.heavy", _heavy_kernel,
            {**data, **order, **grads, **heavy, **numbers}, sizes, warps, 2, 128,
        ),
        AotCase(
            "fused_bwd_adam", _fused_kernel,
            {**data, **order, **grads, **state, **copies, **extra, "extra_slots_ptr": "*i32",
             **rest, **numbers},
            {**flags, "LATENTS": _LATENTS, **sizes}, warps, 2, 160,
        ),
    ]  # fmt: skip
