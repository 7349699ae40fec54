"""The loop that trains any network of the zoo: boxed by steps or minutes, EMA, resumable."""

import copy
import json
import math
import os
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from interp.errors import InputError, InterpError

# Share of the run after which a copy of the checkpoint is kept (the issue of "when does a feature
# appear" needs them).
MILESTONES = (0.1, 0.3, 1.0)
CHECKPOINT_SECONDS = 60.0
# A step of more than this many mean steps did not train all the while: the process was stopped, or
# the machine asleep. Only this much of it counts, so that learning rates do not fall meanwhile.
FROZEN_STEPS = 20.0
# Steps until the mean is worth something: the first one compiles and fills caches.
SETTLED = 10


@dataclass
class Job:
    """One training under way: the networks, their optimizers and what a step does.

    Attributes:
        nets: networks by name; `ema_of` names the one that is shipped.
        optimizers: by name, each with the learning rate at full height.
        step: `step(job, images, labels, progress) -> losses`; draws randomness from `generator`
            only.
        generator: source of all randomness.
        ema_half_life: in steps; the running mean's memory ramps up with the step count.
        warmup: steps of linear warm-up of the learning rates.
        decay_from: progress after which learning rates fall (cosine) to zero.
        step_count: steps done.
        elapsed: seconds of training done, over all resumptions, without those in which the process
            stood still.
    """

    nets: dict[str, Any]
    ema_of: str
    optimizers: dict[str, torch.optim.Optimizer]
    step: Callable[["Job", Tensor, Tensor, float], dict[str, Tensor]]
    generator: torch.Generator
    batch_size: int
    ema_half_life: float = 500.0
    warmup: int = 100
    decay_from: float = 0.0
    step_count: int = 0
    elapsed: float = 0.0
    extra: dict[str, Any] = field(default_factory=dict)
    ema: nn.Module = field(init=False)

    def __post_init__(self) -> None:
        self.ema = copy.deepcopy(self.nets[self.ema_of]).eval().requires_grad_(False)


@dataclass(frozen=True)
class Box:
    """When a training ends: after `steps`, `minutes` of training time, or whichever is first."""

    steps: int | None = None
    minutes: float | None = None

    def __post_init__(self) -> None:
        if self.steps is None and self.minutes is None:
            raise InputError("a training needs an end: give steps, minutes or both")

    def progress(self, job: Job) -> float:
        """Return the share of the run that is done, 0 to 1."""
        by_steps = job.step_count / self.steps if self.steps else 0.0
        by_time = job.elapsed / (60 * self.minutes) if self.minutes else 0.0
        return min(1.0, max(by_steps, by_time))


def state(job: Job) -> dict[str, Any]:
    """Return everything that the rest of the run depends on."""
    return {
        "nets": {name: net.state_dict() for name, net in job.nets.items()},
        "ema": job.ema.state_dict(),
        "optimizers": {name: opt.state_dict() for name, opt in job.optimizers.items()},
        "generator": job.generator.get_state(),
        "step_count": job.step_count,
        "elapsed": job.elapsed,
    }


def restore(job: Job, saved: dict[str, Any]) -> None:
    """Put a state of `state` back into a job of the same recipe."""
    for name, net in job.nets.items():
        net.load_state_dict(saved["nets"][name])
    job.ema.load_state_dict(saved["ema"])
    for name, opt in job.optimizers.items():
        opt.load_state_dict(saved["optimizers"][name])
    job.generator.set_state(saved["generator"].cpu())
    job.step_count, job.elapsed = saved["step_count"], saved["elapsed"]


def write_checkpoint(job: Job, path: Path) -> None:
    """Write a temporary file, sync, rename: a kill leaves the old checkpoint or the new one."""
    part = path.with_suffix(".part")
    with part.open("wb") as file:
        torch.save(state(job), file)
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)


def read_checkpoint(job: Job, path: Path) -> None:
    """Restore a job from a checkpoint file.

    Raises:
        InterpError: the file does not fit the recipe or is damaged.
    """
    try:
        restore(job, torch.load(path, map_location="cpu", weights_only=True))
    except (RuntimeError, KeyError, ValueError, EOFError) as error:
        raise InterpError(
            f"{path} does not fit this recipe ({error}); "
            "train without resume, or into another folder"
        ) from error


