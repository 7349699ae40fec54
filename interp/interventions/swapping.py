"""Runs with the rows of other runs in place: what interchanges, scans and games are made of."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from typing import Any

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor

from interp.errors import InputError, PointError
from interp.interventions.carriers import Carrier, Source, count_samples, take_batch
from interp.interventions.numbers import check_whole
from interp.interventions.parts import move_features, move_subspace
from interp.interventions.scheduling import select_calls
from interp.interventions.sources import Batch
from interp.models import (
    Call,
    GenerateBatch,
    Model,
    editing,
    reading,
    to_rows,
)

# images uint8 [n, h, w, 3] -> [n, d_k]
Attribute = Callable[[Tensor], Any]
Cache = dict[tuple[str, int], Tensor]
# rows [b, positions, d], call, guidance half -> rows
Edit = Callable[[Tensor, Call, slice], Tensor]


def embed_images(
    images: UInt8[Tensor, "n h w 3"], attributes: Mapping[str, Attribute]
) -> dict[str, np.ndarray]:
    """Embed images by every attribute: name -> float64 [n, d_k]."""
    found = {}
    for name, embed in attributes.items():
        value = _read_embedding(name, embed(images))
        if value.ndim != 2 or len(value) != len(images) or not value.shape[1]:
            raise InputError(
                f"attribute {name} gave {value.shape} for {len(images)} images, not [n, d >= 1]"
            )
        found[name] = value
    return found


def _read_embedding(name: str, given: Any) -> np.ndarray:
    try:
        return torch.as_tensor(given).detach().cpu().double().numpy()
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError(
            f"attribute {name} gave a {type(given).__name__}, not an array of numbers: {error}"
        ) from error


def iterate_batches(
    model: Model, donor: Source, recipient: Source, batch_size: int
) -> Iterator[tuple[int, Batch, Batch]]:
    """Yield (first row, donors, recipients) of each batch of pairs.

    Raises InputError for a batch of less than one.
    """
    check_whole("batch_size", batch_size, 1)
    n = count_samples(donor)
    for start in range(0, n, batch_size):
        stop = min(start + batch_size, n)
        a, b = (take_batch(model, side, start, stop) for side in (donor, recipient))
        yield start, a, b


def _run(model: Model, batch: Batch) -> Tensor:
    if isinstance(batch, GenerateBatch):
        return model.generate(batch).cpu()
    made = model.encode(batch)
    if made is None:
        raise InputError(f"{model.name} makes no image when it encodes one: give recipes")
    return made.cpu()


def read_carriers(model: Model, names: Sequence[str], batch: Batch) -> tuple[Tensor, Cache]:
    """Images of a run, and the rows [b, positions, d] of the points by (point, call)."""
    with reading(model, names) as reader:
        images = _run(model, batch)
    return images, {
        (read.point, read.call): to_rows(read.value, model.points[read.point])
        for read in reader.calls
    }


def swap_carriers(
    model: Model, carriers: Sequence[Carrier], cache: Cache, batch: Batch
) -> UInt8[Tensor, "b h w 3"]:
    """Images of a run with cached rows in place at the carriers; at shared points the last wins."""
    return run_edits(model, [(carrier, _put(carrier, cache)) for carrier in carriers], batch)


def push_carrier(
    model: Model,
    carrier: Carrier,
    caches: tuple[Cache, Cache],
    batch: Batch,
    entropy: tuple[int, int],
) -> UInt8[Tensor, "b h w 3"]:
    """Images of a run with the carrier's rows moved as far as the swap moves them, at random.

    caches: of the donors and of the recipients. entropy: seed and first row of the batch.
    """
    check_whole("seed", entropy[0], 0)
    given, kept = caches
    return run_edits(model, [(carrier, _shift(given, kept, *entropy, carrier))], batch)


def run_edits(model: Model, edits: Sequence[tuple[Carrier, Edit]], batch: Batch) -> Tensor:
    """Images of a run with an edit at each carrier, in its calls, half and positions."""
    with torch.no_grad(), ExitStack() as stack:
        for carrier, edit in edits:
            if not carrier.points:
                continue
            calls = select_calls(model, batch, carrier.calls, carrier.window, carrier.axis)
            visits = dict.fromkeys(carrier.points, partial(_change, carrier, edit))
            stack.enter_context(editing(model, visits, calls=calls, cfg=carrier.cfg))
        return _run(model, batch)


def check_rerender(
    model: Model, carriers: Sequence[Carrier], kept: Cache, batch: Batch, plain: Tensor
) -> None:
    """Put the recipients' own values back at all carriers in one run, and compare everything.

    Every edit is compared with the rows that it replaces, and the images with those of the plain
    run: where all are equal to the last bit, so is each carrier's run by itself.

    Args:
        model: the model.
        carriers: those to check.
        kept: the recipients' rows by (point, call).
        batch: the recipients.
        plain: their images.

    Raises:
        InputError: a row or a pixel differs: runs are not repeatable, and no swap can be measured.
    """
    odd: dict[str, None] = {}

    def watched(carrier: Carrier) -> Edit:
        put = _put(carrier, kept)

        def edit(rows: Tensor, call: Call, half: slice) -> Tensor:
            new = put(rows, call, half)
            if not torch.equal(new, rows):
                odd[call.point] = None
            return new

        return edit

    again = run_edits(model, [(carrier, watched(carrier)) for carrier in carriers], batch)
    worst = int((again.int() - plain.int()).abs().max())
    if worst or odd:
        where = f" and the rows at {', '.join(list(odd)[:4])}" if odd else ""
        raise InputError(
            f"putting the recipients' own values back changes a pixel by {worst}{where}; the runs "
            "are not repeatable, so no swap can be measured"
        )


def _change(carrier: Carrier, edit: Edit, rows: Tensor, call: Call) -> Tensor:
    """Edit the guidance half that the carrier names, at its positions."""
    half = slice(None)
    if carrier.cfg != "both" and call.factor == 2:
        half = slice(len(rows), None) if carrier.cfg == "cond" else slice(0, len(rows))
    new = edit(rows, call, half)
    if carrier.mask is None:
        return new
    if len(carrier.mask) != rows.shape[1]:
        raise PointError(
            f"the mask has {len(carrier.mask)} positions, {call.point} has {rows.shape[1]}"
        )
    keep = torch.tensor(carrier.mask, device=rows.device)[None, :, None]
    return torch.where(keep, new, rows)


def _cached(cache: Cache, rows: Tensor, call: Call, half: slice) -> Tensor:
    value = cache.get((call.point, call.call))
    shape = None if value is None else tuple(value[half].shape)
    if value is None or shape != tuple(rows.shape):
        raise PointError(
            f"{call.point} at call {call.call}: the donor has {shape or 'no value'}, the recipient "
            f"{tuple(rows.shape)}; the two runs need equal steps and resolution"
        )
    return value[half]


def _take(carrier: Carrier | None, rows: Tensor, donor: Tensor) -> Tensor:
    """The rows with what the carrier holds of a row from the donor's."""
    if carrier is not None and carrier.sae is not None:
        return move_features(rows, donor, carrier.sae, carrier.features)
    if carrier is not None and carrier.subspace is not None:
        return move_subspace(rows, donor, carrier.subspace)
    return donor


def _put(carrier: Carrier, cache: Cache) -> Edit:
    return lambda rows, call, half: _take(carrier, rows, _cached(cache, rows, call, half))


def _shift(
    given: Cache, kept: Cache, seed: int, start: int, carrier: Carrier | None = None
) -> Edit:
    """Move each row by a random direction of the norm of (donor - recipient)."""

    def edit(rows: Tensor, call: Call, half: slice) -> Tensor:
        a, b = (_cached(cache, rows, call, half) for cache in (given, kept))
        # As far as the carrier's part of a row moves, in a direction of the whole row.
        moved = (_take(carrier, b, a).double() - b.double()).norm(dim=-1, keepdim=True)
        entropy = [seed, start, call.call, *call.point.encode()]
        noise = np.random.default_rng(entropy).standard_normal(tuple(rows.shape))
        direction = torch.from_numpy(noise).to(rows.device)
        length = moved / direction.norm(dim=-1, keepdim=True)
        return (rows.double() + length * direction).to(rows.dtype)

    return edit
