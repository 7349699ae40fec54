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

from interp.sae.metrics import (
    cosines,
    dead,
    detection,
    fvu,
    mcc,
    recovery,
    relative_bias,
    shrinkage,
    uniqueness,
)
from interp.sae.synthetic import Planted, Truth

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


class Grade(NamedTuple):
    """What any code is judged by where the truth is known, see `interp.sae.metrics`."""

    recovered: float
    mcc: float
    mmcs: float
    fvu: float
    dead: float
    l0: float
    f1: float
    precision: float
    recall: float
    uniqueness: float
    shrinkage: float
    relative_bias: float


class Output(NamedTuple):
    """What an autoencoder made of the held-out rows."""

    decoder: Tensor
    """[m, d] directions of any norm."""
    fired: Tensor
    """[n, m] bool."""
    x_hat: Tensor
    """[n, d]."""


def save_batches(planted: Planted, folder: Path, rows: int = 16384) -> tuple[Path, Path]:
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
    found = output(weights, x, k)
    near = recovery(found.decoder, atoms)
    return Score(
        fvu=fvu(x, found.x_hat),
        mcc=mcc(found.decoder, atoms),
        recovered=near.recovered,
        mmcs=near.mmcs,
        dead=dead(found.fired),
        l0=float(found.fired.sum() / len(x)),
    )


@torch.no_grad()
def output(weights: Mapping[str, Tensor], x: Tensor, k: int) -> Output:
    """What weights in the workers' common form make of rows."""
    codes, guesses = [], []
    for part in x.split(CHUNK):
        values, indices = encode(weights, part, k)
        code = torch.zeros(len(part), len(weights["decoder"])).scatter_(1, indices, values)
        codes.append(code > 0)
        guesses.append(code @ weights["decoder"] + weights["decoder_bias"])
    return Output(weights["decoder"], torch.cat(codes), torch.cat(guesses))


def load_output(path: Path) -> Output:
    """What a worker saved of a library's own encode and decode."""
    with np.load(path) as data:
        decoder = torch.from_numpy(data["decoder"]).float()
        fired = np.unpackbits(data["fired"], axis=1, count=len(decoder)).astype(bool)
        x_hat = torch.from_numpy(data["x_hat"]).float()
        return Output(decoder, torch.from_numpy(fired), x_hat)


def grade(found: Output, truth: Truth, atoms: Tensor) -> Grade:
    """Judge a code by the truth.

    Args:
        found: what it made of the truth's rows.
        truth: held-out rows with the atoms that fired.
        atoms: [a, d] planted unit atoms.
    """
    near = recovery(found.decoder, atoms)
    best = cosines(found.decoder, atoms).argmax(dim=1)
    detected = detection(found.fired, truth.fired, best)
    return Grade(
        recovered=near.recovered,
        mcc=mcc(found.decoder, atoms),
        mmcs=near.mmcs,
        fvu=fvu(truth.x, found.x_hat),
        dead=dead(found.fired),
        l0=float(found.fired.sum() / len(truth.x)),
        **detected._asdict(),
        uniqueness=uniqueness(found.decoder, atoms),
        shrinkage=shrinkage(truth.x, found.x_hat),
        relative_bias=relative_bias(truth.x, found.x_hat),
    )
