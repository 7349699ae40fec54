"""Clean activations: what a point carries in runs of other seeds that nobody edits."""

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from interp.errors import InputError, PointError
from interp.interventions.carriers import Carrier, check_interchange, count_samples, first_batch
from interp.interventions.scheduling import select_calls
from interp.models import (
    Call,
    EncodeBatch,
    GenerateBatch,
    Generation,
    Model,
    Read,
    Record,
    editing,
    reading,
    recording,
    replaying,
    to_rows,
)

Source = Generation | Tensor
Batch = GenerateBatch | EncodeBatch
Change = Callable[[Tensor, Call], Tensor]

# Rows kept for distances and directions, of each point: beyond, covariances of the widths of real
# blocks (<= 1280) change little and memory does.
MAX_ROWS = 4096
# Clean runs where none are given: points that are one vector per image have one row in each.
REFERENCE = 64
# Clean rows on each side that say what is usual, as `off_distribution` needs them.
MIN_ROWS = 20
# Bytes of recorded outputs that are kept: half of a small machine's memory is left for the model.
MAX_BYTES = 2 * 1024**3
# What decides which calls a run makes and of which shapes.
_SHARED = ("scheduler", "steps", "guidance", "height", "width", "truncation")


@dataclass(frozen=True, eq=False)
class Clean:
    """Rows of one point over clean runs, where and when an edit would take place."""

    mean: Float[Tensor, " d"]
    """float64."""
    unit: float
    """sqrt(mean |row - mean|^2)."""
    rows: Float[Tensor, "r d"]
    """float64 sample of the first half of the runs."""
    held_out: Float[Tensor, "h d"]
    """The same of the second half."""
    n_rows: int
    """Rows behind mean and unit."""


def place_of(point: str | Carrier) -> Carrier:
    """Return the place of an edit: a point by name, or a carrier's points, calls, half, mask.

    Raises InputError for a carrier that is not of rows alone.
    """
    place = Carrier((point,)) if isinstance(point, str) else point
    odd = {"fields": place.fields, "features": place.features, "subspace": place.subspace}
    names = [name for name, value in odd.items() if value is not None and len(value)]
    if names or not place.points:
        raise InputError(
            f"{place.label or 'a carrier'}: {', '.join(names) or 'no point'}; an edit of "
            "activations takes hook points with calls, window, guidance half and mask"
        )
    return place


def check_place(model: Model, place: Carrier, source: Source) -> Carrier:
    """Refuse what cannot be edited before anything runs; the place with its window as calls.

    Raises PointError and InputError, as `interchange`.
    """
    other = source
    if isinstance(source, Generation):
        other = dataclasses.replace(source, seed=source.seed + source.n)
    check_interchange(model, [place], other, source)
    batch = first_batch(model, source)
    calls = select_calls(model, batch, place.calls, place.window, place.axis)
    return dataclasses.replace(place, calls=calls, window=None)


def find_reference(source: Source, reference: Source | None) -> Source:
    """Return the clean runs: those given, or the next seeds of the recipe, at least 64.

    Raises:
        InputError: recipes share seeds or differ in what decides the activations; images are shared
            or not given.
    """
    if isinstance(source, Tensor):
        if not isinstance(reference, Tensor):
            raise InputError("images to edit need other images as reference=")
        _check_images(source, reference, "the reference")
        return reference
    if reference is None:
        n = max(source.n, REFERENCE)
        return dataclasses.replace(source, seed=source.seed + source.n, n=n)
    if not isinstance(reference, Generation):
        raise InputError("a recipe to edit needs a recipe as reference=")
    check_disjoint(source, reference, "the reference")
    return reference


def check_disjoint(one: Source, other: Source, name: str) -> None:
    """Refuse two sources that share seeds or images, or whose activations would not fit.

    Raises InputError.
    """
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        return _check_images(one, other, name)
    if not isinstance(one, Generation) or not isinstance(other, Generation):
        raise InputError(f"{name} has to be of the same kind: recipes, or images")
    for field in _SHARED:
        x, y = getattr(one, field), getattr(other, field)
        if x != y:
            raise InputError(f"{field} is {x!r} here and {y!r} in {name}: give both the same")
    low, high = max(one.seed, other.seed), min(one.seed + one.n, other.seed + other.n)
    if low < high:
        raise InputError(
            f"seeds {one.seed}..{one.seed + one.n - 1} and those of {name}, {other.seed}.."
            f"{other.seed + other.n - 1}, share {high - low}: they have to be disjoint; start at "
            f"{one.seed + one.n}"
        )
    return None


def _check_images(one: Tensor, other: Tensor, name: str) -> None:
    if one.shape[1:] != other.shape[1:]:
        raise InputError(f"images {tuple(one.shape)} and {tuple(other.shape)} differ in size")
    seen = {image.cpu().numpy().tobytes() for image in one}
    shared = sum(image.cpu().numpy().tobytes() in seen for image in other)
    if shared:
        raise InputError(f"{shared} images are also among those of {name}: use disjoint ones")


