"""What a capture will hold: points by name or pattern, rows and bytes, shards, the manifest."""

import dataclasses
import math
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from interp.errors import InputError, StoreError
from interp.harvest.inputs import check_encoding, find_inputs, takes_noise
from interp.harvest.run import DTYPES, Job, first_call
from interp.models.inputs import Encoding, Generation, Rows
from interp.models.model import Model
from interp.models.reading import Read
from interp.store.manifest import Manifest

if TYPE_CHECKING:
    from interp.zoo import Images

# Large enough for sequential reads, small enough to lose little to a crash.
SHARD_BYTES = 256 << 20


class PointEstimate(NamedTuple):
    """Rows of one point, what they take, and how they come about."""

    rows: int
    bytes: int
    calls: int
    halves: int
    positions: int
    rate: float


@dataclass(frozen=True)
class Estimate:
    """What a capture will hold; `bytes` counts rows and images, provenance adds 1-3 %."""

    rows: int
    bytes: int
    per_point: dict[str, PointEstimate]
    n_generations: int
    shard_size: int
    image_bytes: int

    @property
    def n_shards(self) -> int:
        """Number of shards."""
        return -(-self.n_generations // self.shard_size)

    def __str__(self) -> str:
        return (
            f"{self.n_generations} generations, {self.rows:,} rows at "
            f"{len(self.per_point)} points, {self.bytes / 1e9:.3f} GB in {self.n_shards} shards"
        )


def make_job(
    model: Model,
    points: str | Sequence[str],
    recipe: Generation | Encoding,
    rows: Rows,
    images: "Images | None",
) -> Job:
    """Check what was asked for, and gather it."""
    if not isinstance(model, Model):
        raise InputError(f"{model!r} is no model: interp.load('zoo:ddpm') makes one of a name")
    patterns = [points] if isinstance(points, str) else list(points)
    if not patterns:
        raise InputError(f"no points given; {model.name} has {len(model.points)}")
    model.require("generate" if isinstance(recipe, Generation) else "encode")
    names = model.select(patterns, "generate" if isinstance(recipe, Generation) else "encode")
    if isinstance(recipe, Generation):
        if images is not None:
            raise InputError("images go with an Encoding; a Generation makes its own")
        return Job(model, names, recipe, rows, None)
    check_encoding(recipe, model)
    return Job(model, names, recipe, rows, find_inputs(recipe, images, model))


def estimate(
    model: Model,
    points: str | Sequence[str],
    recipe: Generation | Encoding,
    *,
    rows: Rows = Rows(),  # noqa: B008  (a frozen value)
    images: "Images | None" = None,
    shard_size: int = 0,
) -> Estimate:
    """Return how many rows and bytes a capture will hold; runs one call on one generation.

    Args:
        model: the model.
        points: names, patterns or "all", see `capture`.
        recipe: what is made or encoded.
        rows: which rows are kept.
        images: images in place of those that an `Encoding` names.
        shard_size: generations per shard; 0 chooses about 256 MB per file.

    Raises:
        PointError, InputError: as `capture`.
    """
    return estimate_job(make_job(model, points, recipe, rows, images), shard_size)


def estimate_job(job: Job, shard_size: int = 0) -> Estimate:
    """Return how many rows and bytes a job will hold."""
    calls = _calls(job)
    per_point: dict[str, PointEstimate] = {}
    # A module that runs twice in one call gives two reads.
    for read in first_call(job):
        before = per_point.get(read.point)
        one = _point_estimate(job, read, calls)
        if before is not None:
            rows, size = before.rows + one.rows, before.bytes + one.bytes
            one = one._replace(rows=rows, bytes=size, calls=before.calls + one.calls)
        per_point[read.point] = one
    n = job.n_generations
    image_bytes = n * _image_bytes(job)
    per_generation = max(item.bytes for item in per_point.values()) // n
    return Estimate(
        rows=sum(item.rows for item in per_point.values()),
        bytes=sum(item.bytes for item in per_point.values()) + image_bytes,
        per_point={name: per_point[name] for name in job.points if name in per_point},
        n_generations=n,
        shard_size=shard_size or _shard_size(n, per_generation, job.recipe.batch_size),
        image_bytes=image_bytes,
    )


def _point_estimate(job: Job, read: Read, calls: int) -> PointEstimate:
    point = job.model.points[read.point]
    total = math.prod(read.grid)
    positions = job.rows.positions
    kept = total if positions == "all" else 1 if positions == "mean" else min(int(positions), total)
    halves = len(list(job.halves(read, 1)))
    first_only = job.model.sites[read.point].calls == "first"
    rows = job.n_generations * (1 if first_only else calls) * halves * kept
    dtype = DTYPES.get(job.rows.dtype, read.value.dtype)
    return PointEstimate(
        rows=rows,
        bytes=rows * point.width * dtype.itemsize,
        calls=1 if first_only else calls,
        halves=halves,
        positions=kept,
        rate=1.0 if positions == "mean" else kept / total,
    )


def _calls(job: Job) -> int:
    """Return how often the network runs per generation."""
    if isinstance(job.recipe, Encoding):
        return len(job.recipe.levels) if takes_noise(job.model) else 1
    host = getattr(job.model, "host", None)
    if host is None:
        return 1
    from interp.models.noise import make_scheduler

    # PNDM and Heun run the network more often than there are steps.
    scheduler = make_scheduler(job.recipe.scheduler, host.scheduler)
    scheduler.set_timesteps(job.recipe.steps)
    return len(scheduler.timesteps)


def _image_bytes(job: Job) -> int:
    if job.inputs is not None:
        return math.prod(job.inputs.pixels.shape[1:])
    assert isinstance(job.recipe, Generation)
    native = job.model.image_size
    return 3 * (job.recipe.height or native[0]) * (job.recipe.width or native[1])


def _shard_size(n: int, per_generation: int, batch_size: int) -> int:
    size = max(1, SHARD_BYTES // max(1, per_generation))
    if size > batch_size:
        size -= size % batch_size
    return min(n, size)


def make_manifest(job: Job, shard_size: int) -> Manifest:
    """Return the manifest of a capture."""
    identity = {key: value for key, value in job.identity.items() if key != "device"}
    kind = "generation" if isinstance(job.recipe, Generation) else "encoding"
    recipe: dict[str, Any] = {"kind": kind, **_plain(job.recipe)}
    if job.inputs is not None:
        # Never a path: a store does not know machines, and the digest says which images these are.
        recipe["images"] = job.inputs.name
    return Manifest(
        points=tuple(job.model.points[name] for name in job.points),
        model=identity,
        recipe=recipe,
        rows=_plain(job.rows),
        images=None if job.inputs is None else job.inputs.digest,
        n_generations=job.n_generations,
        shard_size=shard_size,
    )


def _plain(recipe: Any) -> dict[str, Any]:
    values = dataclasses.asdict(recipe)
    return {k: list(v) if isinstance(v, tuple) else v for k, v in values.items()}


def check_disk(out: Path, plan: Estimate, share: float) -> None:
    """Refuse a capture that the disk cannot hold.

    Args:
        out: where it goes; need not exist yet.
        plan: the estimate.
        share: part of the shards that is still to be written.

    Raises:
        StoreError: too little room.
    """
    place = out.absolute()
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free
    # 3 %: provenance, entries, and the blocks of a file system.
    needed = int(plan.bytes * share * 1.03)
    if needed <= free:
        return
    largest = max(plan.per_point, key=lambda name: plan.per_point[name].bytes)
    raise StoreError(
        f"the capture needs {needed / 1e9:.2f} GB ({plan}), {place} has {free / 1e9:.2f} GB free: "
        f"keep fewer positions (Rows(positions=16)), fewer points ({largest} takes "
        f"{plan.per_point[largest].bytes / 1e9:.2f} GB), or choose another folder"
    )
