"""Read activations while a network runs."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import NamedTuple

import torch
from jaxtyping import Shaped
from torch import Tensor

from interp.errors import PointError
from interp.models.model import Model
from interp.models.points import Site
from interp.models.ports import Visit, attach
from interp.models.probe import unfold
from interp.models.rows import copy_as_rows, from_rows, grid_of, to_rows

__all__ = ["Read", "Reader", "from_rows", "reading", "to_rows"]


class Read(NamedTuple):
    """One activation.

    Attributes:
        point: name of the hook point.
        call: index of the denoiser's call within its generation; the key of a row is
            (generation, call), never the timestep, which some samplers repeat.
        t: timestep as the denoiser got it; None where there is none.
        log_snr: log(signal power / noise power) at t; None where unknown.
        factor: how many times the root's batch exceeds the number of samples; 2 under guidance,
            and then the first half of `value` is without, the second half with the condition.
        value: a copy, in the layout of the hook point.
        grid: positions of this value: () | (t,) | (h, w) | (f, h, w).
    """

    point: str
    call: int
    t: float | None
    log_snr: float | None
    factor: int
    value: Shaped[Tensor, "b ..."]
    grid: tuple[int, ...]


class Reader:
    """What `reading` yields: `calls`, the reads in order of execution (empty with a callback)."""

    def __init__(self, model: Model, callback: Callable[[Read], None] | None) -> None:
        self.calls: list[Read] = []
        self.fired: set[str] = set()
        self._model = model
        self._callback = callback

    def begin(self, batch: int | None = None) -> None:
        """Say that a new generation of `batch` samples starts (`Model.generate` says so itself)."""
        self._model.clock.begin(batch)

    def visit(self, site: Site) -> Visit:
        """Return the hook that copies a site's value."""
        clock, model = self._model.clock, self._model

        def copy(value: Tensor) -> None:
            if site.calls == "first" and clock.call != 0:
                return
            value = in_order(unfold(value.detach(), site, clock), model)
            value = copy_as_rows(value, site.layout)
            shape = tuple(value.shape)
            grid = grid_of(shape, site.layout, square=site.square, frame=clock.frame)
            read = Read(
                site.name, max(clock.call, 0), clock.t, clock.log_snr, clock.factor, value, grid
            )
            self.fired.add(site.name)
            if self._callback is None:
                self.calls.append(read)
            else:
                self._callback(read)

        return copy


def in_order(value: Tensor, model: Model) -> Tensor:
    """Return guidance halves as [uncond, cond], whatever the host's order; its own inverse."""
    if not model.conditional_first or model.clock.factor != 2:
        return value
    return torch.cat(value.chunk(2)[::-1])


@contextmanager
def reading(
    model: Model,
    points: Sequence[str],
    *,
    callback: Callable[[Read], None] | None = None,
    batch: int | None = None,
) -> Iterator[Reader]:
    """Copy the activations of `points` at every call while the context is open.

    A read sees what edits that were entered before it return.

    Args:
        model: the model; run it with `generate`, `encode`, or through its own pipeline.
        points: names of hook points.
        callback: takes each `Read`; without it they gather in `Reader.calls`.
        batch: number of samples, where you run the pipeline yourself; without it `factor` is 1
            and guidance halves are not told apart.

    Raises:
        PointError: a point does not exist, the network is compiled, or a point never fired.
    """
    for name in points:
        model.point(name)
    reader = Reader(model, callback)
    with ExitStack() as stack:
        stack.enter_context(model.watching(batch))
        stack.enter_context(model.clock.concerning(points, None, edits=False))
        for name in dict.fromkeys(points):
            site = model.sites[name]
            module = model.root.get_submodule(site.module)
            for handle in attach(module, site, reader.visit(site)):
                stack.callback(handle.remove)
        yield reader
    silent = [name for name in points if name not in reader.fired]
    if silent:
        raise PointError(never_fired(model, silent))


def never_fired(model: Model, names: Sequence[str]) -> str:
    """Return the message for points at which nothing happened."""
    modes = {mode for name in names for mode in model.sites[name].modes}
    return (
        f"{', '.join(names[:4])} never fired ({len(names)} in all): {model.name} did not run its "
        f"module, which fires in {' and '.join(sorted(modes)) or 'no mode'}; was it fused, "
        "compiled, replaced, or was nothing run?"
    )
