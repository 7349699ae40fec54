"""Classifier guidance: Bayes where that is known, the identity at 0, and the class a carrier."""

import math
from dataclasses import replace

import pytest
import torch

from interp import load
from interp.errors import InputError, PointError
from interp.interventions import (
    Carrier,
    class_log_prob,
    guidance_edits,
    guide_by_classifier,
    interchange,
    measure_interchange,
)
from interp.interventions.guidance import predict_clean, shift_factor
from interp.models import GenerateBatch, Generation, editing, reading, recording

KINDS = ("epsilon", "v_prediction", "sample")
BATCH = GenerateBatch((0, 1), classes=(3, 5), scheduler="ddim", steps=2)


@pytest.fixture(scope="module")
def ddpm():
    return load("zoo:ddpm")


@pytest.fixture(scope="module")
def vit():
    return load("zoo:vit")


@pytest.fixture
def silent(ddpm):
    """The network with a last convolution of zeros: it predicts 0, whatever it sees."""
    conv = ddpm.root.conv_out
    kept = {name: value.clone() for name, value in conv.state_dict().items()}
    with torch.no_grad():
        for parameter in conv.parameters():
            parameter.zero_()
    yield ddpm
    conv.load_state_dict(kept)


def _predict(kind, x, clean, a):
    """What a network of `kind` says that takes x for sqrt(a) clean + sqrt(1 - a) noise."""
    noise = (x - math.sqrt(a) * clean) / math.sqrt(1 - a)
    kinds = {"sample": clean, "epsilon": noise}
    return kinds.get(kind, math.sqrt(a) * noise - math.sqrt(1 - a) * clean)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("a", [0.02, 0.5, 0.97])
