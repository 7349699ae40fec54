"""Every op on drawn data: what it gives, what it should give in double precision, a step of them.

Cases as data: an op is one entry of `OPS`. Its outputs and its gradients are compared with the
readable twin in float64 before anything is timed.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from interp_kernels import (
    Weights,
    csc_from_indices,
    dead_update_,
    decode_loss,
    decode_loss_reference,
    encode_topk,
    fused_bwd_adam,
    fused_bwd_adam_reference,
    project_adam_renorm_,
    project_adam_renorm_reference,
    sparse_decode,
    sparse_decode_bwd,
    sparse_decode_bwd_reference,
    sparse_decode_reference,
    sparse_encode_bwd,
    sparse_encode_bwd_reference,
)
from torch import Tensor

from benchmarks.dense import Shape
from benchmarks.ops_select import SELECTING

# Relative errors of outputs and gradients, in norm: sums in single precision, results rounded.
TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 1e-2, torch.float16: 2e-3}
# How often latents fire: all alike; by Zipf's law; as in a trained SAE (`benchmarks.codes`).
LATENTS = ("even", "zipf", "real")
ZIPF = 1.1
CODES = Path(__file__).parent / "codes.json"


@dataclass
class Data:
    """Inputs of all ops at one shape."""

    shape: Shape
    x: Tensor
    """[n, d] normalized rows."""
    encoder: Tensor
    decoder: Tensor
    bias: Tensor
    offset: Tensor
    values: Tensor
    """[n, k] of a code with drawn latents."""
    indices: Tensor
    dvalues: Tensor
    """[n, k] gradient by the values."""
    grad: Tensor
    """[n, d] gradient by decoded rows."""
    weights: Weights
    """Single precision: decoder, encoder, bias."""
    moments: tuple[Weights, Weights]
    offset_state: tuple[Tensor, Tensor, Tensor]
    """[1, d] each, single precision: the offset itself and its moments."""
    silent: Tensor
    lr: Tensor = field(default_factory=lambda: torch.tensor(1e-3))
    step: Tensor = field(default_factory=lambda: torch.tensor(3.0))

    def converted(self, change: Callable[[Tensor], Tensor]) -> "Data":
        """A copy with every tensor of floats changed; others copied."""

        def one(value: Any) -> Any:
            if isinstance(value, Tensor):
                return change(value) if value.is_floating_point() else value.clone()
            if isinstance(value, Weights):
                return Weights(*map(one, value))
            return tuple(map(one, value)) if type(value) is tuple else value

        fields = {name: one(value) for name, value in vars(self).items() if name != "shape"}
        return replace(self, **fields)


def draw(
    shape: Shape,
    *,
    dtype: torch.dtype = torch.float32,
    device: str = "cpu",
    latents: str = "even",
    seed: int = 0,
) -> Data:
    """Draw inputs of a shape.

    Args:
        shape: sizes.
        dtype: of rows, codes and working copies; weights and moments stay in single precision.
        device: of everything.
        latents: of LATENTS: how often each one fires.
        seed: of a private generator.
    """
    d, m, k, n = shape
    draws = torch.Generator(device=device).manual_seed(seed)

    def normal(*size: int, scale: float = 1.0) -> Tensor:
        return torch.randn(*size, generator=draws, device=device) * scale

    decoder = torch.nn.functional.normalize(normal(m, d), dim=1)
    encoder = 0.7 * decoder + normal(m, d, scale=0.1 / d**0.5)
    x = normal(n, d, scale=d**-0.5)
    weights = Weights(decoder, encoder, normal(m, scale=0.01))
    # As large as a gradient, so that a wrong one shows in the moments.
    typical = 0.1 / n
    first = Weights(*(normal(*w.shape, scale=typical) for w in weights))
    second = Weights(*((1 + normal(*w.shape).square()) * typical**2 for w in weights))
    values = normal(n, k).relu() * 0.2
    offset = normal(1, d, scale=0.01)
    return Data(
        shape=shape,
        x=x.to(dtype),
        encoder=encoder.to(dtype),
        decoder=decoder.to(dtype),
        bias=weights.bias.to(dtype),
        offset=offset[0].to(dtype, copy=True),
        values=values.to(dtype),
        indices=_latents(shape, latents, draws, device),
        dvalues=normal(n, k, scale=1 / n).to(dtype),
        grad=normal(n, d, scale=1 / n).to(dtype),
        weights=weights,
        moments=(first, second),
        offset_state=(offset, torch.zeros_like(offset), torch.zeros_like(offset)),
        silent=torch.zeros(m, dtype=torch.int64, device=device),
        lr=torch.tensor(1e-3, device=device),
        step=torch.tensor(3.0, device=device),
    )


def _latents(shape: Shape, kind: str, draws: torch.Generator, device: str) -> Tensor:
    """[n, k] latents without repetition in a row: the k largest of Gumbel noise plus log weight."""
    weight = _log_weights(shape.m, kind).to(device)
    rows = max(1, (1 << 26) // shape.m)
    parts = []
    for start in range(0, shape.n, rows):
        size = (min(rows, shape.n - start), shape.m)
        uniform = torch.rand(size, generator=draws, device=device).clamp_(1e-9, 1 - 1e-7)
        parts.append((weight - (-uniform.log()).log()).topk(shape.k, dim=1).indices)
    return torch.cat(parts)


def _log_weights(m: int, kind: str) -> Tensor:
    if kind == "zipf":
        return -ZIPF * torch.arange(1, m + 1).log()
    if kind == "even":
        return torch.zeros(m)
    # Quantiles of measured firing rates, stretched over m latents; a dead one fires hardly ever.
    rates = next(iter(json.loads(CODES.read_text())["points"].values()))["rates"]
    known = torch.tensor(rates, dtype=torch.float64).clamp(min=1e-9).log()
    at = torch.linspace(0, len(known) - 1, m, dtype=torch.float64)
    low = at.long().clamp(max=len(known) - 2)
    return torch.lerp(known[low], known[low + 1], at - low).float()


def _leaves(*tensors: Tensor) -> list[Tensor]:
    return [tensor.detach().requires_grad_() for tensor in tensors]


def _encode(c: Data, backend: str | None) -> list[Tensor]:
    x, weight, bias = leaves = _leaves(c.x, c.encoder, c.bias)
    values, indices = encode_topk(x, weight, bias, c.shape.k, backend=backend)
    return [values.detach(), *torch.autograd.grad(values, leaves, c.dvalues), indices]


def _encode_reference(c: Data, got: list[Tensor]) -> list[Tensor]:
    """At the latents that were chosen: which those are is `misplaced`'s question."""
    x, weight, bias = leaves = _leaves(c.x, c.encoder, c.bias)
    values = (x @ weight.T + bias).gather(1, got[-1].long()).relu()
    return [values.detach(), *torch.autograd.grad(values, leaves, c.dvalues), got[-1]]