def _set_rates(job: Job, progress: float) -> None:
    """Linear warm-up in steps, then a cosine to zero between `decay_from` and the end."""
    fall = max(0.0, (progress - job.decay_from) / (1 - job.decay_from))
    scale = min(1.0, (job.step_count + 1) / job.warmup) * 0.5 * (1 + math.cos(math.pi * fall))
    for optimizer in job.optimizers.values():
        for group in optimizer.param_groups:
            group.setdefault("peak", group["lr"])
            group["lr"] = group["peak"] * max(scale, 1e-3)


@torch.no_grad()
def _update_ema(job: Job) -> None:
    """Move the running mean; half-life at most a twentieth of the steps so far (StyleGAN2)."""
    half_life = min(job.ema_half_life, max(1.0, job.step_count * 0.05))
    weight = 1 - 0.5 ** (1 / half_life)
    source = job.nets[job.ema_of]
    for mean, value in zip(job.ema.parameters(), source.parameters(), strict=True):
        mean.lerp_(value, weight)
    for mean, value in zip(job.ema.buffers(), source.buffers(), strict=True):
        mean.copy_(value)


def run(
    job: Job,
    images: Tensor,
    labels: Tensor,
    box: Box,
    out: Path,
    *,
    resume: bool = True,
    on_step: Callable[[int, float, dict[str, float]], None] | None = None,
) -> None:
    """Train until the box is full; a killed run continues from its last checkpoint, bit for bit.

    Args:
        job: what to train.
        images: uint8 [n, 3, 32, 32], or codes or tokens [n, ...], on the job's device.
        labels: int64 [n, ...], what goes with each.
        box: when to end.
        out: folder of `last.pt`, the milestones `at-010.pt`, `at-030.pt`, `at-100.pt` and
            `log.jsonl`.
        resume: continue from `last.pt` where it is there.
        on_step: called with (steps done, progress, losses) whenever losses are logged.
    """
    out.mkdir(parents=True, exist_ok=True)
    last = out / "last.pt"
    if resume and last.is_file():
        read_checkpoint(job, last)
    saved_at, before = job.elapsed, time.monotonic()
    while (progress := box.progress(job)) < 1:
        losses = _one_step(job, images, labels, progress)
        now = time.monotonic()
        job.elapsed, before = job.elapsed + _trained(job, now - before), now
        after = box.progress(job)
        reached = [m for m in MILESTONES if progress < m <= after]
        if reached or job.elapsed - saved_at > CHECKPOINT_SECONDS:
            saved_at = job.elapsed
            write_checkpoint(job, last)
            for milestone in reached:
                _keep(last, out / f"at-{round(100 * milestone):03d}.pt")
        if reached or job.step_count % 50 == 0:
            _log(job, out / "log.jsonl", after, losses, on_step)


def _trained(job: Job, seconds: float) -> float:
    """Return how much of the last step's time counts as training; see `FROZEN_STEPS`."""
    if job.step_count <= SETTLED:
        return seconds
    return min(seconds, FROZEN_STEPS * job.elapsed / (job.step_count - 1))


def _one_step(job: Job, images: Tensor, labels: Tensor, progress: float) -> dict[str, Tensor]:
    _set_rates(job, progress)
    index = torch.randint(
        len(images), (job.batch_size,), generator=job.generator, device=images.device
    )
    batch = images[index]
    # Pixels become [-1, 1]; codes and tokens are what they are.
    if batch.dtype == torch.uint8:
        batch = batch.float().div_(127.5).sub_(1)
    losses = job.step(job, batch, labels[index], progress)
    job.step_count += 1
    _update_ema(job)
    return losses


def update(loss: Tensor, optimizer: torch.optim.Optimizer) -> None:
    """Take one step of the optimizer down the loss."""
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    optimizer.step()


def _keep(last: Path, kept: Path) -> None:
    part = kept.with_suffix(".part")
    shutil.copyfile(last, part)
    part.replace(kept)


def _log(
    job: Job,
    path: Path,
    progress: float,
    losses: dict[str, Tensor],
    on_step: Callable[[int, float, dict[str, float]], None] | None,
) -> None:
    values = {name: round(float(x), 5) for name, x in losses.items()}
    line = {
        "step": job.step_count,
        "seconds": round(job.elapsed, 1),
        "progress": round(progress, 4),
        **values,
    }
    with path.open("a") as file:
        file.write(json.dumps(line) + "\n")
    if on_step is not None:
        on_step(job.step_count, progress, values)
