"""openai/sparse_autoencoder: one `.pt` file (the repository of June 2024).

A state dict that also names its activation. The loader ties two things together: an SAE whose
activation is TopK normalizes every row by its mean and unbiased standard deviation (eps 1e-5), a
ReLU SAE does not. A top-k SAE on plain rows can therefore not be written.
"""

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from interp.errors import SAEError
from interp.sae.atomic import write_atomic
from interp.sae.formats.hints import Hints, refuse, refuse_strict
from interp.sae.formats.imported import Imported
from interp.sae.formats.reading import Settings, Tensors, read_torch
from interp.sae.formats.weights import make, rebias

# Counters of training.
STATISTICS = ("stats_last_nonzero", "latents_activation_frequency", "latents_mean_square")
ENDINGS = (".pt", ".pth")


def detect(path: Path) -> bool:
    """A file of torch.save with `pre_bias` and `latent_bias`."""
    if not path.is_file() or path.suffix not in ENDINGS:
        return False
    try:
        found = read_torch(path)
    except SAEError:
        return False
    return isinstance(found, Mapping) and "pre_bias" in found and "latent_bias" in found


def read(path: Path, hints: Hints) -> Imported:
    """Read a state dict of `Autoencoder`.

    Raises:
        SAEError: damaged, or an activation with negative codes.
    """
    found = read_torch(path)
    weights = Tensors(found, str(path))
    activation, k = _activation(weights, str(path))
    m, d = weights.shape("encoder.weight")
    encoder, bias = weights.take("encoder.weight", m, d), weights.take("pre_bias", d)
    if "decoder.linear.weight" in weights:
        # TiedTranspose: the decoder is the encoder.
        decoder = weights.take("decoder.linear.weight", m, d)
        if not torch.equal(decoder, encoder):
            raise SAEError(f"{path}: decoder.linear.weight is tied, but is not encoder.weight")
    else:
        decoder = weights.take("decoder.weight", d, m).T
    part = make(
        activation,
        {
            "W_enc": encoder,
            "b_enc": weights.take("latent_bias", m),
            "W_dec": decoder,
            "b_dec": bias,
            "b_in": bias,
        },
        k=k,
        rows="layer" if activation == "topk" else "none",
    )
    weights.drop(STATISTICS)
    weights.drop(name for name in weights.names() if name.startswith("activation"))
    weights.finish()
    return part


def write(part: Imported, path: Path, hints: Hints) -> Path:
    """Write a file that `Autoencoder.from_state_dict` reads.

    Raises:
        SAEError: neither ReLU on plain rows nor top-k on rows normalized by layer.
    """
    if (part.activation, part.rows) not in (("relu", "none"), ("topk", "layer")):
        raise refuse(part, "openai/sparse_autoencoder", "relu, topk on rows normalized by layer")
    refuse_strict(part, "openai/sparse_autoencoder", hints)
    state: dict[str, Any] = base_state(part)
    state["latents_activation_frequency"] = torch.ones(part.n_latents)
    state["latents_mean_square"] = torch.zeros(part.n_latents)
    topk = part.activation == "topk"
    state["activation"] = "TopK" if topk else "ReLU"
    state["activation_state_dict"] = {"k": part.k, "postact_fn": "ReLU"} if topk else {}
    return write_torch(state, path if path.suffix in ENDINGS else path.with_suffix(".pt"))


def base_state(part: Imported) -> dict[str, Any]:
    """The tensors that OpenAI's and sdxl-unbox' state dicts share."""
    part = rebias(part, part.b_dec)
    state = {
        "pre_bias": part.b_dec,
        "latent_bias": part.b_enc,
        "encoder.weight": part.W_enc,
        "decoder.weight": part.W_dec.T,
    }
    counters = {"stats_last_nonzero": torch.zeros(part.n_latents, dtype=torch.int64)}
    return {k: v.detach().contiguous().clone() for k, v in state.items()} | counters


def write_torch(value: Any, path: Path) -> Path:
    """Write what torch.save makes of a value, whole or not at all."""
    payload = io.BytesIO()
    torch.save(value, payload)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, payload.getvalue())
    return path


def _activation(weights: Tensors, where: str) -> tuple[str, int]:
    # from_state_dict takes ReLU where nothing is said, as in the oldest files.
    name = weights.found.get("activation", "ReLU")
    if name == "ReLU":
        return "relu", 0
    inner = weights.found.get("activation_state_dict")
    if name != "TopK" or not isinstance(inner, Mapping):
        raise SAEError(f"{where}: activation {str(name)[:40]!r} cannot be read: ReLU or TopK")
    settings = Settings(dict(inner), f"{where}: activation_state_dict")
    after = settings.word("postact_fn", "ReLU")
    if after != "ReLU":
        raise SAEError(
            f"{where}: TopK with {after!r} has negative codes, a code here is never negative"
        )
    return "topk", settings.whole("k")
