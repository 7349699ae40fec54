"""The latents that a pipeline of diffusers starts from: seen, and put in place of its own draw."""

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from interp.errors import InputError
from interp.models.inputs import GenerateBatch, check_latents
from interp.models.noise import generators

# Latents of unit normal scale from generators, one per sample, in the pipeline's own form.
Draw = Callable[[list[torch.Generator]], Tensor]
Choose = Callable[[Draw], Tensor]


class _Reached(Exception):
    """Ends a pipeline's run at the place where its latents are drawn."""

    def __init__(self, latents: Tensor) -> None:
        super().__init__("the latents are drawn")
        self.latents = latents


@contextmanager
def starting(pipe: Any, scheduler: Any, batch: GenerateBatch) -> Iterator[None]:
    """Make the next run of `pipe` start from a batch's `latents`; None: from those of its seeds.

    The pipeline draws from its generators all the same, so that the noise of its steps is what it
    is in the plain run of those generators' seeds.

    Args:
        pipe: a pipeline whose latents are made by `prepare_latents`, or DiTPipeline.
        scheduler: the pipeline's present scheduler, of this run alone.
        batch: seeds, latents and guidance.

    Raises:
        InputError: the latents have another shape than the pipeline's own, or cannot be set.
    """

    def choose(draw: Draw) -> Tensor:
        return draw(generators(batch.seeds)) if batch.latents is None else batch.latents

    with _choosing(pipe, scheduler, batch, choose):
        yield


def see_latents(pipe: Any, scheduler: Any, batch: GenerateBatch, run: Callable[[], Any]) -> Tensor:
    """Return the latents of a batch's seeds: `run` the pipeline up to where it draws them."""

    def choose(draw: Draw) -> Tensor:
        raise _Reached(draw(generators(batch.seeds)))

    try:
        with _choosing(pipe, scheduler, batch, choose):
            run()
    except _Reached as reached:
        return reached.latents
    raise InputError(f"{type(pipe).__name__} ran without drawing latents")


@contextmanager
def _choosing(pipe: Any, scheduler: Any, batch: GenerateBatch, choose: Choose) -> Iterator[None]:
    prepare = getattr(pipe, "prepare_latents", None)
    if type(pipe).__name__ == "DiTPipeline":
        # It keeps its latents to itself until they meet its scheduler.
        scheduler.scale_model_input = _at_first_scaling(scheduler, batch, choose)
        yield
        return
    if prepare is None or "latents" not in inspect.signature(prepare).parameters:
        raise InputError(f"the latents of a {type(pipe).__name__} cannot be read or set")
    pipe.prepare_latents = _at_preparation(pipe, prepare, choose)
    try:
        yield
    finally:
        del pipe.prepare_latents


def _at_preparation(pipe: Any, prepare: Callable, choose: Choose) -> Callable:
    signature = inspect.signature(prepare)

    def chosen(*args: Any, **kwargs: Any) -> Any:
        given = signature.bind(*args, **kwargs).arguments
        # Called whatever is chosen: the generators have to move past the latents.
        own = _first(prepare(**given))

        def draw(draws: list[torch.Generator]) -> Tensor:
            with _unit_scale(pipe):
                return _first(prepare(**{**given, "generator": draws}))

        latents = check_latents(choose(draw), own.shape, f"samples of a {type(pipe).__name__}")
        return prepare(**{**given, "latents": latents.to(own)})

    return chosen


def _first(prepared: Any) -> Tensor:
    # Flux returns the ids of its tokens too.
    return prepared if isinstance(prepared, Tensor) else prepared[0]


@contextmanager
def _unit_scale(pipe: Any) -> Iterator[None]:
    """Without the scheduler's factor, which a pipeline puts on its latents."""

    class Unit:
        init_noise_sigma = 1.0

    before = pipe.scheduler
    # Past the pipeline's own check, which wants a scheduler of diffusers.
    object.__setattr__(pipe, "scheduler", Unit())
    try:
        yield
    finally:
        object.__setattr__(pipe, "scheduler", before)


def _at_first_scaling(scheduler: Any, batch: GenerateBatch, choose: Choose) -> Callable:
    from diffusers.utils.torch_utils import randn_tensor

    scale, n = scheduler.scale_model_input, len(batch.seeds)

    def chosen(sample: Tensor, t: Any) -> Tensor:
        scheduler.scale_model_input = scale
        own = sample[:n]

        def draw(draws: list[torch.Generator]) -> Tensor:
            options = {"device": own.device, "dtype": own.dtype}
            return randn_tensor(tuple(own.shape), generator=draws, **options)

        latents = check_latents(choose(draw), own.shape, "samples of a DiTPipeline").to(own)
        return scale(torch.cat([latents] * (len(sample) // n)), t)

    return chosen
