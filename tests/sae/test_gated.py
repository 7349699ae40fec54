"""Gated: both paths and the three losses against plain formulas."""

import pytest
import torch

from interp.errors import SAEError
from interp.sae import Context, Gated, TrainConfig
from interp.sae.gated import SHARE


def _sae(generator):
    sae = Gated(6, 24, l1=0.2, ramp=0.0).double()
    sae.fit(torch.linspace(-1, 1, 6).double(), torch.ones(6).double())
    for parameter in sae.parameters():
        parameter.data += 0.2 * torch.randn(parameter.shape, generator=generator).double()
    return sae


def _terms(sae, x):
    """Equations 5 to 8 of the source, with matrices of their own."""
    z = (x - sae.mean) / sae.scale
    centered = z - sae.b_dec
    gate = centered @ sae.W_enc.T + sae.b_gate
    weight = sae.r_mag.exp()[:, None] * sae.W_enc
    f = (gate > 0) * (centered @ weight.T + sae.b_mag).clamp(min=0)
    reconstruction = (z - f @ sae.W_dec - sae.b_dec).square().sum(1).mean()
    opened = gate.clamp(min=0)
    frozen = opened @ sae.W_dec.detach() + sae.b_dec.detach()
    aux = (z - frozen).square().sum(1).mean()
    return f, reconstruction, 0.2 * opened.sum(1).mean() + aux


def test_code_losses_and_gradients_are_those_of_the_source(generator):
    sae = _sae(generator)
    x = torch.randn(40, 6, generator=generator).double()
    f, reconstruction, penalty = _terms(sae, x)
    losses = sae.loss_terms(x, Context(torch.zeros(24, dtype=torch.bool)))
    torch.testing.assert_close(losses.code.values, f)
    torch.testing.assert_close(sae.encode(x).values, f)
    torch.testing.assert_close(losses.reconstruction, reconstruction)
    torch.testing.assert_close(losses.penalty, penalty)
    parameters = list(sae.parameters())
    mine = torch.autograd.grad(losses.reconstruction + losses.penalty, parameters)
    theirs = torch.autograd.grad(reconstruction + penalty, parameters)
    for one, other in zip(mine, theirs, strict=True):
        torch.testing.assert_close(one, other)


def test_the_penalty_leaves_the_decoder_alone(generator):
    sae = _sae(generator)
    x = torch.randn(40, 6, generator=generator).double()
    losses = sae.loss_terms(x, Context(torch.zeros(24, dtype=torch.bool)))
    found = torch.autograd.grad(
        losses.penalty, [sae.W_dec, sae.b_mag, sae.r_mag, sae.b_gate], allow_unused=True
    )
    assert all(gradient is None for gradient in found[:3])
    assert (found[3] != 0).any()


def test_a_closed_gate_stays_closed_whatever_the_strength(generator):
    sae = _sae(generator)
    x = torch.randn(40, 6, generator=generator).double()
    sae.b_gate.data[:5] = -100
    sae.b_mag.data[:5] = 100
    values = sae.encode(x).values
    assert (values[:, :5] == 0).all()
    sae.b_gate.data[:5] = 100
    assert (sae.encode(x).values[:, :5] > 50).all()


def test_the_default_weight_falls_with_the_root_of_k():
    for k in (1, 4, 16):
        assert Gated.build(6, TrainConfig("gated", 24, k)).options.l1 == SHARE / k**0.5


def test_impossible_arguments_are_refused():
    with pytest.raises(SAEError, match="aux_k = -1 is negative"):
        Gated(6, 24, aux_k=-1)