def _decode(c: Data, backend: str | None) -> list[Tensor]:
    values, weight, offset = leaves = _leaves(c.values, c.decoder, c.offset)
    out = sparse_decode(values, c.indices, weight, offset, backend=backend)
    return [out.detach(), *torch.autograd.grad(out, leaves, c.grad)]


def _decode_reference(c: Data, _got: list[Tensor]) -> list[Tensor]:
    values, weight, offset = leaves = _leaves(c.values, c.decoder, c.offset)
    out = sparse_decode_reference(values, c.indices, weight, offset)
    return [out.detach(), *torch.autograd.grad(out, leaves, c.grad)]


def _loss(c: Data, backend: str | None) -> list[Tensor]:
    values, weight, offset = leaves = _leaves(c.values, c.decoder, c.offset)
    loss, error = decode_loss(values, c.indices, weight, offset, c.x, backend=backend)
    return [loss.detach(), error.detach(), *torch.autograd.grad(loss, leaves)]


def _loss_reference(c: Data, _got: list[Tensor]) -> list[Tensor]:
    values, weight, offset = leaves = _leaves(c.values, c.decoder, c.offset)
    loss, error = decode_loss_reference(values, c.indices, weight, offset, c.x)
    return [loss.detach(), error.detach(), *torch.autograd.grad(loss, leaves)]


def _decode_bwd(c: Data, backend: str | None) -> list[Tensor]:
    return list(sparse_decode_bwd(c.grad, c.values, c.indices, c.decoder, backend=backend))


def _decode_bwd_reference(c: Data, _got: list[Tensor]) -> list[Tensor]:
    return list(sparse_decode_bwd_reference(c.grad, c.values, c.indices, c.decoder))


