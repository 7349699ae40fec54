"""Prefix reuse among the edited runs of one batch: what ends before the first edit is not run."""

from collections.abc import Container, Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

from torch import Tensor

from interp.interventions.carriers import Carrier
from interp.interventions.scheduling import select_calls
from interp.interventions.sources import Batch
from interp.interventions.swapping import Cache, read_carriers
from interp.models import Model, Record, recording, replaying


class Plain(NamedTuple):
    """A plain run of recipients."""

    images: Tensor
    kept: Cache
    record: Record | None
    """None where no later run can use it."""


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
