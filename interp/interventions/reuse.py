"""Prefix reuse among the edited runs of one batch: what ends before the first edit is not run."""

from collections.abc import Container, Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor

from interp.interventions.carriers import Carrier
from interp.interventions.scheduling import select_calls
from interp.interventions.sources import Batch
from interp.interventions.swapping import Cache, read_carriers, swap_carriers
from interp.models import Model, Record, recording, replaying


class Plain(NamedTuple):
    """A plain run of recipients."""

    images: Tensor
    kept: Cache
    record: Record | None
    """None where no later run can use it."""
    stateful: bool = False
    """Whether the check of reuse failed, so that every run of the batch is made in full."""


def run_plain(
    model: Model, names: Sequence[str], carriers: Sequence[Carrier], batch: Batch
) -> Plain:
    """Run recipients once: images, the rows of `names`, and what edits at the carriers can reuse.

    Nothing is recorded where an edit is active already: that run is not a plain one.
    """
    bare = [carrier for carrier in carriers if carrier.points and not carrier.fields]
    if not bare or any(one.edits for one in model.clock.interests):
        return Plain(*read_carriers(model, names, batch), None)
    points = tuple(dict.fromkeys(name for carrier in bare for name in carrier.points))
    calls = {first_call(model, carrier, batch) for carrier in bare}
    with recording(model, points, calls=calls) as record:
        images, kept = read_carriers(model, names, batch)
    return Plain(images, kept, record)


def run_both(
    model: Model,
    names: Sequence[str],
    carriers: Sequence[Carrier],
    batches: tuple[Batch, Batch],
    turn: int = 0,
) -> tuple[Tensor, Cache, Plain]:
    """Run recipients and donors once, and see whether the recipients' run can be used again.

    The donors run last and leave their state in every module. Then one carrier has the recipients'
    own values put back, with reuse: images other than the plain ones say that a module keeps what
    a skipped run would have renewed, and nothing of this batch is used again.

    Args:
        model: the model.
        names: points to read.
        carriers: those whose edits will come.
        batches: donors and recipients.
        turn: which of the carriers of points is checked, counted round.

    Returns:
        The donors' images, their rows by (point, call), and the recipients' run.
    """
    one, other = batches
    plain = run_plain(model, names, carriers, other)
    donors, given = read_carriers(model, names, one)
    if plain.record is None:
        return donors, given, plain
    carrier = pick_checked(carriers, turn)
    with reusing(model, plain, [carrier]):
        again = swap_carriers(model, [carrier], plain.kept, other)
    if not torch.equal(again, plain.images):
        plain = plain._replace(record=None, stateful=True)
    return donors, given, plain


def pick_checked(carriers: Sequence[Carrier], turn: int) -> Carrier:
    """The carrier at which `run_both` checks reuse."""
    bare = [carrier for carrier in carriers if carrier.points and not carrier.fields]
    return bare[turn % len(bare)]


@contextmanager
def reusing(model: Model, plain: Plain, carriers: Sequence[Carrier]) -> Iterator[None]:
    """Run edits at these carriers on the same batch without what comes before them.

    The images are those of runs from the start, to the last bit. Carriers of sources change the
    batch itself, so that there is nothing to use again.
    """
    if plain.record is None or any(carrier.fields for carrier in carriers):
        yield
        return
    with replaying(model, plain.record):
        yield


def calls_of(model: Model, carrier: Carrier, batch: Batch) -> Container[int] | None:
    """The calls at which a carrier edits a batch; None is all."""
    return select_calls(model, batch, carrier.calls, carrier.window, carrier.axis)


def first_call(model: Model, carrier: Carrier, batch: Batch) -> int:
    """The first call at which a carrier edits."""
    calls = calls_of(model, carrier, batch)
    if calls is None:
        return 0
    # Longer than any sampler's schedule; a container of calls may be anything that has `in`.
    return next((call for call in range(100_000) if call in calls), 0)
