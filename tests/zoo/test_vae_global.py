from typing import Any

import pytest
import torch

from interp.errors import InputError
from interp.loading import wrap_zoo
from interp.models import EncodeBatch, GenerateBatch, Model, reading
from interp.zoo.cards import evaluate_zoo
from interp.zoo.nets import build_net, file_stem, parse_name
from interp.zoo.recipes import make_job
from interp.zoo.sampling import draw_normal
from interp.zoo.vae_global import CODE, Gaussian, sample


@pytest.fixture(scope="module")
def net() -> Any:
    return build_net("vae-global", n_classes=3)


@pytest.fixture(scope="module")
def model(net) -> Model:
    return wrap_zoo("vae-global", net, "zoo:vae-global", {})


def test_a_dash_in_a_name_is_no_seed():
    assert parse_name("zoo:vae-global/2") == ("vae-global", 2)
    assert parse_name("vae-global") == ("vae-global", 0)
    assert file_stem("vae-global", 0) == "vae-global"
    assert file_stem("vae-global", 2) == "vae-global-2"


@torch.no_grad()
def test_one_vector_alone_determines_the_image(net):
    x = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    posterior = net.encode(x).latent_dist
    assert posterior.mean.shape == posterior.logvar.shape == (2, CODE)
    assert net.decode(posterior.mean).sample.shape == x.shape
    assert torch.equal(net(x).sample, net.decode(posterior.mode()).sample)


def test_the_divergence_is_that_of_diagonal_normals():
    g = torch.Generator().manual_seed(0)
    mean, logvar = torch.randn(2, 3, 5, generator=g, dtype=torch.float64)
    posterior = Gaussian(mean, logvar)
    p = torch.distributions.Normal(mean, posterior.std)
    q = torch.distributions.Normal(torch.zeros_like(mean), torch.ones_like(mean))
    expected = torch.distributions.kl_divergence(p, q).sum(1)
    assert torch.allclose(posterior.kl(), expected)


def test_its_points_are_the_code_the_posterior_and_every_map(model):
    points = model.points
    assert points["code"].stream == points["code"].kind == "entry"
    assert (points["code"].width, points["code"].grid) == (CODE, ())
    assert (points["posterior.mean"].width, points["posterior.logvar"].grid) == (CODE, ())
    assert points["decoder.fc"].grid == (4, 4)
    assert points["decoder.resnets.3"].grid == points["encoder.resnets.0"].grid == (32, 32)
    assert "posterior.mean" not in model.points_in("generate")
    assert {"code", "decoder.fc", "decoder.conv_out"} <= set(model.points_in("generate"))


def test_a_generation_decodes_draws_of_the_prior_and_an_encoding_the_mean(model, net):
    with reading(model, ["code"]) as reader:
        made = model.generate(GenerateBatch(seeds=(3, 4)))
    assert torch.equal(reader.calls[0].value, draw_normal([3, 4], CODE))
    assert torch.equal(made, sample(net, [3, 4]))
    images = torch.randint(
        0, 256, (2, 32, 32, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(1)
    )
    with reading(model, ["code", "posterior.mean"]) as reader:
        model.encode(EncodeBatch(images))
    mean, code = (read.value for read in reader.calls)
    assert torch.equal(mean, code)


def test_other_sizes_than_its_own_are_refused(model):
    with pytest.raises(InputError, match=r"makes images of \(32, 32\) pixels only"):
        model.generate(GenerateBatch(seeds=(1,), height=64))


@pytest.mark.slow
def test_a_step_learns_a_few_images():
    job = make_job("vae-global", n_classes=3, batch_size=8)
    g = torch.Generator().manual_seed(0)
    x = torch.rand(8, 3, 1, 1, generator=g).expand(-1, -1, 32, 32) * 2 - 1
    losses = [job.step(job, x, torch.zeros(8), 0.0)["mse"] for _ in range(25)]
    assert losses[-1] < losses[0] / 2


@pytest.mark.slow
def test_the_weight_of_the_divergence_rises_from_nothing():
    def after(kl: float, progress: float) -> torch.Tensor:
        job = make_job("vae-global", n_classes=3, batch_size=2)
        job.extra["recipe"]["kl"] = kl
        x = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
        job.step(job, x, torch.zeros(2), progress)
        return job.nets["vae-global"].posterior.logvar.bias.detach()

    assert torch.equal(after(0.3, 0.0), after(5.0, 0.0))
    assert not torch.equal(after(0.3, 0.3), after(5.0, 0.3))


@pytest.mark.slow
def test_its_quality_is_of_draws_from_the_prior_and_of_reconstructions():
    measured = evaluate_zoo("vae-global", n=32)
    assert measured.frechet is not None
    assert measured.frechet_reconstructed is not None
    assert measured.psnr is not None
    assert measured.frechet_reconstructed < measured.frechet
    assert measured.psnr > 12
