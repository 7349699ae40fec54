"""Prefix reuse: what ended before the first edit is not computed again, to the last bit."""

import dataclasses
from collections import Counter
from collections.abc import Container, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor

from interp.errors import InputError
from interp.models.clock import Interest
from interp.models.copies import copied
from interp.models.model import Model
from interp.models.recording import (
    Forward,
    Page,
    Record,
    modules_around,
    overriding,
    weights_state,
)


@contextmanager
def replaying(model: Model, record: Record) -> Iterator[None]:
    """Make runs of the recorded batch without computing what comes before their first edit.

    At calls before the first edited one the root returns its recorded output; within that call
    every module that ended before the first edited place does. Which edits there are is known from
    `editing` itself, entered before or after; hooks of modules that are not inside a replayed one
    fire as ever, and `reading` a point makes its owners run. Hooks of your own inside replayed
    modules do not fire. Without an edit everything is computed. The images are those without this
    context, bit for bit.

    Args:
        model: the recorded model, unchanged.
        record: what `recording` gave.

    Raises:
        InputError: the record is empty, of another model, or of other weights; a run is of
            another batch, or wants the gradient of its latents.
    """
    if record.model is not model or record.batch is None:
        what = "is empty" if record.model is model else f"is of {record.model.name}"
        raise InputError(f"the record {what}: record a plain run of {model.name} first")
    replayer = _Replayer(record)
    kept = {page.runs[i].path for page in record.pages.values() for i in page.outputs}
    modules = modules_around(model, record.names)
    with ExitStack() as stack:
        stack.enter_context(model.watching())
        chosen = {path: module for path, module in modules.items() if path in kept}
        stack.enter_context(overriding(chosen, replayer.run))
        model.clock.around.append(replayer.replaying)
        stack.callback(model.clock.around.remove, replayer.replaying)
        yield


def work_left(record: Record, points: Sequence[str], calls: Container[int] | None = None) -> float:
    """Share of the plain run's work that an edit of `points` at `calls` has to do again.

    left = (T - T_reused) / T, T the recorded time of the whole run with its sampler and text
    encoders, and T_reused that of the outermost modules that are replayed. Times are measured, not
    counted in operations: at small sizes most time goes to normalization and to starting kernels,
    which a count of multiplications leaves out.

    Args:
        record: what `recording` gave.
        points: those edited.
        calls: at which calls; None is all.

    Returns:
        The share, in (0, 1].
    """
    for name in points:
        record.model.point(name)
    first = record.first_edit([Interest(tuple(points), calls, edits=True)])
    reused = 0.0
    for page in record.pages.values():
        free = -1
        for i, run in enumerate(page.runs):
            usable = first is not None and (page.call, run.stop) <= first
            if run.start > free and i in page.outputs and usable:
                reused += run.seconds
                free = run.stop
    # Never nothing: the sampler's steps and the clock remain.
    return min(1.0, max(1e-6, 1 - reused / record.seconds)) if record.seconds > 0 else 1.0


class _Replayer:
    """The state of a run that is being replayed."""

    def __init__(self, record: Record) -> None:
        self.record = record
        self.armed = False
        self.places = {
            call: {(run.path, run.nth): i for i, run in enumerate(page.runs)}
            for call, page in record.pages.items()
        }

    @contextmanager
    def replaying(self, batch: Any) -> Iterator[None]:
        """Arm for one run of the recorded batch."""
        record = self.record
        _check_batch(record.batch, batch)
        if record.weights != weights_state(record.model):
            raise InputError(f"{record.model.name} has changed since its plain run was recorded")
        interests = record.model.clock.interests
        self.first = record.first_edit(interests)
        self.reads = [one for one in interests if not one.edits]
        self.call, self.counts = -2, Counter[str]()
        self.armed = True
        try:
            yield
        finally:
            self.armed = False

    def run(self, path: str, own: Forward, args: tuple, kwargs: dict[str, Any]) -> Any:
        """Return a module's recorded output, or run it."""
        call = self.record.model.clock.call
        page = self.record.pages.get(call)
        if not self.armed or page is None:
            return own(*args, **kwargs)
        if call != self.call:
            self.call, self.counts = call, Counter()
        index = self.places[call].get((path, self.counts[path]))
        self.counts[path] += 1
        if index is None or not self._is_usable(page, index):
            return own(*args, **kwargs)
        # Modules inside that also run elsewhere go on counting from where they would be.
        self.counts.update(page.runs[i].path for i in page.within(index))
        return copied(page.outputs[index])

    def _is_usable(self, page: Page, index: int) -> bool:
        run = page.runs[index]
        if index not in page.outputs:
            return False
        if self.first is None or (page.call, run.stop) > self.first:
            return False
        sites = self.record.model.sites
        read = [sites[n] for one in self.reads for n in one.names]
        paths = [p for site in read for p in (site.module, *site.also)]
        return not any(_is_inside(path, run.path) for path in paths)


def _is_inside(path: str, owner: str) -> bool:
    return path.startswith(f"{owner}.") or (owner == "" and path != "")


def _check_batch(recorded: Any, batch: Any) -> None:
    """Refuse a batch that is not the recorded one."""
    if type(recorded) is not type(batch):
        raise InputError(f"a {type(recorded).__name__} was recorded, not a {type(batch).__name__}")
    for field in dataclasses.fields(batch):
        one, other = getattr(recorded, field.name), getattr(batch, field.name)
        if not _are_equal(one, other):
            raise InputError(
                f"the recorded run had {field.name}={_shown(one)}, this one {_shown(other)}: "
                "record the plain run of this batch"
            )
        if isinstance(other, Tensor) and other.requires_grad and torch.is_grad_enabled():
            raise InputError(
                f"the gradient of {field.name} passes through what replaying does not compute: "
                "render without it"
            )


def _are_equal(one: Any, other: Any) -> bool:
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        alike = (one.device, one.dtype) == (other.device, other.dtype)
        return alike and torch.equal(one, other)
    if isinstance(one, Tensor) or isinstance(other, Tensor):
        return False
    return one == other


def _shown(value: Any) -> str:
    return f"a tensor {tuple(value.shape)}" if isinstance(value, Tensor) else repr(value)
