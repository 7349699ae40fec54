"""Training over several ranks, started by torchrun: `train` calls this where the layout asks.

    torchrun --nproc-per-node 4 -m interp train activations/0123 mid --out runs/mid --layout 2x2

Layouts: "each" (every rank trains SAEs of its own, without communication; see `share`), "latents"
(the latents are split; what "auto" means under torchrun), and "DxL" (batches split in D, latents in
L). Losses, gradients and counters are those of one process up to rounding; the run directory is the
same, and may be continued by any other number of ranks, or by one process. All ranks see one
file system. Ranks read: the first of each row of latents; the others get its rows from it.
"""

import hashlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import torch
from interp_kernels import using_backend
from torch import Tensor

from interp.errors import InterpError, SAEError
from interp.sae.base import SAE
from interp.sae.batches import Batches, check_batch
from interp.sae.checkpoint import CHECKPOINT, load_checkpoint, remove_checkpoints, restore_optimizer
from interp.sae.config import TrainConfig
from interp.sae.log import Log, read_log
from interp.sae.options import check_plain, options_of
from interp.sae.sharded import DeadLatents, ShardedTopK
from interp.sae.sharded_checkpoint import load_shards, newest_shards, part_of, save_shards
from interp.sae.sharded_mesh import Mesh, span_of, this_rank, world_size
from interp.sae.sharded_step import autograd_step, fused_step
from interp.sae.step import BETAS, Stack, open_stack
from interp.sae.topk import TopK

if TYPE_CHECKING:
    from interp.sae.train import Run

__all__ = ["share", "this_rank", "train_on", "world_size"]

Job = TypeVar("Job")
Result = TypeVar("Result")


def share(jobs: Sequence[Job], *, rank: int | None = None, world: int | None = None) -> list[Job]:
    """The jobs of one rank: every `world`-th, from its own number on.

    With `train(..., layout="each")` in a loop over them (or `train_many` with an `out` per rank),
    many points or seeds train at once, one SAE per rank, and no rank waits for another.

    Args:
        jobs: the same list on every rank.
        rank: default: this process's.
        world: default: the ranks of this job, 1 without torchrun.

    Raises:
        SAEError: some ranks would have nothing to do.
    """
    world = world_size() if world is None else world
    rank = this_rank() if rank is None else rank
    if len(jobs) < world:
        raise SAEError(
            f"{world} ranks share {len(jobs)} jobs: start at most {len(jobs)} "
            f"(torchrun --nproc-per-node {len(jobs)}), or split the latents (layout 'latents')"
        )
    return list(jobs[rank::world])


@dataclass
class _State:
    sae: ShardedTopK
    optimizer: torch.optim.Optimizer
    silent: Tensor
    """[p] int64, steps since each own latent fired."""
    sums: Tensor
    """[3] float64 on the device: own parts of fvu, aux and l0 since the last collection."""
    stack: Stack | None = None
    """The tables of the fused step; None: the step goes by autograd."""
    steps: int = 0
    """Steps since the last collection."""
    step: int = 0
    seconds: float = 0.0
    collected: dict[str, float] = field(default_factory=dict)
    """Sums over all ranks since the last log line."""


def train_on(
    mesh: Mesh,
    source: Any,
    config: TrainConfig,
    *,
    point: str | None,
    out: str | Path,
    rows: np.ndarray | None,
    resume: bool,
    progress: bool,
    backend: str,
) -> "Run":
    """`train` on a grid of ranks, called by each of them with the same arguments.

    Args:
        mesh: this process's place.
        source: see `train`, like the rest.
        config: the settings.
        point: of the store.
        out: the run directory, the same on every rank.
        rows: rows that may train.
        resume: go on from a checkpoint of any layout.
        progress: show a bar on rank 0.
        backend: of the kernels.

    Returns:
        The run, on every rank.

    Raises:
        SAEError: as `train`; also where the ranks' arguments differ, the variant cannot be split,
            or a rank stopped.
    """
    from interp.sae.train import Run, _choose_backend, _open_source

    out = Path(out)
    others = {"point": point, "out": out, "rows": rows, "resume": resume, "backend": backend}
    _check_same_arguments(mesh, source, config, **others)
    if config.variant != TopK.variant:
        raise SAEError(
            f"variant {config.variant!r} cannot be split over {mesh.world} ranks, 'topk' can: use "
            "layout='each' with one run per rank"
        )
    check_plain(options_of(config)[0])
    span_of(config.n_latents, mesh.layout.latents, mesh.latent_rank)
    reads = mesh.latent_rank == 0
    opened = _together(mesh, lambda: _open_source(source, config, point, rows) if reads else None)
    batches, provenance, units = opened or (None, {}, None)
    choice = out, backend, config, mesh.device.type, resume
    backend = mesh.everyone(_together(mesh, lambda: _choose_backend(*choice)))[0]
    if not _directory_is_finished(mesh, opened, config, out, resume, backend):
        state = _start(mesh, batches, config)
        if resume:
            _together(mesh, lambda: _restore(state, batches, out))
        with using_backend(backend):  # type: ignore[arg-type]
            _run(state, batches, config, out, progress)
        _together(mesh, lambda: _save(state, config, provenance, units, out))
    return Run(out, SAE.load(out / "sae"), read_log(out))


