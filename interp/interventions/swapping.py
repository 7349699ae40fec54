"""The interchange: a donor's activations put into a recipient's run."""

from collections.abc import Callable, Container, Iterator, Mapping, Sequence, Sized
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor

from interp.errors import InputError, PointError
from interp.interventions.effects import RESAMPLES, Effect, make_pairs, measure_effect
from interp.interventions.roles import find_role
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
from interp.models.inputs import HALVES

# images uint8 [n, h, w, 3] -> [n, d_k]
Attribute = Callable[[Tensor], Any]
Cache = dict[tuple[str, int], Tensor]
Batch = GenerateBatch | EncodeBatch

# What has to be the same for two runs to have the same calls and shapes.
_SHARED = ("n", "scheduler", "steps", "guidance", "height", "width")
# Sources that a recipe holds: all noise of a sample, its class, its text.
_FIELDS = ("seeds", "classes", "prompts")


@dataclass(frozen=True)
class Carrier:
    """What is swapped: hook points x calls x guidance half x positions, and fields of the recipe.

    Calls, half and positions bound the points alone.
    """

    points: tuple[str, ...] = ()
    """Names of hook points; ":delta", ":main" and "skip.i" are points of their own."""
    calls: Container[int] | None = None
    """Denoiser calls, such as range(5, 10); None is all."""
    cfg: str = "both"
    """Guidance halves: both, cond or uncond."""
    mask: tuple[bool, ...] | None = None
    """Positions to swap, row-major, True where the donor's go; None is all."""
    fields: tuple[str, ...] = ()
    """Sources that the recipe holds: "seeds" (the initial noise and that of all steps), "classes",
    "prompts"."""
    name: str = ""
    """Empty: the names of points and fields joined by "+"."""
    role: str = ""
    """"source", "write" or "descendant"; empty: what `find_role` says of the points."""

    @property
    def label(self) -> str:
        """The name, or those of points and fields."""
        return self.name or "+".join((*self.points, *self.fields))


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
            empty window of calls, a mask of the wrong size, an unknown half or role.
    """
    chosen = [carriers] if isinstance(carriers, Carrier) else list(carriers)
    _check_sources(donor, recipient)
    roles = [_check_carrier(model, carrier, donor) for carrier in chosen]
    if not chosen:
        raise InputError("no carrier: give one or more")
    parts: list[list[tuple[Tensor, ...]]] = [[] for _ in chosen]
    names = tuple(dict.fromkeys(name for carrier in chosen for name in carrier.points))
    for start, one, other in _batches(model, donor, recipient, batch_size):
        a, given = _read(model, names, one)
        b, kept = _read(model, names, other)
        for carrier, part in zip(chosen, parts, strict=True):
            mixed = other
            if isinstance(other, GenerateBatch):
                mixed = replace(other, **{name: getattr(one, name) for name in carrier.fields})
            same = _edited(model, carrier, _put(kept), other)
            images = [a, b, same, _edited(model, carrier, _put(given), mixed)]
            if not carrier.fields:
                shift = _shift(given, kept, seed, start)
                images.append(_edited(model, carrier, shift, other))
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


def _check_sources(donor: Generation | Tensor, recipient: Generation | Tensor) -> None:
    if isinstance(donor, Tensor) and isinstance(recipient, Tensor):
        if donor.shape != recipient.shape:
            raise InputError(
                f"donor images {tuple(donor.shape)}, recipient images {tuple(recipient.shape)}: "
                "they have to be of one number and size"
            )
        return
    if not isinstance(donor, Generation) or not isinstance(recipient, Generation):
        raise InputError(
            f"donor {type(donor).__name__}, recipient {type(recipient).__name__}: both have to be "
            "recipes (Generation) or both images"
        )
    for name in _SHARED:
        x, y = getattr(donor, name), getattr(recipient, name)
        if x != y:
            raise InputError(
                f"{name} is {x!r} for the donor and {y!r} for the recipient: their activations "
                "would not fit; give both the same"
            )
    if donor == recipient:
        raise InputError("donor and recipient are one recipe: nothing would move")
    if 0 < abs(donor.seed - recipient.seed) < donor.n:
        raise InputError(
            f"seeds {donor.seed}.. of the donors and {recipient.seed}.. of the recipients overlap "
            f"partly ({donor.n} each): an image would be in two pairs; start {donor.n} apart, or "
            "at the same seed for shared noise"
        )


def _check_carrier(model: Model, carrier: Carrier, source: Generation | Tensor) -> str:
    """Check a carrier before anything runs; its role."""
    mode = "generate" if isinstance(source, Generation) else "encode"
    model.require(mode)
    if not carrier.points and not carrier.fields:
        raise InputError("a carrier without points or fields")
    _check_fields(carrier, source)
    for name in carrier.points:
        model.point(name)
        if name not in model.points_in(mode):
            raise PointError(f"{name} of {model.name} does not fire in {mode}")
    if isinstance(carrier.calls, Sized) and len(carrier.calls) == 0:
        raise InputError(f"{carrier.label}: the window of calls {carrier.calls} is empty")
    if carrier.cfg not in HALVES:
        raise InputError(f"{carrier.label}: cfg = {carrier.cfg!r} is not one of {HALVES}")
    if carrier.role not in ("", "source", "write", "descendant"):
        raise InputError(f"{carrier.label}: role {carrier.role!r} is not source, write, descendant")
    _check_mask(model, carrier, source)
    roles = {find_role(model.points[name]) for name in carrier.points}
    roles |= {"source" for _ in carrier.fields}
    found = "source" if roles == {"source"} else "write"
    return carrier.role or ("descendant" if "descendant" in roles else found)


def _check_fields(carrier: Carrier, source: Generation | Tensor) -> None:
    unknown = set(carrier.fields) - set(_FIELDS)
    if unknown or (carrier.fields and not isinstance(source, Generation)):
        raise InputError(
            f"{carrier.label}: fields {carrier.fields} have to be of {_FIELDS}, and of recipes"
        )
    if "x_T" in carrier.points:
        raise InputError(
            "an edit of x_T changes what the network reads at its first call, not the state that "
            'the sampler goes on from: swap the noise as Carrier(fields=("seeds",))'
        )


def _check_mask(model: Model, carrier: Carrier, source: Generation | Tensor) -> None:
    if carrier.mask is None:
        return
    if not any(carrier.mask):
        raise InputError(f"{carrier.label}: the mask selects no position")
    native = isinstance(source, Generation) and not (source.height or source.width)
    for name in carrier.points:
        positions = int(np.prod(model.points[name].grid, dtype=int))
        if native and len(carrier.mask) != positions:
            raise InputError(
                f"{carrier.label}: the mask has {len(carrier.mask)} positions, {name} has "
                f"{positions} (grid {model.points[name].grid})"
            )


def _batches(
    model: Model, donor: Generation | Tensor, recipient: Generation | Tensor, batch_size: int
) -> Iterator[tuple[int, Batch, Batch]]:
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


def _read(model: Model, names: Sequence[str], batch: Batch) -> tuple[Tensor, Cache]:
    with reading(model, names) as reader:
        images = _run(model, batch)
    return images, {
        (read.point, read.call): to_rows(read.value, model.points[read.point])
        for read in reader.calls
    }


Edit = Callable[[Tensor, Call, slice], Tensor]


def _edited(model: Model, carrier: Carrier, edit: Edit, batch: Batch) -> Tensor:
    """Images of a run with an edit at the carrier's points, calls, half and positions."""

    def change(rows: Tensor, call: Call) -> Tensor:
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

    edits = dict.fromkeys(carrier.points, change)
    with torch.no_grad(), editing(model, edits, calls=carrier.calls, cfg=carrier.cfg):
        return _run(model, batch)


def _cached(cache: Cache, rows: Tensor, call: Call, half: slice) -> Tensor:
    value = cache.get((call.point, call.call))
    shape = None if value is None else tuple(value[half].shape)
    if value is None or shape != tuple(rows.shape):
        raise PointError(
            f"{call.point} at call {call.call}: the donor has {shape or 'no value'}, the recipient "
            f"{tuple(rows.shape)}; the two runs need equal steps and resolution"
        )
    return value[half]


def _put(cache: Cache) -> Edit:
    return lambda rows, call, half: _cached(cache, rows, call, half)


def _shift(given: Cache, kept: Cache, seed: int, start: int) -> Edit:
    """Move each row by a random direction of the norm of (donor - recipient)."""

    def edit(rows: Tensor, call: Call, half: slice) -> Tensor:
        a, b = (_cached(cache, rows, call, half).double() for cache in (given, kept))
        entropy = [seed, start, call.call, *call.point.encode()]
        noise = np.random.default_rng(entropy).standard_normal(tuple(rows.shape))
        direction = torch.from_numpy(noise).to(rows.device)
        length = (a - b).norm(dim=-1, keepdim=True) / direction.norm(dim=-1, keepdim=True)
        return (rows.double() + length * direction).to(rows.dtype)

    return edit