def test_an_exact_classifier_turns_the_exact_prior_into_the_exact_posterior(kind, a):
    """x0 ~ N(0, v), y = x0 + N(0, r): denoiser, classifier and posterior are linear and known."""
    v, r, y = 2.0, 0.5, 1.7
    x = torch.linspace(-3, 3, 7, dtype=torch.float64)
    prior = math.sqrt(a) * v * x / (a * v + 1 - a)
    # p(y | x_t) = N(E[x0 | x_t], Var[x0 | x_t] + r)
    spread = v * (1 - a) / (a * v + 1 - a)
    gain = math.sqrt(a) * v / (a * v + 1 - a)
    gradient = gain * (y - gain * x) / (spread + r)
    mean, var = v * y / (v + r), v * r / (v + r)
    posterior = mean + math.sqrt(a) * var * (x - math.sqrt(a) * mean) / (a * var + 1 - a)
    guided = _predict(kind, x, prior, a) + shift_factor(kind, a) * gradient
    assert torch.allclose(guided, _predict(kind, x, posterior, a), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_the_clean_sample_of_a_prediction_is_the_one_it_was_made_from(kind):
    x, clean = torch.randn(2, 9, generator=torch.Generator().manual_seed(0)).double()
    found = predict_clean(kind, _predict(kind, x, clean, 0.3), x, 0.3)
    assert torch.allclose(found, clean, atol=1e-12)


def _linear(weight):
    return lambda images, t: (images * weight).flatten(1).sum(1)


def _read(model, batch, edits, **more):
    with editing(model, edits, **more), reading(model, ["x_t", "conv_out"]) as reader:
        model.generate(batch)
    return [r for r in reader.calls if r.point == "conv_out"]


def test_the_edit_adds_the_known_gradient_of_a_noise_aware_classifier(silent):
    weight = torch.randn(3, 32, 32, generator=torch.Generator().manual_seed(0))
    edits = guidance_edits(silent, _linear(weight), scale=0.5, noisy=True)
    for read in _read(silent, BATCH, edits)[1:]:
        a = 1 / (1 + math.exp(-read.log_snr))
        wanted = shift_factor("v_prediction", a) * 0.5 * weight
        found = torch.nn.functional.pixel_shuffle(read.value, 2)
        assert torch.allclose(found, wanted.expand(2, -1, -1, -1), rtol=1e-4, atol=1e-6)


def test_the_gradient_goes_through_the_networks_own_prediction(silent):
    """v = 0 means x0_hat = sqrt(a) x_t, so d x0_hat / d x_t = sqrt(a)."""
    weight = torch.randn(3, 32, 32, generator=torch.Generator().manual_seed(0))
    (_, read) = _read(silent, BATCH, guidance_edits(silent, _linear(weight), scale=2.0))
    a = 1 / (1 + math.exp(-read.log_snr))
    wanted = shift_factor("v_prediction", a) * 2 * math.sqrt(a) * weight
    found = torch.nn.functional.pixel_shuffle(read.value, 2)
    assert torch.allclose(found, wanted.expand(2, -1, -1, -1), rtol=1e-4, atol=1e-6)


def test_the_gradient_is_that_of_a_second_pass_through_the_whole_network(ddpm):
    weight = torch.randn(3, 32, 32, generator=torch.Generator().manual_seed(0))
    one = replace(BATCH, seeds=(0,), classes=(3,))
    with reading(ddpm, ["x_t", "conv_out"]) as reader:
        ddpm.generate(one)
    edits = guidance_edits(ddpm, _linear(weight), scale=1.0)
    # The second call alone, so that its input is that of the plain run.
    found = _read(ddpm, one, edits, calls={1})[1]
    x, plain = [r.value for r in reader.calls if r.call == 1]
    a = 1 / (1 + math.exp(-found.log_snr))
    leaf = x.clone().requires_grad_()
    out = ddpm.root(leaf, torch.tensor([found.t]), class_labels=torch.tensor([3])).sample
    clean = torch.nn.functional.pixel_shuffle(predict_clean("v_prediction", out, leaf, a), 2)
    gradient = torch.autograd.grad((clean * weight).sum(), leaf)[0]
    wanted = plain + shift_factor("v_prediction", a) * gradient
    assert torch.allclose(found.value, wanted, rtol=1e-3, atol=1e-4)


def test_free_guidance_judges_the_conditional_half_and_moves_both_alike(ddpm):
    weight = torch.randn(3, 32, 32, generator=torch.Generator().manual_seed(0))
    guided = replace(BATCH, guidance=2.0)
    edits = guidance_edits(ddpm, _linear(weight), scale=1.0)
    before, after = _read(ddpm, guided, {}), _read(ddpm, guided, edits, calls={1})
    moved = after[1].value - before[1].value
    assert float(moved.abs().max()) > 0
    assert torch.allclose(moved[:2], moved[2:], atol=1e-5)


def test_a_scale_of_zero_changes_no_bit(ddpm, vit):
    plain = ddpm.generate(BATCH)
    assert guidance_edits(ddpm, class_log_prob(vit, (0, 1)), scale=0.0) == {}
    null = ddpm.generate(replace(BATCH, classes=()))
    assert torch.equal(guide_by_classifier(ddpm, vit, scale=0.0).generate(BATCH), null)
    own = guide_by_classifier(ddpm, vit, scale=0.0, conditional=True)
    assert torch.equal(own.generate(BATCH), plain)


def test_guidance_ends_with_its_context_and_leaves_no_gradient_mode_behind(ddpm, vit):
    plain = ddpm.generate(BATCH)
    with editing(ddpm, guidance_edits(ddpm, class_log_prob(vit, (0, 1)), scale=5.0)):
        moved = ddpm.generate(BATCH)
    assert not torch.equal(moved, plain)
    assert torch.is_grad_enabled()
    assert torch.equal(ddpm.generate(BATCH), plain)


def test_noise_beyond_the_bound_is_left_alone(ddpm, vit):
    log_prob = class_log_prob(vit, (0, 1))
    before = _read(ddpm, BATCH, {})
    after = _read(ddpm, BATCH, guidance_edits(ddpm, log_prob, scale=5.0))
    assert before[0].log_snr < -6 < before[1].log_snr
    assert [torch.equal(x.value, y.value) for x, y in zip(before, after, strict=True)] == [
        True,
        False,
    ]


def test_the_classes_of_a_guided_model_are_a_carrier(ddpm, vit):
    guided = guide_by_classifier(ddpm, vit, scale=5.0)
    shared = {"n": 1, "steps": 2, "scheduler": "ddim", "seed": 0}
    donor, recipient = Generation(**shared, classes=(3,)), Generation(**shared, classes=(7,))
    (found,) = interchange(guided, Carrier(fields=("classes",)), donor, recipient)
    # Shared noise: the class is all that differs, so the swap is the donor.
    assert torch.equal(found.swapped, found.donor)
    assert not torch.equal(found.donor, found.recipient)
    assert (found.rerender, found.role) == (0, "source")
    assert guided.n_classes == 16
    assert set(guided.components()) == {"root", "classifier"}


def test_a_guided_model_can_be_edited_within(ddpm, vit):
    guided = guide_by_classifier(ddpm, vit, scale=5.0)
    batch = replace(BATCH, seeds=(0,), classes=(3,))
    with editing(guided, {"mid_block.resnets.1": lambda rows, call: 0 * rows}):
        cut = guided.generate(batch)
    assert not torch.equal(cut, guided.generate(batch))


def test_an_interchange_of_activations_cuts_the_gradient_and_is_refused(ddpm, vit):
    guided = guide_by_classifier(ddpm, vit, scale=5.0)
    point, recipe = "up_blocks.0.resnets.0", Generation(n=1, steps=2, scheduler="ddim")
    donor, recipient = replace(recipe, classes=(3,)), replace(recipe, seed=9, classes=(3,))
    (found,) = interchange(guided, Carrier((point,), calls={1}), donor, recipient)
    assert found.rerender > 0
    with pytest.raises(InputError, match="own values back changes a pixel"):
        measure_interchange(found, {}, found.donor)


def test_no_block_of_a_guided_run_is_replayed(ddpm, vit):
    """A recorded block has no gradient: what is edited after it would be another model's."""
    guided = guide_by_classifier(ddpm, vit, scale=5.0)
    point, batch = "up_blocks.0.resnets.0", replace(BATCH, seeds=(0,), classes=(3,))
    with pytest.raises(InputError, match="x_t is edited"), recording(guided, [point]):
        guided.generate(batch)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda d, v: guidance_edits(v, None, scale=1.0), "needs a diffusion U-Net"),
        (lambda d, v: guidance_edits(d, None, scale=math.nan), "finite number"),
        (lambda d, v: class_log_prob(d, (0,)), "vision encoder is needed"),
        (lambda d, v: class_log_prob(load("zoo:ssl"), (0,)), "no class head"),
        (lambda d, v: class_log_prob(v, (16,)), r"it has 0\.\.15"),
        (
            lambda d, v: guide_by_classifier(d, v, scale=1.0).generate(replace(BATCH, classes=())),
            "needs a class for each sample",
        ),
    ],
)
def test_what_cannot_guide_is_refused_before_it_runs(ddpm, vit, call, message):
    with pytest.raises(InputError, match=message):
        call(ddpm, vit)


