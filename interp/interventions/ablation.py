"""Ablation: take away what a place carries, and measure what images lose."""

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Int, UInt8
from torch import Tensor

from interp.errors import InputError, PointError
from interp.interventions.bench import EDITED_ROWS, check_same, measure_distances
from interp.interventions.carriers import Carrier, count_samples
from interp.interventions.clean import (
    Batch,
    Change,
    Clean,
    Kept,
    Source,
    check_place,
    find_reference,
    iterate_source,
    keep_rows,
    make_images,
    place_of,
    read_clean_at,
    run_edited,
    run_plain,
    select_rows,
)
from interp.interventions.handles import keep_same
from interp.interventions.steering_measure import MIN_SEEDS, find_scales, measure_size
from interp.interventions.steering_record import Distance
from interp.interventions.swapping import Attribute, embed_images
from interp.models import Call, Generation, Model, Read, Record, reading, to_rows
from interp.stats import FOLDS, jackknife, make_folds

ABLATIONS = ("zero", "mean", "resample", "random")

Cache = dict[tuple[str, int], Tensor]
"""(point, call) -> rows [b, p, d] of a run, or means [guidance halves, p, d]."""


class AttributeChange(NamedTuple):
    """Change of one attribute, in units of the distance between the images of two seeds."""

    size: float
    """Root mean squared length of phi(ablated) - phi(unedited)."""
    low: float
    """95 % jackknife interval over seeds."""
    high: float


@dataclass(frozen=True, eq=False)
class Ablation:
    """What the ablation of one place did; n seeds."""

    carrier: Carrier
    kind: str
    attributes: dict[str, AttributeChange]
    off_distribution: dict[str, Distance]
    """Point -> how far its ablated rows are from clean ones."""
    images: UInt8[Tensor, "n h w 3"]
    plain: UInt8[Tensor, "n h w 3"]
    """Without an edit."""

    def __repr__(self) -> str:
        changes = (
            f"{name} {one.size:.2f} [{one.low:.2f}, {one.high:.2f}]"
            for name, one in self.attributes.items()
        )
        return f"{self.kind} ablation of {self.carrier.label}: change of {', '.join(changes)}"


def ablate(
    model: Model,
    carriers: str | Carrier | Sequence[str | Carrier],
    source: Source,
    *,
    attributes: Mapping[str, Attribute],
    kind: str = "mean",
    reference: Source | None = None,
    batch_size: int = 32,
    seed: int = 0,
) -> list[Ablation]:
    """Replace what places carry by something that says less, and compare images.

    With m the mean over the reference runs at the same point, call, guidance half and position:

        zero      0; at a ":delta" point the block is skipped
        mean      m
        resample  the row of another sample: of reference run i for sample i, all positions together
        random    m + |x - m| g / |g|, g standard normal: as far from the mean as the row itself, in
                  a random direction of its own for every row

    "mean" removes what is particular to a sample and keeps what all share. "resample" stays on the
    distribution of this place but mixes two states; "random" leaves it, as "zero" may.

    Args:
        model: a model that makes images from `source`.
        carriers: one or several names of points, or carriers of points with calls or window,
            guidance half and mask; each is ablated alone, its points together.
        source: a recipe of at least 10 seeds, or images for autoencoders to reconstruct.
        attributes: name -> function of images.
        kind: zero, mean, resample or random.
        reference: clean runs of other seeds; None: the next ones. "resample" needs as many as the
            source has.
        batch_size: images per run where the source is images.
        seed: of random directions, samples of rows and folds.

    Returns:
        One entry per carrier, in order.

    Raises:
        InputError: an unknown kind, a carrier that is not of rows alone, fewer than 10 seeds,
            overlapping seeds, no attribute, runs that are not repeatable.
        PointError: a point does not exist, does not fire, or has another shape in the reference.
    """
    given = [carriers] if isinstance(carriers, str | Carrier) else list(carriers)
    n = _check(given, source, attributes, kind)
    places = [check_place(model, place_of(one), source) for one in given]
    other = _find_donors(source, find_reference(source, reference), kind)
    names = tuple(dict.fromkeys(name for place in places for name in place.points))
    means, watch = _summing(model)
    wanted = [(place, place.points) for place in places]
    options = {"batch_size": batch_size, "seed": seed, "watch": watch}
    clean = read_clean_at(model, wanted, other, **options)
    means = {key: total / count_samples(other) for key, total in means.items()}
    donors = _donors(model, names, source, other, batch_size) if kind == "resample" else None
    runs: list[list[_Run]] = [[] for _ in places]
    for number, batch in enumerate(iterate_source(model, source, batch_size)):
        (plain,), (record,) = run_plain(model, places, [batch])
        cache = means if donors is None else next(donors)
        for i, place in enumerate(places):
            change = partial(_replace, kind, cache, place.cfg, (seed, number))
            runs[i].append(_run(model, place, change, batch, (plain, record)))
    folds = make_folds(range(n), min(FOLDS, n), seed)
    return [
        _finish(place, kind, runs[i], clean[i], (attributes, folds))
        for i, place in enumerate(places)
    ]


class _Run(NamedTuple):
    """One batch under an ablation."""

    plain: Tensor
    images: Tensor
    rows: dict[str, Tensor]
    """Point -> sample of its edited rows."""