def iterate_source(model: Model, source: Source, batch_size: int = 32) -> Iterator[Batch]:
    """Yield batches: a recipe has its own batch size, images take `batch_size`."""
    if isinstance(source, Generation):
        for start in range(0, source.n, source.batch_size):
            stop = min(start + source.batch_size, source.n)
            yield source.batch(start, stop, n_classes=model.n_classes)
        return
    for images in source.split(batch_size):
        yield EncodeBatch(images)


def make_images(model: Model, batch: Batch) -> Tensor:
    """Images of one run, on the CPU, under whatever hooks are active.

    Raises InputError for a model that makes none of what it is given.
    """
    if isinstance(batch, GenerateBatch):
        return model.generate(batch).cpu()
    made = model.encode(batch)
    if made is None:
        raise InputError(f"{model.name} makes no image when it encodes one: give a recipe")
    return made.cpu()


def run_edited(
    model: Model,
    place: Carrier,
    change: Change,
    batch: Batch,
    *,
    read: Sequence[str] = (),
    callback: Callable[[Read], None] | None = None,
    record: Record | None = None,
) -> Tensor:
    """Images of a run with rows [b, positions, d] changed at a place.

    read: points whose activations, the edit included, go to `callback`. record: a plain run of the
    batch, of which what comes before the edit is not computed again.
    """
    edits = dict.fromkeys(place.points, partial(_masked, place, change))
    with ExitStack() as stack:
        stack.enter_context(torch.no_grad())
        if record is not None:
            stack.enter_context(replaying(model, record))
        stack.enter_context(editing(model, edits, calls=place.calls, cfg=place.cfg))
        if read and callback is not None:
            stack.enter_context(reading(model, read, callback=callback))
        return make_images(model, batch)


def run_plain(
    model: Model, places: Sequence[Carrier], batches: Sequence[Batch]
) -> tuple[list[Tensor], list[Record | None]]:
    """Images of unedited runs, and what edits at the places can use of them again.

    A record is None once those before it hold more than 2 GB, and where an edit is active already:
    that run is not a plain one.
    """
    names = tuple(dict.fromkeys(name for place in places for name in place.points))
    calls = {_first_call(place) for place in places}
    images, records, held = [], [], 0
    for batch in batches:
        if any(one.edits for one in model.clock.interests):
            images.append(make_images(model, batch))
            records.append(None)
            continue
        with recording(model, names, calls=calls) as record:
            images.append(make_images(model, batch))
        held += record.nbytes
        records.append(record if held <= MAX_BYTES else None)
        if records[-1] is None:
            record.clear()
    return images, records


def _first_call(place: Carrier) -> int:
    return min(map(int, place.calls), default=0) if isinstance(place.calls, Iterable) else 0


def _masked(place: Carrier, change: Change, rows: Tensor, call: Call) -> Tensor:
    new = change(rows, call)
    if place.mask is None:
        return new
    return torch.where(_mask_of(place, rows, call.point), new, rows)


def _mask_of(place: Carrier, rows: Tensor, point: str) -> Tensor:
    assert place.mask is not None
    if len(place.mask) != rows.shape[1]:
        raise PointError(f"the mask has {len(place.mask)} positions, {point} has {rows.shape[1]}")
    return torch.tensor(place.mask, device=rows.device)[None, :, None]


def select_rows(model: Model, place: Carrier, read: Read) -> Tensor | None:
    """Rows [b, positions, d] of a read that an edit at the place would get; None for none.

    The mask applies to the place's own points, not to others that are read beside them.
    """
    if place.calls is not None and read.call not in place.calls:
        return None
    value = read.value
    if place.cfg != "both":
        if read.factor == 1 and place.cfg == "uncond":
            return None
        if read.factor == 2:
            value = value.chunk(2)[int(place.cfg == "cond")]
    rows = to_rows(value, model.points[read.point])
    if place.mask is None or read.point not in place.points:
        return rows
    return rows[:, _mask_of(place, rows, read.point)[0, :, 0]]


def read_clean(
    model: Model, place: Carrier, source: Source, points: Sequence[str], **options: Any
) -> dict[str, Clean]:
    """Run a source without edits and describe rows of points when and where the place edits.

    options: batch_size, limit, seed, as of `read_clean_at`, which says what is raised.
    """
    return read_clean_at(model, [(place, points)], source, **options)[0]


