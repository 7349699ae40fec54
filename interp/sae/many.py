"""Several small autoencoders over one pass of the data, those of one shape as one stack."""

import dataclasses
import json
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from interp_kernels import using_backend
from torch import Tensor

from interp.errors import SAEError
from interp.sae.batches import Batch, Batches, check_batch, joins_of
from interp.sae.checkpoint import load_checkpoint, remove_checkpoints, save_checkpoint
from interp.sae.config import TrainConfig
from interp.sae.directory import open_directory
from interp.sae.initial import start_from
from interp.sae.log import Log, read_log
from interp.sae.options import budget_of, options_of
from interp.sae.step import Stack, can_fuse, fused_step, open_stack
from interp.sae.train import (
    Run,
    _choose_backend,
    _moved,
    _open_source,
    _restore,
    _slow_step,
    _snapshot,
    _start,
    _State,
    _summary,
)
from interp.store import ActivationStore

# What members of one stack may differ in: none of it enters the arithmetic of a step.
_OWN = {"seed": 0, "held_out": 0.0, "log_every": 1}


class Job(NamedTuple):
    """One autoencoder to train."""

    config: TrainConfig
    """Its settings."""
    point: str | None = None
    """Hook point of the store; None for an iterable of batches."""
    rows: np.ndarray | None = None
    """Rows that may train, as in `train`: one timestep, one prompt ..."""


@dataclass
class _Reading:
    """A stream of batches that one job or several read."""

    batches: Batches
    provenance: dict[str, Any]
    units: Tensor


@dataclass
class _Training:
    name: str
    job: Job
    reading: _Reading
    state: _State
    log: Log = field(init=False)


@dataclass
class _Group:
    """Jobs that take their steps together."""

    members: list[_Training]
    stack: Stack | None = None
    backend: str = field(default="eager")


def train_many(
    source: ActivationStore | Iterable[Tensor],
    jobs: Mapping[str, Job],
    *,
    out: str | Path,
    order_seed: int | None = None,
    resume: bool = True,
    progress: bool = True,
    device: str = "cpu",
    backend: str = "auto",
) -> dict[str, Run]:
    """Train several autoencoders at once: points x timesteps x seeds over one pass of the data.

    Jobs with the same point, rows, batch size, held-out share and order of rows read the same
    batches, which are drawn once. Jobs with the same settings (seeds apart) step as one stack: one
    batched product for all encoders. Each job ends as `train` would end it with the same order of
    rows, up to rounding, in a run directory of its own; a rerun continues all of them.

    Args:
        source: as in `train`.
        jobs: run name -> job; all with the same steps and checkpoint_every.
        out: the parent of the run directories.
        order_seed: seed of the order of rows and of the split, for all jobs; None: the seed of
            each job, so that only jobs of one seed share their reads.
        resume: go on from `out`'s checkpoint, or return its finished runs; False starts again.
        progress: show a progress bar where stderr is a terminal.
        device: of the arithmetic; the SAEs that come back are on the CPU.
        backend: of the kernels, as in `train`.

    Returns:
        Run name -> run.

    Raises:
        SAEError: as `train`; also where jobs do not fit together, or a name is no folder name.
    """
    out = Path(out)
    _check_jobs(jobs)
    readings = _open_readings(source, jobs, order_seed)
    backends, finished = {}, {}
    for name, job in jobs.items():
        where, reading = out / name, readings[name]
        chosen = _choose_backend(where, backend, job.config, device, resume)
        provenance = _provenance(reading, job.config, order_seed)
        backends[name] = chosen
        finished[name] = open_directory(where, job.config, provenance, resume, chosen)
    if all(sae is not None for sae in finished.values()):
        return {name: Run(out / name, sae, read_log(out / name)) for name, sae in finished.items()}  # type: ignore[arg-type]
    saved = load_checkpoint(out) if resume else None
    trainings = []
    for name, job in jobs.items():
        state = _start(readings[name].batches, job.config, device, backends[name])
        state.sae.provenance = _provenance(readings[name], job.config, order_seed)
        state.sae.trained_units = readings[name].units
        trainings.append(_Training(name, job, readings[name], state))
    if saved is not None:
        _restore_all(trainings, saved, out)
    for training in trainings:
        training.log = Log(out / training.name, training.state.step)
    _run(trainings, out, progress)
    runs = {training.name: _finish(training, out / training.name) for training in trainings}
    remove_checkpoints(out)
    return runs


def _check_jobs(jobs: Mapping[str, Job]) -> None:
    if not jobs:
        raise SAEError("no jobs: pass a dict of run names and jobs")
    for name, job in jobs.items():
        options_of(job.config)
        if not name or Path(name).name != name:
            raise SAEError(f"run name {name!r} is not the name of a folder")
    for setting in ("steps", "checkpoint_every"):
        found = {name: getattr(job.config, setting) for name, job in jobs.items()}
        if len(set(found.values())) > 1:
            raise SAEError(f"jobs trained together need the same {setting}, got {found}")