@pytest.mark.parametrize(
    ("log_prob", "message"),
    [
        (lambda x, t: x.mean(), r"gave \(\) for 2 samples"),
        (lambda x, t: torch.zeros(2), "without a gradient"),
    ],
)
def test_a_log_probability_without_samples_or_gradient_is_refused(ddpm, log_prob, message):
    with (
        pytest.raises((InputError, PointError), match=message),
        editing(ddpm, guidance_edits(ddpm, log_prob, scale=1.0)),
    ):
        ddpm.generate(BATCH)
    assert torch.is_grad_enabled()


@pytest.mark.slow
def test_the_log_probability_of_the_class_rises_under_guidance(ddpm, vit):
    classes = tuple(range(16))
    batch = GenerateBatch(tuple(range(16)), classes=classes, scheduler="ddim", steps=8)
    found = []
    for scale in (0.0, 1.0, 3.0):
        images = guide_by_classifier(ddpm, vit, scale=scale).generate(batch)
        with torch.no_grad():
            pixels = images.permute(0, 3, 1, 2).float() / 127.5 - 1
            found.append(float(class_log_prob(vit, classes)(pixels, None).mean()))
    # Measured on 48 samples in 10 steps: -3.3, -2.5, -2.2; no opinion on 16 classes is -2.8.
    assert found[0] + 0.3 < found[1]
    assert found[0] + 0.5 < found[2]
