"""Quality on a planted dictionary: one judge for the weights of every library.

Config `small`: 512 unit atoms in 128 dimensions, 8 draws per row with strengths U(0.5, 1.5), noise
0.02, rows in batches of 1024; 512 latents, k = 8; judged on 16,384 rows that no batch holds.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from interp.sae.synthetic import PlantedDictionary, recovery

CHUNK = 4096
KEYS = ("encoder", "encoder_bias", "decoder", "decoder_bias")


class Score(NamedTuple):
    """How well a TopK autoencoder reconstructs held-out rows and finds planted atoms."""

    fvu: float
    """Unexplained share of the variance: sum |x - x_hat|^2 / sum |x - mean|^2."""
    mcc: float
    """Mean |cosine| over the best one-to-one match of atoms and latents."""
    recovered: float
    """Share of atoms with |cosine| above .9 to some latent."""
    mmcs: float
    """Mean over atoms of the largest |cosine|."""
    dead: float
    """Share of latents that fire on no held-out row."""
    l0: float
    """Mean number of active latents per row."""


def save_batches(planted: PlantedDictionary, folder: Path, rows: int = 16384) -> tuple[Path, Path]:
    """Write the training batches [steps, n, d] and held-out rows [rows, d], float32.

    Returns:
        The two .npy files.
    """
    folder.mkdir(parents=True, exist_ok=True)
    shape = (len(planted), planted.batch_size, planted.atoms.shape[1])
    batches, held_out = folder / "batches.npy", folder / "held_out.npy"
    out = np.lib.format.open_memmap(batches, mode="w+", dtype=np.float32, shape=shape)
    for step, x in enumerate(planted):
        out[step] = x.numpy()
    out.flush()
    np.save(held_out, planted.held_out(rows).numpy())
    return batches, held_out


def load_weights(path: Path) -> dict[str, Tensor]:
    """The weights that a worker saved, float32."""
    with np.load(path) as data:
        return {key: torch.from_numpy(data[key]).float() for key in KEYS}


@torch.no_grad()
def encode(weights: Mapping[str, Tensor], x: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Values and indices [n, k] of the k largest max(x encoder' + encoder_bias, 0) of each row."""
    p = F.linear(x, weights["encoder"], weights["encoder_bias"]).relu()
    return tuple(p.topk(k, dim=1))  # pyright: ignore[reportReturnType]


@torch.no_grad()
def score(weights: Mapping[str, Tensor], x: Tensor, atoms: Tensor, k: int) -> Score:
    """Judge weights in the workers' common form.

    Args:
        weights: encoder [m, d], encoder_bias [m], decoder [m, d], decoder_bias [d].
        x: [n, d] held-out rows.
        atoms: [a, d] planted unit atoms.
        k: active latents per row.
    """
    m = len(weights["decoder"])
    fired = torch.zeros(m, dtype=torch.bool)
    error, active = 0.0, 0
    for part in x.split(CHUNK):
        values, indices = encode(weights, part, k)
        code = torch.zeros(len(part), m).scatter_(1, indices, values)
        guess = code @ weights["decoder"] + weights["decoder_bias"]
        error += float((part.double() - guess.double()).square().sum())
        fired |= (code > 0).any(0)
        active += int((code > 0).sum())
    centered = x.double() - x.double().mean(0)
    found = recovery(weights["decoder"], atoms)
    return Score(
        fvu=error / float(centered.square().sum()),
        mcc=mcc(weights["decoder"], atoms),
        recovered=found.recovered,
        mmcs=found.mmcs,
        dead=float((~fired).double().mean()),
        l0=active / len(x),
    )


def mcc(learned: Tensor, atoms: Tensor) -> float:
    """Mean |cosine| over the one-to-one match of atoms [a, d] and latents [m, d] that maximizes it.

    Where there are fewer latents than atoms, the others count as 0.
    """
    from scipy.optimize import linear_sum_assignment

    cosine = (atoms.double() @ F.normalize(learned.double(), dim=1).T).abs().numpy()
    rows, columns = linear_sum_assignment(cosine, maximize=True)
    return float(cosine[rows, columns].sum() / len(cosine))