def _open_readings(
    source: ActivationStore | Iterable[Tensor], jobs: Mapping[str, Job], order_seed: int | None
) -> dict[str, _Reading]:
    opened: dict[Any, _Reading] = {}
    readings: dict[str, _Reading] = {}
    for name, job in jobs.items():
        seed = job.config.seed if order_seed is None else order_seed
        config = dataclasses.replace(job.config, seed=seed)
        rows = None if job.rows is None else np.asarray(job.rows)
        key: Any = (job.point, config.batch_size, config.held_out, seed, budget_of(config))
        key += (joins_of(config),)
        key += (None if rows is None else (str(rows.dtype), rows.tobytes()),)
        if not isinstance(source, ActivationStore) and job.point is None and rows is None:
            key = None
        if key not in opened:
            opened[key] = _Reading(*_open_source(source, config, job.point, rows))
        readings[name] = opened[key]
    return readings


def _provenance(reading: _Reading, config: TrainConfig, order_seed: int | None) -> dict[str, Any]:
    own: dict[str, Any] = {"recipe": config.as_dict()}
    own["fingerprint"] = reading.batches.fingerprint
    if order_seed is not None:
        own["order_seed"] = order_seed
    return reading.provenance | own


def _restore_all(trainings: list[_Training], saved: dict[str, Any], out: Path) -> None:
    asked = {training.name for training in trainings}
    # A kill while the runs were saved leaves a checkpoint that also holds the finished ones.
    others = [n for n in saved["jobs"].keys() - asked if not (out / n / "sae/config.json").exists()]
    if others or asked - saved["jobs"].keys():
        raise SAEError(
            f"the checkpoint is of jobs {sorted(saved['jobs'])}, asked are "
            f"{sorted(training.name for training in trainings)}: ask for the same, use another "
            "directory, or resume=False (--fresh) to start again"
        )
    placed: set[int] = set()
    for training in trainings:
        own, batches = saved["jobs"][training.name], training.reading.batches
        _restore(training.state, own)
        if id(batches) not in placed:
            batches.load_state_dict(own["batches"])
            placed.add(id(batches))


def _groups(trainings: list[_Training]) -> list[_Group]:
    """Stacks of jobs that differ in nothing that a step looks at; other variants by themselves."""
    found: dict[Any, _Group] = {}
    for training in trainings:
        state, config = training.state, training.job.config
        alike = json.dumps(dataclasses.replace(config, **_OWN).as_dict(), sort_keys=True)
        shape = (state.sae.d_in, alike, state.backend)
        key = shape if can_fuse(state.sae, state.common) else training.name
        found.setdefault(key, _Group([], None, state.backend)).members.append(training)
    for group in found.values():
        states = [training.state for training in group.members]
        if not can_fuse(states[0].sae, states[0].common):
            continue
        columns = zip(*((s.sae, s.optimizer, s.silent) for s in states), strict=True)
        group.stack = open_stack(*columns)  # type: ignore[arg-type]
        for state, silent in zip(states, group.stack.silent.chunk(len(states)), strict=True):
            state.silent = silent
    return list(found.values())


def _run(trainings: list[_Training], out: Path, progress: bool) -> None:
    from tqdm import tqdm

    config, first = trainings[0].job.config, trainings[0].state
    groups = _groups(trainings)
    began = time.perf_counter() - first.seconds
    quiet = None if progress else True
    with tqdm(total=config.steps, initial=first.step, desc="train", disable=quiet) as bar:
        while first.step < config.steps:
            _step(trainings, groups)
            bar.update()
            for training in trainings:
                training.state.seconds = time.perf_counter() - began
                _write_line(training)
            if config.checkpoint_every and first.step % config.checkpoint_every == 0:
                jobs = {t.name: _snapshot(t.state, t.reading.batches) for t in trainings}
                save_checkpoint(out, {"jobs": jobs})


def _step(trainings: list[_Training], groups: list[_Group]) -> None:
    """Draw one batch per stream and take one step of every job."""
    rows: dict[int, Batch] = {}
    for training in trainings:
        state, stream = training.state, id(training.reading.batches)
        if stream not in rows:
            batch = training.reading.batches.take(state.step)
            check_batch(batch, state.sae.d_in, state.step)
            rows[stream] = _moved(batch, state.silent.device)
    for group in groups:
        states = [training.state for training in group.members]
        given = [rows[id(training.reading.batches)] for training in group.members]
        config = group.members[0].job.config
        with using_backend(group.backend):  # type: ignore[arg-type]
            if group.stack is None:
                terms = _slow_step(states[0], given[0], config)
            else:
                terms = _stacked_step(group.stack, states, given, config)
        for state, line in zip(states, terms, strict=True):
            state.sums += line
            state.steps += 1
            state.step += 1


def _stacked_step(
    stack: Stack, states: list[_State], given: list[Batch], config: TrainConfig
) -> Tensor:
    if states[0].step == 0:
        for state, batch in zip(states, given, strict=True):
            start_from(state.sae, batch.x, state.common)
    return fused_step(stack, [batch.x for batch in given], config, states[0].step)


def _write_line(training: _Training) -> None:
    state, config = training.state, training.job.config
    if state.step % config.log_every == 0 or state.step == config.steps:
        training.log.write(_summary(state, config))


def _finish(training: _Training, out: Path) -> Run:
    sae = training.state.sae.cpu()
    for parameter in sae.parameters():
        # Out of the common table, which would otherwise live as long as one of its members.
        parameter.data = parameter.data.clone()
    sae.save(out / "sae")
    return Run(out, sae, read_log(out))
