"""THE training loop: store or batches in, run directory with an SAE out."""

import hashlib
import json
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from interp_kernels import KernelError, resolve, using_backend
from torch import Tensor

from interp.errors import SAEError
from interp.sae.base import SAE
from interp.sae.batches import Batch, Batches, IterableBatches, StoreBatches, check_batch
from interp.sae.checkpoint import (
    load_checkpoint,
    optimizer_state,
    remove_checkpoints,
    restore_optimizer,
    save_checkpoint,
)
from interp.sae.config import TrainConfig
from interp.sae.directory import open_directory
from interp.sae.distributed import train_on
from interp.sae.initial import start_from, untie
from interp.sae.joined import Joined
from interp.sae.joined_batches import open_joined
from interp.sae.log import Log, read_log
from interp.sae.options import Common, options_of
from interp.sae.resample import is_due, resample_, starts_of
from interp.sae.sharded_mesh import open_mesh
from interp.sae.split import training_generations, units_of
from interp.sae.step import BETAS, Stack, autograd_step, can_fuse, fused_step, open_stack
from interp.sae.trackers import Tracker, following
from interp.store import ActivationStore
from interp.store.coords import row_ids

# What a log line reports of the losses, in the order of the step's numbers.
TERMS = ("fvu", "aux", "l0", "penalty")


@dataclass(frozen=True)
class Run:
    """A finished training run."""

    path: Path
    """The run directory: config.json, log.jsonl, sae/."""
    sae: SAE
    """The trained SAE."""
    log: list[dict[str, Any]]
    """The lines of log.jsonl: step, fvu, aux, l0, penalty, dead, lr, seconds."""


@dataclass
class _State:
    sae: SAE
    optimizer: torch.optim.Optimizer
    silent: Tensor
    """[m] int64, steps since each latent fired."""
    backend: str
    """Of the kernels, resolved."""
    common: Common
    """Options that every variant takes."""
    starts: dict[str, Tensor]
    """Fresh values of parameters [m], for resampling; empty without it."""
    stack: Stack | None = None
    """The tables of the fused step; None: the step goes by autograd."""
    step: int = 0
    seconds: float = 0.0
    sums: Tensor = field(default_factory=lambda: torch.zeros(4, dtype=torch.float64))
    """[4] sums of TERMS since the last log line, on the device."""
    steps: int = 0
    """Steps since the last log line."""


def train(
    source: ActivationStore | Joined | Iterable[Tensor] | Iterable[Batch],
    config: TrainConfig,
    *,
    point: str | None = None,
    out: str | Path,
    rows: np.ndarray | None = None,
    resume: bool = True,
    progress: bool = True,
    device: str = "cpu",
    layout: str = "auto",
    backend: str = "auto",
    trackers: Sequence[Tracker] = (),
) -> Run:
    """Train a sparse autoencoder; a rerun continues a killed run to the last bit on a CPU.

    loss = reconstruction + penalty + aux_coefficient * aux, Adam with betas (0.9, 0.99), learning
    rate `config.lr_at(step)`. Centering and scale come from the store's statistics (of all its
    rows) or from the first batches.

    Args:
        source: an activation store; several points of stores (`interp.sae.join`), for transcoders
            and crosscoders; or an iterable of [b, d] batches, or of `Batch`es, that gives the same
            ones each time it is iterated (a generator works but cannot be resumed).
        config: the settings.
        point: name of the store's hook point; needed for a store, refused for an iterable.
        out: the run directory.
        rows: bool mask or row ids that may train; the default holds out whole clusters, see
            `TrainConfig.held_out`.
        resume: go on from `out`'s checkpoint, or return its finished SAE; False starts again.
        progress: show a progress bar where stderr is a terminal.
        device: of the arithmetic; the SAE that comes back is on the CPU.
        layout: how the ranks of a torchrun job share the work, see `interp.sae.distributed`; "auto"
            splits the latents where there are several.
        backend: of the kernels: "dense", "eager", "triton", or "auto", which chooses by device and
            n_latents / k, or keeps what a resumed run has used.
        trackers: called with the settings and each line of the log, see `interp.sae.trackers`;
            for runs of one process.

    Returns:
        The run.

    Raises:
        SAEError: the config, the source or the directory's content do not fit; NaN in a batch (the
            error names step and rows, and the last checkpoint stays).
        PointError: the store has no such point.
    """
    options_of(config)
    mesh = open_mesh(layout, device)
    if mesh is not None:
        if trackers:
            raise SAEError("trackers follow runs of one process; several ranks write log.jsonl")
        how = {"resume": resume, "progress": progress, "backend": backend}
        return train_on(mesh, source, config, point=point, out=out, rows=rows, **how)
    out = Path(out)
    batches, provenance, units = _open_source(source, config, point, rows)
    provenance["recipe"] = config.as_dict()
    provenance["fingerprint"] = batches.fingerprint
    backend = _choose_backend(out, backend, config, device, resume)
    finished = open_directory(out, config, provenance, resume, backend)
    if finished is not None:
        return Run(out, finished, read_log(out))
    state = _start(batches, config, device, backend)
    state.sae.provenance, state.sae.trained_units = provenance, units
    saved = load_checkpoint(out) if resume else None
    if saved is not None:
        _restore(state, saved)
        batches.load_state_dict(saved["batches"])
    with following(Log(out, state.step), trackers, config.as_dict(), state.step) as log:
        _run(state, batches, config, log, out, progress)
    state.sae.cpu().save(out / "sae")
    remove_checkpoints(out)
    return Run(out, state.sae, read_log(out))