def _check_same_arguments(mesh: Mesh, source: Any, config: TrainConfig, **others: Any) -> None:
    """Refuse ranks that were started for different runs."""
    from interp.sae.directory import flatten

    rows = others.pop("rows")
    mine = flatten({"config": config.as_dict(), **others})
    mine["source"] = getattr(source, "hash", "batches")
    mine["rows"] = rows if rows is None else _sha256(np.ascontiguousarray(rows).tobytes())
    mine = {name: str(value) for name, value in mine.items()}
    digests = mesh.everyone(_sha256(repr(sorted(mine.items())).encode()))
    if len(set(digests)) == 1:
        return
    all_of_them = mesh.everyone(mine)
    first = all_of_them[0]
    differing = [
        f"{name} = {theirs.get(name)} on rank {rank}, {first.get(name)} on rank 0"
        for rank, theirs in enumerate(all_of_them)
        for name in sorted(first.keys() | theirs.keys())
        if theirs.get(name) != first.get(name)
    ]
    raise SAEError(
        f"the ranks were started with different arguments: {'; '.join(differing[:4])}; for one run "
        "per rank use layout='each'"
    )


def _sha256(payload: bytes) -> str:
    return hashlib.sha256(payload).hexdigest()


def _together(mesh: Mesh, work: Callable[[], Result]) -> Result:
    """Do work on every rank; an error of one becomes an error of all."""
    result = error = None
    try:
        result = work()
    except InterpError as caught:
        error = caught
    messages = mesh.everyone(None if error is None else str(error))
    if error is not None:
        raise error
    for rank, message in enumerate(messages):
        if message is not None:
            raise SAEError(f"rank {rank}: {message}")
    return result  # type: ignore[return-value]


def _directory_is_finished(
    mesh: Mesh,
    opened: Any,
    config: TrainConfig,
    out: Path,
    resume: bool,
    backend: str,
) -> bool:
    """Rank 0 writes or checks config.json; whether the run has already finished."""
    from interp.sae.directory import open_directory

    def look() -> bool:
        if mesh.rank > 0:
            return False
        batches, provenance, _ = opened
        provenance["recipe"] = config.as_dict()
        provenance["fingerprint"] = batches.fingerprint
        return open_directory(out, config, provenance, resume, backend) is not None

    return mesh.everyone(_together(mesh, look))[0]


def _start(mesh: Mesh, batches: Batches | None, config: TrainConfig) -> _State:
    moments = mesh.everyone(batches.statistics() if mesh.rank == 0 and batches else None)[0]
    # Every rank draws all initial weights, so that they do not depend on the layout.
    whole = TopK.build(len(moments.mean), config)
    whole.fit(moments.mean, moments.var)
    sae = ShardedTopK(whole, mesh)
    optimizer = torch.optim.Adam(sae.parameters(), lr=config.peak_lr, betas=BETAS, fused=True)
    silent = torch.zeros(len(sae.b_enc), dtype=torch.int64, device=mesh.device)
    return _State(sae, optimizer, silent, torch.zeros(3, dtype=torch.float64, device=mesh.device))


def _restore(state: _State, batches: Batches | None, out: Path) -> None:
    sae, mesh = state.sae, state.sae.mesh
    newest = newest_shards(out)
    name = None if newest is None else newest.name
    # One rank looks; a file system may show the others an older state.
    whole, name = mesh.everyone(((out / CHECKPOINT).exists(), name))[0]
    if whole:
        saved = load_checkpoint(out)
        assert saved is not None
        names = [name for name, _ in sae.named_parameters()]
        saved["optimizer"] = dict(zip(names, saved["optimizer"], strict=True))
        saved = part_of(saved, *sae.span)
    elif name is not None:
        saved = load_shards(out / name, mesh)
    else:
        return
    sae.load_state_dict(saved["sae"])
    restore_optimizer(state.optimizer, list(saved["optimizer"].values()))
    state.silent = saved["silent"].to(mesh.device)
    state.step, state.seconds, state.collected = saved["step"], saved["seconds"], saved["sums"]
    if batches is not None:
        batches.load_state_dict(saved["batches"])


def _snapshot(state: _State, batches: Batches | None) -> dict[str, Any]:
    moments = {
        name: dict(state.optimizer.state[parameter])
        for name, parameter in state.sae.named_parameters()
    }
    return {
        "sae": state.sae.state_dict(),
        "optimizer": moments,
        "silent": state.silent,
        "step": state.step,
        "seconds": state.seconds,
        "sums": state.collected,
        "batches": batches.state_dict() if batches else None,
    }


