"""saev: one file, a line of JSON and then what torch.save wrote.

The line's `schema` decides how the same names are meant (the repository of March 2026, and the
released 0.1.0, which writes no schema):

- no schema and 1: b_dec is subtracted from the input; from 2 on it is not (both changed on
  2025-07-31). Its present loader reads old files without the subtraction, which is not the
  function that was trained; here old files mean what they meant.
- TopK has no ReLU: negative values among the k largest stay.
- BatchTopK at inference: values above the running threshold, above 0 where that is not positive.
"""

import io
import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from interp.errors import SAEError
from interp.sae.atomic import write_atomic
from interp.sae.files import MAX_CONFIG_BYTES
from interp.sae.formats.hints import Hints, refuse
from interp.sae.formats.imported import Imported
from interp.sae.formats.reading import Settings, Tensors, parse_json, read_torch
from interp.sae.formats.weights import make, rebias

SCHEMA = 5
THRESHOLD = "activation.threshold"


def detect(path: Path) -> bool:
    """A file whose first line is a table in JSON."""
    if not path.is_file() or path.stat().st_size < 2:
        return False
    with path.open("rb") as file:
        if file.read(1) != b"{":
            return False
    try:
        _split(path)
    except SAEError:
        return False
    return True


def read(path: Path, hints: Hints) -> Imported:
    """Read a checkpoint of any schema.

    Raises:
        SAEError: damaged, an unknown schema, or a BatchTopK SAE without its threshold.
    """
    header, body = _split(path)
    schema = header.get("schema", 0)
    if type(schema) is not int or not 0 <= schema <= SCHEMA:
        raise SAEError(f"{path}: schema {str(schema)[:20]} is unknown; 1 to {SCHEMA} are read")
    config = header.get("cfg", {}) if schema else header
    if not isinstance(config, dict):
        raise SAEError(f"{path}: 'cfg' is not a table")
    settings = Settings(config, str(path))
    weights = Tensors(read_torch(body, str(path)), str(path))
    m, d = weights.shape("W_dec")
    for key, size in (("d_model", d), ("d_vit", d), ("d_sae", m)):
        settings.agree(key, size)
    bias = weights.take("b_dec", d)
    found = {"W_enc": weights.take("W_enc", d, m).T, "b_enc": weights.take("b_enc", m)}
    found |= {"W_dec": weights.take("W_dec", m, d), "b_dec": bias}
    if schema < 2:
        found["b_in"] = bias
    name, params = _activation(header, config, schema)
    part = _make(name, Settings(params, str(path)), weights, found, hints)
    weights.finish()
    return part


def write(part: Imported, path: Path, hints: Hints) -> Path:
    """Write a file of schema 5, which `saev.nn.load` reads.

    Raises:
        SAEError: a function that saev cannot say.
    """
    if part.rows != "none" or part.activation not in ("relu", "topk", "jumprelu"):
        raise refuse(part, "saev", "relu, jumprelu with one threshold, topk")
    part = rebias(part, torch.zeros_like(part.b_in))
    state, activation = _state(part), _payload(part, hints)
    if activation["cls"] == "BatchTopK":
        state[THRESHOLD] = part.get_parameter("threshold").detach()[0].clone()
    config = {
        "d_model": part.d_in,
        "d_sae": part.n_latents,
        "activation": activation,
        # Its defaults; they concern training alone.
        "reinit_blend": 0.8,
        "reinit_enc_dec_tranpose": True,
        "remove_parallel_grads": True,
        "normalize_w_dec": True,
    }
    header = {"schema": SCHEMA, "cfg": config, "commit": "unknown", "lib": "interp"}
    return _save(header, state, path)


def write_first(part: Imported, path: Path, hints: Hints) -> Path:
    """Write a file that the released 0.1.0 reads: a ReLU SAE, without schema.

    Raises:
        SAEError: not a ReLU SAE on plain rows.
    """
    if part.activation != "relu" or part.rows != "none":
        raise refuse(part, "saev 0.1", "relu")
    part = rebias(part, part.b_dec)
    factor = part.n_latents // part.d_in
    if factor * part.d_in != part.n_latents:
        raise SAEError(
            f"saev 0.1 knows m as a multiple of d alone, this SAE has m = {part.n_latents} and "
            f"d = {part.d_in}; write format='saev'"
        )
    return _save({"d_vit": part.d_in, "exp_factor": factor}, _state(part), path)


