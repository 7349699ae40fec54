"""Inversion: exact where the sampler is linear, better with more work, refused elsewhere."""

from dataclasses import replace

import pytest
import tiny
import tiny_pipes
import torch
from cases import two_layers, zoo

from interp import load
from interp.errors import InputError
from interp.models import (
    GenerateBatch,
    InversionSettings,
    UNet,
    editing,
    invert,
    regenerate,
    restoring,
)
from interp.models.inversion_sampler import _encode, _noise_of

# Variance of the planted images; their denoiser is linear and known.
VARIANCE = 0.09


class _Linear(torch.nn.Module):
    """The exact denoiser of images x0 ~ N(0, VARIANCE), for the default schedule."""

    def __init__(self, kind="epsilon", **schedule):
        super().__init__()
        from diffusers.configuration_utils import FrozenDict
        from diffusers.schedulers.scheduling_ddim import DDIMScheduler

        self.unused = torch.nn.Parameter(torch.zeros(1))
        self.config = FrozenDict(sample_size=4, in_channels=3)
        options = {"clip_sample": False, "timestep_spacing": "trailing", "prediction_type": kind}
        self.scheduler = DDIMScheduler(**(options | schedule))
        self.kind = kind

    def forward(self, sample, timestep):
        a = self.scheduler.alphas_cumprod[int(timestep.reshape(-1)[0])]
        variance = a * VARIANCE + 1 - a
        noise = (1 - a).sqrt() / variance * sample
        clean = a.sqrt() * VARIANCE / variance * sample
        kinds = {"epsilon": noise, "sample": clean}
        out = kinds.get(self.kind, a.sqrt() * noise - (1 - a).sqrt() * clean)
        return type("Output", (), {"sample": out})


def _linear(kind="epsilon", **schedule):
    net = _Linear(kind, **schedule)
    return UNet(net, "linear", scheduler=net.scheduler)


def _draws(n=3, side=4):
    g = torch.Generator().manual_seed(0)
    x = (0.3 * torch.randn(n, side, side, 3, generator=g)).clamp(-1, 1)
    return ((x + 1) * 127.5).round().to(torch.uint8)


def _noise(model, images):
    """Images by the flow of the planted Gaussian: x_T = x_0 s_T / s_0, s_t^2 = a_t v + 1 - a_t."""
    a = model.host.scheduler.alphas_cumprod[-1]
    clean = images.permute(0, 3, 1, 2).float() / 127.5 - 1
    return clean * ((a * VARIANCE + 1 - a) / VARIANCE).sqrt()


def _plain(steps, **more):
    return InversionSettings(**{"steps": steps, "refinements": 0, **more})


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "sample"])
def test_ddim_of_a_linear_denoiser_comes_to_its_exact_noise_with_more_steps(kind):
    model, images = _linear(kind), _draws()
    wanted = _noise(model, images)
    errors = []
    for steps in (10, 50, 250):
        found = invert(model, images, "ddim", _plain(steps))
        errors.append(float((found.latents - wanted).norm() / wanted.norm()))
    # A method of first order: five times the steps, about a fifth of the error. (Of v, errors of
    # either sign nearly cancel at 10 steps.)
    assert errors[0] > errors[1] > 3 * errors[2]
    assert errors[2] < 0.02


def test_what_is_made_again_gets_better_with_every_doubling_of_the_steps():
    model, images = _linear(), _draws()
    found = [invert(model, images, "ddim", _plain(steps)) for steps in (5, 10, 20, 40, 80)]
    errors = [float(one.rms.mean()) for one in found]
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < errors[0] / 5


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction"])
def test_refined_steps_are_undone_exactly(kind):
    model, images = _linear(kind), _draws()
    rough = invert(model, images, "ddim", _plain(25))
    fine = invert(model, images, "ddim", _plain(25, refinements=20))
    assert float(rough.rms.min()) > 0.01
    assert torch.equal(fine.reconstruction, fine.images)
    assert bool(fine.psnr.isinf().all())


@pytest.mark.parametrize("a", [1e-8, 0.3, 0.9])
def test_the_noise_of_a_step_leads_back_to_where_it_came_from(a):
    """One DDIM step of a fixed v from x_t, in float64, ends at the state before."""
    a, b = torch.tensor([a, a + 0.05]).double()
    before, v = torch.randn(2, 5, generator=torch.Generator().manual_seed(0)).double()
    noise = _noise_of("v_prediction", v, before, before, a, b)
    x = a.sqrt() * (before - (1 - b).sqrt() * noise) / b.sqrt() + (1 - a).sqrt() * noise
    clean = a.sqrt() * x - (1 - a).sqrt() * v
    back = b.sqrt() * clean + (1 - b).sqrt() * (a.sqrt() * v + (1 - a).sqrt() * x)
    assert torch.allclose(back, before, atol=1e-12)


def test_dpm_comes_to_the_exact_noise_of_a_linear_denoiser_in_few_steps():
    model, images = _linear(), _draws()
    found = invert(model, images, "dpm", _plain(40))
    wanted = _noise(model, images)
    assert float((found.latents - wanted).norm() / wanted.norm()) < 0.07
    assert found.batch.scheduler == "dpm++"