def _run(
    state: _State, batches: Batches | None, config: TrainConfig, out: Path, progress: bool
) -> None:
    from tqdm import tqdm

    mesh = state.sae.mesh
    log = Log(out, state.step) if mesh.rank == 0 else None
    dead = DeadLatents(mesh, config.window, state.silent)
    if mesh.layout.data == 1:
        state.stack = open_stack([state.sae], [state.optimizer], [state.silent])  # type: ignore[list-item]
    began = time.perf_counter() - state.seconds
    quiet = None if progress and mesh.rank == 0 else True
    with tqdm(total=config.steps, initial=state.step, desc="train", disable=quiet) as bar:
        while state.step < config.steps:
            x, rows = _take(state, batches)
            _step(state, x, rows, dead, config)
            state.seconds = time.perf_counter() - began
            bar.update()
            line = _log_line(state, config)
            if line is not None and log is not None:
                log.write(line)
                bar.set_postfix(fvu=line["fvu"], dead=line["dead"])
            if _saves(state, config):
                save_shards(out, _snapshot(state, batches), mesh, state.sae.n_latents)


def _saves(state: _State, config: TrainConfig) -> bool:
    return config.checkpoint_every > 0 and state.step % config.checkpoint_every == 0


def _take(state: _State, batches: Batches | None) -> tuple[Tensor, int]:
    """This rank's rows of the step's batch, and the number of rows of the whole batch."""
    sae, mesh = state.sae, state.sae.mesh
    error = own = None
    header = torch.zeros(2, dtype=torch.int64)
    if batches is not None:
        try:
            own, header = _draw(state, batches)
        except InterpError as caught:
            error = caught
    # A step without rows tells the others that the reading rank has stopped.
    mesh.broadcast_(header)
    if error is not None:
        raise error
    n, rows = header.tolist()
    if not rows:
        raise SAEError(
            f"rank {mesh.rank - mesh.latent_rank} could not read the batch of step {state.step}: "
            "see its message"
        )
    if own is None:
        own = torch.empty(n, sae.d_in, device=mesh.device)
    return mesh.broadcast_(own), rows


def _draw(state: _State, batches: Batches) -> tuple[Tensor, Tensor]:
    """A part of the next batch, and the numbers of rows of part and batch."""
    mesh = state.sae.mesh
    batch = batches.take(state.step)
    check_batch(batch, state.sae.d_in, state.step)
    parts = mesh.layout.data
    if len(batch.x) < parts:
        raise SAEError(
            f"the batch of step {state.step} has {len(batch.x)} rows for {parts} data ranks: use "
            "larger batches or fewer of them"
        )
    own = batch.x.tensor_split(parts)[mesh.data_rank]
    own = own.to(mesh.device, torch.float32).contiguous()
    return own, torch.tensor([len(own), len(batch.x)])


def _step(state: _State, x: Tensor, rows: int, dead: DeadLatents, config: TrainConfig) -> None:
    rates = config.lr_at(state.step), config.aux_coefficient
    if state.stack is not None:
        terms = fused_step(state.sae, state.stack, x, dead.pop(), rates)
    else:
        given = state.sae, state.optimizer, state.silent, x, rows
        terms = autograd_step(*given, dead.pop(), rates)
    dead.push(state.silent)
    state.sums += terms
    state.step += 1
    state.steps += 1


def _collect(state: _State) -> None:
    """Add up what the ranks have summed by themselves."""
    mesh = state.sae.mesh
    sums = state.sums.clone()
    # The losses are the same along a row of latents.
    sums[:2] *= mesh.latent_rank == 0
    values = (float(state.steps), *mesh.sum_(mesh.sum_(sums, "latents"), "data").tolist())
    for name, value in zip(("steps", "fvu", "aux", "l0"), values, strict=True):
        state.collected[name] = state.collected.get(name, 0.0) + value
    state.sums.zero_()
    state.steps = 0


def _log_line(state: _State, config: TrainConfig) -> dict[str, Any] | None:
    """The line of the steps since the last one, where one is due; every rank has to ask."""
    due = state.step % config.log_every == 0 or state.step == config.steps
    if due or _saves(state, config):
        _collect(state)
    return _summary(state, config) if due else None


def _summary(state: _State, config: TrainConfig) -> dict[str, Any]:
    """The log line of the steps since the last one; empties the sums."""
    sae = state.sae
    count = state.collected["steps"]
    terms = ("fvu", "aux", "l0", "penalty")
    means = {name: round(state.collected.get(name, 0.0) / count, 6) for name in terms}
    state.collected = {}
    dead = sae.mesh.sum_((state.silent >= config.window).sum(), "latents")
    return {
        "step": state.step,
        **means,
        "dead": round(float(dead) / sae.n_latents, 6),
        "lr": config.lr_at(state.step - 1),
        "seconds": round(state.seconds, 3),
    }


def _save(
    state: _State, config: TrainConfig, provenance: dict[str, Any], units: Any, out: Path
) -> None:
    """Rank 0 writes the whole SAE, as one process would."""
    whole = state.sae.whole_state()
    if state.sae.mesh.rank > 0:
        return
    sae = TopK.build(state.sae.d_in, config)
    sae.load_state_dict(whole)
    sae.provenance, sae.trained_units = provenance, units
    sae.save(out / "sae")
    remove_checkpoints(out)
