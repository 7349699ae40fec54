"""What a scan will cost, before it starts: runs, block runs, seconds, memory."""

import time
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from torch import Tensor

from interp.interventions.carriers import Carrier, check_interchange
from interp.interventions.reuse import calls_of, first_call, run_plain
from interp.interventions.scan_batches import Job, check_pairs
from interp.interventions.scan_record import Cost
from interp.interventions.scheduling import list_moments
from interp.interventions.sources import Batch
from interp.interventions.swapping import Attribute, embed_images
from interp.models import GenerateBatch, Generation, Model, work_left


class Todo(NamedTuple):
    """What is left of one batch."""

    batch: int
    base: bool
    """Whether donors and recipients have still to be checked and embedded."""
    carriers: tuple[int, ...]


def estimate_scan(
    model: Model,
    carriers: Sequence[Carrier],
    donor: Generation | Tensor,
    recipient: Generation | Tensor,
    attributes: Mapping[str, Attribute] | None = None,
    *,
    batch_size: int = 32,
    probe: bool = True,
) -> Cost:
    """Say what a scan of these carriers costs in one process: one run of one batch at most.

    A carrier of points costs two runs per batch (the swap and the random control), one of sources
    costs one, donors and recipients three, and the check of reuse one. An edit at call c and block
    l runs only what lies after it. Seconds are those of a timed run of the first batch, times each
    carrier's share of it.

    Args:
        model, carriers, donor, recipient, batch_size: as in `scan`.
        attributes: those of the scan, whose time counts too; None: not counted.
        probe: whether to run; without, `Cost.seconds` is None.

    Raises:
        PointError, InputError: as in `scan`.
    """
    roles = tuple(check_interchange(model, carriers, donor, recipient))
    sides = (donor, recipient)
    known = dict(attributes or {})
    job = Job(model, tuple(carriers), roles, *sides, known, batch_size, images=0, seed=0)
    check_pairs(job, 1, None, attributes is not None)
    every = tuple(range(len(carriers)))
    return measure_cost(job, [Todo(i, True, every) for i in range(job.n_batches)], probe=probe)


def measure_cost(job: Job, todo: Sequence[Todo], *, probe: bool) -> Cost:
    """Cost of what is left of a scan; `estimate_scan` is that of all of it."""
    batches = job.batches()
    other = batches[todo[0].batch][2] if todo else batches[0][2]
    moments = list_moments(job.model, other)
    n_calls = 1 if moments is None else len(moments)
    blocks = _list_blocks(job.model, other)
    shares = [_blocks_left(job.model, c, other, blocks, n_calls) for c in job.carriers]
    per_run = n_calls * len(blocks)
    runs, blocks_left = 0, 0.0
    for one in todo:
        checked = _checked(job, one)
        runs += 2 + one.base + len(checked) + sum(_runs_of(job.carriers[i]) for i in one.carriers)
        parts = [shares[i] for i in checked]
        parts += [_runs_of(job.carriers[i]) * shares[i] for i in one.carriers]
        blocks_left += per_run * (2 + one.base + sum(parts))
    return Cost(
        n_carriers=len(job.carriers),
        n_pairs=job.n,
        n_parts=sum(one.base + len(one.carriers) for one in todo),
        runs=runs,
        block_runs=runs * per_run,
        block_runs_left=round(blocks_left),
        seconds=_time(job, todo, other) if probe and todo else None,
        bytes=_count_bytes(job, other, n_calls),
    )


def _runs_of(carrier: Carrier) -> int:
    # Sources have no random direction of equal norm.
    return 1 if carrier.fields else 2


def _checked(job: Job, one: Todo) -> list[int]:
    """The carrier at which reuse is checked in a batch, if any has points."""
    every = range(len(job.carriers)) if one.base else one.carriers
    bare = [i for i in every if job.carriers[i].points and not job.carriers[i].fields]
    return bare[one.batch % len(bare) :][:1] if bare else []


def _list_blocks(model: Model, batch: Batch) -> dict[str, int]:
    """Place in the order of points of each block's output."""
    mode = "generate" if isinstance(batch, GenerateBatch) else "encode"
    blocks: dict[str, int] = {}
    for place, name in enumerate(model.points):
        site = model.sites[name]
        if model.points[name].kind == "resid" and site.port == "output" and mode in site.modes:
            blocks.setdefault(site.module, place)
    return blocks


def _blocks_left(
    model: Model, carrier: Carrier, batch: Batch, blocks: Mapping[str, int], n_calls: int
) -> float:
    """Share of a run's blocks that do not end before the carrier's first edit."""
    if carrier.fields or not blocks:
        return 1.0
    places = {name: place for place, name in enumerate(model.points)}
    first = min(places[name] for name in carrier.points)
    before = sum(place <= first for place in blocks.values())
    call = min(first_call(model, carrier, batch), n_calls - 1)
    return 1 - (call * len(blocks) + before) / (n_calls * len(blocks))


def _time(job: Job, todo: Sequence[Todo], other: Batch) -> float:
    """Seconds of what is left, by one recorded run of a batch of recipients."""
    model, carriers = job.model, job.carriers
    names = tuple(dict.fromkeys(name for carrier in carriers for name in carrier.points))
    begin = time.perf_counter()
    images, _, record, _ = run_plain(model, names, carriers, other)
    run = time.perf_counter() - begin
    begin = time.perf_counter()
    embed_images(images, job.attributes)
    embed = time.perf_counter() - begin

    def share(carrier: Carrier) -> float:
        if carrier.fields or record is None:
            return 1.0
        return work_left(record, carrier.points, calls_of(model, carrier, other))

    each = [_runs_of(carrier) * (share(carrier) * run + embed) for carrier in carriers]
    seconds = 0.0
    for one in todo:
        rows = min(job.batch_size, job.n - one.batch * job.batch_size)
        replayed = sum(share(carriers[i]) for i in _checked(job, one))
        spent = (
            (2 + one.base + replayed) * run
            + 2 * one.base * embed
            + sum(each[i] for i in one.carriers)
        )
        seconds += spent * rows / len(images)
    return seconds


def _count_bytes(job: Job, batch: Batch, n_calls: int) -> int:
    """Rows of donors and recipients at the carriers' points and all calls."""
    model = job.model
    names = {name for carrier in job.carriers for name in carrier.points}
    halves = 2 if isinstance(batch, GenerateBatch) and batch.guidance > 1 else 1
    widths = (
        model.points[name].width * int(np.prod(model.points[name].grid, dtype=int))
        for name in names
    )
    rows = min(job.batch_size, job.n)
    return 2 * rows * halves * n_calls * sum(widths) * model.dtype.itemsize
