"""ReLU: the penalty, its exponent over the run, and the loss against plain formulas."""

import dataclasses

import pytest
import torch

from interp.errors import SAEError
from interp.sae import Context, ReLU, TrainConfig
from interp.sae.relu import SHARE, SOFTENING, Options, sparsity


def _values(generator, n=20, m=30):
    return torch.randn(n, m, generator=generator).double().relu()


def test_the_losses_are_those_of_the_formulas(generator):
    sae = ReLU(6, 24, l1=0.2, ramp=0.0).double()
    sae.fit(torch.linspace(-1, 1, 6).double(), torch.ones(6).double())
    for parameter in sae.parameters():
        parameter.data += 0.1 * torch.randn(parameter.shape, generator=generator).double()
    x = torch.randn(40, 6, generator=generator).double()
    z = (x - sae.mean) / sae.scale
    f = ((z - sae.b_dec) @ sae.W_enc.T + sae.b_enc).clamp(min=0)
    reconstruction = (z - f @ sae.W_dec - sae.b_dec).square().sum(1).mean()
    penalty = 0.2 * f.abs().sum(1).mean()
    losses = sae.loss_terms(x, Context(torch.zeros(24, dtype=torch.bool)))
    torch.testing.assert_close(losses.reconstruction, reconstruction)
    torch.testing.assert_close(losses.penalty, penalty)
    torch.testing.assert_close(losses.code.values, f)
    mine = torch.autograd.grad(losses.reconstruction + losses.penalty, list(sae.parameters()))
    theirs = torch.autograd.grad(reconstruction + penalty, list(sae.parameters()))
    for one, other in zip(mine, theirs, strict=True):
        torch.testing.assert_close(one, other)


def test_the_weight_rises_from_zero_and_stays():
    options = Options(l1=0.4, ramp=0.2)
    assert [options.weight(p) for p in (0, 0.05, 0.1, 0.2, 0.9)] == pytest.approx(
        [0, 0.1, 0.2, 0.4, 0.4]
    )
    assert Options(l1=0.4, ramp=0).weight(0) == 0.4


def test_the_exponent_stays_and_then_falls_in_a_straight_line():
    options = Options(p_end=0.2, p_after=0.5)
    assert [options.exponent(p) for p in (0, 0.5, 0.75, 1)] == pytest.approx([1, 1, 0.6, 0.2])


def test_a_lower_exponent_keeps_the_penalty_and_presses_on_small_values(generator):
    values = _values(generator).requires_grad_()
    found, slopes = [], []
    for p in (1.0, 0.5, 0.2):
        options = Options(l1=0.3, ramp=0.0, p_start=p, p_end=p)
        penalty = sparsity(values, options, 0.5)
        found.append(penalty.item())
        slopes.append(torch.autograd.grad(penalty, values)[0])
    assert found == pytest.approx([found[0]] * 3)
    order = values.detach().flatten().argsort()[values.detach().flatten().sort().values > 0]
    small, large = order[:20], order[-20:]
    ratios = [float(s.flatten()[small].mean() / s.flatten()[large].mean()) for s in slopes]
    assert ratios[0] == pytest.approx(1)
    assert 1 < ratios[1] < ratios[2]
    assert torch.isfinite(slopes[2]).all()


def test_the_penalty_is_that_of_the_powers(generator):
    values, p = _values(generator), 0.4
    powers = (values + SOFTENING).pow(p) - SOFTENING**p
    ratio = (values.sum(1) / powers.sum(1))[:, None]
    wanted = 0.3 * ratio * p * (values + SOFTENING).pow(p - 1) / len(values)
    leaf = values.clone().requires_grad_()
    penalty = sparsity(leaf, Options(l1=0.3, ramp=0.0, p_start=p, p_end=p), 0.0)
    torch.testing.assert_close(torch.autograd.grad(penalty, leaf)[0], wanted)


def test_rows_without_a_latent_have_no_penalty():
    leaf = torch.zeros(3, 5, requires_grad=True)
    penalty = sparsity(leaf, Options(l1=1.0, ramp=0.0, p_start=0.5, p_end=0.5), 0.0)
    assert penalty == 0
    assert torch.isfinite(torch.autograd.grad(penalty, leaf)[0]).all()


def test_the_default_weight_falls_with_the_root_of_k():
    for k in (1, 4, 16):
        sae = ReLU.build(6, TrainConfig("relu", 24, k))
        assert sae.options == Options(l1=SHARE / k**0.5)
    own = ReLU.build(6, TrainConfig("relu", 24, 4, options={"l1": 0.5}))
    assert dataclasses.asdict(own.options)["l1"] == 0.5


def test_impossible_arguments_are_refused():
    with pytest.raises(SAEError, match="aux_k = -1 is negative"):
        ReLU(6, 24, aux_k=-1)
    with pytest.raises(SAEError, match="relu has no option l3"):
        ReLU(6, 24, l3=1)
