"""overcomplete: a state dict of one of its SAEs (checked against version 0.3.0).

The library has no file format of its own; its users save `sae.state_dict()`, which does not say
of which class it is, how many concepts fire, how the dictionary is normalized, or where the
running threshold of a BatchTopKSAE stood. A `config.json` beside it does:

    {"library": "overcomplete", "class": "TopKSAE", "top_k": 32, "normalization": "l2"}

("top_k" is the number of steps of an MpSAE), with "running_threshold" for a BatchTopKSAE, and
"delta" for relaxed archetypal dictionaries.
Whole modules written by torch.save(sae) are programs and are refused; README.md has the lines that
turn them into these two files.

- There is no bias after the dictionary. Where an SAE has one, it is written as one more concept,
  the last ("bias_concept"), which is always on; reading takes it back.
- What fires is at or above a JumpSAE's threshold exp(thresholds), not above it.
- A dictionary is normalized when the model enters eval().
"""

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from interp.errors import SAEError
from interp.sae.atomic import write_atomic
from interp.sae.formats.hints import Hints, refuse, refuse_strict
from interp.sae.formats.imported import Imported
from interp.sae.formats.openai import ENDINGS, write_torch
from interp.sae.formats.reading import (
    Settings,
    Tensors,
    read_json,
    read_safetensors,
    read_torch,
)
from interp.sae.formats.weights import make, rebias

CONFIG, WEIGHTS, SAFE = "config.json", "state_dict.pt", "sae.safetensors"
CLASSES = {
    "SAE": "relu",
    "TopKSAE": "topk",
    "MpSAE": "pursuit",
    "RATopKSAE": "topk",
    "BatchTopKSAE": "jumprelu",
    "JumpSAE": "jumprelu",
    "RAJumpSAE": "jumprelu",
}
# Value of the bias concept of a top-k SAE: a power of two, so that dividing by it is exact, and
# larger than any activation that is not.
ALWAYS = 2.0**20
# Bare weights are taken for l2-normalized where no optimizer step is this large.
DRIFT = 0.05


def detect(path: Path) -> bool:
    """A folder whose config says so, or a file with `dictionary.` weights."""
    if path.is_dir():
        return _says_so(path)
    if not path.is_file() or path.suffix not in (*ENDINGS, ".safetensors"):
        return False
    try:
        names = Tensors(_load(path), str(path)).names()
    except SAEError:
        return False
    return any(name.startswith("dictionary.") for name in names)


def read(path: Path, hints: Hints) -> Imported:
    """Read a folder with config, or bare weights with `activation` (and `k`) told by the user.

    Raises:
        SAEError: damaged, an encoder that is not linear, or something that nobody says.
    """
    config = Settings(read_json(path / CONFIG) if path.is_dir() else {}, str(path))
    weights = Tensors(_load(path), str(path))
    activation = _activation(config, weights, hints)
    dictionary = _dictionary(config, weights)
    m, d = dictionary.shape
    k, options = 0, {}
    if activation in ("topk", "pursuit"):
        k = config.whole("top_k", hints.k or None)
    if activation == "pursuit":
        # It has an encoder and does not use it; its last values may be negative.
        found, options = {"W_dec": dictionary, "W_enc": dictionary}, {"strict": not hints.inexact}
        weights.drop(name for name in weights.names() if name.startswith("encoder."))
    else:
        found = {"W_dec": dictionary, **_encoder(weights, dictionary)}
    if activation == "jumprelu":
        found["threshold"] = _threshold(config, weights, hints, m)
    weights.finish()
    config.agree("nb_concepts", m)
    config.agree("input_shape", d)
    if config.flag("bias_concept"):
        # The SAE had all m ones on where it was a ReLU SAE: nothing to count there.
        return _without_bias(activation, max(k - 1, 0), found)
    return make(activation, found, k=k, **options)


