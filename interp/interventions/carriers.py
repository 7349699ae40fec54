"""Carriers: what an interchange swaps, and what is refused before a model runs."""

from collections.abc import Container, Iterable, Sequence, Sized
from dataclasses import KW_ONLY, dataclass, fields
from typing import Any

import numpy as np
from torch import Tensor

from interp.errors import InputError, PointError, SAEError
from interp.interventions.parts import check_subspace
from interp.interventions.roles import find_role
from interp.interventions.scheduling import list_moments, select_calls
from interp.models import EncodeBatch, GenerateBatch, Generation, Inversion, Model
from interp.models.inputs import HALVES
from interp.models.inversion import select_rows
from interp.sae import SAE
from interp.sae.match import check_match

# What has to be the same for two runs to have the same calls and shapes.
_SHARED = ("n", "scheduler", "steps", "guidance", "height", "width")
# The field of a batch that stands for all noise of a sample at once.
ALL_NOISE = "seeds"
# What donors and recipients are made of: recipes, images that an autoencoder reconstructs, or the
# latents that images were inverted to.
Source = Generation | Tensor | Inversion


@dataclass(frozen=True, eq=False)
class Carrier:
    """What is swapped: hook points x calls x guidance half x positions x part of a row; sources.

    Calls, window and half bound the points alone; positions and subspace also the latents of a
    source. Two carriers are equal where all is, the SAE and the subspace being the same objects.
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
    """Independent sources of the generation by the names of `Model.sources` (x_T, step_noise,
    prompts, classes, z, noise, code), or "seeds", which is all noise of a sample."""
    name: str = ""
    """Empty: the names of points and fields joined by "+"."""
    role: str = ""
    """"source", "write" or "descendant"; empty: what `find_role` says of the points."""
    _: KW_ONLY
    window: tuple[float, float] | None = None
    """Calls from the first number to below the second, in units of `axis`; None is all."""
    axis: str = "call"
    """Unit of the window: "call", "t" (as the network receives it) or "log_snr"."""
    sae: SAE | None = None
    """An SAE of the points, for `features`."""
    features: tuple[int, ...] = ()
    """Latents whose values come from the donor; the recipient's error term stays."""
    subspace: Tensor | None = None
    """[r, d] orthonormal rows: only this part of a row (of a source's flat latents) moves."""

    @property
    def label(self) -> str:
        """The name, or those of points and fields."""
        return self.name or "+".join((*self.points, *self.fields))

    def _key(self) -> tuple[Any, ...]:
        values = ((one.name, getattr(self, one.name)) for one in fields(self))
        return tuple(id(v) if k in ("sae", "subspace") else v for k, v in values)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Carrier) and self._key() == other._key()

    def __hash__(self) -> int:
        return hash(self._key())


def list_given(carriers: str | Carrier | Iterable[str | Carrier]) -> list[Carrier]:
    """Return carriers as a list; a name stands for the carrier of one hook point.

    Raises InputError for what is neither.
    """
    if isinstance(carriers, str | Carrier) or not isinstance(carriers, Iterable):
        given: list[Any] = [carriers]
    else:
        given = list(carriers)
    for one in given:
        if not isinstance(one, str | Carrier):
            raise InputError(
                f"a carrier is a Carrier or the name of a hook point, not {type(one).__name__} "
                f"{one!r:.60}"
            )
    return [Carrier((one,)) if isinstance(one, str) else one for one in given]


def check_interchange(
    model: Model,
    carriers: Sequence[Carrier],
    donor: Source,
    recipient: Source,
) -> list[str]:
    """Refuse what cannot be interchanged, before anything runs; the role of each carrier.

    Raises PointError and InputError, as `interchange` says.
    """
    _check_sources(donor, recipient)
    if not carriers:
        raise InputError("no carrier: give one or more")
    identity = model.identity() if any(carrier.sae for carrier in carriers) else {}
    return [_check_carrier(model, carrier, donor, identity) for carrier in carriers]


def count_samples(source: Source) -> int:
    """Samples of a source."""
    if isinstance(source, Generation):
        return source.n
    return len(source.batch.seeds) if isinstance(source, Inversion) else len(source)


def take_batch(model: Model, source: Source, start: int, stop: int) -> GenerateBatch | EncodeBatch:
    """Samples start .. stop - 1 of a source."""
    if isinstance(source, Generation):
        return source.batch(start, stop, n_classes=model.n_classes)
    if isinstance(source, Inversion):
        return select_rows(source.batch, slice(start, stop))
    return EncodeBatch(source[start:stop])


def list_sources(model: Model, source: Source) -> dict[str, str]:
    """Independent sources of what is generated, by name; none of what is encoded."""
    if isinstance(source, Tensor):
        return {}
    if isinstance(source, Generation):
        return model.sources(source)
    return model.sources(recipe_of(source.batch))