def _encode_bwd(c: Data, backend: str | None) -> list[Tensor]:
    return list(sparse_encode_bwd(c.dvalues, c.values, c.indices, c.x, c.shape.m, backend=backend))


def _encode_bwd_reference(c: Data, _got: list[Tensor]) -> list[Tensor]:
    return list(sparse_encode_bwd_reference(c.dvalues, c.values, c.indices, c.x, c.shape.m))


def _fused(c: Data, backend: str | None) -> list[Tensor]:
    back = fused_bwd_adam(
        c.grad, c.values, c.indices, c.x, c.weights, c.moments, c.offset.to(c.weights.bias.dtype),
        c.lr, c.step, backend=backend,
    )  # fmt: skip
    return [back, *c.weights, *c.moments[0], *c.moments[1]]


def _fused_reference(c: Data, _got: list[Tensor]) -> list[Tensor]:
    weights, first, second, back = fused_bwd_adam_reference(
        c.grad, c.values, c.indices, c.x, c.weights, c.moments, c.offset, float(c.lr), int(c.step)
    )
    return [back, *weights, *first, *second]


def _update(c: Data, backend: str | None) -> list[Tensor]:
    state = (c.weights.decoder, c.moments[0].decoder, c.moments[1].decoder)
    weight, first, second = state
    grad = c.weights.encoder / c.shape.n
    project_adam_renorm_(weight, grad, first, second, c.lr, c.step, backend=backend)
    return list(state)


def _update_reference(c: Data, _got: list[Tensor]) -> list[Tensor]:
    state = (c.moments[0].decoder, c.moments[1].decoder)
    grad = c.weights.encoder / c.shape.n
    new = project_adam_renorm_reference(
        c.weights.decoder, grad, *state, float(c.lr), int(c.step), unit_rows=True
    )
    return list(new)


# Name -> the op with its gradients, its twin, the names of what both return.
OPS: dict[str, tuple[Callable[..., list[Tensor]], Callable[..., list[Tensor]], str]] = {
    "encode_topk": (_encode, _encode_reference, "values dx dweight dbias indices"),
    "sparse_decode": (_decode, _decode_reference, "out dvalues dweight doffset"),
    "decode_loss": (_loss, _loss_reference, "loss error dvalues dweight doffset"),
    "sparse_decode_bwd": (_decode_bwd, _decode_bwd_reference, "dvalues dweight"),
    "sparse_encode_bwd": (_encode_bwd, _encode_bwd_reference, "dweight dbias"),
    "fused_bwd_adam": (
        _fused,
        _fused_reference,
        "back decoder encoder bias decoder_avg encoder_avg bias_avg decoder_sq encoder_sq bias_sq",
    ),
    "project_adam_renorm_": (_update, _update_reference, "weight avg sq"),
    **SELECTING,
}
# Those that a training step is made of.
STEP = tuple(name for name in OPS if name not in SELECTING)


def errors(name: str, c: Data, backend: str | None) -> dict[str, float]:
    """Relative error ||a - b|| / ||b|| of every output and gradient of an op against float64."""
    op, reference, outputs = OPS[name]
    got = op(c.converted(torch.clone), backend)
    want = reference(c.converted(Tensor.double), got)
    found = {}
    for label, a, b in zip(outputs.split(), got, want, strict=True):
        if label == "indices":
            found["misplaced"] = misplaced(c, a)
            continue
        length = float(b.double().norm())
        found[label] = float((a.double() - b.double()).norm()) / (length or 1.0)
    return found


def misplaced(c: Data, indices: Tensor) -> float:
    """How far the chosen latents fall short of the k largest, relative to the k-th: 0 up to ties.

    Distances that rounding of one product explains do not count.
    """
    pre = c.x.double() @ c.encoder.double().T + c.bias.double()
    last = pre.topk(c.shape.k, dim=1).values[:, -1:]
    short = (last - pre.gather(1, indices.long())).clamp(min=0) / last.abs().clamp(min=1e-12)
    return float(short.max())