def _open_source(
    source: ActivationStore | Joined | Iterable[Tensor] | Iterable[Batch],
    config: TrainConfig,
    point: str | None,
    rows: np.ndarray | None,
) -> tuple[Batches, dict[str, Any], Tensor]:
    if isinstance(source, Joined):
        return open_joined(source, config, point, rows)
    if isinstance(source, str | Path):
        raise SAEError(f"{str(source)!r} is a path: train(interp.open_store(path), ...)")
    if not isinstance(source, ActivationStore):
        if point is not None or rows is not None:
            raise SAEError(
                "point and rows select rows of a store, but the source is an iterable of batches"
            )
        return IterableBatches(source), {}, torch.zeros(0, dtype=torch.int64)
    if point is None:
        raise SAEError(f"name a point of the store: {', '.join(list(source.points)[:8])} ...")
    mask, chosen = _training_rows(source, point, config, rows)
    provenance = {
        "point": source.points[point].as_dict(),
        "model": source.model,
        "store": source.hash,
        "split": {
            "rows": int(mask.sum()),
            "rows_held_out": int((~mask).sum()),
            "generations": int(chosen.sum()),
            # Far above 10 an SAE learns its rows by heart: compare the log's fvu with evaluate's.
            "epochs": round(config.steps * config.batch_size / int(mask.sum()), 3),
            "rows_sha256": hashlib.sha256(np.packbits(mask).tobytes()).hexdigest(),
        },
    }
    batches = StoreBatches.open(source, point, config, mask)
    return batches, provenance, units_of(source.generations, chosen)


def _training_rows(
    source: ActivationStore, point: str, config: TrainConfig, rows: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray]:
    """Masks of the rows [n] and of the generations [g] that train."""
    generation = source.coords(point, columns=["generation"])["generation"]
    place = np.searchsorted(source.generations["generation"], generation)
    if rows is None:
        chosen = training_generations(source.generations, config.held_out, config.seed)
        mask = chosen[place]
    else:
        mask = np.zeros(len(generation), dtype=bool)
        mask[row_ids(rows, len(generation), point)] = True
        chosen = np.zeros(len(source.generations["image_id"]), dtype=bool)
        chosen[place[mask]] = True
    if not mask.any():
        raise SAEError(
            f"none of the {len(mask)} rows of {point} may train: check rows= and held_out"
        )
    return mask, chosen


def _choose_backend(out: Path, backend: str, config: TrainConfig, device: str, resume: bool) -> str:
    """The backend asked for, else the one that the directory's run has used, else the best."""
    try:
        place = torch.empty(0, device=device).device
    except (RuntimeError, AssertionError) as error:
        why = str(error).splitlines()[0]
        raise SAEError(f"device = {device!r} cannot be used here: {why}; take cpu") from error
    if backend == "auto" and resume:
        try:
            found = json.loads((out / "config.json").read_text(encoding="utf-8"))
            backend = str(found.get("backend", backend))
        except (OSError, ValueError, AttributeError):
            # Absent or damaged: `open_directory` says so.
            pass
    try:
        return resolve(
            backend, device=place, n_latents=config.n_latents, k=config.k, dtype=torch.float32
        )
    except KernelError as error:
        raise SAEError(f"{error} (the run {out} has recorded its backend)") from error


