"""Carriers: what an interchange swaps, and what is refused before a model runs."""

from collections.abc import Container, Sequence, Sized
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from interp.errors import InputError, PointError
from interp.interventions.roles import find_role
from interp.models import Generation, Model
from interp.models.inputs import HALVES

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


def check_interchange(
    model: Model,
    carriers: Sequence[Carrier],
    donor: Generation | Tensor,
    recipient: Generation | Tensor,
) -> list[str]:
    """Refuse what cannot be interchanged, before anything runs; the role of each carrier.

    Raises PointError and InputError, as `interchange` says.
    """
    _check_sources(donor, recipient)
    if not carriers:
        raise InputError("no carrier: give one or more")
    return [_check_carrier(model, carrier, donor) for carrier in carriers]


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
