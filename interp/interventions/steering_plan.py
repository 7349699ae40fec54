"""What `steer` will run, settled and checked before any image is made."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from interp.errors import InputError, PointError
from interp.interventions.carriers import Carrier, count_samples
from interp.interventions.clean import Source, check_place, place_of
from interp.interventions.handles import NEUTRAL, Handle, check_strengths, make_handle
from interp.interventions.steering_measure import Design, make_design
from interp.interventions.substitute import check_fit
from interp.models import Generation, Model
from interp.sae import SAE

# Draws of each kind of random direction where fewer features were scanned: their mean is then
# known to about a third of its spread.
N_RANDOM = 8


@dataclass(frozen=True, eq=False)
class Plan:
    """What is run, after all checks."""

    place: Carrier
    handle: Handle
    doses: tuple[float, ...]
    points: tuple[str, ...]
    """The edited point, and a later one where there is one."""
    design: Design
    n_random: int
    n_scanned: int
    seed: int


def check_steering(
    model: Model,
    point: str | Carrier,
    source: Source,
    attributes: Sequence[str],
    handle: tuple[Any, SAE | None, int | None, str],
    *,
    strengths: Sequence[float] | None = None,
    n_random: int | None = None,
    n_scanned: int = 1,
    target: str = "",
    later: str | None = None,
    allow_train: bool = False,
    seed: int = 0,
) -> Plan:
    """Refuse what `steer` refuses before any image is made, and return what is run.

    attributes: their names. handle: direction, SAE, number of the feature and mode.
    Raises as `steer`.
    """
    place = place_of(point)
    made = _handle(model, place, source, handle, allow_train)
    place = check_place(model, place, source)
    if target and target not in attributes:
        raise InputError(f"target {target!r} is not one of the attributes {sorted(attributes)}")
    mode = handle[-1]
    doses = check_strengths(mode, strengths)
    points = (place.points[0], *find_later(model, place.points[0], source, later))
    design = make_design(count_samples(source), doses, NEUTRAL[mode], seed)
    draws = check_draws(n_random, n_scanned)
    return Plan(place, made, doses, points, design, draws, n_scanned, seed)


def _handle(
    model: Model, place: Carrier, source: Source, given: tuple[Any, ...], allow_train: bool
) -> Handle:
    if len(place.points) != 1:
        raise InputError(f"{place.label}: steering takes one point, not {len(place.points)}")
    direction, sae, feature, mode = given
    if sae is not None:
        check_fit(model, sae, place.points[0], source, allow_train)
    return make_handle(
        model, place.points[0], direction=direction, sae=sae, feature=feature, mode=mode
    )


def check_draws(n_random: int | None, n_scanned: int) -> int:
    """Return how many random directions of each kind are drawn.

    Raises InputError for negative numbers, and for no feature scanned.
    """
    if n_scanned < 1 or (n_random is not None and n_random < 0):
        raise InputError(f"n_scanned = {n_scanned} has to be >= 1, n_random = {n_random} >= 0")
    return max(N_RANDOM, n_scanned) if n_random is None else n_random


def find_later(model: Model, point: str, source: Source, later: str | None) -> tuple[str, ...]:
    """Return the later point as a tuple of one name or none.

    None takes the next block output of the image stream.
    Raises PointError for a point that does not exist, does not fire or is not later.
    """
    names = model.points_in("generate" if isinstance(source, Generation) else "encode")
    after = names[names.index(point) + 1 :] if point in names else ()
    if later == "":
        return ()
    if later is None:
        blocks = (n for n in after if _is_block(model, n) and model.points[n].module != point)
        return tuple(blocks)[:1]
    model.point(later)
    if later not in after:
        raise PointError(f"{later} does not come after {point} in {model.name}")
    return (later,)


def _is_block(model: Model, name: str) -> bool:
    point = model.points[name]
    return point.kind == "resid" and point.stream == "image" and not name.endswith(":main")
