"""One steered picture at a time, for whoever turns the dial."""

import copy
import dataclasses
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from interp.errors import InputError
from interp.interventions.carriers import Carrier
from interp.interventions.clean import read_clean_at, run_edited
from interp.interventions.handles import (
    NEUTRAL,
    UNITS,
    feature_handle,
    make_change,
    make_handle,
)
from interp.models import Generation, Model
from interp.sae import SAE


class Range(NamedTuple):
    """Strengths of a mode that a dial offers."""

    low: float
    high: float
    start: float
    neutral: float | None
    """The strength that changes nothing."""
    words: str
    """Unit of the strength."""


# Twice as far as rows are from their mean no image of the zoo is one any more.
_ENDS = {
    "add": (-2.0, 2.0, 0.5),
    "clamp": (0.0, 2.0, 0.5),
    "suppress": (0.0, 1.0, 1.0),
    "scale": (0.0, 4.0, 2.0),
}
LIVE_RANGES = {mode: Range(*ends, NEUTRAL[mode], UNITS[mode]) for mode, ends in _ENDS.items()}

Renderer = Callable[[str, int, str, float, int], np.ndarray]
"""(digest of an SAE, feature, mode, strength, seed) -> uint8 [h, w, 3]."""


def make_renderer(model: Model, saes: Sequence[SAE], reference: Generation) -> Renderer:
    """Return a function that steers one picture, as `steer` would at the same strength.

    The unit of strengths comes from the reference runs, which are made now, once for all points.

    Args:
        model: a model that makes images.
        saes: one or more, each with the point that it was trained on.
        reference: clean runs; also steps, guidance, prompts and the like of every picture.

    Returns:
        render(digest, feature, mode, strength, seed) -> uint8 [h, w, 3]; raises InputError for an
        SAE, feature or mode that it does not have.

    Raises:
        InputError: no SAE, or one without a point. SAEError: one of another point or model.
        PointError: a point does not fire.
    """
    places: dict[str, tuple[SAE, Carrier]] = {}
    for sae in saes:
        if sae.point is None:
            raise InputError(f"the SAE {sae.digest} does not say which point it belongs to")
        name = sae.point["name"]
        make_handle(model, name, sae=sae, feature=0)
        places[sae.digest] = (copy.deepcopy(sae).to(model.device), Carrier((name,)))
    if not places:
        raise InputError("no SAE to steer by: give at least one")
    wanted = [(place, place.points) for _, place in places.values()]
    cleans = read_clean_at(model, wanted, reference)
    units = {
        digest: clean[place.points[0]].unit
        for (digest, (_, place)), clean in zip(places.items(), cleans, strict=True)
    }

    def render(digest: str, feature: int, mode: str, strength: float, seed: int) -> np.ndarray:
        if digest not in places:
            raise InputError(f"the SAE {digest} is not one of {', '.join(places)}")
        sae, place = places[digest]
        one = dataclasses.replace(reference, seed=seed, n=1)
        batch = one.batch(0, 1, n_classes=model.n_classes)
        handle = feature_handle(sae, feature, mode)
        change = make_change(handle, strength, units[digest])
        return run_edited(model, place, change, batch)[0].numpy()

    return render
