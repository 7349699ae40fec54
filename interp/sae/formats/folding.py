"""Normalization into the weights and back: the place where thresholds and scales get lost."""

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from interp.errors import SAEError
from interp.sae.base import SAE
from interp.sae.batchtopk import BatchTopK
from interp.sae.formats.imported import Imported
from interp.sae.formats.weights import (
    empty,
    fill,
    has_unit_rows,
    is_plain,
    make,
    one_threshold,
    plain_buffers,
)
from interp.sae.gated import Gated
from interp.sae.matryoshka import Matryoshka
from interp.sae.pursuit import Pursuit
from interp.sae.relu import ReLU
from interp.sae.topk import TopK
from interp.sae.transcoder import Transcoder


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
    plain = part.rows == "none" and not part.strict and is_plain(part) and has_unit_rows(part)
    make_one = _transcoder_of if part.separate else _autoencoder_of
    sae = make_one(part) if plain else None
    if sae is None:
        return part
    sae.provenance, sae.trained_units = part.provenance, part.trained_units
    return sae


def _autoencoder_of(part: Imported) -> SAE | None:
    if not torch.equal(part.b_in, part.b_dec):
        return None
    size, shared = (part.d_in, part.n_latents), one_threshold(part)
    weights: dict[str, Tensor] = {"W_enc": part.W_enc, "b_enc": part.b_enc, "W_dec": part.W_dec}
    if part.activation == "topk":
        sae: SAE = empty(TopK, *size, part.k)
    elif part.activation == "relu":
        sae = empty(ReLU, *size)
    elif part.activation == "gated":
        sae = empty(Gated, *size)
        weights["b_gate"] = weights.pop("b_enc")
        weights |= {name: part.get_parameter(name) for name in ("r_mag", "b_mag")}
    elif part.budget and shared is not None:
        groups = {"groups": part.groups} if part.groups else {}
        sae = empty(Matryoshka if groups else BatchTopK, *size, part.budget, **groups)
        weights["threshold"] = shared
    elif part.activation == "pursuit" and _is_simple_pursuit(part):
        sae = empty(Pursuit, *size, part.k)
        weights = {"W_dec": part.W_dec}
    else:
        return None
    bias = {"b_dec": torch.zeros(part.d_in), "mean": part.b_dec}
    fill(sae, {**plain_buffers(sae), **weights, **bias})
    return sae


def _is_simple_pursuit(part: Imported) -> bool:
    tied = torch.equal(part.W_enc, part.W_dec) and not bool(part.b_enc.any())
    return tied and not part.tolerance and not part.settles and part.k <= part.n_latents


def _transcoder_of(part: Imported) -> SAE | None:
    if part.activation != "topk" or bool(part.b_in.any()):
        return None
    skip = part.W_skip is not None
    sae: SAE = empty(Transcoder, part.d_in, part.n_latents, part.k, d_out=part.d_out, skip=skip)
    names = ("W_enc", "b_enc", "W_dec", "b_dec", *(("W_skip",) if skip else ()))
    weights = {name: part.get_parameter(name) for name in names}
    fill(sae, {**plain_buffers(sae), **weights})
    return sae


def _moved(sae: SAE, bias: Tensor) -> Tensor:
    """Mean + scale * bias in float64, rounded once."""
    return (sae.mean.double() + sae.scale.double() * bias.double()).float()


def _grown(sae: SAE, value: Tensor) -> Tensor:
    return (sae.scale.double() * value.double()).float()


def _common(sae: Any, bias: Tensor) -> dict[str, Tensor]:
    """Encoder, dictionary and both biases; `bias` is that of the encoder."""
    moved = _moved(sae, sae.b_dec)
    weights = {"W_enc": sae.W_enc, "W_dec": sae.dictionary(), "b_enc": _grown(sae, bias)}
    return {**weights, "b_dec": moved, "b_in": moved}


def _fold_topk(sae: Any) -> Imported:
    return make("topk", _common(sae, sae.b_enc), k=sae.k)


def _fold_gated(sae: Any) -> Imported:
    # The gain exp(r_mag) multiplies what has grown already.
    extra = {"r_mag": sae.r_mag, "b_mag": _grown(sae, sae.b_mag)}
    return make("gated", _common(sae, sae.b_gate) | extra)


def _fold_threshold(sae: Any, threshold: Tensor) -> Imported:
    grown = _grown(sae, threshold).expand(sae.n_latents)
    return make("jumprelu", {**_common(sae, sae.b_enc), "threshold": grown})


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


def _fold_pursuit(sae: Any) -> Imported:
    bias = _moved(sae, sae.b_dec)
    weights = {"W_enc": sae.W_dec, "W_dec": sae.W_dec, "b_dec": bias, "b_in": bias}
    return make("pursuit", weights, k=sae.k)


def _fold_transcoder(sae: Any) -> Imported:
    """Codes in units of the target: with r = target_scale / scale, W_enc r and W_skip r."""
    ratio = sae.target_scale.double() / sae.scale.double()
    shift, encoder = sae.mean.double(), sae.W_enc.double() * ratio
    bias = sae.target_scale.double() * sae.b_enc.double() - encoder @ shift
    out = sae.target_mean.double() + sae.target_scale.double() * sae.b_dec.double()
    weights = {"W_enc": encoder, "b_enc": bias, "W_dec": sae.W_dec}
    if sae.W_skip is not None:
        weights["W_skip"] = sae.W_skip.double() * ratio
        out = out - weights["W_skip"] @ shift
    weights = {name: value.float() for name, value in {**weights, "b_dec": out}.items()}
    return make("topk", weights, k=sae.k, d_out=sae.d_out)


def _fold_imported(sae: Any) -> Imported:
    if is_plain(sae):
        return copy.deepcopy(sae)
    if sae.rows != "none" or sae.separate:
        raise SAEError(
            "mean and scale of an imported SAE that normalizes rows by themselves, or of a "
            "transcoder, cannot be folded: load it anew"
        )
    part = copy.deepcopy(sae)
    with torch.no_grad():
        for name in ("b_enc", "threshold", "b_mag"):
            if name in part._parameters:
                part.get_parameter(name).copy_(_grown(sae, sae.get_parameter(name)))
        part.b_in.copy_(_moved(sae, sae.b_in))
        part.b_dec.copy_(_moved(sae, sae.b_dec))
        part.mean.zero_()
        part.scale.fill_(1.0)
    part.tolerance = float(sae.scale) * sae.tolerance
    return part


# Variant -> its weights in units of the data.
FOLDS: dict[str, Callable[[Any], Imported]] = {
    "topk": _fold_topk,
    "archetypal": _fold_topk,
    "relu": lambda sae: make("relu", _common(sae, sae.b_enc)),
    "gated": _fold_gated,
    "jumprelu": lambda sae: _fold_threshold(sae, sae.theta),
    "batchtopk": _fold_batchtopk,
    "matryoshka": _fold_matryoshka,
    "pursuit": _fold_pursuit,
    "transcoder": _fold_transcoder,
    "imported": _fold_imported,
}
