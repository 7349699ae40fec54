"""The bench: unedited runs of some seeds, on which edits are measured."""

import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from interp.errors import InputError
from interp.interventions.carriers import Carrier
from interp.interventions.clean import (
    Batch,
    Change,
    Clean,
    Source,
    iterate_source,
    keep_rows,
    make_images,
    read_clean,
    run_edited,
    run_plain,
    select_rows,
)
from interp.interventions.distance import off_distribution
from interp.interventions.handles import keep_same
from interp.interventions.steering_measure import find_scales
from interp.interventions.steering_record import Distance
from interp.interventions.swapping import Attribute, embed_images
from interp.models import Model, Read, Record

Progress = Callable[[int, int], None]
"""(images made, images in all)."""

# Edited rows whose distance from clean ones is taken: a median of 512 is good to 5 %.
EDITED_ROWS = 512


class RunCost(NamedTuple):
    """What a measurement will take."""

    images: int
    """Images to make, edited or not."""
    seconds: float
    """At the pace of one timed batch, nothing reused: edits of late places take less."""


@dataclass(frozen=True, eq=False)
class Bench:
    """Unedited runs, and what is known of clean rows, for one place of edits."""

    model: Model
    place: Carrier
    batches: tuple[Batch, ...]
    records: tuple[Record | None, ...]
    """Of the unedited run of each batch: edits do not compute again what comes before them."""
    plain: UInt8[Tensor, "n h w 3"]
    attributes: Mapping[str, Attribute]
    embedded: dict[str, np.ndarray]
    """Attribute -> [n, d_k] of the unedited images."""
    scales: dict[str, float]
    """Attribute -> root mean squared distance between the images of two seeds."""
    clean: dict[str, Clean]
    """Point -> clean rows of the reference runs."""


def make_bench(
    model: Model,
    place: Carrier,
    source: Source,
    reference: Source,
    attributes: Mapping[str, Attribute],
    *,
    points: Sequence[str] = (),
    batch_size: int = 32,
    seed: int = 0,
) -> Bench:
    """Run reference and source without edits, and once with an edit that changes nothing.

    Args:
        model, place: what is edited, and where.
        source: the seeds on which edits are measured. reference: other seeds, for clean rows.
        attributes: name -> function of images.
        points: whose clean rows are wanted; empty: those of the place.
        batch_size: images per run where the source is images.
        seed: of the sample of rows.

    Raises:
        InputError: no attribute, images that differ under the edit that changes nothing, an
            attribute in which all images are equal.
        PointError: a point does not fire at the edited calls.
    """
    if not attributes:
        raise InputError("no attribute: give at least one, as make_attributes makes them")
    clean = read_clean(
        model, place, reference, points or place.points, batch_size=batch_size, seed=seed
    )
    empty = torch.zeros(0, 0, 0, 3, dtype=torch.uint8)
    bench = Bench(model, place, (), (), empty, attributes, {}, {}, clean)
    return move_bench(bench, source, batch_size)


def check_same(plain: Tensor, same: Tensor, what: str) -> None:
    """Refuse a model whose runs are not repeatable: `what` has to leave every image as it is.

    Raises InputError with the largest pixel difference.
    """
    worst = int((same.int() - plain.int()).abs().max())
    if worst:
        raise InputError(
            f"{what} changes a pixel by {worst}: the runs are not repeatable, so no edit can be "
            "measured"
        )


def run_bench(bench: Bench, change: Change) -> UInt8[Tensor, "n h w 3"]:
    """Images of all seeds under an edit."""
    runs = zip(bench.batches, bench.records, strict=True)
    model, place = bench.model, bench.place
    return torch.cat([run_edited(model, place, change, one, record=kept) for one, kept in runs])


def run_reading(
    bench: Bench, change: Change, points: Sequence[str], seed: int = 0
) -> tuple[UInt8[Tensor, "n h w 3"], dict[str, Tensor]]:
    """Images of all seeds under an edit, and a sample of the edited rows of points."""
    rng = np.random.default_rng([seed, EDITED_ROWS])
    kept = {}

    def visit(read: Read) -> None:
        rows = select_rows(bench.model, bench.place, read)
        if rows is not None:
            rows = rows.detach().double().cpu()
            kept[read.point] = keep_rows(kept.get(read.point), rows, rng, EDITED_ROWS)

    parts = [
        run_edited(
            bench.model, bench.place, change, batch, read=points, callback=visit, record=record
        )
        for batch, record in zip(bench.batches, bench.records, strict=True)
    ]
    return torch.cat(parts), {point: one.rows for point, one in kept.items()}


def embed_change(bench: Bench, images: UInt8[Tensor, "n h w 3"]) -> dict[str, np.ndarray]:
    """Change of each seed in each attribute: name -> [n, d_k], phi(edited) - phi(unedited)."""
    found = embed_images(images, bench.attributes)
    return {name: value - bench.embedded[name] for name, value in found.items()}


def measure_distances(clean: Clean, rows: Sequence[Float[Tensor, "r d"]]) -> tuple[Distance, ...]:
    """How far the rows under each strength are from clean ones, beside held-out clean rows."""
    # One call: the covariance of the clean rows is the same for all.
    found = off_distribution(torch.cat(list(rows)), clean.rows, clean.held_out)
    far, near = found.mahalanobis, found.neighbor
    sizes = [len(part) for part in rows]
    return tuple(
        Distance(
            float(x.quantile(0.5)),
            float(far.held_out.quantile(0.5)),
            float(y.quantile(0.5)),
            float(near.held_out.quantile(0.5)),
            float((x > far.limit).double().mean()),
            float((y > near.limit).double().mean()),
        )
        for x, y in zip(far.rows.split(sizes), near.rows.split(sizes), strict=True)
    )


def make_teller(progress: Progress | None, total: int, n: int) -> Callable[..., None]:
    """Return a function that adds images (one run of all seeds, if not said) and reports them."""
    made = 0

    def tell(more: int = n) -> None:
        nonlocal made
        made += more
        if progress is not None:
            progress(made, total)

    return tell


def move_bench(bench: Bench, source: Source, batch_size: int = 32) -> Bench:
    """The same bench on other seeds, with the same clean rows.

    Raises InputError as `make_bench`.
    """
    model, place = bench.model, bench.place
    batches = tuple(iterate_source(model, source, batch_size))
    made, records = run_plain(model, [place], batches)
    plain = torch.cat(made)
    # Without the records: this run also says that they may stand for what they replace.
    same = torch.cat([run_edited(model, place, keep_same, batch) for batch in batches])
    check_same(plain, same, "putting back the rows as they are")
    embedded = embed_images(plain, bench.attributes)
    return dataclasses.replace(
        bench,
        batches=batches,
        records=tuple(records),
        plain=plain,
        embedded=embedded,
        scales=find_scales(embedded),
    )


def time_image(model: Model, source: Source, batch_size: int = 32) -> float:
    """Seconds per image, of the first batch after a short one that warms up."""
    short = source if isinstance(source, Tensor) else source.batch(0, 1, n_classes=model.n_classes)
    first = next(iterate_source(model, short[:1], 1)) if isinstance(short, Tensor) else short
    make_images(model, first)
    batch = next(iterate_source(model, source, batch_size))
    start = time.perf_counter()
    made = make_images(model, batch)
    return (time.perf_counter() - start) / len(made)
