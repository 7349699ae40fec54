"""`capture` writes a store, `stream` yields the same rows without a disk."""

import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from interp.errors import InputError, StoreError
from interp.harvest.plan import check_disk, estimate_job, make_job, make_manifest
from interp.harvest.run import Job, Piece, batches
from interp.models.inputs import Encoding, Generation, Rows
from interp.models.model import Model
from interp.store.coords import coordinate_columns, grid_axes
from interp.store.manage import complete_table, store_folder
from interp.store.manifest import Manifest
from interp.store.pipeline import Pipeline
from interp.store.staging import clean_store, start_store
from interp.store.store import ActivationStore, open_store
from interp.store.verify import sound_shards
from interp.store.writer import ShardWriter

if TYPE_CHECKING:
    from interp.zoo import Images


def capture(
    model: Model,
    points: str | Sequence[str],
    recipe: Generation | Encoding,
    *,
    out: str | os.PathLike,
    rows: Rows = Rows(),  # noqa: B008  (a frozen value)
    images: "Images | None" = None,
    shard_size: int = 0,
    shards: Sequence[int] | None = None,
    rank: int = 0,
    world: int = 1,
    resume: bool = True,
    progress: bool = True,
) -> ActivationStore:
    """Read activations into a store under `out`, with the image of every generation beside them.

    The store's folder is named by the hash of model, points, recipe, rows and shard size. A shard
    is a function of its number alone: any launcher may split the shards among processes, and a
    killed capture continues when it is run again.

    Args:
        model: the model.
        points: names, patterns ("up_blocks.*"; those with ":" match deltas too), or "all": every
            block output and entry.
        recipe: `Generation` makes images; `Encoding` looks at images, at several noise levels for
            diffusion models.
        out: folder of stores.
        rows: which rows of each map are kept, and their dtype.
        images: images in place of those that an `Encoding` names.
        shard_size: generations per shard; 0 chooses about 256 MB per file.
        shards: the shards to write; None for all.
        rank, world: write every `world`-th of them, from `rank` on.
        resume: keep finished shards; False refuses a folder that has some.
        progress: show a bar on a terminal.

    Returns:
        the store, open; with `shards` or `world` it may be unfinished.

    Raises:
        PointError: a point does not exist or never fired.
        InputError: NaN or inf activations, a dtype or recipe that does not fit.
        StoreError: the disk cannot hold it or ran full, or another process writes the same shard.
    """
    job = make_job(model, points, recipe, rows, images)
    plan = estimate_job(job, shard_size)
    manifest = make_manifest(job, plan.shard_size)
    path = store_folder(out, manifest)
    wanted = _wanted(manifest, shards, rank, world)
    done = sound_shards(path, manifest)
    if done and not resume:
        raise StoreError(
            f"{path} already has {len(done)} of {manifest.n_shards} shards; resume=True keeps "
            "them, `interp store rm` removes them"
        )
    missing = [shard for shard in wanted if shard not in done]
    check_disk(Path(out), plan, len(missing) / manifest.n_shards)
    start_store(path, manifest)
    _write_shards(job, path, manifest, missing, f"{plan}" if progress else "")
    clean_store(path, manifest)
    return open_store(path, partial=len(wanted) < manifest.n_shards)


def _wanted(manifest: Manifest, shards: Sequence[int] | None, rank: int, world: int) -> list[int]:
    n = manifest.n_shards
    if not 0 <= rank < world:
        raise InputError(f"rank {rank} of {world}: a rank from 0 to {world - 1} is needed")
    if world > n:
        raise InputError(
            f"{n} shards for {world} processes: some would idle; give a shard_size of at most "
            f"{max(1, manifest.n_generations // world)} generations"
        )
    chosen = list(range(n)) if shards is None else sorted(set(shards))
    if chosen and not 0 <= chosen[0] <= chosen[-1] < n:
        raise InputError(f"shards {chosen[0]} to {chosen[-1]} of a store with {n}")
    return chosen[rank::world]