def _run(
    model: Model,
    place: Carrier,
    change: Change,
    batch: Batch,
    before: tuple[Tensor, Record | None],
) -> _Run:
    plain, record = before
    same = run_edited(model, place, keep_same, batch)
    check_same(plain, same, f"{place.label}: putting back the rows as they are")
    kept: dict[str, Kept] = {}
    rng = np.random.default_rng(EDITED_ROWS)

    def visit(read: Read) -> None:
        rows = select_rows(model, place, read)
        if rows is not None:
            rows = rows.detach().double().cpu()
            kept[read.point] = keep_rows(kept.get(read.point), rows, rng, EDITED_ROWS)

    images = run_edited(
        model, place, change, batch, read=place.points, callback=visit, record=record
    )
    return _Run(plain, images, {point: one.rows for point, one in kept.items()})


def _finish(
    place: Carrier,
    kind: str,
    runs: Sequence[_Run],
    clean: Mapping[str, Clean],
    measure: tuple[Mapping[str, Attribute], Int[np.ndarray, " n"]],
) -> Ablation:
    plain, images = (torch.cat(parts) for parts in zip(*[run[:2] for run in runs], strict=True))
    distances = {
        point: measure_distances(clean[point], [torch.cat([run.rows[point] for run in runs])])[0]
        for point in place.points
    }
    changed = measure_change(plain, images, *measure)
    return Ablation(place, kind, changed, distances, images, plain)


def measure_change(
    plain: UInt8[Tensor, "n h w 3"],
    images: UInt8[Tensor, "n h w 3"],
    attributes: Mapping[str, Attribute],
    folds: Int[np.ndarray, " n"],
) -> dict[str, AttributeChange]:
    """Root mean squared change of each attribute over the distance between two seeds' images.

    folds: [n] parts of the jackknife over seeds, which recomputes the distance too.
    Raises InputError where all unedited images are equal in an attribute.
    """
    before, after = (embed_images(side, attributes) for side in (plain, images))
    find_scales(before)
    found = {}
    for name in attributes:
        moved, base = (after[name] - before[name])[None], {name: before[name]}
        values = [
            measure_size(moved, keep)[0] / find_scales({name: base[name][keep]})[name]
            for keep in (np.ones(len(folds), bool), *(folds != f for f in np.unique(folds)))
        ]
        interval = jackknife(values[0], np.array(values[1:]))
        found[name] = AttributeChange(float(values[0]), float(interval.low), float(interval.high))
    return found


def _summing(model: Model) -> tuple[Cache, Callable[[Read, int], None]]:
    """Sums over samples of every point, call and half, and the function that adds to them."""
    sums: Cache = {}

    def watch(read: Read, size: int) -> None:
        rows = to_rows(read.value, model.points[read.point]).detach().double()
        total = rows.unflatten(0, (-1, size)).sum(1)
        key = (read.point, read.call)
        sums[key] = sums[key] + total if key in sums else total

    return sums, watch


def _check(
    carriers: Sequence[str | Carrier],
    source: Source,
    attributes: Mapping[str, Attribute],
    kind: str,
) -> int:
    if kind not in ABLATIONS:
        raise InputError(f"kind {kind!r} is not one of {', '.join(ABLATIONS)}")
    if not attributes or not carriers:
        raise InputError("at least one attribute and one carrier are needed")
    n = count_samples(source)
    if n < MIN_SEEDS:
        raise InputError(f"{n} seeds: an interval over seeds needs {MIN_SEEDS} or more")
    return n


def _find_donors(source: Source, other: Source, kind: str) -> Source:
    """The reference in batches that begin where those of the source begin."""
    n, found = count_samples(source), count_samples(other)
    if kind == "resample" and found < n:
        raise InputError(f"{found} reference runs for {n} samples: resample needs one for each")
    if isinstance(other, Generation) and isinstance(source, Generation):
        return dataclasses.replace(other, batch_size=source.batch_size)
    return other


def _donors(
    model: Model, names: Sequence[str], source: Source, other: Source, batch_size: int
) -> Iterator[Cache]:
    """Rows of the reference run of each sample, a batch at a time."""
    for batch in iterate_source(model, _first(other, count_samples(source)), batch_size):
        with reading(model, names) as reader:
            make_images(model, batch)
        yield {
            (read.point, read.call): to_rows(read.value, model.points[read.point])
            for read in reader.calls
        }


def _first(source: Source, n: int) -> Source:
    return dataclasses.replace(source, n=n) if isinstance(source, Generation) else source[:n]


def _replace(
    kind: str, cache: Cache, cfg: str, seed: tuple[int, int], rows: Tensor, call: Call
) -> Tensor:
    """Rows [b, p, d] of one call, ablated; of both guidance halves or of the one that is edited."""
    if kind == "zero":
        return torch.zeros_like(rows)
    known = cache.get((call.point, call.call))
    if known is None:
        raise PointError(f"{call.point} has no value at call {call.call} of the reference runs")
    if cfg != "both" and call.factor == 2:
        known = known.chunk(2)[int(cfg == "cond")]
    if kind != "resample":
        known = known.repeat_interleave(len(rows) // len(known), 0)
    if known.shape != rows.shape:
        raise PointError(
            f"{call.point} at call {call.call}: rows {tuple(rows.shape)}, of the reference runs "
            f"{tuple(known.shape)}; both need equal steps and resolution"
        )
    if kind != "random":
        return known.to(rows.dtype)
    rng = np.random.default_rng([*seed, call.call, *call.point.encode()])
    noise = torch.from_numpy(rng.standard_normal(tuple(rows.shape))).to(rows.device)
    length = (rows.double() - known).norm(dim=-1, keepdim=True)
    return (known + length * noise / noise.norm(dim=-1, keepdim=True)).to(rows.dtype)
