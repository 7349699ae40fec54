"""The interchange: a donor's activations put into a recipient's run."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor

from interp.errors import InputError, PointError
from interp.interventions.carriers import Carrier, check_interchange
from interp.interventions.effects import RESAMPLES, Effect, make_pairs, measure_effect
from interp.interventions.parts import move_features, move_subspace
from interp.interventions.scheduling import select_calls
from interp.interventions.sources import Batch, mix_fields
from interp.models import (
    Call,
    EncodeBatch,
    GenerateBatch,
    Generation,
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


@dataclass(frozen=True)
class Interchange:
    """Images of one carrier's interchanges, row i of each belonging to pair i; uint8 [n h w 3]."""

    carrier: Carrier
    role: str
    donor: Tensor
    recipient: Tensor
    swapped: Tensor
    """Recipients with the donor's carrier in place."""
    random: Tensor | None
    """Recipients with the same rows moved as far, each in a random direction; None where fields
    are swapped, which have no such direction."""
    rerender: int
    """Largest pixel difference with the recipient's own carrier put back: 0, or all is void."""


def interchange(
    model: Model,
    carriers: Carrier | Sequence[Carrier],
    donor: Generation | UInt8[Tensor, "n h w 3"],
    recipient: Generation | UInt8[Tensor, "n h w 3"],
    *,
    batch_size: int = 32,
    seed: int = 0,
) -> list[Interchange]:
    """Run donors, cache the carriers, and run the recipients with them in place.

    Each batch of pairs costs 2 + 3 runs per carrier: donors and recipients once, and per carrier
    the recipient's own values put back (a check), the donor's values, and rows moved by a random
    direction of the norm of (donor - recipient) (a control for damage).

    Args:
        model: the model.
        carriers: one or several; each is swapped alone.
        donor: a recipe, or images that an autoencoder reconstructs.
        recipient: the same kind, with as many images. Seeds are disjoint from the donor's, or (for
            shared noise, other prompts or classes) the same.
        batch_size: pairs per run.
        seed: of the random directions.

    Returns:
        One entry per carrier, in order.

    Raises:
        PointError: a point does not exist or never fires, or the donor's and the recipient's
            activations differ in shape.
        InputError: recipes that do not give equal calls and shapes, seeds that partly overlap, an
            empty window, a mask or subspace of the wrong size, an SAE of another point, an unknown
            half, source or role.
    """
    chosen = [carriers] if isinstance(carriers, Carrier) else list(carriers)
    roles = check_interchange(model, chosen, donor, recipient)
    parts: list[list[tuple[Tensor, ...]]] = [[] for _ in chosen]
    names = tuple(dict.fromkeys(name for carrier in chosen for name in carrier.points))
    for start, one, other in iterate_batches(model, donor, recipient, batch_size):
        a, given = read_carriers(model, names, one)
        b, kept = read_carriers(model, names, other)
        for carrier, part in zip(chosen, parts, strict=True):
            same = swap_carriers(model, [carrier], kept, other)
            mixed = mix_fields(model, [carrier], one, other)
            swapped = swap_carriers(model, [carrier], given, mixed)
            images = [a, b, same, swapped]
            if not carrier.fields:
                images.append(push_carrier(model, carrier, (given, kept), other, (seed, start)))
            part.append(tuple(images))
    found = []
    for carrier, role, part in zip(chosen, roles, parts, strict=True):
        a, b, same, swapped, *rest = (torch.cat(column) for column in zip(*part, strict=True))
        worst = int((same.int() - b.int()).abs().max())
        random = rest[0] if rest else None
        found.append(Interchange(carrier, role, a, b, swapped, random, worst))
    return found


def measure_interchange(
    found: Interchange,
    attributes: Mapping[str, Attribute],
    reference: UInt8[Tensor, "m h w 3"],
    *,
    pair: Sequence[int] | None = None,
    n_tests: int = 1,
    n_resamples: int = RESAMPLES,
    seed: int = 0,
) -> tuple[Effect, Effect | None]:
    """Effects of an interchange and of its random control on attributes of the images.

    Args:
        found: what `interchange` returned.
        attributes: name -> function of images uint8 [n, h, w, 3] that gives [n, d_k].
        reference: other images, whose mean is the origin of each attribute.
        pair: [n], as in `make_pairs`.
        n_tests, n_resamples, seed: as in `measure_effect`.

    Returns:
        The effect of the swap, and that of the random directions of equal norm, whose damage is
        what such a push does by itself (None where there is no such control).

    Raises:
        InputError: putting the recipient's own values back changed an image, or embeddings do not
            fit.
    """
    if found.rerender != 0:
        raise InputError(
            f"{found.carrier.label}: putting the recipient's own values back changes a pixel by "
            f"{found.rerender}; the runs are not repeatable, so no swap can be measured"
        )
    sides = (found.donor, found.recipient, reference, found.swapped)
    a, b, other, swapped = (embed_images(side, attributes) for side in sides)
    pairs = make_pairs(a, b, reference=other, pair=pair)
    options = {"n_tests": n_tests, "n_resamples": n_resamples, "seed": seed}
    label = found.carrier.label
    effect = measure_effect(pairs, swapped, carrier=label, role=found.role, **options)
    if found.random is None:
        return effect, None
    moved = embed_images(found.random, attributes)
    name = f"{label} (random)"
    return effect, measure_effect(pairs, moved, carrier=name, role="descendant", **options)


def embed_images(
    images: UInt8[Tensor, "n h w 3"], attributes: Mapping[str, Attribute]
) -> dict[str, np.ndarray]:
    """Embed images by every attribute: name -> float64 [n, d_k]."""
    found = {}
    for name, embed in attributes.items():
        value = torch.as_tensor(embed(images)).detach().cpu().double().numpy()
        if value.ndim != 2 or len(value) != len(images):
            raise InputError(
                f"attribute {name} gave {value.shape} for {len(images)} images, not [n, d]"
            )
        found[name] = value
    return found


def iterate_batches(
    model: Model, donor: Generation | Tensor, recipient: Generation | Tensor, batch_size: int
) -> Iterator[tuple[int, Batch, Batch]]:
    """Yield (first row, donors, recipients) of each batch of pairs."""
    n = donor.n if isinstance(donor, Generation) else len(donor)
    for start in range(0, n, batch_size):
        stop = min(start + batch_size, n)
        yield start, _batch(model, donor, start, stop), _batch(model, recipient, start, stop)


def _batch(model: Model, source: Generation | Tensor, start: int, stop: int) -> Batch:
    if isinstance(source, Generation):
        return source.batch(start, stop, n_classes=model.n_classes)
    return EncodeBatch(source[start:stop])


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
