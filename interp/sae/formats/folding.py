"""Normalization into the weights and back: the place where thresholds and scales get lost."""

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from interp.errors import SAEError
from interp.sae.base import SAE
from interp.sae.batchtopk import BatchTopK
from interp.sae.formats.imported import EXTRA, Imported
from interp.sae.gated import Gated
from interp.sae.matryoshka import Matryoshka
from interp.sae.relu import ReLU
from interp.sae.topk import TopK

# Rows that float32 rounding keeps this near to norm 1 count as normalized.
UNIT = 1e-5


def fold(sae: SAE) -> Imported:
    """The same function in units of the data: mean 0, scale 1, codes `scale` times larger.

    With z = (x - mean) / scale and p = W_enc (z - b_dec) + b_enc,

        scale p = W_enc (x - b) + scale b_enc,   x_hat = (scale code) W_dec + b,
        b = mean + scale b_dec

    so that W_enc and W_dec keep every bit, dictionary rows stay as long as they are, biases and
    thresholds grow by `scale`, and gains of a gate stay. Sums are taken in float64.

    Args:
        sae: any variant that has one encoder and one decoder layer.

    Returns:
        A copy; every format is written from it.

    Raises:
        SAEError: the variant is none of those.
    """
    if sae.variant not in FOLDS:
        raise SAEError(
            f"a {sae.variant} SAE has no place in the other libraries' formats; there are "
            f"{', '.join(sorted(FOLDS))}; keep it in its own: sae.save(folder)"
        )
    with torch.no_grad():
        part = FOLDS[sae.variant](sae)
    part.provenance = copy.deepcopy(sae.provenance)
    part.trained_units = sae.trained_units.clone()
    return part


def specialize(part: Imported) -> SAE:
    """The trained variant that computes exactly the same, or the imported SAE itself.

    An SAE with rows of norm 1 and one bias for input and output is one of ours with that bias as
    `mean`: no number changes. JumpReLU stays imported, since ours keeps logarithms of thresholds,
    but for BatchTopK and Matryoshka, whose latents share one.
    """
    plain = part.rows == "none" and not part.strict and _is_plain(part)
    if not (plain and torch.equal(part.b_in, part.b_dec) and has_unit_rows(part)):
        return part
    size, extra = (part.d_in, part.n_latents), {}
    if part.activation == "topk":
        sae = _empty(TopK, *size, part.k)
    elif part.activation == "relu":
        sae = _empty(ReLU, *size)
    elif part.activation == "gated":
        sae = _empty(Gated, *size)
        extra = {name: part.get_parameter(name) for name in ("r_mag", "b_mag")}
    elif part.budget and one_threshold(part) is not None:
        sae = _empty(BatchTopK, *size, part.budget)
        if part.groups:
            sae = _empty(Matryoshka, *size, part.budget, groups=part.groups)
        extra = {"threshold": one_threshold(part)}
    else:
        return part
    bias = "b_gate" if part.activation == "gated" else "b_enc"
    _fill(sae, W_enc=part.W_enc, W_dec=part.W_dec, **{bias: part.b_enc}, **extra)
    _fill(sae, b_dec=torch.zeros(part.d_in), mean=part.b_dec, scale=torch.ones(()))
    sae.provenance, sae.trained_units = part.provenance, part.trained_units
    return sae


def one_threshold(part: Imported) -> Tensor | None:
    """The threshold [] that all latents share, at least 0; None where they differ."""
    if part.activation != "jumprelu":
        return None
    threshold = part.get_parameter("threshold").detach()
    return threshold[0].clamp_min(0) if bool((threshold == threshold[0]).all()) else None


def has_unit_rows(part: Imported) -> bool:
    """Whether every dictionary row has norm 1 to float32 rounding."""
    norms = part.W_dec.detach().double().norm(dim=1)
    return bool(((norms - 1).abs() <= UNIT).all())


def make(
    activation: str,
    *,
    k: int = 0,
    rows: str = "none",
    strict: bool = False,
    **weights: Tensor,
) -> Imported:
    """Return an imported SAE with the given weights.

    Args:
        activation: as `Imported`.
        k: as `Imported`.
        rows: as `Imported`.
        strict: as `Imported`.
        weights: W_enc [m, d], W_dec [m, d] and what of b_enc, b_dec, b_in (else 0), threshold,
            r_mag and b_mag there is; b_in="b_dec" is written by giving the same tensor twice.

    Raises:
        SAEError: sizes that do not fit together, or k out of range.
    """
    m, d = weights["W_enc"].shape
    part = _empty(Imported, d, m, activation, k=k, rows=rows, strict=strict)
    names = {name for name, _ in part.named_parameters()}
    if not set(weights) <= names or not set(EXTRA.get(activation, ())) <= set(weights):
        raise SAEError(
            f"weights {sorted(weights)} do not make a {activation} SAE of {sorted(names)}"
        )
    zeros = {name: torch.zeros(part.get_parameter(name).shape) for name in names}
    _fill(part, mean=torch.zeros(d), scale=torch.ones(()), **{**zeros, **weights})
    return part