def read_clean_at(
    model: Model,
    wanted: Sequence[tuple[Carrier, Sequence[str]]],
    source: Source,
    *,
    batch_size: int = 32,
    limit: int = MAX_ROWS,
    seed: int = 0,
    watch: Callable[[Read, int], None] | None = None,
) -> list[dict[str, Clean]]:
    """Describe the clean rows of several places' points from one run of a source.

    Args:
        model: the model.
        wanted: each place, with the points whose rows are wanted at its calls and half.
        source: clean runs; the rows of the first half of them and of the second are kept apart.
        batch_size: images per run where the source is images. limit: rows kept of each half.
        seed: of the sample of rows.
        watch: also called with every read and the number of samples of its batch.

    Raises:
        PointError: a point never fired at the edited calls.
        InputError: the rows of a point are all equal, or fewer than 20 in a half.
    """
    n, start = count_samples(source), 0
    names = tuple(dict.fromkeys(name for _, points in wanted for name in points))
    sums: list[dict[str, list[Tensor]]] = [{} for _ in wanted]
    kept: list[dict[tuple[str, int], Kept]] = [{} for _ in wanted]
    rng = np.random.default_rng([seed, limit])
    for batch in iterate_source(model, source, batch_size):
        size = count_batch(batch)
        # Samples of the second half of the runs are held out.
        first = max(0, min(size, (n + 1) // 2 - start))

        def visit(read: Read, first: int = first, size: int = size) -> None:
            if watch is not None:
                watch(read, size)
            for i, (place, points) in enumerate(wanted):
                rows = select_rows(model, place, read) if read.point in points else None
                if rows is not None:
                    rows = rows.detach().double().cpu()
                    _add(sums[i], read.point, rows.reshape(-1, rows.shape[-1]))
                    _split(kept[i], read.point, rows, (first, size, limit), rng)

        with reading(model, names, callback=visit):
            make_images(model, batch)
        start += size
    return [
        {point: _clean(point, sums[i], kept[i]) for point in points}
        for i, (_, points) in enumerate(wanted)
    ]


def count_batch(batch: Batch) -> int:
    """Samples of a batch."""
    return len(batch.seeds if isinstance(batch, GenerateBatch) else batch.images)


def _split(
    kept: dict[tuple[str, int], "Kept"],
    point: str,
    rows: Tensor,
    sizes: tuple[int, int, int],
    rng: np.random.Generator,
) -> None:
    """Keep rows of the first samples apart from the others'."""
    first, size, limit = sizes
    # Under guidance the batch holds every sample twice.
    inside = torch.arange(len(rows)) % size < first
    for side, part in ((0, rows[inside]), (1, rows[~inside])):
        if len(part):
            kept[point, side] = keep_rows(kept.get((point, side)), part, rng, limit)


def _add(sums: dict[str, list[Tensor]], point: str, flat: Tensor) -> None:
    """Add count, sum and sum of squares, of rows shifted by the first one for accuracy."""
    if point not in sums:
        zero = torch.zeros(flat.shape[1], dtype=torch.float64)
        sums[point] = [flat[0].clone(), torch.zeros((), dtype=torch.float64), zero, zero.clone()]
    shift, count, total, squares = sums[point]
    moved = flat - shift
    count += len(flat)
    total += moved.sum(0)
    squares += (moved**2).sum(0)


def _clean(point: str, sums: dict[str, list[Tensor]], kept: dict[tuple[str, int], "Kept"]) -> Clean:
    if point not in sums:
        raise PointError(f"no activation of {point} was read at the edited calls and half")
    shift, count, total, squares = sums[point]
    mean = total / count
    unit = float((squares / count - mean**2).clamp_min(0).sum().sqrt())
    if unit == 0:
        raise InputError(f"all clean rows of {point} are equal: there is no scale for an edit")
    sides = [kept[point, side].rows if (point, side) in kept else () for side in (0, 1)]
    if min(map(len, sides)) < MIN_ROWS:
        raise InputError(
            f"{len(sides[0])} and {len(sides[1])} clean rows of {point} in the two halves of the "
            f"reference runs: {MIN_ROWS} or more of each are needed; give reference= more seeds"
        )
    first, second = map(torch.as_tensor, sides)
    return Clean(mean + shift, unit, first, second, int(count))


@dataclass(frozen=True, eq=False)
class Kept:
    """A uniform sample of the rows that have passed: those with the smallest random keys."""

    keys: np.ndarray
    """[r]."""
    rows: Float[Tensor, "r d"]
    """float64."""


def keep_rows(
    kept: Kept | None, rows: Tensor, rng: np.random.Generator, limit: int = MAX_ROWS
) -> Kept:
    """Add rows [..., d] to a sample of at most `limit`, each of all rows equally likely in it."""
    flat = rows.reshape(-1, rows.shape[-1])
    keys = rng.random(len(flat))
    if kept is not None:
        keys, flat = np.concatenate([kept.keys, keys]), torch.cat([kept.rows, flat])
    if len(keys) > limit:
        chosen = np.sort(np.argpartition(keys, limit)[:limit])
        keys, flat = keys[chosen], flat[torch.from_numpy(chosen)]
    return Kept(keys, flat)
