"""sparsify and its relative SAeUron: `cfg.json` and `sae.safetensors`.

Checked against eai-sparsify 1.3.3; SAeUron's code is that of its repository of October 2025.

- topk and groupmax act after the ReLU. `normalize_decoder` concerns training only, and so does
  `multi_topk`: encode and decode use k (its forward shows the reconstruction from 4 k).
- `transcode` subtracts nothing from the input and reconstructs another point; `skip_connection`
  adds a linear map of the input. Both points have one width.
- SAeUron's `batch_topk` and `sample_topk` are switched off by its own loader: k per row is what
  it computes from a file, and what is read here; `provenance` keeps the flags.
- SAeUron's `input_unit_norm` normalizes each row by its mean and unbiased standard deviation.
"""

import json
from pathlib import Path
from typing import Any

from interp.errors import SAEError
from interp.sae.atomic import write_atomic
from interp.sae.formats.hints import Hints, refuse, refuse_strict
from interp.sae.formats.imported import Imported
from interp.sae.formats.reading import Settings, Tensors, read_json, read_safetensors
from interp.sae.formats.weights import make, rebias

CONFIG, WEIGHTS = "cfg.json", "sae.safetensors"
_SAEURON = ("input_unit_norm", "sample_topk", "batch_topk")


def detect(path: Path) -> bool:
    """A folder with `cfg.json` and `sae.safetensors`, without the flags of SAeUron."""
    return _is_either(path) and not _is_saeuron(path)


def detect_saeuron(path: Path) -> bool:
    """A folder with `cfg.json` and `sae.safetensors` whose config has the flags of SAeUron."""
    return _is_either(path) and _is_saeuron(path)


def read(path: Path, hints: Hints) -> Imported:
    """Read the folder of one hook point.

    Raises:
        SAEError: damaged, or signed codes.
    """
    config = Settings(read_json(path / CONFIG), str(path / CONFIG))
    activation = config.word("activation", "topk")
    if activation not in ("topk", "groupmax"):
        raise SAEError(f"{config.where}: activation {activation!r} is neither topk nor groupmax")
    if config.flag("signed"):
        raise SAEError(
            f"{config.where}: signed codes cannot be read, a code here is never negative"
        )
    weights = Tensors(read_safetensors(path / WEIGHTS), str(path / WEIGHTS))
    m, d = weights.shape("encoder.weight")
    config.agree("d_in", d)
    if config.whole("num_latents", 0, least=0):
        config.agree("num_latents", m)
    elif config.found.get("expansion_factor") is not None:
        config.agree("expansion_factor", m // d if m % d == 0 else 0)
    transcodes, skips = config.flag("transcode"), config.flag("skip_connection")
    found = {
        "W_enc": weights.take("encoder.weight", m, d),
        "b_enc": weights.take("encoder.bias", m),
        "W_dec": weights.take("W_dec", m, d),
        "b_dec": weights.take("b_dec", d),
    }
    if not transcodes:
        found["b_in"] = found["b_dec"]
    if skips:
        found["W_skip"] = weights.take("W_skip", d, d)
    part = make(
        activation,
        found,
        k=config.whole("k", 32),
        rows="layer" if config.flag("input_unit_norm") else "none",
        d_out=d if transcodes or skips else 0,
    )
    weights.finish()
    return part


def write(part: Imported, path: Path, hints: Hints) -> Path:
    """Write a folder that `SparseCoder.load_from_disk` reads.

    A ReLU SAE is written as the top k of k = m.

    Raises:
        SAEError: a function that sparsify cannot say.
    """
    if part.activation not in ("topk", "groupmax", "relu") or part.rows != "none":
        raise refuse(part, "sparsify", "topk", "groupmax", "relu")
    if part.d_out != part.d_in:
        raise SAEError(f"sparsify has one width for both points, not {part.d_in} and {part.d_out}")
    refuse_strict(part, "sparsify", hints)
    more: dict[str, Any] = {"activation": "groupmax" if part.activation == "groupmax" else "topk"}
    transcodes = part.separate and not bool(part.b_in.any())
    more |= {"skip_connection": part.W_skip is not None, "transcode": transcodes}
    return _write(part, path, more)


def write_saeuron(part: Imported, path: Path, hints: Hints) -> Path:
    """Write a folder that SAeUron's `Sae.load_from_disk` reads.

    Raises:
        SAEError: a function that SAeUron cannot say.
    """
    if part.activation not in ("topk", "relu") or part.rows not in ("none", "layer"):
        raise refuse(part, "SAeUron", "topk and relu, also on rows normalized by layer")
    refuse_strict(part, "SAeUron", hints)
    flags = {"batch_topk": False, "sample_topk": False, "input_unit_norm": part.rows == "layer"}
    return _write(part, path, flags)


def _write(part: Imported, path: Path, more: dict[str, Any]) -> Path:
    from safetensors.torch import save

    part = part if more.get("transcode") else rebias(part, part.b_dec)
    weights = {"encoder.weight": part.W_enc, "encoder.bias": part.b_enc}
    weights |= {"W_dec": part.W_dec, "b_dec": part.b_dec}
    if part.W_skip is not None:
        weights["W_skip"] = part.W_skip
    config = {
        # Both libraries' default; num_latents counts.
        "expansion_factor": 32,
        "normalize_decoder": True,
        "num_latents": part.n_latents,
        "k": part.n_latents if part.activation == "relu" else part.k,
        "multi_topk": False,
        **more,
        "d_in": part.d_in,
    }
    path.mkdir(parents=True, exist_ok=True)
    payload = save({name: value.detach().contiguous() for name, value in weights.items()})
    write_atomic(path / WEIGHTS, payload)
    write_atomic(path / CONFIG, (json.dumps(config) + "\n").encode())
    return path


def _is_either(path: Path) -> bool:
    return (path / WEIGHTS).is_file() and (path / CONFIG).is_file()


def _is_saeuron(path: Path) -> bool:
    try:
        found = read_json(path / CONFIG)
    except SAEError:
        return False
    return any(name in found for name in _SAEURON)