def test_the_error_is_that_of_images_made_from_the_stored_latents():
    model, images = _linear(), _draws(n=5)
    found = invert(model, images, "ddim", _plain(6, batch_size=2, seed=7))
    made = model.generate(found.batch)
    assert torch.equal(made, found.reconstruction)
    assert torch.equal(regenerate(model, found), made)
    rms = ((made.double() - images.double()) / 255).square().mean((1, 2, 3)).sqrt()
    assert torch.allclose(found.rms, rms)
    assert torch.allclose(found.psnr, 10 * torch.log10(1 / rms**2))
    assert found.batch.seeds == (7, 8, 9, 10, 11)
    assert found.settings["steps"] == 6
    with restoring(model, found, slice(3, 5)) as batch:
        assert torch.equal(model.generate(batch), made[3:])


def test_an_image_of_another_size_is_inverted_at_the_models():
    found = invert(_linear(), _draws(side=8), "ddim", _plain(4))
    assert found.images.shape == found.reconstruction.shape == (3, 4, 4, 3)


def _sd(**config):
    """The tiny Stable Diffusion pipeline with a sampler that has an inverse."""
    import diffusers

    pipe = tiny_pipes.PIPES["sd"]()
    options = {"beta_schedule": "scaled_linear", "timestep_spacing": "leading", "steps_offset": 1}
    options |= {"clip_sample": False, "set_alpha_to_one": False} | config
    scheduler = diffusers.DDIMScheduler(**options)
    parts = {**pipe.components, "scheduler": scheduler}
    made = diffusers.StableDiffusionPipeline(**parts, requires_safety_checker=False)
    made.set_progress_bar_config(disable=True)
    return load(made)


@pytest.fixture(scope="module")
def sd():
    return _sd()


PROMPTS = ("a cat", "dog")


def _own(model, **more):
    return model.generate(GenerateBatch((0, 1), prompts=PROMPTS, scheduler="ddim", **more))


def test_a_latent_model_is_inverted_with_its_prompts_and_shows_its_codecs_error(sd):
    images = _own(sd, steps=4)
    settings = InversionSettings(steps=4, refinements=3)
    found = invert(sd, images, "ddim", settings, prompts=PROMPTS)
    assert found.latents.shape == (2, *sd.draw_latents(found.batch).shape[1:])
    assert found.batch.prompts == PROMPTS
    # Made again in the pipeline: only sampling and the codec stand between.
    assert torch.allclose(found.psnr, found.codec_psnr, atol=1.0)
    other = invert(sd, images, "ddim", settings, prompts=("x", "y"))
    assert not torch.equal(found.latents, other.latents)


def _decoded(sd, run):
    """The latents that a pipeline's run ends with, at the sampler's scale."""
    vae, seen = sd.host.pipe.vae, []
    hook = vae.post_quant_conv.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    try:
        run()
    finally:
        hook.remove()
    return seen[-1] * vae.config.scaling_factor


def test_null_texts_keep_guided_sampling_on_the_path_that_was_inverted(sd):
    images = _own(sd, steps=2)
    settings = InversionSettings(steps=2, guidance=3.0, iterations=8, lr=0.1)
    found = invert(sd, images, "null_text", settings, prompts=PROMPTS)
    text = sd.point("context.mid_block.attentions.0.transformer_blocks.0.attn2").width
    assert found.nulls.shape == (2, 2, 16, text)
    # Codes, since an untrained codec puts its image far from the one that it encoded.
    pixels = found.images.permute(0, 3, 1, 2).float() / 127.5 - 1
    goal, _ = _encode(sd.host, pixels)
    with_them = _decoded(sd, lambda: regenerate(sd, found))
    without = _decoded(sd, lambda: sd.generate(found.batch))
    near, far = ((x - goal).square().mean((1, 2, 3)) for x in (with_them, without))
    assert bool((near < 0.85 * far).all())
    assert torch.equal(regenerate(sd, found), found.reconstruction)


def test_an_image_is_inverted_as_if_it_were_alone(sd):
    images = _own(sd, steps=2)
    settings = InversionSettings(steps=2, guidance=3.0, iterations=2)
    both = invert(sd, images, "null_text", settings, prompts=PROMPTS)
    one = invert(sd, images[1:], "null_text", replace(settings, seed=1), prompts=PROMPTS[1:])
    assert torch.allclose(both.nulls[1:], one.nulls, atol=1e-4)
    assert torch.allclose(both.latents[1:], one.latents, atol=1e-4)


def test_the_code_of_an_autoencoder_is_its_encoders_mean():
    model = load(tiny.NETS["kl"]())
    height, width = model.image_size
    g = torch.Generator().manual_seed(1)
    images = torch.randint(0, 256, (2, height, width, 3), dtype=torch.uint8, generator=g)
    found = invert(model, images)
    from interp.models import EncodeBatch

    assert found.method == "encode"
    made = model.encode(EncodeBatch(images))
    assert int((made.int() - found.reconstruction.int()).abs().max()) <= 1


@pytest.fixture(scope="module")
def gan():
    return load("zoo:gan")


