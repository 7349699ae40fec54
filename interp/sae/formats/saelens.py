"""SAELens: `cfg.json` and `sae_weights.safetensors` (checked against sae-lens 6.54.12).

Encoder and decoder are W_enc [d, m] and W_dec [m, d]. What a reader has to know beyond the names:

- `apply_b_dec_to_input`: without it nothing is subtracted from the input.
- `rescale_acts_by_decoder_norm` (topk): p is multiplied by the norms of W_dec's rows before the
  choice, and the code divided by them in decoding: unit rows and a longer encoder do the same.
- `normalize_activations`: layer_norm and constant_norm_rescale act on each row at run time;
  expected_average_only_in needs a factor that is not in the file; whitening is folded in when
  training ends, so that a config that still names it is unfinished.
- BatchTopK and Matryoshka are saved as jumprelu with one threshold.
- matching_pursuit has one matrix; b_dec is added only where it is subtracted.
- Transcoders subtract nothing from the input.
- Files before 6.0 name the activation by `activation_fn_str`, may hold `log_threshold` in place
  of `threshold`, and a `scaling_factor` that multiplies the code in decoding.
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
from interp.sae.formats.reading import Settings, Tensors, read_json, read_safetensors
from interp.sae.formats.weights import make, rebias, scale_rows

CONFIG, WEIGHTS = "cfg.json", "sae_weights.safetensors"
# The version whose loader the written files were checked with.
WRITTEN_VERSION = "6.54.12"
ROWS = {"none": "none", "layer_norm": "layer", "constant_norm_rescale": "length"}
ARCHITECTURES = {
    "standard": "relu",
    "topk": "topk",
    "jumprelu": "jumprelu",
    "gated": "gated",
    "matching_pursuit": "pursuit",
}
TRANSCODERS = {
    "transcoder": "relu",
    "skip_transcoder": "relu",
    "jumprelu_transcoder": "jumprelu",
    "jumprelu_skip_transcoder": "jumprelu",
}
_TRAINING = ("batchtopk", "matryoshka_batchtopk")


def detect(path: Path) -> bool:
    """A folder with `sae_weights.safetensors`."""
    return (path / WEIGHTS).is_file()


def read(path: Path, hints: Hints) -> Imported:
    """Read a folder that `save_model` or `save_inference_model` wrote.

    Raises:
        SAEError: damaged, or an architecture or normalization that cannot be had exactly.
    """
    config = Settings(_modern(read_json(path / CONFIG)), str(path / CONFIG))
    architecture = config.word("architecture", "standard")
    activation = _activation(architecture, config)
    weights = Tensors(read_safetensors(path / WEIGHTS), str(path / WEIGHTS))
    transcodes = architecture in TRANSCODERS
    m, d_out = weights.shape("W_dec")
    d = weights.shape("W_enc")[0] if transcodes else d_out
    for key, size in (("d_in", d), ("d_sae", m), ("d_out", d_out)):
        config.agree(key, size)
    found = {"W_skip": weights.take("W_skip", d_out, d)} if "skip" in architecture else {}
    found |= _weights(weights, activation, m, d, d_out)
    if not transcodes and config.flag("apply_b_dec_to_input", True):
        found["b_in"] = found["b_dec"]
    elif activation == "pursuit":
        found["b_dec"] = torch.zeros(d)
    part = make(
        activation, found, rows=_rows(config, hints), d_out=d_out if transcodes else 0,
        **_counts(config, activation, d),
    )  # fmt: skip
    if activation == "topk" and config.flag("rescale_acts_by_decoder_norm"):
        part = _rescaled(part, str(path))
    if config.found.get("normalize_activations") == "expected_average_only_in":
        part = _scaled(part, hints.input_scale or 1.0)
    return part


def write(part: Imported, path: Path, hints: Hints) -> Path:
    """Write a folder that `SAE.load_from_disk` reads.

    Raises:
        SAEError: an activation that SAELens has no inference class for.
    """
    from safetensors.torch import save

    architecture = _architecture(part)
    refuse_strict(part, "SAELens", hints)
    # Zero is the other input bias that a config can say.
    shared = bool(part.b_in.any()) and not part.separate
    part = rebias(part, part.b_dec if shared else torch.zeros_like(part.b_in))
    weights = {"W_enc": part.W_enc.T, "W_dec": part.W_dec, "b_dec": part.b_dec}
    weights["b_gate" if part.activation == "gated" else "b_enc"] = part.b_enc
    extra = ("threshold", "r_mag", "b_mag", "W_skip")
    known = dict(part.named_parameters())
    weights |= {name: known[name] for name in extra if name in known}
    if part.activation == "pursuit":
        weights = {name: weights[name] for name in ("W_dec", "b_dec")}
    config = _config(part, architecture, shared)
    path.mkdir(parents=True, exist_ok=True)
    write_atomic(path / WEIGHTS, save({k: v.detach().contiguous() for k, v in weights.items()}))
    write_atomic(path / CONFIG, (json.dumps(config, indent=1) + "\n").encode())
    return path


def _config(part: Imported, architecture: str, shared: bool) -> dict[str, Any]:
    point, model = part.provenance.get("point") or {}, part.provenance.get("model") or {}
    config: dict[str, Any] = {
        "architecture": architecture,
        "d_in": part.d_in,
        "d_sae": part.n_latents,
        "dtype": "float32",
        "device": "cpu",
        "apply_b_dec_to_input": shared,
        "normalize_activations": {v: k for k, v in ROWS.items()}[part.rows],
        "reshape_activations": "none",
        "metadata": {
            "sae_lens_version": WRITTEN_VERSION,
            "hook_name": point.get("name"),
            "model_name": model.get("spec"),
        },
    }
    if part.activation == "topk":
        config |= {"k": part.k, "rescale_acts_by_decoder_norm": False}
    if part.activation == "pursuit":
        config |= {"max_iterations": part.k, "residual_threshold": part.tolerance}
        config["stop_on_duplicate_support"] = part.settles
    if part.separate:
        config["d_out"] = part.d_out
    return config


def _modern(config: dict[str, Any]) -> dict[str, Any]:
    """The config of a file before 6.0 in the words of 6.0."""
    config = dict(config)
    if "activation_fn_str" in config:
        config.setdefault("activation_fn", config["activation_fn_str"])
    options = config.get("activation_fn_kwargs")
    if config.get("activation_fn") == "topk" and isinstance(options, dict) and "k" in options:
        config |= {"architecture": "topk", "k": options["k"]}
    elif config.get("activation_fn", "relu") not in ("relu", "topk", None):
        raise SAEError(f"activation {str(config['activation_fn'])[:40]!r} of SAELens is unknown")
    normal = config.get("normalize_activations")
    if normal is None or isinstance(normal, bool):
        config["normalize_activations"] = "expected_average_only_in" if normal else "none"
    return config


def _architecture(part: Imported) -> str:
    """SAELens' name of an architecture.

    Raises:
        SAEError: it has none.
    """
    skips = part.W_skip is not None
    for name, activation in (TRANSCODERS if part.separate else ARCHITECTURES).items():
        if activation == part.activation and skips == ("skip" in name):
            break
    else:
        kinds = TRANSCODERS if part.separate else ARCHITECTURES
        raise refuse(part, "SAELens", *dict.fromkeys(kinds.values()))
    tied = torch.equal(part.W_enc, part.W_dec) and not bool(part.b_enc.any())
    same = torch.equal(part.b_in, part.b_dec)
    if part.activation == "pursuit" and not (tied and same):
        raise SAEError("SAELens pursues with one matrix and one bias, this SAE has several")
    return name


def _counts(config: Settings, activation: str, d: int) -> dict[str, Any]:
    if activation == "topk":
        return {"k": config.whole("k")}
    if activation != "pursuit":
        return {}
    unset = config.found.get("max_iterations") is None
    return {
        "k": d if unset else config.whole("max_iterations"),
        "tolerance": config.real("residual_threshold", 1e-2),
        "settles": config.flag("stop_on_duplicate_support", True),
    }


def _activation(architecture: str, config: Settings) -> str:
    known = {**ARCHITECTURES, **TRANSCODERS}
    if architecture in known:
        return known[architecture]
    if architecture in _TRAINING:
        raise SAEError(
            f"{config.where} is a training checkpoint of {architecture}, whose code depends on the "
            "whole batch; write the final SAE in SAELens by save_inference_model(folder)"
        )
    why = {
        "abstopk": "its codes are negative as often as positive, a code here never is",
        "temporal": "its code depends on earlier tokens of the text",
    }.get(architecture, f"known are {', '.join(known)}")
    raise SAEError(f"{config.where}: architecture {architecture!r} cannot be read: {why}")


def _rows(config: Settings, hints: Hints) -> str:
    normal = config.word("normalize_activations", "none")
    if normal == "expected_average_only_in":
        if hints.input_scale is None:
            raise SAEError(
                f"{config.where}: normalize_activations = {normal!r}: activations are multiplied "
                "by a factor first that is not in the file; give it as input_scale= "
                "(--input-scale), or 1 if it is folded into the weights already"
            )
        return "none"
    if normal not in ROWS:
        raise SAEError(
            f"{config.where}: normalize_activations = {normal!r} cannot be read: its statistics "
            f"are not in the file; known are {', '.join(ROWS)}, expected_average_only_in"
        )
    return ROWS[normal]


def _weights(found: Tensors, activation: str, m: int, d: int, d_out: int) -> dict[str, Tensor]:
    weights = {"W_dec": found.take("W_dec", m, d_out), "b_dec": found.take("b_dec", d_out)}
    if activation == "pursuit":
        found.finish()
        return {**weights, "W_enc": weights["W_dec"]}
    weights["W_enc"] = found.take("W_enc", d, m).T
    weights["b_enc"] = found.take("b_gate" if activation == "gated" else "b_enc", m)
    if activation == "gated":
        weights |= {"r_mag": found.take("r_mag", m), "b_mag": found.take("b_mag", m)}
    if activation == "jumprelu" and "log_threshold" in found:
        weights["threshold"] = found.take("log_threshold", m).double().exp().float()
    elif activation == "jumprelu":
        weights["threshold"] = found.take("threshold", m)
    for name in ("scaling_factor", "finetuning_scaling_factor"):
        if name in found:
            factor = found.take(name, m).double()[:, None]
            weights["W_dec"] = (weights["W_dec"].double() * factor).float()
    found.finish()
    return weights


def _rescaled(part: Imported, where: str) -> Imported:
    norms = part.W_dec.detach().double().norm(dim=1)
    if not bool((norms > 0).all()):
        raise SAEError(f"{where}: a row of W_dec is 0, and its norm divides the code")
    return scale_rows(part, norms)


def _scaled(part: Imported, factor: float) -> Imported:
    """Activations times `factor`, folded: as SAELens' fold_activation_norm_scaling_factor."""
    if not factor > 0:
        raise SAEError(f"input_scale = {factor} must be positive")
    if part.separate:
        raise SAEError("input_scale: the factors of a transcoder's two points are not known")
    if part.activation == "pursuit":
        raise SAEError("input_scale: a matching pursuit's matrix cannot take a factor")
    with torch.no_grad():
        part.W_enc.mul_(factor)
        for weight in (part.W_dec, part.b_dec, part.b_in):
            weight.div_(factor)
    return part
