"""Noise levels and samplers: log-SNR of a timestep, the timestep of a log-SNR, schedulers."""

import inspect
import math
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from interp.errors import InputError
from interp.models.inputs import SCHEDULERS


def make_scheduler(name: str, like: Any) -> Any:
    """Return a fresh scheduler of the class that `name` stands for, with the config of `like`.

    Args:
        name: key of `SCHEDULERS`; "" is the class of `like` itself.
        like: the model's own scheduler.

    Raises:
        InputError: the sampler and the model disagree on flow matching.
    """
    import diffusers

    if not name:
        return type(like).from_config(like.config)
    cls = getattr(diffusers, SCHEDULERS[name])
    if is_flow(like) != ("FlowMatch" in cls.__name__):
        kind = "a flow-matching" if is_flow(like) else "a noise-predicting"
        raise InputError(f"scheduler {name!r} ({cls.__name__}) does not suit {kind} model")
    return cls.from_config(like.config)


def is_flow(scheduler: Any) -> bool:
    """Return whether a scheduler is one of flow matching: x_t = (1 - sigma) x + sigma noise."""
    return "FlowMatch" in type(scheduler).__name__


def log_snr_at(scheduler: Any, t: float, *, scale: float = 1.0) -> float | None:
    """Return the log signal-to-noise ratio log(alpha^2 / sigma^2) at a timestep.

    Variance-preserving schedules: log(a / (1 - a)), a the cumulative product of alphas, with sigma
    = sqrt((1 - a) / a) interpolated between whole timesteps as Karras samplers do. Flow matching:
    2 log((1 - sigma) / sigma) with sigma = t / num_train_timesteps. Schedules over continuous
    sigma: t = log(sigma) / 4, log-SNR = -2 log sigma (Karras et al. 2022, table 1, c_noise).

    Args:
        scheduler: a diffusers scheduler.
        t: timestep as the network receives it.
        scale: the scheduler's timestep over the network's (1000 for Flux).

    Returns:
        the log-SNR, infinite at the ends; None where the scheduler has no known noise level.
    """
    if is_flow(scheduler):
        sigma = t * scale / scheduler.config.num_train_timesteps
        return _log_ratio((1 - sigma) ** 2, sigma**2)
    if _is_continuous(scheduler):
        return -8.0 * t
    if not hasattr(scheduler, "alphas_cumprod"):
        return None
    products = scheduler.alphas_cumprod.double().cpu().numpy()
    with np.errstate(divide="ignore"):
        sigmas = np.sqrt((1 - products) / products)
    sigma = float(np.interp(t * scale, np.arange(len(sigmas)), sigmas))
    return _log_ratio(1.0, sigma**2)


def _is_continuous(scheduler: Any) -> bool:
    # Diffusers does so for this pair of settings only (EulerDiscreteScheduler.set_timesteps).
    config = scheduler.config
    continuous = config.get("timestep_type") == "continuous"
    return continuous and config.get("prediction_type") == "v_prediction"


def _log_ratio(signal: float, noise: float) -> float:
    if signal <= 0:
        return -math.inf
    return math.inf if noise <= 0 else math.log(signal / noise)


def timestep_at(scheduler: Any, log_snr: float, *, scale: float = 1.0) -> float:
    """Return the network's timestep whose log-SNR is nearest to `log_snr`.

    A whole training timestep for variance-preserving schedules, the exact one for flow matching.

    Raises:
        InputError: the scheduler has no known noise level.
    """
    if is_flow(scheduler):
        # (1 - s) / s = exp(l / 2)
        sigma = 1 / (1 + math.exp(log_snr / 2))
        return sigma * scheduler.config.num_train_timesteps / scale
    if _is_continuous(scheduler):
        return -log_snr / 8
    if not hasattr(scheduler, "alphas_cumprod"):
        raise InputError(f"{type(scheduler).__name__} has no noise level to match by log-SNR")
    products = scheduler.alphas_cumprod.double()
    levels = torch.log(products) - torch.log1p(-products)
    return float(torch.argmin((levels - log_snr).abs())) / scale


def add_noise(
    scheduler: Any, clean: Float[Tensor, "b ..."], noise: Float[Tensor, "b ..."], log_snr: float
) -> Float[Tensor, "b ..."]:
    """Return what the network is given at `log_snr`, the exact one of a timestep.

    alpha x + sigma n, with alpha^2 = sigmoid(log_snr) and sigma^2 = 1 - alpha^2 for
    variance-preserving schedules, and alpha = 1 - sigma = 1 / (1 + exp(-log_snr / 2)) for flow
    matching.
    """
    level = torch.tensor(log_snr, dtype=torch.float64)
    if is_flow(scheduler):
        alpha = torch.sigmoid(level / 2)
        return clean * alpha.item() + noise * (1 - alpha).item()
    return clean * torch.sigmoid(level).sqrt().item() + noise * torch.sigmoid(-level).sqrt().item()


def normal(seeds: tuple[int, ...], shape: tuple[int, ...], like: Tensor) -> Float[Tensor, "b ..."]:
    """Return standard normal noise [b, *shape] of which sample i comes from seeds[i] alone.

    Drawn on the CPU in float32, so that devices and dtypes agree; then as `like`.
    """
    draws = [torch.randn(shape, generator=torch.Generator().manual_seed(s)) for s in seeds]
    return torch.stack(draws).to(like)


def draws_noise(scheduler: Any, steps: int) -> bool:
    """Return whether what a sampler makes depends on noise of its steps.

    Found out, not looked up: the same steps on a small constant with two random states.
    """
    if "generator" not in inspect.signature(scheduler.step).parameters:
        return False
    one, other = (_walk(scheduler, steps, seed) for seed in (0, 1))
    return any(not torch.equal(x, y) for x, y in zip(one, other, strict=True))


def _walk(scheduler: Any, steps: int, seed: int) -> list[Tensor]:
    """States of a sampler whose network says a constant."""
    sampler = type(scheduler).from_config(scheduler.config)
    # Any shift will do: it moves the steps, not whether they are random.
    shift = {"mu": 1.0} if sampler.config.get("use_dynamic_shifting") else {}
    sampler.set_timesteps(steps, **shift)
    learned = str(sampler.config.get("variance_type", "")).startswith("learned")
    said, x = torch.full((1, 2 if learned else 1, 8, 8), 0.5), torch.full((1, 1, 8, 8), 0.25)
    draws, states = torch.Generator().manual_seed(seed), []
    for t in sampler.timesteps:
        x = sampler.step(said, t, x, generator=draws).prev_sample
        states.append(x)
    return states


def generators(seeds: tuple[int, ...]) -> list[torch.Generator]:
    """Return one CPU generator per sample."""
    return [torch.Generator().manual_seed(seed) for seed in seeds]
