"""dictionary_learning: `ae.pt` beside `config.json` (checked against version 0.1.0).

The config's `dict_class` decides what the names mean:

- AutoEncoder: W (x - bias) + b, ReLU. Its loader gives the rows of the decoder norm 1 and makes
  the encoder longer in return, so that codes are in units of the data; so does this reader.
- AutoEncoderNew: nothing is subtracted from the input, rows keep their norms.
- JumpReluAutoEncoder: nothing is subtracted from the input either; one threshold per latent.
- BatchTopKSAE, MatryoshkaBatchTopKSAE: at inference a ReLU above one running threshold, which is
  -1 (none) before training has set it.
- AutoEncoderTopK: its loader chooses by k and leaves the threshold aside.
- Activation norms are folded into biases and threshold before saving.
"""

import io
import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from interp.errors import SAEError
from interp.sae.atomic import write_atomic
from interp.sae.formats.hints import Hints, refuse, refuse_strict
from interp.sae.formats.imported import Imported
from interp.sae.formats.reading import Settings, Tensors, read_json, read_torch
from interp.sae.formats.weights import (
    has_unit_rows,
    make,
    one_threshold,
    rebias,
    scale_rows,
)

CONFIG, WEIGHTS = "config.json", "ae.pt"
CLASSES = (
    "AutoEncoder",
    "AutoEncoderNew",
    "AutoEncoderTopK",
    "BatchTopKSAE",
    "GatedAutoEncoder",
    "JumpReluAutoEncoder",
    "MatryoshkaBatchTopKSAE",
)


def detect(path: Path) -> bool:
    """A folder with `ae.pt` and `config.json`, or a file of `checkpoints` below such a folder."""
    if path.is_dir():
        return (path / WEIGHTS).is_file() and (path / CONFIG).is_file()
    return _is_checkpoint(path) and _config_of(path) is not None


def read(path: Path, hints: Hints) -> Imported:
    """Read a trainer's folder, its `ae.pt`, or one of its checkpoints.

    Raises:
        SAEError: damaged, or a class that cannot be had exactly.
    """
    file = path / WEIGHTS if path.is_dir() else path
    place = _config_of(file)
    if place is None:
        raise SAEError(f"{file} has no {CONFIG} beside it, which says what its numbers mean")
    trainer = read_json(place).get("trainer")
    if not isinstance(trainer, dict):
        raise SAEError(f"{place} has no table 'trainer'")
    config = Settings(trainer, str(place))
    name = config.word("dict_class")
    if name not in CLASSES:
        raise SAEError(f"{place}: dict_class {name!r} cannot be read; known are {CLASSES}")
    weights = Tensors(read_torch(file), str(file))
    matrix = "W_dec" if "W_dec" in weights else "encoder.weight"
    m, d = weights.shape(matrix)
    config.agree("activation_dim", d)
    config.agree("dict_size", m)
    part = _READERS[name](weights, config, m, d)
    weights.finish()
    return part


def write(part: Imported, path: Path, hints: Hints) -> Path:
    """Write a folder that `load_dictionary` reads.

    Raises:
        SAEError: a function that no class of the library has.
    """
    if part.rows != "none" or part.activation not in _WRITERS:
        raise refuse(part, "dictionary_learning", *_WRITERS)
    refuse_strict(part, "dictionary_learning", hints)
    name, state = _WRITERS[part.activation](part)
    point, model = part.provenance.get("point") or {}, part.provenance.get("model") or {}
    trainer: dict[str, Any] = {
        "dict_class": name,
        "activation_dim": part.d_in,
        "dict_size": part.n_latents,
        "layer": 0,
        "lm_name": model.get("spec") or "",
        "submodule_name": point.get("name"),
    }
    if "k" in state:
        trainer["k"] = int(state["k"])
    path.mkdir(parents=True, exist_ok=True)
    payload = io.BytesIO()
    torch.save({k: v.detach().contiguous().clone() for k, v in state.items()}, payload)
    write_atomic(path / WEIGHTS, payload.getvalue())
    text = json.dumps({"trainer": trainer, "buffer": {}}, indent=1)
    write_atomic(path / CONFIG, (text + "\n").encode())
    return path


