"""sdxl-unbox: `config.json`, `state_dict.pth`, and `mean.pt`, `std.pt` beside them.

Its SAEs see what a block of SDXL adds (output minus input). mean.pt and std.pt hold one number
per **latent**: how strong it is on average over its data, by which its app scales interventions.
They are no part of the function; `provenance["latents"]` keeps them. The folder is named after
block, k, width, auxk, batch size and rate.
"""

import json
from pathlib import Path
from typing import Any

import torch

from interp.errors import SAEError
from interp.sae.atomic import write_atomic
from interp.sae.formats.hints import Hints, refuse, refuse_strict
from interp.sae.formats.imported import Imported
from interp.sae.formats.openai import base_state, write_torch
from interp.sae.formats.reading import Settings, Tensors, read_json, read_torch
from interp.sae.formats.weights import make

CONFIG, WEIGHTS = "config.json", "state_dict.pth"
STATISTICS = {"mean": "mean.pt", "std": "std.pt"}


def detect(path: Path) -> bool:
    """A folder with `state_dict.pth` and `config.json`."""
    return (path / WEIGHTS).is_file() and (path / CONFIG).is_file()


def read(path: Path, hints: Hints) -> Imported:
    """Read the folder of one block, statistics included.

    Raises:
        SAEError: damaged.
    """
    config = Settings(read_json(path / CONFIG), str(path / CONFIG))
    found = read_torch(path / WEIGHTS)
    inner = found.get("state_dict") if isinstance(found, dict) else None
    if inner is None:
        raise SAEError(f"{path / WEIGHTS} has no table 'state_dict'")
    weights = Tensors(inner, str(path / WEIGHTS))
    m, d = weights.shape("encoder.weight")
    config.agree("n_dirs_local", m)
    config.agree("d_model", d)
    bias = weights.take("pre_bias", d)
    part = make(
        "topk",
        {
            "W_enc": weights.take("encoder.weight", m, d),
            "b_enc": weights.take("latent_bias", m),
            "W_dec": weights.take("decoder.weight", d, m).T,
            "b_dec": bias,
            "b_in": bias,
        },
        k=config.whole("k"),
    )
    weights.drop(["stats_last_nonzero"])
    weights.finish()
    statistics = {name: _statistic(path / file, m) for name, file in STATISTICS.items()}
    known = {name: value for name, value in statistics.items() if value is not None}
    if known:
        part.provenance["latents"] = known
    return part


def write(part: Imported, path: Path, hints: Hints) -> Path:
    """Write a folder that `SparseAutoencoder.load_from_disk` reads.

    Raises:
        SAEError: not a top-k SAE on plain rows.
    """
    if part.activation != "topk" or part.rows != "none":
        raise refuse(part, "sdxl-unbox", "topk")
    refuse_strict(part, "sdxl-unbox", hints)
    config = {
        "n_dirs_local": part.n_latents,
        "d_model": part.d_in,
        "k": part.k,
        # No AuxK: what its trainer would need to go on is not known here.
        "auxk": None,
        "dead_steps_threshold": 0,
    }
    path.mkdir(parents=True, exist_ok=True)
    known = part.provenance.get("latents") or {}
    for name, file in STATISTICS.items():
        if name in known:
            write_torch(torch.tensor(known[name], dtype=torch.float32), path / file)
    write_torch({"state_dict": base_state(part)}, path / WEIGHTS)
    write_atomic(path / CONFIG, (json.dumps(config) + "\n").encode())
    return path


def _statistic(path: Path, m: int) -> list[float] | None:
    """Numbers per latent; float32 as Python floats, which keep every bit in JSON."""
    if not path.is_file():
        return None
    value: Any = read_torch(path)
    return Tensors({path.stem: value}, str(path)).take(path.stem, m).tolist()