def _split(path: Path) -> tuple[dict[str, Any], bytes]:
    if not path.is_file():
        raise SAEError(f"{path} is missing")
    with path.open("rb") as file:
        line = file.readline(MAX_CONFIG_BYTES)
        if not line.endswith(b"\n"):
            raise SAEError(f"{path} does not begin with a line of JSON: it is not a file of saev")
        return parse_json(line, f"the first line of {path}"), file.read()


def _activation(
    header: dict[str, Any], config: dict[str, Any], schema: int
) -> tuple[str, dict[str, Any]]:
    if schema == 0:
        return "Relu", {}
    named = header.get("cls")
    if schema == 1 and named in ("Relu", "TopK", "BatchTopK"):
        return named, {"top_k": config.get("top_k", 32)}
    found = config.get("activation")
    if not isinstance(found, dict) or not isinstance(found.get("params"), dict):
        raise SAEError(f"the config of a saev file names no activation: {str(found)[:60]}")
    return str(found.get("cls")), found["params"]


def _make(
    name: str, params: Settings, weights: Tensors, found: dict[str, Tensor], hints: Hints
) -> Imported:
    if name == "Relu":
        return make("relu", found)
    if name == "TopK":
        m = len(found["b_enc"])
        return make("topk", found, k=min(m, params.whole("top_k")), strict=not hints.inexact)
    if name != "BatchTopK":
        raise SAEError(f"{params.where}: activation {name[:40]!r} is unknown")
    if THRESHOLD in weights:
        threshold = float(weights.number(THRESHOLD))
    elif hints.threshold is not None:
        threshold = hints.threshold
    else:
        raise SAEError(
            f"{params.where} is a BatchTopK SAE without {THRESHOLD}: its codes depend on the whole "
            "batch; give threshold= (--threshold)"
        )
    levels = torch.full_like(found["b_enc"], max(threshold, 0))
    part = make("jumprelu", {**found, "threshold": levels})
    part.budget = params.whole("top_k", 1)
    return part


def _payload(part: Imported, hints: Hints) -> dict[str, Any]:
    nothing = {"cls": "NoSparsity", "params": {"key": "no-sparsity"}}
    if part.activation == "relu":
        idle = {"cls": "NoAux", "params": {"key": "no-aux"}}
        return {"cls": "Relu", "params": {"key": "relu", "sparsity": nothing, "aux": idle}}
    aux = {"cls": "AuxK", "params": {"key": "auxk", "k_aux": 512, "alpha": 1 / 32}}
    if part.activation == "topk":
        if not part.strict and not hints.inexact:
            raise SAEError(
                "saev keeps negative values among the k largest, this SAE drops them: rows with "
                "fewer than k positive latents differ; allow it by inexact=True (--inexact)"
            )
        params = {"key": "top-k", "top_k": part.k, "sparsity": nothing, "aux": aux}
        return {"cls": "TopK", "params": params}
    threshold = part.get_parameter("threshold").detach()
    if bool((threshold != threshold[0]).any()):
        raise SAEError(
            f"saev has one threshold for all latents, this SAE has {threshold.min():.4g} to "
            f"{threshold.max():.4g}"
        )
    # Its budget in training; at inference the threshold decides.
    k = part.budget or 1
    params = {"key": "batch-top-k", "top_k": k, "sparsity": nothing, "momentum": 0.1, "aux": aux}
    return {"cls": "BatchTopK", "params": params}


def _state(part: Imported) -> dict[str, Tensor]:
    state = {"W_dec": part.W_dec, "b_dec": part.b_dec, "W_enc": part.W_enc.T, "b_enc": part.b_enc}
    return {name: value.detach().contiguous().clone() for name, value in state.items()}


def _save(header: dict[str, Any], state: dict[str, Tensor], path: Path) -> Path:
    payload = io.BytesIO()
    torch.save(state, payload)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, json.dumps(header).encode() + b"\n" + payload.getvalue())
    return path