def recipe_of(batch: GenerateBatch) -> Generation:
    """A recipe of the sources that a batch has."""
    return Generation(
        prompts=batch.prompts,
        classes=batch.classes,
        scheduler=batch.scheduler,
        steps=batch.steps,
        guidance=batch.guidance,
    )


def _check_inverted(donor: Inversion, recipient: Inversion) -> None:
    for one in (donor, recipient):
        if one.batch.latents is None or one.noise or one.nulls is not None:
            raise InputError(
                f"images inverted by {one.method} are made again by edits (w, noise maps, null "
                "embeddings), which a swap would undo; invert by ddim, dpm or encode, or edit "
                "within interp.models.restoring"
            )
    _check_equal(donor.batch, recipient.batch, _SHARED[1:])
    if len(donor.batch.seeds) != len(recipient.batch.seeds):
        raise InputError(
            f"{len(donor.batch.seeds)} donors and {len(recipient.batch.seeds)} recipients: give "
            "as many of both"
        )
    both = [image.numpy().tobytes() for one in (donor, recipient) for image in one.images.cpu()]
    if len(set(both)) < len(both):
        raise InputError(
            f"{len(both) - len(set(both))} of {len(both)} images are there twice: an image may be "
            "in one pair only"
        )


def _check_equal(donor: Any, recipient: Any, names: Sequence[str]) -> None:
    for name in names:
        x, y = getattr(donor, name), getattr(recipient, name)
        if x != y:
            raise InputError(
                f"{name} is {x!r} for the donor and {y!r} for the recipient: their activations "
                "would not fit; give both the same"
            )


def _check_sources(donor: Source, recipient: Source) -> None:
    if isinstance(donor, Inversion) and isinstance(recipient, Inversion):
        _check_inverted(donor, recipient)
        return
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
            "recipes (Generation), both images, or both what images were inverted to (Inversion)"
        )
    _check_equal(donor, recipient, _SHARED)
    if donor == recipient:
        raise InputError("donor and recipient are one recipe: nothing would move")
    if 0 < abs(donor.seed - recipient.seed) < donor.n:
        raise InputError(
            f"seeds {donor.seed}.. of the donors and {recipient.seed}.. of the recipients overlap "
            f"partly ({donor.n} each): an image would be in two pairs; start {donor.n} apart, or "
            "at the same seed for shared noise"
        )


def _check_carrier(model: Model, carrier: Carrier, source: Source, identity: dict[str, Any]) -> str:
    """Check a carrier before anything runs; its role."""
    mode = "encode" if isinstance(source, Tensor) else "generate"
    model.require(mode)
    _check_types(carrier)
    if not carrier.points and not carrier.fields:
        raise InputError("a carrier without points or fields")
    _check_fields(model, carrier, source)
    for name in carrier.points:
        model.point(name)
        if name not in model.points_in(mode):
            raise PointError(f"{name} of {model.name} does not fire in {mode}")
    if carrier.role not in ("", "source", "write", "descendant"):
        raise InputError(f"{carrier.label}: role {carrier.role!r} is not source, write, descendant")
    batch = first_batch(model, source)
    _check_calls(model, carrier, batch)
    _check_features(model, carrier, identity)
    _check_places(model, carrier, source, batch)
    roles = {find_role(model.points[name]) for name in carrier.points}
    roles |= {"source" for _ in carrier.fields}
    found = "source" if roles == {"source"} else "write"
    return carrier.role or ("descendant" if "descendant" in roles else found)


def first_batch(model: Model, source: Source) -> GenerateBatch | EncodeBatch:
    """Return the first sample of a source as a batch: its calls and shapes are those of all."""
    return take_batch(model, source, 0, 1)


def _check_types(carrier: Carrier) -> None:
    """Refuse what Python would take for something else: a text for a tuple of its letters."""
    for name in ("points", "fields"):
        value = getattr(carrier, name)
        if not isinstance(value, tuple | list) or not all(isinstance(one, str) for one in value):
            raise InputError(f"{name} = {value!r:.60} has to be a tuple of names, such as ('a',)")
    label, calls, mask = carrier.label, carrier.calls, carrier.mask
    if calls is not None and (isinstance(calls, str | bytes) or not isinstance(calls, Container)):
        raise InputError(
            f"{label}: calls = {calls!r:.60} has to hold call numbers, such as (0,) or range(5, 10)"
        )
    if mask is None:
        return
    if not isinstance(mask, Sequence | np.ndarray):
        raise InputError(f"{label}: mask = {mask!r:.60} has to be a tuple of True and False")
    odd = [value for value in mask if not isinstance(value, bool | np.bool_)]
    if odd:
        raise InputError(
            f"{label}: {len(odd)} of {len(mask)} entries of the mask are not True or False, such "
            f"as {odd[0]!r:.60}"
        )


