import hashlib
import json
from typing import Any

import pytest
import torch

import interp
from interp.errors import InputError, InterpError
from interp.zoo.critic import Critic, augment
from interp.zoo.gan import LAYER_SIZES, N_STYLES, Generator, sample_inputs
from interp.zoo.nets import (
    NAMES,
    SCHEDULER,
    WEIGHTS,
    build_net,
    find_weights,
    load_net,
    parse_name,
)
from interp.zoo.recipes import alphas_cumprod

N_CLASSES = 16
# Parameters, where a network needs more than the first four.
BUDGETS = {
    "dit": (1e6, 3e6),
    "text": (0.4e6, 0.65e6),
    "vae-global": (0.6e6, 1.1e6),
    "ldm": (1e6, 2.5e6),
}


def call(name: str, net: torch.nn.Module) -> torch.Tensor:
    seed = torch.Generator().manual_seed(0)
    image = torch.randn(2, 3, 32, 32, generator=seed)
    if name == "gan":
        return net(torch.randn(2, 128, generator=seed), noise=sample_inputs([0, 1])[1])
    if name in ("ddpm", "dit"):
        x = torch.nn.functional.pixel_unshuffle(image, 2)
        return net(x, torch.tensor([3, 900]), class_labels=torch.tensor([0, N_CLASSES])).sample
    if name == "text":
        return net(torch.arange(10)[None].expand(2, -1)).logits
    if name == "ldm":
        context = torch.randn(2, 5, 96, generator=seed)
        return net(image[:, :1, :8, :8].expand(-1, 4, -1, -1), 3, context).sample
    return net(image).sample if name in ("vae", "vae-global") else net(image)


@pytest.fixture(scope="module")
def generator() -> torch.nn.Module:
    return build_net("gan", n_classes=N_CLASSES)


@pytest.mark.parametrize("name", NAMES)
@torch.no_grad()
def test_each_network_has_its_shape_and_fits_the_parameter_budget(name):
    net = build_net(name, n_classes=N_CLASSES)
    low, high = BUDGETS.get(name, (0.6e6, 0.9e6))
    assert low <= sum(p.numel() for p in net.parameters()) <= high
    shapes = {
        "gan": (2, 3, 32, 32),
        "vae": (2, 3, 32, 32),
        "vae-global": (2, 3, 32, 32),
        "text": (2, 10, 1024),
        "ldm": (2, 4, 8, 8),
        "ddpm": (2, 12, 16, 16),
        "vit": (2, 16),
        "dit": (2, 12, 16, 16),
        "ssl": (2, 96),
    }
    out = call(name, net)
    assert out.shape == shapes[name]
    assert out.isfinite().all()
    assert not net.training


@pytest.mark.parametrize("name", NAMES)
def test_the_same_seed_gives_the_same_weights_and_the_global_state_stays(name):
    before = torch.get_rng_state()
    nets = [build_net(name, n_classes=N_CLASSES, seed=seed).state_dict() for seed in (3, 3, 4)]
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(nets[0][key], nets[1][key]) for key in nets[0])
    assert any(not torch.equal(nets[0][key], nets[2][key]) for key in nets[0])


def test_an_unknown_network_is_refused_with_the_names():
    with pytest.raises(InputError, match="no zoo network 'cow'; there are gan, vae, ddpm, vit"):
        build_net("cow", n_classes=2)
    with pytest.raises(InputError, match="no zoo network 'cow'"):
        load_net("cow")


def test_names_carry_the_seed():
    assert parse_name("zoo:gan/1") == ("gan", 1)
    assert parse_name("vae") == ("vae", 0)
    with pytest.raises(InputError, match="seed 'x' in 'gan/x'"):
        parse_name("gan/x")
    with pytest.raises(InputError, match="no zoo network 'cat'"):
        parse_name("zoo:cat")


def test_a_missing_seed_names_the_command_that_trains_it(tmp_path):
    with pytest.raises(
        InterpError, match=r"zoo:gan/7 is not trained.*interp zoo train gan --seed 7"
    ):
        find_weights("gan", seed=7, folder=tmp_path)