def _write_shards(
    job: Job, path: Path, manifest: Manifest, shards: Sequence[int], title: str
) -> None:
    from tqdm import tqdm

    total = sum(stop - start for start, stop in map(manifest.span, shards))
    environment = _environment(job.model)
    with ExitStack() as stack:
        # None: silent where there is no terminal.
        bar = stack.enter_context(
            tqdm(total=total, desc=title, unit="image", disable=None if title else True)
        )
        # Closing comes after the pipeline has stopped: exits run in reverse order.
        writers = stack.enter_context(ExitStack())
        pipeline = stack.enter_context(Pipeline())
        for shard in shards:
            writer = ShardWriter(path, manifest, shard)
            writers.callback(writer.close)
            pipeline.submit(writer.open)
            parts = []
            for generations in batches(*manifest.span(shard), job.recipe.batch_size):
                parts.append(_write_batch(job, generations, writer, pipeline))
                bar.update(len(generations))
            pipeline.submit(_finish(job, manifest, writer, parts, environment))


def _write_batch(
    job: Job, generations: np.ndarray, writer: ShardWriter, pipeline: Pipeline
) -> Tensor | None:
    def take(piece: Piece) -> None:
        name, x, segment, grid = piece
        pipeline.submit(lambda: writer.append(name, x, segment, grid), x.nbytes)

    try:
        images = job.pieces(generations, take)
    except InputError:
        # A point that holds NaN says more than an image that holds NaN: its error comes first.
        pipeline.drain()
        raise
    return None if images is None else images.cpu()


def _finish(
    job: Job,
    manifest: Manifest,
    writer: ShardWriter,
    parts: list[Tensor | None],
    environment: dict[str, Any],
) -> Any:
    start, stop = manifest.span(writer.shard)
    columns = job.table(np.arange(start, stop))
    table = complete_table(
        {name: values for name, values in columns.items() if name != "generation"},
        stop - start,
        start,
    )
    kept = [part for part in parts if part is not None]
    images = torch.cat(kept) if len(kept) == len(parts) else None

    def finish() -> None:
        writer.finish(table, images, environment)
        writer.close()

    return finish


def _environment(model: Model) -> dict[str, Any]:
    """Return what may change the last bits of a row; no times: a rerun gives the same bytes."""
    import platform
    from importlib import metadata

    names = ("torch", "numpy", "diffusers", "transformers", "safetensors", "pyarrow")
    return {
        "device": str(model.device),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "machine": platform.machine(),
        "versions": {name: metadata.version(name) for name in names},
    }


def stream(
    model: Model,
    points: str | Sequence[str],
    recipe: Generation | Encoding,
    *,
    rows: Rows = Rows(),  # noqa: B008  (a frozen value)
    images: "Images | None" = None,
) -> Iterator[dict[str, Any]]:
    """Yield what `capture` would store, one batch of generations at a time, without a disk.

    Args:
        model, points, recipe, rows, images: as in `capture`.

    Yields:
        `rows` and `coords` (per point: rows [n, d] and their coordinate columns), `generations`
        (columns of the generations table) and `images` (uint8 [b, h, w, 3] or None).
    """
    job = make_job(model, points, recipe, rows, images)
    return _stream(job)


def _stream(job: Job) -> Iterator[dict[str, Any]]:
    for generations in batches(0, job.n_generations, job.recipe.batch_size):
        pieces: list[Piece] = []
        made = job.pieces(generations, pieces.append)
        found = {name: [p for p in pieces if p.point == name] for name in job.points}
        columns = job.table(generations)
        del columns["generation"]
        yield {
            "rows": {name: torch.cat([p.x for p in own]) for name, own in found.items()},
            "coords": {name: _coords(job, name, own) for name, own in found.items()},
            "generations": complete_table(columns, len(generations), int(generations[0])),
            "images": made,
        }


def _coords(job: Job, name: str, pieces: Sequence[Piece]) -> dict[str, np.ndarray]:
    grid = pieces[0].grid
    axes = grid_axes(job.model.points[name].layout, grid)
    return coordinate_columns([piece.segment for piece in pieces], grid, axes)