def gate(c: Data, backend: str | None, names: tuple[str, ...] = tuple(OPS)) -> dict[str, Any]:
    """Errors of every op.

    Raises:
        AssertionError: one is above the tolerance of the dtype, or latents repeat in a row.
    """
    limit = TOLERANCE[c.x.dtype]
    found = {name: errors(name, c, backend) for name in names}
    wrong = [
        f"{name}.{label}: {value:.2e}"
        for name, outputs in found.items()
        for label, value in outputs.items()
        # `not <` so that NaN is wrong.
        if not value < limit
    ]
    assert not wrong, f"{backend} {c.shape} {c.x.dtype}: above {limit:.0e}: {', '.join(wrong)}"
    return found


# Name -> the op without its gradients.
FORWARD: dict[str, Callable[[Data, str | None], Any]] = {
    "encode_topk": lambda c, b: encode_topk(c.x, c.encoder, c.bias, c.shape.k, backend=b),
    "sparse_decode": lambda c, b: sparse_decode(
        c.values, c.indices, c.decoder, c.offset, backend=b
    ),
    "decode_loss": lambda c, b: decode_loss(
        c.values, c.indices, c.decoder, c.offset, c.x, backend=b
    ),
}


@torch.no_grad()
def step(c: Data, backend: str | None, *, fused: bool = True) -> Tensor:
    """A training step from the public ops, as `interp.train` takes it; returns the loss.

    Args:
        c: changed: weights, moments, working copies, counters, number of the step.
        backend: of every op.
        fused: backward and Adam in one pass; False: gradients first, then Adam.
    """
    c.step += 1
    offset = c.offset_state[0]
    wide = offset.dtype
    shift = c.weights.bias - c.weights.encoder @ offset[0]
    # In single precision there are no working copies: the weights themselves.
    single = c.x.dtype == wide
    decoder, encoder = c.weights[:2] if single else (c.decoder, c.encoder)
    shift = shift.to(c.x.dtype)
    values, indices = encode_topk(c.x, encoder, shift, c.shape.k, backend=backend)
    order = csc_from_indices(indices, c.shape.m)
    loss, error = decode_loss(values, indices, decoder, c.offset, c.x, backend=backend)
    grad = error * (-2 / c.shape.n)
    if fused:
        copies = None if single else (decoder, encoder)
        back = fused_bwd_adam(
            grad, values, indices, c.x, c.weights, c.moments, offset[0], c.lr, c.step,
            order=order, copies=copies, backend=backend,
        )  # fmt: skip
    else:
        back = _unfused(c, grad, values, indices, order, backend)
    # Not on a backend: one row.
    total = (grad.to(wide).sum(dim=0) - back)[None]
    project_adam_renorm_(*_with_grad(c.offset_state, total), c.lr, c.step, unit_rows=False)
    c.offset.copy_(offset[0])
    dead_update_(c.silent, values, indices)
    return loss


def _with_grad(
    state: tuple[Tensor, Tensor, Tensor], grad: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return state[0], grad, state[1], state[2]


def _unfused(
    c: Data, grad: Tensor, values: Tensor, indices: Tensor, order: Any, backend: str | None
) -> Tensor:
    """Gradients of the three parameters written out, then projection, Adam and norms of each."""
    decoder = c.weights.decoder if c.x.dtype == c.weights.bias.dtype else c.decoder
    dvalues, d_dec = sparse_decode_bwd(grad, values, indices, decoder, order, backend=backend)
    d_enc, d_bias = sparse_encode_bwd(
        dvalues, values, indices, c.x, c.shape.m, order, backend=backend
    )
    wide, m = c.weights.bias.dtype, c.shape.m
    back = d_bias.to(wide) @ c.weights.encoder
    # The encoder sees rows less the offset.
    offset = c.offset_state[0][0]
    d_enc = torch.addcmul(d_enc.to(wide), d_bias.to(wide)[:, None], offset, value=-1)
    grads = Weights(d_dec.to(wide), d_enc, d_bias.to(wide))
    copies = {"decoder": c.decoder, "encoder": c.encoder} if c.x.dtype != wide else {}
    for name, weight in c.weights._asdict().items():
        given = (weight, *(getattr(tensors, name) for tensors in (grads, *c.moments)))
        rows, row_grad, first, second = (tensor.view(m, -1) for tensor in given)
        project_adam_renorm_(
            rows, row_grad, first, second, c.lr, c.step, unit_rows=name == "decoder",
            copy=copies.get(name), backend=backend,
        )  # fmt: skip
    return back