def _start(batches: Batches, config: TrainConfig, device: str, backend: str) -> _State:
    from interp.sae import VARIANTS

    common, _ = options_of(config)
    statistics = batches.statistics()
    sae = VARIANTS[config.variant].build(len(statistics.mean), batches.complete(config))
    sae.fit(*statistics)
    if sae.n_sample:
        sae.take_sample(batches.sample(sae.n_sample))
    if not common.tied:
        untie(sae, config.seed)
    starts = starts_of(sae) if common.dead == "resample" else {}
    sae.to(device)
    # One fused kernel over all parameters: 7 instead of 24 ms at 512 x 8192.
    optimizer = torch.optim.Adam(sae.parameters(), lr=config.peak_lr, betas=BETAS, fused=True)
    silent = torch.zeros(config.n_latents, dtype=torch.int64, device=device)
    state = _State(sae, optimizer, silent, backend, common, starts)
    state.sums = state.sums.to(device)
    return state


def _restore(state: _State, saved: dict[str, Any]) -> None:
    state.sae.load_state_dict(saved["sae"])
    restore_optimizer(state.optimizer, saved["optimizer"])
    state.silent = saved["silent"].to(state.silent.device)
    state.step, state.seconds = saved["step"], saved["seconds"]
    sums = saved["sums"]
    state.steps = int(sums.get("steps", 0))
    state.sums.copy_(torch.tensor([sums.get(name, 0.0) for name in TERMS], dtype=torch.float64))


def _run(
    state: _State, batches: Batches, config: TrainConfig, log: Log, out: Path, progress: bool
) -> None:
    from tqdm import tqdm

    if can_fuse(state.sae, state.common):
        state.stack = open_stack([state.sae], [state.optimizer], [state.silent])  # type: ignore[list-item]
    began = time.perf_counter() - state.seconds
    # disable=None: silent where stderr is not a terminal.
    bar = tqdm(
        total=config.steps, initial=state.step, desc="train", disable=None if progress else True
    )
    with bar:
        while state.step < config.steps:
            batch = batches.take(state.step)
            check_batch(batch, state.sae.d_in, state.step)
            _step(state, batch, config)
            state.seconds = time.perf_counter() - began
            bar.update()
            if state.step % config.log_every == 0 or state.step == config.steps:
                line = _summary(state, config)
                log.write(line)
                bar.set_postfix(fvu=line["fvu"], dead=line["dead"])
            if config.checkpoint_every and state.step % config.checkpoint_every == 0:
                save_checkpoint(out, _snapshot(state, batches))


def _step(state: _State, batch: Batch, config: TrainConfig) -> None:
    batch = _moved(batch, state.silent.device)
    with using_backend(state.backend):  # type: ignore[arg-type]
        if state.stack is not None:
            if state.step == 0:
                start_from(state.sae, batch.x, state.common)
            terms = fused_step(state.stack, [batch.x], config, state.step)
        else:
            terms = _slow_step(state, batch, config)
    state.sums += terms[0]
    state.steps += 1
    state.step += 1


def _moved(batch: Batch, device: torch.device) -> Batch:
    x, groups, target = (
        None if column is None else column.to(device, non_blocking=True)
        for column in (batch.x, batch.groups, batch.target)
    )
    assert x is not None
    return Batch(x, batch.row_ids, groups, target)


def _slow_step(state: _State, batch: Batch, config: TrainConfig) -> Tensor:
    """A step by autograd, with what stands before the first and after some."""
    sae, common = state.sae, state.common
    if state.step == 0:
        start_from(sae, batch.x, common)
    given = sae, state.optimizer, state.silent, batch, config, state.step
    terms = autograd_step(*given, common=common)
    if is_due(config, common, state.step):
        dead = state.silent >= config.window
        # The draw is a function of seed and step, so that a resumed run repeats it.
        seed = (config.seed * 1_000_003 + state.step) % 2**63
        state.silent[resample_(sae, state.optimizer, dead, batch.x, state.starts, seed)] = 0
    return terms


def _summary(state: _State, config: TrainConfig) -> dict[str, Any]:
    """The log line of the steps since the last one; empties the sums."""
    means = [round(total / state.steps, 6) for total in state.sums.tolist()]
    state.sums.zero_()
    state.steps = 0
    return {
        "step": state.step,
        **dict(zip(TERMS, means, strict=True)),
        "dead": round(float((state.silent >= config.window).double().mean()), 6),
        "lr": config.lr_at(state.step - 1),
        "seconds": round(state.seconds, 3),
    }


def _snapshot(state: _State, batches: Batches) -> dict[str, Any]:
    return {
        "sae": state.sae.state_dict(),
        "optimizer": optimizer_state(state.optimizer),
        "silent": state.silent,
        "step": state.step,
        "seconds": state.seconds,
        "sums": {"steps": float(state.steps), **dict(zip(TERMS, state.sums.tolist(), strict=True))},
        "batches": batches.state_dict(),
    }