@pytest.mark.parametrize("noise", ["fixed", "zero", "optimized"])
@pytest.mark.parametrize("method", ["w", "w_plus"])
def test_codes_of_a_gan_make_what_was_found_again(gan, method, noise):
    images = gan.generate(GenerateBatch((5, 6)))
    settings = InversionSettings(iterations=2, noise=noise)
    found = invert(gan, images, method, settings)
    shape = (2, 128) if method == "w" else (2, 8, 128)
    assert found.latents.shape == shape
    assert len(found.noise) == (0 if noise == "fixed" else 7)
    assert torch.equal(regenerate(gan, found), found.reconstruction)
    with restoring(gan, found, slice(1, 2)) as batch:
        one = gan.generate(batch)
        assert int((one.int() - found.reconstruction[1:].int()).abs().max()) <= 1
        with editing(gan, {"s.6": lambda rows, call: 0 * rows}):
            assert not torch.equal(gan.generate(batch), one)


def test_a_gans_codes_never_end_worse_than_they_began(gan):
    images = gan.generate(GenerateBatch((5, 6)))
    short, long, wild = (
        invert(gan, images, "w", InversionSettings(iterations=i, lr=lr))
        for i, lr in ((1, 1e-6), (8, 0.1), (8, 50.0))
    )
    # One step of no length is the mean w.
    assert bool((long.rms < short.rms).all())
    assert bool((wild.rms <= short.rms + 1e-3).all())


def test_features_are_part_of_a_gans_loss(gan):
    images = gan.generate(GenerateBatch((5,)))
    settings = InversionSettings(iterations=3, feature_weight=10.0)
    seen = []

    def features(x):
        seen.append(x.shape)
        return x.mean((2, 3))

    with_features = invert(gan, images, "w", settings, features=features)
    without = invert(gan, images, "w", settings)
    assert set(seen) == {(1, 3, 32, 32)}
    assert not torch.equal(with_features.latents, without.latents)
    assert with_features.settings["features"] is True


IMAGES = torch.zeros(2, 8, 8, 3, dtype=torch.uint8)


@pytest.mark.parametrize(
    ("model", "method", "options", "message"),
    [
        (lambda: zoo("vit"), "", {}, "encoder: it makes no images"),
        (two_layers, "", {}, "custom: it makes no images"),
        (_linear, "w", {}, r"inverts by ddim, dpm, null_text: 'w'"),
        (lambda: zoo("gan"), "ddim", {}, "inverts by w_plus, w"),
        (lambda: zoo("gan"), "w", {"prompts": PROMPTS}, "neither prompts nor classes"),
        (_linear, "null_text", {}, "give guidance > 1"),
        (
            _linear,
            "null_text",
            {"settings": InversionSettings(guidance=2.0)},
            "has no text embedding",
        ),
        (lambda: load(tiny.NETS["adm"]()), "ddim", {}, "has no scheduler"),
        (lambda: load(tiny_pipes.PIPES["sdxl"]()), "ddim", {}, "StableDiffusionXLPipeline"),
        (lambda: _linear(timestep_spacing="linspace"), "ddim", {}, "'leading' and 'trailing'"),
        (_linear, "ddim", {"prompts": ("one",)}, "1 prompts for 2 seeds"),
    ],
)
def test_what_has_no_inverse_is_refused_before_it_runs(model, method, options, message):
    with pytest.raises(InputError, match=message):
        invert(model(), IMAGES, method, **options)


def test_images_and_settings_that_do_not_fit_are_refused():
    with pytest.raises(InputError, match=r"uint8 \[n >= 1, h, w, 3\]"):
        invert(_linear(), IMAGES.float())
    with pytest.raises(InputError, match="steps = 0"):
        InversionSettings(steps=0)
    with pytest.raises(InputError, match="'loud' is not one of fixed, zero, optimized"):
        InversionSettings(noise="loud")


@pytest.mark.slow
def test_a_trained_gans_own_samples_are_found_again():
    gan = load("zoo:gan")
    images = gan.generate(GenerateBatch((100, 101, 102)))
    start = invert(gan, images, "w", InversionSettings(iterations=1, lr=1e-6))
    found = [invert(gan, images, m, InversionSettings(iterations=150)) for m in ("w", "w_plus")]
    assert bool((found[0].psnr > start.psnr + 5).all())
    # Measured on eight samples: medians of 27 dB for w and 33 dB for w_plus, worst 23 and 27.
    assert float(found[0].psnr.median()) > 22
    assert float(found[1].psnr.median()) > 27


@pytest.mark.slow
def test_a_trained_diffusion_models_own_samples_are_found_again_by_refined_steps():
    ddpm = load("zoo:ddpm")
    batch = GenerateBatch((100, 101), classes=(0, 1), scheduler="ddim", steps=50)
    found = invert(ddpm, ddpm.generate(batch), "ddim", classes=batch.classes)
    plain = invert(ddpm, found.images, "ddim", _plain(50), classes=batch.classes)
    assert float(found.psnr.min()) > 45
    assert bool((found.psnr > plain.psnr + 10).all())