def _is_checkpoint(path: Path) -> bool:
    return path.suffix == ".pt" and (path.name == WEIGHTS or path.parent.name == "checkpoints")


def _config_of(file: Path) -> Path | None:
    """The config beside a weights file, or one folder up from `checkpoints`."""
    for folder in (file.parent, file.parent.parent):
        if (folder / CONFIG).is_file():
            return folder / CONFIG
    return None


def _linear(found: Tensors, m: int, d: int) -> dict[str, Tensor]:
    weights = {"W_enc": found.take("encoder.weight", m, d)}
    weights["W_dec"] = found.take("decoder.weight", d, m).T
    if "encoder.bias" in found:
        weights["b_enc"] = found.take("encoder.bias", m)
    return weights


def _plain(found: Tensors, m: int, d: int) -> dict[str, Tensor]:
    weights = {"W_enc": found.take("W_enc", d, m).T, "W_dec": found.take("W_dec", m, d)}
    return {**weights, "b_enc": found.take("b_enc", m), "b_dec": found.take("b_dec", d)}


def _both(bias: Tensor) -> dict[str, Tensor]:
    return {"b_dec": bias, "b_in": bias}


def _read_relu(found: Tensors, config: Settings, m: int, d: int) -> Imported:
    part = make("relu", _linear(found, m, d) | _both(found.take("bias", d)))
    norms = part.W_dec.detach().norm(dim=1)
    # The comparison of AutoEncoder.normalize_decoder.
    if torch.allclose(norms, torch.ones_like(norms)):
        return part
    if not bool((norms > 0).all()):
        raise SAEError(f"{found.where}: a column of decoder.weight is 0 and cannot get norm 1")
    return scale_rows(part, norms)


def _read_new(found: Tensors, config: Settings, m: int, d: int) -> Imported:
    return make("relu", {**_linear(found, m, d), "b_dec": found.take("decoder.bias", d)})


def _read_gated(found: Tensors, config: Settings, m: int, d: int) -> Imported:
    weights = _linear(found, m, d) | _both(found.take("decoder_bias", d))
    weights |= {"b_enc": found.take("gate_bias", m), "b_mag": found.take("mag_bias", m)}
    return make("gated", {**weights, "r_mag": found.take("r_mag", m)})


def _read_jumprelu(found: Tensors, config: Settings, m: int, d: int) -> Imported:
    return make("jumprelu", {**_plain(found, m, d), "threshold": found.take("threshold", m)})


def _read_topk(found: Tensors, config: Settings, m: int, d: int) -> Imported:
    k = _active(found, config)
    found.drop(["threshold"])
    return make("topk", _linear(found, m, d) | _both(found.take("b_dec", d)), k=k)


def _read_batchtopk(found: Tensors, config: Settings, m: int, d: int) -> Imported:
    weights = _linear(found, m, d) | _both(found.take("b_dec", d))
    part = make("jumprelu", {**weights, "threshold": _one_threshold(found, m)})
    part.budget = _active(found, config)
    return part


def _read_matryoshka(found: Tensors, config: Settings, m: int, d: int) -> Imported:
    weights = _plain(found, m, d)
    weights["b_in"] = weights["b_dec"]
    part = make("jumprelu", {**weights, "threshold": _one_threshold(found, m)})
    part.budget, part.groups = _active(found, config), _groups(found, m)
    return part


def _groups(found: Tensors, m: int) -> tuple[int, ...]:
    sizes = found.found.get("group_sizes")
    found.drop(["group_sizes"])
    whole = isinstance(sizes, Tensor) and sizes.ndim == 1 and not sizes.is_floating_point()
    if not whole or int(sizes.sum()) != m or int(sizes.min()) < 1:  # pyright: ignore
        raise SAEError(f"{found.where}: group_sizes = {str(sizes)[:60]} do not split {m} latents")
    return tuple(sizes.tolist())  # pyright: ignore