def write(part: Imported, path: Path, hints: Hints) -> Path:
    """Write `config.json` and `state_dict.pt`, for a model made as the config says.

    Raises:
        SAEError: an activation that the library lacks.
    """
    names = {"relu": "SAE", "topk": "TopKSAE", "jumprelu": "JumpSAE"}
    if part.activation not in names or part.rows != "none":
        raise refuse(part, "overcomplete", *names)
    refuse_strict(part, "overcomplete", hints)
    part = rebias(part, torch.zeros_like(part.b_in))
    has_bias = bool(part.b_dec.any())
    weights = {name: value.detach() for name, value in part.named_parameters()}
    if has_bias:
        weights = _with_bias(part, weights)
    m = len(weights["b_enc"])
    config: dict[str, Any] = {
        "library": "overcomplete",
        "class": names[part.activation],
        "input_shape": part.d_in,
        "nb_concepts": m,
        "normalization": "identity",
        "bias_concept": has_bias,
    }
    if part.activation == "topk":
        config["top_k"] = part.k + has_bias
    state = {
        "encoder.final_block.0.weight": weights["W_enc"],
        "encoder.final_block.0.bias": weights["b_enc"],
        "dictionary._weights": weights["W_dec"],
        "dictionary.multiplier": torch.tensor(0.0),
    }
    if part.activation == "jumprelu":
        # The smallest number above a threshold is the first that fires here.
        first = torch.nextafter(weights["threshold"], torch.tensor(torch.inf))
        state["thresholds"] = first.clamp_min(1e-37).log()
    path.mkdir(parents=True, exist_ok=True)
    write_torch({k: v.contiguous().clone() for k, v in state.items()}, path / WEIGHTS)
    write_atomic(path / CONFIG, (json.dumps(config, indent=1) + "\n").encode())
    return path


def _says_so(folder: Path) -> bool:
    if not (folder / CONFIG).is_file():
        return False
    try:
        return read_json(folder / CONFIG).get("library") == "overcomplete"
    except SAEError:
        return False


def _load(path: Path) -> Any:
    if path.is_dir():
        path = path / (SAFE if (path / SAFE).is_file() else WEIGHTS)
    return read_safetensors(path) if path.suffix == ".safetensors" else read_torch(path)


def _activation(config: Settings, weights: Tensors, hints: Hints) -> str:
    if "class" in config.found:
        name = config.word("class")
        if name not in CLASSES:
            raise SAEError(
                f"{config.where}: class {name!r} of overcomplete cannot be read; known are "
                f"{', '.join(CLASSES)}"
            )
        return CLASSES[name]
    found = "jumprelu" if "thresholds" in weights else hints.activation
    if found not in CLASSES.values() or (found == "topk" and not hints.k):
        raise SAEError(
            f"{config.where} is a bare state dict of overcomplete, which does not say what fires: "
            "give activation='topk' and k=, or activation='relu' (--activation, --k), or put a "
            'config.json {"library": "overcomplete", "class": ...} beside state_dict.pt'
        )
    return found


def _dictionary(config: Settings, weights: Tensors) -> Tensor:
    """The dictionary as it is in eval(): made, projected, multiplied."""
    gain = torch.tensor(1.0)
    if "dictionary.multiplier" in weights:
        gain = torch.tensor(float(weights.number("dictionary.multiplier"))).exp()
    if "dictionary.C" in weights:
        return _archetypal(config, weights) * gain
    m, d = weights.shape("dictionary._weights")
    rows = weights.take("dictionary._weights", m, d)
    name = config.found.get("normalization")
    norms = rows.norm(dim=1, keepdim=True)
    if name is None:
        if bool(((norms - 1).abs() > DRIFT).any()):
            raise SAEError(
                f"{config.where}: rows of the dictionary have norms {float(norms.min()):.3g} to "
                f"{float(norms.max()):.3g}, and nothing says how it is normalized: put a "
                'config.json with "normalization" beside state_dict.pt'
            )
        name = "l2"
    # overcomplete/sae/dictionary.py; 1e-8 is its guard.
    known = {
        "identity": lambda: rows,
        "l2": lambda: rows / (norms + 1e-8),
        "max_l2": lambda: rows / norms.max(),
        "l1": lambda: rows / (rows.norm(p=1, dim=1, keepdim=True) + 1e-8),
        "max_l1": lambda: rows / rows.norm(p=1, dim=1, keepdim=True).max(),
    }
    if name not in known:
        raise SAEError(f"{config.where}: normalization {str(name)[:40]!r} is not of {list(known)}")
    return known[name]() * gain


