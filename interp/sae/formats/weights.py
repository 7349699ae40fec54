"""Weights of imported SAEs: made, checked, moved without changing the function."""

import copy
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from interp.errors import SAEError
from interp.sae.base import SAE
from interp.sae.formats.imported import EXTRA, Imported

# Rows that float32 rounding keeps this near to norm 1 count as normalized.
UNIT = 1e-5


def has_unit_rows(part: Imported) -> bool:
    """Whether every dictionary row has norm 1 to float32 rounding."""
    norms = part.W_dec.detach().double().norm(dim=1)
    return bool(((norms - 1).abs() <= UNIT).all())


def make(activation: str, weights: Mapping[str, Tensor], **options: Any) -> Imported:
    """Return an imported SAE with the given weights.

    Args:
        activation: as `Imported`.
        weights: W_enc [m, d], W_dec [m, d] and what of b_enc, b_dec, b_in (else 0), threshold,
            r_mag, b_mag and W_skip there is.
        options: k, rows, strict, tolerance, settles, d_out as `Imported`.

    Raises:
        SAEError: sizes that do not fit together, or k out of range.
    """
    m, d = weights["W_enc"].shape
    part = empty(Imported, d, m, activation, skip="W_skip" in weights, **options)
    names = {name for name, _ in part.named_parameters()}
    if not set(weights) <= names or not set(EXTRA.get(activation, ())) <= set(weights):
        raise SAEError(
            f"weights {sorted(weights)} do not make a {activation} SAE of {sorted(names)}"
        )
    zeros = {name: torch.zeros(part.get_parameter(name).shape) for name in names}
    fill(part, {**plain_buffers(part), **zeros, **weights})
    return part


def rebias(part: Imported, target: Tensor) -> Imported:
    """The same function with another input bias: W (u - b_in) + b = W (u - t) + b + W (t - b_in).

    Args:
        part: any.
        target: [d], the input bias t that a format can say.

    Raises:
        SAEError: a pursuit, whose every step begins at its own.
    """
    if torch.equal(part.b_in, target):
        return part
    if part.activation == "pursuit":
        raise SAEError("a matching pursuit's input bias cannot move into its encoder")
    part = copy.deepcopy(part)
    with torch.no_grad():
        shift = part.W_enc.double() @ (target.double() - part.b_in.double())
        part.b_enc.copy_(part.b_enc.double() + shift)
        if part.activation == "gated":
            gain, moved = part.get_parameter("r_mag").double().exp(), part.get_parameter("b_mag")
            moved.copy_(moved.double() + gain * shift)
        part.b_in.copy_(target)
    return part


def scale_rows(part: Imported, factor: Tensor) -> Imported:
    """The same reconstruction with codes `factor` [m] times larger and rows that much shorter.

    Exact for activations that look at each latent alone; a top-k chooses by the new sizes.
    """
    part, wide = copy.deepcopy(part), factor.double()
    with torch.no_grad():
        for name in ("W_enc", "b_enc", "threshold", "b_mag"):
            if name in dict(part.named_parameters()):
                weight = part.get_parameter(name)
                weight.copy_(weight.double() * (wide[:, None] if weight.ndim == 2 else wide))
        part.W_dec.copy_(part.W_dec.double() / wide[:, None])
    return part


def one_threshold(part: Imported) -> Tensor | None:
    """The threshold [] that all latents share, at least 0; None where they differ."""
    if part.activation != "jumprelu":
        return None
    threshold = part.get_parameter("threshold").detach()
    return threshold[0].clamp_min(0) if bool((threshold == threshold[0]).all()) else None


def is_plain(part: Imported) -> bool:
    """Whether mean and scale, of input and target, do nothing."""
    return all(torch.equal(v, part.get_buffer(k)) for k, v in plain_buffers(part).items())


def plain_buffers(sae: SAE) -> dict[str, Tensor]:
    """Means of 0 and scales of 1 in the shapes of an SAE's own."""
    names = ("mean", "scale", "target_mean", "target_scale")
    found = {name: sae.get_buffer(name) for name in names if name in sae._buffers}
    return {k: torch.full(v.shape, float(k.endswith("scale"))) for k, v in found.items()}


def empty(kind: Callable[..., Any], *args: Any, **options: Any) -> Any:
    """Return a module without memory: initial weights are not drawn only to be thrown away."""
    with torch.device("meta"):
        sae = kind(*args, **options)
    sae.trained_units = torch.zeros(0, dtype=torch.int64)
    return sae


def fill(sae: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Give a module made by `empty` its weights, each a copy of its own."""
    for name, value in weights.items():
        expected = sae.get_parameter(name) if name in sae._parameters else sae.get_buffer(name)
        if value.shape != expected.shape:
            raise SAEError(f"{name} has shape {tuple(value.shape)}, not {tuple(expected.shape)}")
        value = value.detach().clone(memory_format=torch.contiguous_format)
        if name in sae._parameters:
            sae.register_parameter(name, nn.Parameter(value))
        else:
            sae.register_buffer(name, value)
