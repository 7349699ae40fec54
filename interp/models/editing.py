"""Change activations while a network runs."""

from collections.abc import Callable, Container, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import NamedTuple

import torch
from torch import Tensor

from interp.errors import InputError, PointError
from interp.models.inputs import HALVES
from interp.models.model import Model
from interp.models.points import HookPoint, Site
from interp.models.ports import Visit, attach
from interp.models.probe import unfold
from interp.models.reading import in_order, never_fired
from interp.models.rows import from_rows, to_rows


class Call(NamedTuple):
    """Where an edit is: call index, timestep, log-SNR, point, and batch over samples (1 or 2)."""

    call: int
    t: float | None
    log_snr: float | None
    point: str
    factor: int = 1


Edit = Callable[[Tensor, Call], Tensor]


@contextmanager
def editing(
    model: Model,
    edits: Mapping[str, Edit],
    *,
    calls: Container[int] | None = None,
    cfg: str = "both",
    batch: int | None = None,
) -> Iterator[None]:
    """Replace the activations of points by what `edits` return, while the context is open.

    An edit gets a copy of the rows [b, positions, d] and returns as many. What is edited where:
    a block's output reaches everything that reads it, in the down half of a U-Net both the main
    path and the skip; "skip.<i>" edits that skip alone, "<block>:main" the main path alone. A
    "<block>:delta" edit writes the block's input plus the edited delta. The identity leaves the
    output equal to the last bit.

    Args:
        model: the model.
        edits: name of a point -> function of (rows, `Call`).
        calls: call indices at which to edit, such as range(5, 10); None is all.
        cfg: guidance halves to edit: "both", "cond" or "uncond"; without guidance all rows count
            as "cond".
        batch: number of samples, where you run the pipeline yourself.

    Raises:
        PointError: a point does not exist, rows do not fit, or an edit never took place.
        InputError: `cfg` is none of the three.
    """
    if cfg not in HALVES:
        raise InputError(f"cfg = {cfg!r} is not one of {', '.join(HALVES)}")
    done: set[str] = set()
    with ExitStack() as stack:
        for name in edits:
            model.point(name)
        stack.enter_context(model.watching(batch))
        stack.enter_context(model.clock.concerning(edits, calls, edits=True))
        for name, edit in edits.items():
            site = model.sites[name]
            visit = _visit(model, site, edit, calls, cfg, done)
            modules = [model.root.get_submodule(path) for path in (site.module, *site.also)]
            for handle in (h for module in modules for h in attach(module, site, visit)):
                stack.callback(handle.remove)
        yield
    missed = [name for name in edits if name not in done]
    if missed:
        raise PointError(
            f"no edit took place: calls={calls}, cfg={cfg!r}; {never_fired(model, missed)}"
        )


def _visit(
    model: Model, site: Site, edit: Edit, calls: Container[int] | None, cfg: str, done: set[str]
) -> Visit:
    """Return the hook that edits one site, once per call however many modules take the tensor."""
    point, clock = model.points[site.name], model.clock
    last: list[Tensor] = []

    def visit(value: Tensor) -> Tensor | None:
        if (calls is not None and clock.call not in calls) or (
            site.calls == "first" and clock.call != 0
        ):
            return None
        if site.also and last and last[0] is value:
            return last[1]
        call = Call(clock.call, clock.t, clock.log_snr, site.name, clock.factor)
        halves = _halves(model, cfg, call)
        if halves is None:
            return None
        unfolded = in_order(unfold(value, site, clock), model)
        new = _edited(unfolded, point, edit, call, halves)
        new = in_order(new, model)
        last[:] = [value, new]
        done.add(site.name)
        return new

    return visit


def _halves(model: Model, cfg: str, call: Call) -> slice | None:
    """Return the samples of the root's batch that `cfg` selects; None where it selects none."""
    if cfg == "both":
        return slice(None)
    clock = model.clock
    if clock.known is None:
        raise PointError(
            f"cfg={cfg!r} needs the number of samples: run {model.name} with generate, or give "
            "editing(batch=)"
        )
    if call.factor == 1:
        return slice(None) if cfg == "cond" else None
    if call.factor != 2:
        raise PointError(f"the root's batch is {call.factor} times the samples; cfg needs 1 or 2")
    return slice(clock.known, None) if cfg == "cond" else slice(0, clock.known)


def _edited(value: Tensor, point: HookPoint, edit: Edit, call: Call, halves: slice) -> Tensor:
    part = value[halves]
    rows = to_rows(part, point).clone()
    new = edit(rows, call)
    if not isinstance(new, Tensor):
        raise PointError(f"the edit of {point.name} returned {type(new).__name__}, not a tensor")
    changed = from_rows(new.to(value.device), point, part)
    if halves == slice(None):
        return changed
    before = value[: halves.start or 0]
    after = value[halves.stop :] if halves.stop else value[:0]
    return torch.cat([before, changed, after])
