"""Noise levels: log-SNR of a timestep and back, for each kind of scheduler."""

import math
from typing import Any

import pytest
import torch

from interp.errors import InputError
from interp.models.noise import add_noise, log_snr_at, make_scheduler, normal, timestep_at


def vp(name: str = "DDIMScheduler", **config: Any) -> Any:
    import diffusers

    return getattr(diffusers, name)(**config)


def test_a_whole_timestep_has_the_log_snr_of_its_cumulative_product() -> None:
    scheduler = vp()
    for t in (0, 1, 500, 999):
        a = scheduler.alphas_cumprod[t].double()
        assert log_snr_at(scheduler, t) == pytest.approx(float(torch.log(a / (1 - a))), abs=1e-4)


def test_a_sampler_between_timesteps_has_the_level_of_its_own_sigma() -> None:
    scheduler = vp("EulerDiscreteScheduler", timestep_spacing="linspace")
    scheduler.set_timesteps(7)
    for t, sigma in zip(scheduler.timesteps, scheduler.sigmas, strict=False):
        assert log_snr_at(scheduler, float(t)) == pytest.approx(-2 * math.log(sigma), abs=1e-4)


def test_flow_matching_mixes_signal_and_noise_linearly() -> None:
    scheduler = vp("FlowMatchEulerDiscreteScheduler")
    assert log_snr_at(scheduler, 250.0) == pytest.approx(2 * math.log(0.75 / 0.25))
    assert log_snr_at(scheduler, 0.25, scale=1000.0) == pytest.approx(2 * math.log(3))
    assert log_snr_at(scheduler, 1000.0) == -math.inf
    assert log_snr_at(scheduler, 0.0) == math.inf


def test_continuous_time_is_a_quarter_of_log_sigma() -> None:
    settings = {"timestep_type": "continuous", "prediction_type": "v_prediction"}
    scheduler = vp("EulerDiscreteScheduler", use_karras_sigmas=True, **settings)
    scheduler.set_timesteps(3)
    t, sigma = float(scheduler.timesteps[1]), float(scheduler.sigmas[1])
    assert log_snr_at(scheduler, t) == pytest.approx(-2 * math.log(sigma), abs=1e-4)


@pytest.mark.parametrize("level", [2.0, 0.0, -2.0])
def test_the_nearest_timestep_is_found(level: float) -> None:
    scheduler = vp()
    t = timestep_at(scheduler, level)
    assert t == int(t)
    gap = abs(log_snr_at(scheduler, t) - level)
    assert gap <= min(abs(log_snr_at(scheduler, t + d) - level) for d in (-1, 1))
    flow = vp("FlowMatchEulerDiscreteScheduler")
    assert log_snr_at(flow, timestep_at(flow, level)) == pytest.approx(level)


@pytest.mark.parametrize("name", ["DDIMScheduler", "FlowMatchEulerDiscreteScheduler"])
def test_added_noise_has_the_asked_ratio_and_the_schedulers_own_mixture(name: str) -> None:
    scheduler = vp(name)
    clean, noise = torch.ones(1, 4), torch.zeros(1, 4)
    t = timestep_at(scheduler, 0.7)
    level = log_snr_at(scheduler, t)
    assert level is not None
    signal = add_noise(scheduler, clean, noise, level)
    added = add_noise(scheduler, noise, clean, level)
    assert float(2 * torch.log(signal / added).mean()) == pytest.approx(level, abs=1e-5)
    if name == "DDIMScheduler":
        x = torch.randn(1, 4)
        theirs = scheduler.add_noise(x, clean, torch.tensor([int(t)]))
        assert torch.allclose(add_noise(scheduler, x, clean, level), theirs, atol=1e-5)


def test_a_scheduler_that_does_not_suit_the_model_is_refused() -> None:
    with pytest.raises(InputError, match=r"'euler' .* does not suit a flow-matching model"):
        make_scheduler("euler", vp("FlowMatchEulerDiscreteScheduler"))
    with pytest.raises(InputError, match=r"'flow_euler' .* does not suit a noise-predicting"):
        make_scheduler("flow_euler", vp())


def test_noise_of_a_sample_does_not_depend_on_its_batch() -> None:
    like = torch.zeros(1)
    assert torch.equal(normal((3, 4), (2, 2), like)[1:], normal((4,), (2, 2), like))