def _archetypal(config: Settings, weights: Tensors) -> Tensor:
    """W C + Relax with rows of W on the simplex, of Relax inside the ball of radius delta."""
    if "delta" not in config.found:
        raise SAEError(
            f"{config.where} has a relaxed archetypal dictionary, whose delta nobody says: put a "
            'config.json with "delta" (1.0 is the default) beside state_dict.pt'
        )
    delta = config.real("delta")
    m, d = weights.shape("dictionary.Relax")
    n, _ = weights.shape("dictionary.C")
    points, mixing = weights.take("dictionary.C", n, d), weights.take("dictionary.W", m, n).relu()
    relaxed = weights.take("dictionary.Relax", m, d)
    # overcomplete/sae/archetypal_dictionary.py; a row of zeros stays one.
    mixing = mixing / (mixing.sum(dim=1, keepdim=True) + 1e-8)
    length = relaxed.norm(dim=1, keepdim=True)
    return mixing @ points + relaxed * (delta / length.clamp_min(1e-30)).clamp(max=1)


def _encoder(weights: Tensors, dictionary: Tensor) -> dict[str, Tensor]:
    m, d = dictionary.shape
    for prefix in ("encoder.final_block.0.", "encoder."):
        if prefix + "weight" in weights:
            found = {"W_enc": weights.take(prefix + "weight", m, d)}
            break
    else:
        tied = [name for name in weights.names() if name.startswith("encoder.tied_to.")]
        if not tied:
            raise SAEError(
                f"{weights.where}: the encoder is not one linear layer; it holds {weights.names()}"
            )
        prefix, found = "encoder.", {"W_enc": dictionary}
        weights.drop(tied)
    if prefix + "bias" in weights:
        found["b_enc"] = weights.take(prefix + "bias", m)
    return found


def _threshold(config: Settings, weights: Tensors, hints: Hints, m: int) -> Tensor:
    if "thresholds" in weights:
        first = weights.take("thresholds", m).exp()
    else:
        told = config.found.get("running_threshold", hints.threshold)
        if told is None:
            raise SAEError(
                f"{config.where}: overcomplete does not save the running threshold of a "
                "BatchTopKSAE; give threshold= (--threshold), float(sae.running_threshold)"
            )
        first = torch.full((m,), Settings({"t": told}, config.where).real("t"))
    # What fires is at or above it; here above.
    return torch.nextafter(first, torch.tensor(-torch.inf))


def _with_bias(part: Imported, weights: dict[str, Tensor]) -> dict[str, Tensor]:
    value = ALWAYS if part.activation == "topk" else 1.0
    row = torch.zeros(1, part.d_in)
    grown = {
        "W_enc": torch.cat([weights["W_enc"], row]),
        "b_enc": torch.cat([weights["b_enc"], torch.tensor([value])]),
        "W_dec": torch.cat([weights["W_dec"], weights["b_dec"][None] / value]),
    }
    if "threshold" in weights:
        grown["threshold"] = torch.cat([weights["threshold"], torch.zeros(1)])
    return grown


def _without_bias(activation: str, k: int, found: dict[str, Tensor]) -> Imported:
    weights = {name: value[:-1] for name, value in found.items()}
    bias = found["b_enc"][-1] * found["W_dec"][-1]
    return make(activation, {**weights, "b_dec": bias}, k=k)
