"""Which calls of a denoiser a window selects: by index, by timestep or by log-SNR."""

import math
from collections.abc import Container
from numbers import Real
from typing import Any, NamedTuple

import numpy as np

from interp.errors import InputError
from interp.models import EncodeBatch, GenerateBatch, Model
from interp.models.diffusion import UNIT_TIME
from interp.models.noise import log_snr_at, make_scheduler

AXES = ("call", "t", "log_snr")
# More calls than any sampler makes: an adapter's own number of calls is not known.
_MOST_CALLS = 100_000


class Moment(NamedTuple):
    """One call of the network within a generation."""

    call: int
    t: float | None
    """Timestep as the network receives it; None where there is none."""
    log_snr: float | None
    """log(signal power / noise power) at t; None where it is not known."""


def list_moments(model: Model, batch: GenerateBatch | EncodeBatch) -> list[Moment] | None:
    """Return the calls that a run will make, without running anything.

    One for generators and autoencoders; for denoisers one per timestep of the sampler (some have
    more of them than steps). None where only the adapter knows.
    """
    if isinstance(batch, EncodeBatch):
        return [Moment(batch.call, None, batch.log_snr)]
    host = getattr(model, "host", None)
    if host is None:
        return None if model.family == "custom" else [Moment(0, None, None)]
    scheduler = make_scheduler(batch.scheduler, host.scheduler)
    scheduler.set_timesteps(batch.steps, **_options(host, scheduler, batch))
    unit = host.kind in UNIT_TIME
    scale = float(scheduler.config.num_train_timesteps) if unit else 1.0
    times = [float(t) / scale for t in scheduler.timesteps]
    return [Moment(i, t, log_snr_at(scheduler, t, scale=scale)) for i, t in enumerate(times)]


def _options(host: Any, scheduler: Any, batch: GenerateBatch) -> dict[str, Any]:
    """What a pipeline of flow matching gives its scheduler beside the number of steps."""
    options: dict[str, Any] = {}
    if host.kind == "FluxPipeline" and not scheduler.config.get("use_flow_sigmas"):
        options["sigmas"] = np.linspace(1.0, 1 / batch.steps, batch.steps)
    if scheduler.config.get("use_dynamic_shifting"):
        options["mu"] = _shift(host, scheduler.config, batch)
    return options


def _shift(host: Any, config: Any, batch: GenerateBatch) -> float:
    """The shift of the noise levels, linear in the number of image tokens.

    Source: Esser et al. 2024 (SD3), sec. 5.3.2, as diffusers' `calculate_shift` interpolates it.
    """
    flux = host.kind == "FluxPipeline"
    # A token is 2 x 2 latents (Flux packs them, SD3 names its patch).
    patch = 2 if flux else host.root.config.patch_size
    sides = zip((batch.height, batch.width), host.image_size, strict=True)
    height, width = ((a or b) // (host.pipe.vae_scale_factor * patch) for a, b in sides)
    # The ends of the line and the largest shift that the two pipelines take by default.
    few, many = config.get("base_image_seq_len", 256), config.get("max_image_seq_len", 4096)
    low, high = config.get("base_shift", 0.5), config.get("max_shift", 1.15 if flux else 1.16)
    return low + (high - low) / (many - few) * (height * width - few)


def select_calls(
    model: Model,
    batch: GenerateBatch | EncodeBatch,
    calls: Container[int] | None,
    window: tuple[float, float] | None,
    axis: str,
) -> Container[int] | None:
    """Return the calls that both `calls` and the window select; None is all.

    A window holds what is at least its first and below its second number, so that windows which
    meet share no call.

    Raises:
        InputError: the window is not two numbers or is none, the axis is unknown or has no values
            here, or no call is inside.
    """
    if window is None:
        return calls
    if axis not in AXES:
        raise InputError(f"axis {axis!r} is not one of {', '.join(AXES)}")
    if not _is_span(window):
        raise InputError(
            f"the window {window} of {axis} is empty: two numbers are needed, the first below the "
            "second"
        )
    moments = list_moments(model, batch)
    if moments is None and axis == "call":
        return _count_calls(calls, window)
    values = [] if moments is None else [getattr(moment, axis) for moment in moments]
    if moments is None or any(value is None for value in values):
        raise InputError(f"{model.name} has no {axis} here: give the window by axis='call'")
    inside = [
        moment.call
        for moment, value in zip(moments, values, strict=True)
        if window[0] <= value < window[1] and (calls is None or moment.call in calls)
    ]
    if not inside:
        span = f"{values[0]:g} to {values[-1]:g}"
        which = f"numbered {span}" if axis == "call" else f"whose {axis} goes from {span}"
        raise InputError(
            f"the window {window} of {axis} holds none of the {len(moments)} calls, {which}"
        )
    return tuple(inside)


def _is_span(window: Any) -> bool:
    if not isinstance(window, tuple | list) or len(window) != 2:
        return False
    numbers = all(isinstance(x, Real) and not isinstance(x, bool) for x in window)
    # False with NaN on either side.
    return numbers and bool(window[0] < window[1])


def _count_calls(calls: Container[int] | None, window: tuple[float, float]) -> Container[int]:
    """Calls of a window whose number of calls nobody knows, up to `_MOST_CALLS`."""
    first, last = (math.ceil(min(max(x, 0), _MOST_CALLS)) for x in window)
    inside = range(first, last)
    chosen = inside if calls is None else tuple(c for c in inside if c in calls)
    if not chosen:
        raise InputError(
            f"the window {window} of call holds none of the calls "
            f"{'there can be' if calls is None else calls}, which are counted from 0 to at most "
            f"{_MOST_CALLS - 1}"
        )
    return chosen