@pytest.mark.parametrize("name", NAMES)
def test_shipped_weights_are_small_match_their_card_and_load(name):
    path = WEIGHTS / f"{name}.safetensors"
    content = path.read_bytes()
    card = json.loads(path.with_suffix(".json").read_text())
    assert len(content) <= 2.1 * BUDGETS.get(name, (0, 0.9e6))[1]
    assert hashlib.sha256(content).hexdigest() == card["weights"]["sha256"]
    net, same = load_net(name)
    assert same == card
    assert sum(p.numel() for p in net.parameters()) == card["net"]["parameters"]
    assert next(net.parameters()).dtype == torch.float32
    twin, _ = load_net(name, untrained=True, init_seed=5)
    trained, other = net.state_dict(), twin.state_dict()
    assert any(not torch.equal(trained[key], other[key]) for key in trained)


def test_damaged_weights_are_refused(tmp_path):
    content = bytearray((WEIGHTS / "vit.safetensors").read_bytes())
    content[-1] ^= 1
    (tmp_path / "vit.safetensors").write_bytes(content)
    (tmp_path / "vit.json").write_text((WEIGHTS / "vit.json").read_text())
    with pytest.raises(InterpError, match=r"its card says .* damaged"):
        load_net("vit", folder=tmp_path)


@torch.no_grad()
def test_z_w_and_w_plus_give_the_same_image(generator):
    z, noise = (
        torch.randn(3, 128, generator=torch.Generator().manual_seed(1)),
        sample_inputs([4, 5, 6])[1],
    )
    w = generator.mapping(z)
    image = generator(z, noise=noise)
    assert torch.equal(image, generator(w=w, noise=noise))
    w_plus = w[:, None].repeat(1, N_STYLES, 1)
    assert torch.equal(image, generator(w_plus=w_plus, noise=noise))
    with pytest.raises(ValueError, match="exactly one of z, w and w_plus"):
        generator(z, w=w)


@torch.no_grad()
def test_truncation_zero_is_the_mean_code(generator):
    z = torch.randn(2, 128, generator=torch.Generator().manual_seed(1))
    image = generator(z, truncation=0.0)
    assert torch.allclose(image[0], image[1], atol=1e-6)
    assert torch.allclose(image[0], generator(w=generator.w_mean[None])[0], atol=1e-5)


@torch.no_grad()
def test_noise_is_an_explicit_input_of_each_sample_alone():
    net, _ = load_net("gan")
    z = torch.randn(1, 128, generator=torch.Generator().manual_seed(0)).expand(2, -1)
    image = net(z, noise=sample_inputs([1, 2])[1])
    assert not torch.equal(image[0], image[1])
    assert torch.equal(net(z), net(z))
    alone = sample_inputs([2])[1]
    for layer, size, many, one in zip(
        net.layers, LAYER_SIZES, sample_inputs([1, 2])[1], alone, strict=True
    ):
        assert torch.equal(many[1:], one)
        assert layer.noise(one).shape == (1, 1, size, size)
        assert torch.equal(layer.noise(one), one * layer.noise.strength)


@torch.no_grad()
def test_a_styled_convolution_has_unit_gain_on_white_noise():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = Generator()
        for layer, width in ((net.layers[2], 96), (net.layers[3], 96)):
            x = torch.randn(8, width, 16, 16)
            size = 32 if layer.up else 16
            out = layer(x, torch.randn(8, 128), torch.zeros(8, 1, size, size))
            # Leaky ReLU of a unit normal times sqrt(2): second moment 1 + 0.2^2.
            assert out[..., 2:-2, 2:-2].square().mean() == pytest.approx(1.04, rel=0.1)


def test_the_recipe_trains_on_the_noise_levels_of_the_card_s_scheduler():
    from diffusers import DDIMScheduler

    assert torch.allclose(alphas_cumprod(), DDIMScheduler(**SCHEDULER).alphas_cumprod, atol=1e-6)


def test_augmentation_is_differentiable_and_a_function_of_its_generator():
    x = torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(0)).requires_grad_()
    a, b = (augment(x, torch.Generator().manual_seed(1)) for _ in range(2))
    assert torch.equal(a, b)
    a.sum().backward()
    assert x.grad is not None
    assert x.grad.abs().sum() > 0


@torch.no_grad()
def test_the_critic_gives_one_logit_per_image():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        assert Critic()(torch.randn(6, 3, 32, 32)).shape == (6,)


def test_the_zoos_own_samples_are_those_of_the_loaded_model():
    z, noise = sample_inputs([3, 4])
    model: Any = interp.load("zoo:gan")
    drawn, maps = model.inputs([3, 4])
    assert torch.equal(z, drawn)
    assert all(torch.equal(a, b) for a, b in zip(noise, maps, strict=True))