def _active(found: Tensors, config: Settings) -> int:
    k = Settings({"k": found.number("k")}, found.where).whole("k") if "k" in found else 0
    k = k or config.whole("k")
    config.agree("k", k)
    return k


def _one_threshold(found: Tensors, m: int) -> Tensor:
    return torch.full((m,), float(found.number("threshold")))


_READERS = {
    "AutoEncoder": _read_relu,
    "AutoEncoderNew": _read_new,
    "AutoEncoderTopK": _read_topk,
    "BatchTopKSAE": _read_batchtopk,
    "GatedAutoEncoder": _read_gated,
    "JumpReluAutoEncoder": _read_jumprelu,
    "MatryoshkaBatchTopKSAE": _read_matryoshka,
}


def _write_relu(part: Imported) -> tuple[str, dict[str, Tensor]]:
    state = {"encoder.weight": part.W_enc, "decoder.weight": part.W_dec.T}
    norms = part.W_dec.detach().norm(dim=1)
    if has_unit_rows(part) and torch.allclose(norms, torch.ones_like(norms)):
        part = rebias(part, part.b_dec)
        return "AutoEncoder", {**state, "encoder.bias": part.b_enc, "bias": part.b_dec}
    # AutoEncoder's loader would change the codes of rows of another norm; this class leaves them.
    part = rebias(part, torch.zeros_like(part.b_in))
    return "AutoEncoderNew", {**state, "encoder.bias": part.b_enc, "decoder.bias": part.b_dec}


def _write_topk(part: Imported) -> tuple[str, dict[str, Tensor]]:
    part = rebias(part, part.b_dec)
    state = {"encoder.weight": part.W_enc, "encoder.bias": part.b_enc, "b_dec": part.b_dec}
    state |= {"decoder.weight": part.W_dec.T, "threshold": torch.tensor(-1.0)}
    return "AutoEncoderTopK", {**state, "k": torch.tensor(part.k, dtype=torch.int32)}


def _write_jumprelu(part: Imported) -> tuple[str, dict[str, Tensor]]:
    shared = one_threshold(part)
    if part.budget and shared is not None:
        return _write_batchtopk(part, shared)
    part = rebias(part, torch.zeros_like(part.b_in))
    state = {"W_enc": part.W_enc.T, "b_enc": part.b_enc, "W_dec": part.W_dec, "b_dec": part.b_dec}
    return "JumpReluAutoEncoder", {**state, "threshold": part.get_parameter("threshold")}


def _write_batchtopk(part: Imported, threshold: Tensor) -> tuple[str, dict[str, Tensor]]:
    part = rebias(part, part.b_dec)
    state = {"k": torch.tensor(part.budget, dtype=torch.int32), "threshold": threshold}
    state["b_dec"] = part.b_dec
    if part.groups:
        state |= {"W_enc": part.W_enc.T, "b_enc": part.b_enc, "W_dec": part.W_dec}
        return "MatryoshkaBatchTopKSAE", {**state, "group_sizes": torch.tensor(part.groups)}
    state |= {"encoder.weight": part.W_enc, "encoder.bias": part.b_enc}
    return "BatchTopKSAE", {**state, "decoder.weight": part.W_dec.T}


def _write_gated(part: Imported) -> tuple[str, dict[str, Tensor]]:
    part = rebias(part, part.b_dec)
    state = {"encoder.weight": part.W_enc, "decoder.weight": part.W_dec.T}
    state |= {"gate_bias": part.b_enc, "mag_bias": part.get_parameter("b_mag")}
    state |= {"r_mag": part.get_parameter("r_mag"), "decoder_bias": part.b_dec}
    return "GatedAutoEncoder", state


_WRITERS = {
    "relu": _write_relu,
    "topk": _write_topk,
    "jumprelu": _write_jumprelu,
    "gated": _write_gated,
}