def rebias(part: Imported, target: Tensor) -> Imported:
    """The same function with another input bias: W (u - b_in) + b = W (u - t) + b + W (t - b_in).

    Args:
        part: any.
        target: [d], the input bias t that a format can say.
    """
    if torch.equal(part.b_in, target):
        return part
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


def _is_plain(part: Imported) -> bool:
    return float(part.scale) == 1.0 and not bool(part.mean.any())


def _empty(kind: Callable[..., Any], *args: Any, **options: Any) -> Any:
    # On the meta device: initial weights are not drawn only to be thrown away.
    with torch.device("meta"):
        sae = kind(*args, **options)
    sae.trained_units = torch.zeros(0, dtype=torch.int64)
    return sae


def _fill(sae: nn.Module, **weights: Tensor) -> None:
    """Give a module made by `_empty` its weights, each a copy of its own."""
    for name, value in weights.items():
        expected = sae.get_parameter(name) if name in sae._parameters else sae.get_buffer(name)
        if value.shape != expected.shape:
            raise SAEError(f"{name} has shape {tuple(value.shape)}, not {tuple(expected.shape)}")
        value = value.detach().clone(memory_format=torch.contiguous_format)
        if name in sae._parameters:
            sae.register_parameter(name, nn.Parameter(value))
        else:
            sae.register_buffer(name, value)


def _moved(sae: SAE, bias: Tensor) -> Tensor:
    """mean + scale * bias in float64, rounded once."""
    return (sae.mean.double() + sae.scale.double() * bias.double()).float()


def _grown(sae: SAE, value: Tensor) -> Tensor:
    return (sae.scale.double() * value.double()).float()


def _fold_topk(sae: Any) -> Imported:
    bias = _moved(sae, sae.b_dec)
    grown = _grown(sae, sae.b_enc)
    weights = {"W_enc": sae.W_enc, "b_enc": grown, "W_dec": sae.W_dec}
    return make("topk", k=sae.k, **weights, b_dec=bias, b_in=bias)


def _fold_relu(sae: Any) -> Imported:
    bias = _moved(sae, sae.b_dec)
    weights = {"W_enc": sae.W_enc, "b_enc": _grown(sae, sae.b_enc), "W_dec": sae.W_dec}
    return make("relu", **weights, b_dec=bias, b_in=bias)


def _fold_gated(sae: Any) -> Imported:
    bias = _moved(sae, sae.b_dec)
    # The gain exp(r_mag) multiplies what has grown already.
    weights = {"W_enc": sae.W_enc, "W_dec": sae.W_dec, "r_mag": sae.r_mag}
    weights |= {"b_enc": _grown(sae, sae.b_gate), "b_mag": _grown(sae, sae.b_mag)}
    return make("gated", **weights, b_dec=bias, b_in=bias)


def _fold_threshold(sae: Any, threshold: Tensor) -> Imported:
    bias = _moved(sae, sae.b_dec)
    weights = {"W_enc": sae.W_enc, "b_enc": _grown(sae, sae.b_enc), "W_dec": sae.W_dec}
    grown = _grown(sae, threshold).expand(sae.n_latents)
    return make("jumprelu", **weights, threshold=grown, b_dec=bias, b_in=bias)


def _fold_batchtopk(sae: Any) -> Imported:
    part = _fold_threshold(sae, sae.threshold)
    part.budget = sae.k
    return part


def _fold_matryoshka(sae: Any) -> Imported:
    if sae.selection == "topk":
        return _fold_topk(sae)
    part = _fold_batchtopk(sae)
    part.groups = tuple(sae.groups)
    return part


def _fold_imported(sae: Any) -> Imported:
    if _is_plain(sae):
        return copy.deepcopy(sae)
    if sae.rows != "none":
        raise SAEError("an SAE that normalizes rows by themselves has no mean and scale to fold")
    part = copy.deepcopy(sae)
    with torch.no_grad():
        for name in ("b_enc", "threshold", "b_mag"):
            if name in part._parameters:
                part.get_parameter(name).copy_(_grown(sae, sae.get_parameter(name)))
        part.b_in.copy_(_moved(sae, sae.b_in))
        part.b_dec.copy_(_moved(sae, sae.b_dec))
        part.mean.zero_()
        part.scale.fill_(1.0)
    return part


# Variant -> its weights in units of the data.
FOLDS: dict[str, Callable[[Any], Imported]] = {
    "topk": _fold_topk,
    "relu": _fold_relu,
    "gated": _fold_gated,
    "jumprelu": lambda sae: _fold_threshold(sae, sae.theta),
    "batchtopk": _fold_batchtopk,
    "matryoshka": _fold_matryoshka,
    "imported": _fold_imported,
}
