"""JumpReLU: pseudo-derivatives in closed form, penalties, thresholds that reach the target."""

import pytest
import torch

from interp.errors import SAEError
from interp.sae import SAE, Context, TrainConfig, train
from interp.sae.jumprelu import JumpReLU, initial_threshold, jump
from interp.sae.losses import unit_rows
from interp.sae.synthetic import PlantedDictionary
from interp.sae.topk import ENCODER_NORM

D, M, K = 6, 24, 3
EPS = 0.3
NONE_DEAD = torch.zeros(M, dtype=torch.bool)


def _sae(generator, **options):
    sae = JumpReLU(D, M, float(K), bandwidth=EPS, ramp=0.0, **options)
    with torch.no_grad():
        for parameter in sae.parameters():
            parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
    sae.after_step()
    return sae.double()


@pytest.fixture
def x(generator):
    return torch.randn(40, D, generator=generator).double()


@pytest.fixture
def pre(generator):
    return torch.randn(50, 5, generator=generator).double()


@pytest.fixture
def theta():
    return torch.tensor([0.05, 0.2, 0.5, 1.0, 3.0], dtype=torch.float64)


def test_a_latent_is_active_where_its_pre_activation_exceeds_its_threshold(pre, theta):
    values, l0 = jump(pre, theta, EPS)
    assert (values == pre * (pre > theta)).all()
    assert l0 == (pre > theta).sum().double() / 50
    at = torch.tensor([[0.5, 0.50001]], dtype=torch.float64)
    assert jump(at, torch.full((2,), 0.5).double(), EPS)[0][0, 0] == 0


def test_the_pseudo_derivatives_are_those_of_the_source(pre, theta, generator):
    grad = torch.randn(pre.shape, generator=generator).double()
    p, t = pre.clone().requires_grad_(), theta.clone().requires_grad_()
    values, l0 = jump(p, t, EPS)
    ((grad * values).sum() + 7 * l0).backward()
    expected = torch.zeros(5, dtype=torch.float64)
    for r in range(50):
        for j in range(5):
            kernel = float(abs((pre[r, j] - theta[j]) / EPS) < 0.5)
            expected[j] -= grad[r, j] * theta[j] / EPS * kernel
            expected[j] -= 7 / 50 / EPS * kernel
    torch.testing.assert_close(t.grad, expected)
    torch.testing.assert_close(p.grad, grad * (pre > theta))


def test_the_threshold_gradient_is_that_of_the_loss_smoothed_by_the_kernel(pre, theta, generator):
    grad = torch.randn(pre.shape, generator=generator).double()
    t = theta.clone().requires_grad_()
    values, l0 = jump(pre, t, EPS)
    ((grad * values).sum() + 7 * l0).backward()

    def smoothed(moved):
        # The unit step averaged over the bandwidth; the height of the jump is theta itself.
        step = ((pre - moved) / EPS + 0.5).clamp(0, 1)
        return (grad * theta * step).sum() + 7 * step.sum() / 50

    h = 1e-6
    for j, unit in enumerate(torch.eye(5, dtype=torch.float64)):
        slope = (smoothed(theta + h * unit) - smoothed(theta - h * unit)) / (2 * h)
        torch.testing.assert_close(t.grad[j], slope, rtol=1e-5, atol=1e-7)


def test_the_gradient_of_the_whole_loss_is_its_closed_form(generator, x):
    sae = _sae(generator, penalty="step", coefficient=0.3)
    losses = sae.loss_terms(x, Context(NONE_DEAD))
    (losses.reconstruction + losses.penalty).backward()
    with torch.no_grad():
        z, theta = sae.normalize(x), sae.theta
        pre = (z - sae.b_dec) @ sae.W_enc.T + sae.b_enc
        near = ((pre - theta).abs() < EPS / 2).double()
        value = torch.where(pre > theta, pre, 0.0)
        by_value = -2 / 40 * (z - value @ sae.W_dec - sae.b_dec) @ sae.W_dec.T
        by_theta = -(near * (theta * by_value + 0.3 / 40)).sum(dim=0) / EPS
    assert near.sum() > 20
    torch.testing.assert_close(sae.log_threshold.grad, theta * by_theta)
    torch.testing.assert_close(sae.W_enc.grad, (by_value * (pre > theta)).T @ (z - sae.b_dec))


def test_the_reconstruction_passes_gradcheck_by_every_parameter_but_the_threshold(generator, x):
    sae = _sae(generator)
    parameters = [p for name, p in sae.named_parameters() if name != "log_threshold"]

    def loss(*_):
        return sae.loss_terms(x[:4], Context(NONE_DEAD)).reconstruction

    assert torch.autograd.gradcheck(loss, parameters)


