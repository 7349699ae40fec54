"""One batch of a scan: donors and recipients once, then every carrier put in place."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from torch import Tensor

from interp.errors import InputError
from interp.interventions.carriers import Carrier
from interp.interventions.numbers import check_whole
from interp.interventions.reuse import Plain, reusing, run_both
from interp.interventions.scan_parts import Arrays
from interp.interventions.sources import Batch, mix_fields
from interp.interventions.swapping import (
    Attribute,
    Cache,
    check_rerender,
    embed_images,
    iterate_batches,
    push_carrier,
    swap_carriers,
)
from interp.models import Generation, Model


@dataclass(frozen=True, eq=False)
class Job:
    """What a scan is of."""

    model: Model
    carriers: tuple[Carrier, ...]
    roles: tuple[str, ...]
    donor: Generation | Tensor
    recipient: Generation | Tensor
    attributes: Mapping[str, Attribute]
    batch_size: int
    images: int
    seed: int

    @property
    def n(self) -> int:
        """Rows of pairs."""
        return self.donor.n if isinstance(self.donor, Generation) else len(self.donor)

    @property
    def n_batches(self) -> int:
        """Batches of pairs."""
        return -(-self.n // self.batch_size)

    @property
    def stride(self) -> int:
        """Parts per batch: donors and recipients first, then one per carrier."""
        return len(self.carriers) + 1

    def batches(self) -> list[tuple[int, Batch, Batch]]:
        """First row, donors and recipients of each batch."""
        batches = iterate_batches(self.model, self.donor, self.recipient, self.batch_size)
        return list(batches)


class Opened(NamedTuple):
    """Donors and recipients of a batch, run."""

    start: int
    one: Batch
    other: Batch
    donors: Tensor
    given: Cache
    plain: Plain
    """The recipients."""


def open_batch(
    job: Job, start: int, one: Batch, other: Batch, carriers: Sequence[Carrier]
) -> Opened:
    """Run donors and recipients once, and keep what the carriers need."""
    names = tuple(dict.fromkeys(name for carrier in carriers for name in carrier.points))
    turn = start // job.batch_size
    return Opened(start, one, other, *run_both(job.model, names, carriers, (one, other), turn))


def make_base(job: Job, opened: Opened) -> Arrays:
    """Embeddings and first images of donors and recipients; their own values put back as a check.

    Raises:
        InputError: putting them back changes a row or a pixel, so that nothing can be measured.
    """
    images, kept = opened.plain.images, opened.plain.kept
    check_rerender(job.model, job.carriers, kept, opened.other, images)
    return {
        **_embedded(job, "donor", opened.donors, opened.start),
        **_embedded(job, "recipient", images, opened.start),
    }


def make_part(job: Job, opened: Opened, carrier: Carrier) -> Arrays:
    """Embeddings and first images of one carrier's swap and of its random control."""
    model = job.model
    mixed = mix_fields(model, [carrier], opened.one, opened.other)
    with reusing(model, opened.plain, [carrier]):
        swapped = swap_carriers(model, [carrier], opened.given, mixed)
        found = _embedded(job, "swapped", swapped, opened.start)
        if carrier.fields:
            return found
        entropy = (job.seed, opened.start)
        caches = (opened.given, opened.plain.kept)
        moved = push_carrier(model, carrier, caches, opened.other, entropy)
    return {**found, **_embedded(job, "random", moved, opened.start)}


def _embedded(job: Job, side: str, images: Tensor, start: int) -> Arrays:
    values = embed_images(images, job.attributes)
    found = {f"{side}.{k}": values[name] for k, name in enumerate(job.attributes)}
    return {**found, f"{side}.images": images[: max(0, job.images - start)].numpy()}


def expected_arrays(job: Job, batch: int, carrier: Carrier | None) -> dict[str, int]:
    """Names of a part's arrays with their numbers of rows; None is the part of donors."""
    if carrier is None:
        sides = ("donor", "recipient")
    else:
        sides = ("swapped",) if carrier.fields else ("swapped", "random")
    start = batch * job.batch_size
    rows = min(job.batch_size, job.n - start)
    names = {f"{side}.{k}": rows for side in sides for k in range(len(job.attributes))}
    return names | {f"{side}.images": max(0, min(rows, job.images - start)) for side in sides}


def fits(job: Job, arrays: Arrays | None, batch: int, carrier: Carrier | None) -> bool:
    """Whether a part that was read is one of this scan."""
    if arrays is None:
        return False
    rows = {name: len(value) if value.ndim else None for name, value in arrays.items()}
    if rows != expected_arrays(job, batch, carrier):
        return False
    pictures = [value for name, value in arrays.items() if name.endswith(".images")]
    tables = [value for name, value in arrays.items() if not name.endswith(".images")]
    return (
        all(value.shape[3:] == (3,) and value.dtype == np.uint8 for value in pictures)
        and len({value.shape[1:] for value in pictures}) == 1
        and all(value.ndim == 2 and value.dtype == np.float64 for value in tables)
    )


def check_pairs(job: Job, least: int, pair: Sequence[int] | None, embedded: bool = True) -> None:
    """Refuse too few pairs and labels that repeat, before anything runs."""
    n = job.n if pair is None else len(set(pair))
    if n < least:
        raise InputError(
            f"{n} disjoint pairs: intervals need {least} or more; raise the recipes' n"
        )
    if pair is not None and len(pair) != job.n:
        raise InputError(f"pair has {len(pair)} entries for {job.n} rows")
    labels = [carrier.label for carrier in job.carriers]
    twice = sorted({label for label in labels if labels.count(label) > 1})
    if twice:
        raise InputError(f"carriers of one name: {twice[:4]}; name them apart")
    if embedded and not job.attributes:
        raise InputError("no attribute: give one or more, as make_attributes builds them")
    check_whole("seed", job.seed, 0)
    if job.batch_size < 1 or job.images < 0:
        raise InputError(f"batch_size {job.batch_size} and images {job.images}: >= 1 and >= 0")
