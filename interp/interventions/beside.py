"""Substitution damage of an SAE beside that of the codes that it has to beat."""

import copy
import dataclasses
from collections.abc import Callable, Container
from typing import Any

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from interp.errors import InputError
from interp.interventions.substitute import (
    Distance,
    Edit,
    Substitution,
    ablation,
    check_fit,
    measure_edits,
    record,
    rms_distance,
    rowwise,
    substitute,
)
from interp.models import Generation, Model
from interp.sae import SAE
from interp.sae.baselines import Rival
from interp.sae.beside import plain_rivals, sae_rival


def substitute_beside(
    model: Model,
    sae: SAE,
    point: str,
    source: Generation | UInt8[Tensor, "n h w 3"],
    fitting: Float[Tensor, "f d"],
    *,
    second: SAE | None = None,
    twin: tuple[Model, SAE] | None = None,
    calls: Container[int] | None = None,
    cfg: str = "both",
    batch_size: int = 32,
    distance: Distance = rms_distance,
    allow_train: bool = False,
    seed: int = 0,
) -> dict[str, Substitution]:
    """Measure what images lose by an SAE and by other codes with as many coefficients per row.

    All edits are made on the same images, against the same mean ablation; see `substitute`. The
    twin's SAE goes into the untrained twin, whose own images and ablation are its scale.

    Args:
        model: a model that makes images from `source`.
        sae: an SAE of this point.
        point: name of the hook point.
        source: a recipe to generate by, or images [n, h, w, 3] for autoencoders.
        fitting: [f, d] rows of the point for the components of PCA and the mean, at least 2 d.
        second: an SAE of another seed.
        twin: the untrained model, and an SAE of its point.
        calls: denoiser calls to edit; None is all.
        cfg: guidance halves to edit: both, cond or uncond.
        batch_size: images per run where `source` is images.
        distance: (images, images) -> one number >= 0 each.
        allow_train: let seeds in whose images an SAE was trained on.
        seed: of the random dictionary and the jackknife's folds.

    Returns:
        Damage by name: "sae", "k-sparse PCA", "random dictionary", and if given "SAE of a second
        seed" and "SAE of the untrained twin". `sae` of a record is the digest of the SAE, or the
        name of a code that is none.

    Raises:
        SAEError: an SAE belongs elsewhere, or was trained on images of the recipe.
        PointError: the model has no such point, or it does not fire.
        InputError: too few fitting rows; what `substitute` refuses.
    """
    _check_fitting(sae, point, fitting)
    saes = {"sae": sae} if second is None else {"sae": sae, "SAE of a second seed": second}
    for one in saes.values():
        check_fit(model, one, point, source, allow_train)
    edits = _edits(model, saes, fitting.double().cpu(), seed)
    how: dict[str, Any] = {
        "calls": calls, "cfg": cfg, "batch_size": batch_size, "distance": distance
    }  # fmt: skip
    mean = ablation(copy.deepcopy(sae).to(model.device))
    values = measure_edits(model, point, source, {**edits, "ablation": mean}, **how)
    label, found = getattr(distance, "__name__", "distance"), {}
    for name in edits:
        made = record(sae, point, {**values, "reconstruction": values[name]}, label, seed)
        found[name] = dataclasses.replace(made, sae=saes[name].digest if name in saes else name)
    if twin is not None:
        how |= {"allow_train": allow_train, "seed": seed}
        found["SAE of the untrained twin"] = substitute(twin[0], twin[1], point, source, **how)
    return found


def _edits(model: Model, saes: dict[str, SAE], rows: Tensor, seed: int) -> dict[str, Edit]:
    """What each SAE, and each code without training, puts in the place of rows."""
    edits = {
        name: rowwise(copy.deepcopy(one).to(model.device).forward) for name, one in saes.items()
    }
    k = sae_rival("sae", saes["sae"], rows).k
    for rival in plain_rivals(saes["sae"], rows, "fitting rows", k, seed):
        edits[rival.name] = rowwise(_on_cpu(rival))
    return edits


def _check_fitting(sae: SAE, point: str, fitting: Tensor) -> None:
    if fitting.ndim != 2 or fitting.shape[1] != sae.d_in or len(fitting) < 2 * sae.d_in:
        raise InputError(
            f"fitting rows of shape {tuple(fitting.shape)}: give at least {2 * sae.d_in} rows of "
            f"width {sae.d_in} of {point}"
        )


def _on_cpu(rival: Rival) -> Callable[[Tensor], Tensor]:
    """The rival's float64 reconstruction of rows on any device."""
    return lambda x: rival.reconstruct(x.detach().cpu()).to(x.device, torch.float32)
