"""Making stored rows again from their provenance: the row id is the thread that never breaks."""

import json
from typing import Any

import numpy as np
import torch
from jaxtyping import Shaped
from torch import Tensor

from interp.errors import InputError, StoreError
from interp.harvest.inputs import stored_inputs
from interp.harvest.run import Enough, Job, Piece, batches, until_enough
from interp.models.inputs import Encoding, Generation, Rows
from interp.models.model import Model
from interp.store.coords import Index, flat_positions, grid_axes, row_ids
from interp.store.store import ActivationStore

_KINDS: dict[str, Any] = {"generation": Generation, "encoding": Encoding}


def rerender(
    store: ActivationStore, point: str, index: Index, model: Model, *, exact: bool = False
) -> Shaped[Tensor, "n d"]:
    """Run the model again and return the rows that the store says it gave.

    The generations concerned run alone, in other batches than at capture: rows agree to rounding
    (in float32, 1e-5 of their largest entry). With `exact` the batches of the capture run whole:
    rows agree bit for bit on the machine and with the number of threads of the capture.

    Args:
        store: a store that `capture` wrote.
        point: name of a point.
        index: row ids, a boolean mask, a slice, or None for all.
        model: the model that was captured.
        exact: repeat the batches of the capture.

    Raises:
        InputError: another model. StoreError: the store does not say how it was made.
    """
    ids = row_ids(index, store.n_rows(point), point)
    job = stored_job(store, point, model)
    where = store.coords(point, ids)
    grid = store.points[point].grid
    flat = flat_positions(where, grid, grid_axes(store.points[point].layout, grid))
    if job.rows.positions == "mean":
        flat[:] = -1
    keys = zip(where["generation"], where["call"], where["cfg_half"], flat, strict=True)
    wanted: dict[tuple[int, ...], list[int]] = {}
    for place, key in enumerate(keys):
        wanted.setdefault(tuple(map(int, key)), []).append(place)
    out = torch.empty(len(ids), store.points[point].width, dtype=store.dtype(point))
    filled = np.zeros(len(ids), dtype=bool)
    last = int(where["call"].max(initial=0))
    for generations in _batches(store, job, np.unique(where["generation"]), exact):
        _run(job, generations, wanted, last, (out, filled))
    if not filled.all():
        raise StoreError(
            f"{int((~filled).sum())} of {len(ids)} rows of {point} did not come up again: "
            "the model runs differently from when it was captured"
        )
    return out


def stored_job(store: ActivationStore, point: str, model: Model) -> Job:
    """Return the job that a store was captured with, for one of its points."""
    recipe = dict(store.recipe)
    kind = _KINDS.get(recipe.pop("kind", ""))
    if kind is None:
        raise StoreError(
            f"{store.path} was not written by one capture (recipe {store.recipe.get('kind')!r}); "
            "re-render from the stores that it was merged from"
        )
    if kind is Generation and store.manifest.version[0] < 2:
        raise StoreError(
            f"{store.path} has format 1, whose samples took class and prompt by place, not by "
            "seed: capture again to re-render"
        )
    digest = model.identity()["weights_sha256"]
    if digest != store.model.get("weights_sha256"):
        raise InputError(
            f"{model.name} has weights {digest[:12]}, the store was captured from "
            f"{store.model.get('spec')} with weights {str(store.model.get('weights_sha256'))[:12]}"
        )
    if kind is Encoding:
        # Before there was a choice, all networks had the same noise.
        recipe.setdefault("noise", "shared")
    made = kind.from_json(json.dumps(recipe))
    rows = Rows.from_json(json.dumps(store.manifest.rows))
    lead = (store.model.get("lead_tokens", 0), model.provenance.get("lead_tokens", 0))
    if rows.positions == "mean" and lead[0] != lead[1]:
        raise StoreError(
            f"{store.path} averaged all but {lead[0]} leading tokens, {model.name} leaves "
            f"{lead[1]} out: capture again to re-render"
        )
    inputs = None
    if isinstance(made, Encoding):
        if not store.complete:
            raise StoreError(f"{store.path} is unfinished: run the capture again first")
        inputs = stored_inputs(store, made.draws)
    return Job(model, (point,), made, rows, inputs)


def _batches(
    store: ActivationStore, job: Job, generations: np.ndarray, exact: bool
) -> list[np.ndarray]:
    size = job.recipe.batch_size
    if not exact:
        return [generations[i : i + size] for i in range(0, len(generations), size)]
    whole = [
        batch
        for shard in range(store.manifest.n_shards)
        for batch in batches(*store.manifest.span(shard), size)
    ]
    return [batch for batch in whole if np.isin(batch, generations).any()]


def _run(
    job: Job,
    generations: np.ndarray,
    wanted: dict[tuple[int, ...], list[int]],
    last: int,
    result: tuple[Tensor, np.ndarray],
) -> None:
    out, filled = result

    def take(piece: Piece) -> None:
        segment = piece.segment
        if segment.call > last:
            raise Enough
        numbers = np.repeat(segment.generations, segment.positions.shape[1])
        for row, (generation, flat) in enumerate(
            zip(numbers.tolist(), segment.positions.reshape(-1).tolist(), strict=True)
        ):
            places = wanted.get((generation, segment.call, segment.half, flat))
            if places:
                out[places] = piece.x[row]
                filled[places] = True

    with until_enough():
        job.pieces(generations, take)