def _check_fields(model: Model, carrier: Carrier, source: Source) -> None:
    known: tuple[str, ...] = (ALL_NOISE, *list_sources(model, source))
    unknown = set(carrier.fields) - set(known)
    if unknown or (carrier.fields and isinstance(source, Tensor)):
        raise InputError(
            f"{carrier.label}: fields {carrier.fields} have to be of {known}, and of recipes"
        )
    if "x_T" in carrier.points:
        raise InputError(
            "an edit of x_T changes what the network reads at its first call, not the state that "
            'the sampler goes on from: swap the noise as Carrier(fields=("x_T",))'
        )


def _check_calls(model: Model, carrier: Carrier, batch: GenerateBatch | EncodeBatch) -> None:
    label, calls = carrier.label, carrier.calls
    if isinstance(calls, Sized) and len(calls) == 0:
        raise InputError(f"{label}: the window of calls {calls} is empty")
    if carrier.cfg not in HALVES:
        raise InputError(f"{label}: cfg = {carrier.cfg!r} is not one of {HALVES}")
    if not carrier.points and (calls is not None or carrier.window or carrier.cfg != "both"):
        raise InputError(
            f"{label}: calls, window and cfg bound hook points, and this carrier has none; a "
            "source acts through all calls"
        )
    guided = isinstance(batch, GenerateBatch) and batch.guidance > 1
    if carrier.cfg == "uncond" and not guided:
        raise InputError(f"{label}: cfg = 'uncond', but there is no guidance: no edit takes place")
    select_calls(model, batch, calls, carrier.window, carrier.axis)
    moments = list_moments(model, batch) if calls is not None else None
    if moments is not None and not any(moment.call in calls for moment in moments):  # pyright: ignore
        raise PointError(
            f"{label}: no edit takes place: the {len(moments)} calls of the recipe are "
            f"{moments[0].call} to {moments[-1].call}, its own are {calls}"
        )


def _check_features(model: Model, carrier: Carrier, identity: dict[str, Any]) -> None:
    label, sae = carrier.label, carrier.sae
    if sae is None and not carrier.features:
        return
    if sae is None or not carrier.features or not carrier.points or carrier.subspace is not None:
        raise InputError(
            f"{label}: features need an SAE and hook points, an SAE needs features, and a subspace "
            f"excludes both; here are {len(carrier.features)} features, "
            f"{'an' if sae else 'no'} SAE and {len(carrier.points)} points"
        )
    wrong = [i for i in carrier.features if not 0 <= i < sae.n_latents]
    if wrong or len(set(carrier.features)) != len(carrier.features):
        raise InputError(
            f"{label}: features {carrier.features} have to be different numbers from 0 to "
            f"{sae.n_latents - 1}"
        )
    for name in carrier.points:
        try:
            check_match(sae, model.points[name], identity)
        except SAEError as error:
            raise InputError(f"{label}: {error}") from error


def _check_places(
    model: Model,
    carrier: Carrier,
    source: Source,
    batch: GenerateBatch | EncodeBatch,
) -> None:
    """Check mask and subspace against the points and the latents that they bound."""
    if carrier.mask is None and carrier.subspace is None:
        return
    label, mask = carrier.label, carrier.mask
    if mask is not None and not any(mask):
        raise InputError(f"{label}: the mask selects no position")
    latents = find_latents(model, carrier, source, batch)
    if not carrier.points and latents is None:
        raise InputError(f"{label}: a mask or a subspace bounds points or latents; here is neither")
    if carrier.subspace is not None:
        for name in carrier.points:
            check_subspace(carrier.subspace, model.points[name].width, label, name)
        if latents is not None:
            check_subspace(carrier.subspace, latents.numel(), label, "one sample's latents")
    if mask is None:
        return
    native = isinstance(batch, GenerateBatch) and not (batch.height or batch.width)
    for name in carrier.points if native else ():
        positions = int(np.prod(model.points[name].grid, dtype=int))
        if len(mask) != positions:
            raise InputError(
                f"{label}: the mask has {len(mask)} positions, {name} has "
                f"{positions} (grid {model.points[name].grid})"
            )
    if latents is not None and len(mask) != count_positions(latents):
        raise InputError(
            f"{label}: the mask has {len(mask)} positions, the latents {tuple(latents.shape)} have "
            f"{count_positions(latents)}"
        )


def find_latents(
    model: Model,
    carrier: Carrier,
    source: Source,
    batch: GenerateBatch | EncodeBatch,
) -> Tensor | None:
    """Return the latents of a batch where the carrier moves them, else None."""
    if not isinstance(batch, GenerateBatch):
        return None
    fields = list_sources(model, source)
    moved = {fields.get(name) for name in carrier.fields}
    return model.draw_latents(batch) if "latents" in moved else None


def count_positions(latents: Tensor) -> int:
    """Positions of latents: [b, d] has 1, [b, t, c] has t, [b, c, h, w] has h w."""
    if latents.ndim < 4:
        return 1 if latents.ndim == 2 else latents.shape[1]
    return int(np.prod(latents.shape[2:], dtype=int))