def test_each_penalty_is_its_formula(generator, x):
    found, l0 = {}, None
    for penalty in ("target", "step", "tanh"):
        sae = _sae(torch.Generator().manual_seed(3), penalty=penalty, coefficient=0.5)
        losses = sae.loss_terms(x, Context(NONE_DEAD))
        found[penalty] = losses.penalty
        l0 = (losses.code.values > 0).sum() / 40
        tanh = torch.tanh(sae.tanh_scale * losses.code.values).sum() / 40
    torch.testing.assert_close(found["target"], 0.5 * (l0 / K - 1).double().square())
    torch.testing.assert_close(found["step"], 0.5 * l0.double())
    torch.testing.assert_close(found["tanh"], 0.5 * tanh)


def test_the_penalty_rises_over_the_ramp(generator, x):
    sae = _sae(generator)
    sae.ramp = 0.2
    at = [sae.loss_terms(x, Context(NONE_DEAD, progress=p)).penalty for p in (0, 0.1, 0.2, 0.9)]
    torch.testing.assert_close(torch.stack(at), at[-1] * torch.tensor([0, 0.5, 1, 1]).double())


def test_the_pre_activation_loss_lifts_dead_latents_and_lowers_their_thresholds(generator, x):
    sae = _sae(generator, coefficient=0.0, pre_act=2.0)
    dead = NONE_DEAD.clone()
    dead[[1, 5]] = True
    penalty = sae.loss_terms(x, Context(dead)).penalty
    pre = (sae.normalize(x) - sae.b_dec) @ sae.W_enc.T + sae.b_enc
    below = (sae.theta - pre).relu()[:, dead]
    torch.testing.assert_close(penalty, 2.0 * below.sum() / 40)
    by_bias, by_threshold = torch.autograd.grad(penalty, [sae.b_enc, sae.log_threshold])
    assert (by_bias[dead] < 0).all()
    assert (by_threshold[dead] > 0).all()
    assert (by_bias[~dead] == 0).all()
    assert (by_threshold[~dead] == 0).all()


def test_encoding_is_the_definition(generator, x):
    sae = _sae(generator)
    pre = (sae.normalize(x) - sae.b_dec) @ sae.W_enc.T + sae.b_enc
    torch.testing.assert_close(sae.encode(x).dense(), pre * (pre > sae.theta))


def test_isotropic_rows_start_with_the_target_number_of_active_latents(generator):
    d, m, target = 64, 512, 8.0
    x = torch.randn(4000, d, generator=generator) / d**0.5
    pre = x @ (ENCODER_NORM * unit_rows(m, d, 0)).T
    l0 = (pre > initial_threshold(d, m, target)).sum(dim=1).float().mean()
    assert l0 == pytest.approx(target, rel=0.05)
    assert initial_threshold(d, m, m) == 0.001


def test_training_brings_the_number_of_active_latents_to_the_target(tmp_path):
    data = PlantedDictionary(20, 16, 2, batch_size=128, steps=300)
    config = TrainConfig(
        "jumprelu", 32, 2, batch_size=128, steps=300, lr=1e-2, checkpoint_every=0,
        options={"target_l0": 3.0},
    )  # fmt: skip
    sae = train(data, config, out=tmp_path).sae
    code = sae.encode(data.held_out(2000))
    assert (code.values > 0).sum(dim=1).float().mean() == pytest.approx(3, rel=0.15)


def test_k_is_the_target_unless_another_is_given():
    config = TrainConfig("jumprelu", 32, 5)
    assert JumpReLU.build(8, config).target_l0 == 5
    config = TrainConfig("jumprelu", 32, 5, options={"target_l0": 7.5})
    assert JumpReLU.build(8, config).target_l0 == 7.5


def test_thresholds_are_saved_with_the_weights(generator, x, tmp_path):
    sae = _sae(generator, penalty="tanh").float()
    loaded = SAE.load(sae.save(tmp_path))
    assert isinstance(loaded, JumpReLU)
    assert (loaded.theta == sae.theta).all()
    assert loaded.spec() == sae.spec()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"target_l0": 0.0}, r"target_l0 = 0.0 is not in \(0, 24\]"),
        ({"target_l0": 25.0}, r"target_l0 = 25.0 is not in \(0, 24\]"),
        ({"penalty": "l1"}, "penalty = 'l1' is none of target, step, tanh"),
        ({"bandwidth": 0.0}, "bandwidth = 0.0 must be positive"),
        ({"coefficient": -1.0}, "coefficient = -1.0 is negative"),
        ({"ramp": 1.5}, "ramp = 1.5 must be a share"),
        ({"aux_k": -1}, "aux_k = -1 is negative"),
    ],
)
def test_impossible_settings_are_refused(options, message):
    with pytest.raises(SAEError, match=message):
        JumpReLU(D, M, **{"target_l0": 3.0, **options})
