"""A transcoder inside its running model: its output in place of the point that it predicts."""

import copy
from collections.abc import Callable, Container
from typing import Any

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor

from interp.errors import InputError, PointError, SAEError
from interp.interventions.substitute import (
    Distance,
    Edit,
    Substitution,
    _checked,
    _refuse_trained,
    _runs,
    record,
    rms_distance,
    rowwise,
)
from interp.models import Generation, Model, editing
from interp.sae import SAE, Code
from interp.sae.match import check_transcoder


def transcoder_edits(
    model: Model,
    sae: SAE,
    *,
    change: Callable[[Code], Code] | None = None,
    keep_error: bool = False,
) -> dict[str, Edit]:
    """Edits for `editing` that put a transcoder's output where its target is.

    target <- y_hat(change(code(x))),   or with the error kept:  target + y_hat(changed) - y_hat

    x is the source's activation in the same call, which stays as it is.

    Args:
        model: its model.
        sae: a transcoder that knows its source and target, on the model's device.
        change: what to do to the code; None: nothing.
        keep_error: add what the transcoder leaves over, so that without a change nothing happens.

    Returns:
        Source and target with their edits, for one `editing`: its calls and halves hold for both.

    Raises:
        SAEError: not a transcoder of this model. PointError: a point is missing.
        InputError: the target runs before the source.
    """
    source, target = _points(model, sae)
    held: dict[int, Tensor] = {}

    def read(rows: Tensor, call: Any) -> Tensor:
        held[call.call] = rows
        return rows

    def write(rows: Tensor, call: Any) -> Tensor:
        if call.call not in held:
            raise PointError(f"{source} did not run before {target} in call {call.call}")
        x = held.pop(call.call)
        if x.shape[:-1] != rows.shape[:-1]:
            raise InputError(
                f"{source} has positions {tuple(x.shape[:-1])}, {target} {tuple(rows.shape[:-1])}: "
                "take points of one grid"
            )
        flat = x.reshape(-1, x.shape[-1]).float()
        code = sae.encode(flat)
        made = _decode(sae, code if change is None else change(code), flat).reshape(rows.shape)
        if keep_error:
            made = rows.float() + made - _decode(sae, code, flat).reshape(rows.shape)
        return made.to(rows.dtype)

    return {source: read, target: write}


def substitute_transcoder(
    model: Model,
    sae: SAE,
    source: Generation | UInt8[Tensor, "n h w 3"],
    *,
    calls: Container[int] | None = None,
    cfg: str = "both",
    batch_size: int = 32,
    distance: Distance = rms_distance,
    allow_train: bool = False,
    seed: int = 0,
) -> Substitution:
    """Run a model with the target's activations replaced by the transcoder's, and compare images.

    damage = sum_i d(image_i, transcoded_i) / sum_i d(image_i, ablated_i), with the target's mean as
    the ablation; see `substitute`, whose arguments these are.

    Raises:
        SAEError: not a transcoder of this model, or trained on images of the recipe.
        PointError: the model lacks a point, or it does not fire.
        InputError: the order of the points, or the ablation changes no image.
    """
    _, target = _points(model, sae)
    if isinstance(source, Generation) and not allow_train:
        _refuse_trained(model, model.identity(), sae, source)
    sae = copy.deepcopy(sae).to(model.device)
    edits: dict[str, dict[str, Edit]] = {
        "identity": {target: lambda rows, call: rows},
        "reconstruction": transcoder_edits(model, sae),
        "ablation": {target: rowwise(lambda x: sae.target_mean.expand_as(x))},
    }
    found: dict[str, list[Tensor]] = {name: [] for name in edits}
    for run in _runs(model, source, batch_size):
        plain = run()
        for name, edit in edits.items():
            with torch.no_grad(), editing(model, edit, calls=calls, cfg=cfg):
                found[name].append(_checked(distance(plain, run()), len(plain)))
    values: dict[str, np.ndarray] = {
        name: torch.cat(parts).double().cpu().numpy() for name, parts in found.items()
    }
    return record(sae, target, values, getattr(distance, "__name__", "distance"), seed)


def _points(model: Model, sae: SAE) -> tuple[str, str]:
    """Names of source and target, checked."""
    if not sae.separate or not sae.point or not sae.provenance.get("target"):
        raise SAEError(f"a {sae.variant} without source and target: train it on joined points")
    source, target = sae.point["name"], sae.provenance["target"]["name"]
    check_transcoder(sae, model.point(source), model.point(target), model.identity())
    order = list(model.points)
    if order.index(source) >= order.index(target):
        raise InputError(
            f"{target} runs before {source}: its output cannot be computed from what comes later"
        )
    return source, target


def _decode(sae: SAE, code: Code, x: Tensor) -> Tensor:
    found = sae.decode(code)
    if sae.W_skip is None:
        return found
    return found + sae.normalize(x) @ sae.W_skip.T * sae.target_scale
