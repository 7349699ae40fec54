"""Sources of a generation: latents and step seeds decide an image, and have a gradient."""

import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, ClassVar

import pytest
import torch
from cases import CASES, PROMPTS, Case, batch_of, two_layers, zoo
from torch import Tensor, nn

from interp.errors import InputError
from interp.loading import load
from interp.models import GenerateBatch, Generation, Model
from interp.models.noise import draws_noise, make_scheduler

SLOW = ("animate", "video")
MAKERS = [
    name for name, case in CASES.items() if case.family in ("unet", "transformer", "vae", "gan")
]
# svd starts from an image, adm is a network without a scheduler.
MAKERS = [name for name in MAKERS if name not in ("svd", "adm")]
params = [pytest.param(n, marks=[pytest.mark.slow] if n in SLOW else []) for n in MAKERS]


@pytest.fixture(params=params, scope="module")
def case(request: pytest.FixtureRequest) -> Case:
    case = CASES[request.param]
    _ = case.build().points
    return case


@pytest.fixture
def model(case: Case) -> Model:
    return case.build()


def recipe_of(case: Case, **changes: Any) -> Generation:
    return Generation(**{"n": 2, "seed": 3, "steps": 2, **case.generate, **changes})


@contextmanager
def loud_noise(model: Model) -> Iterator[None]:
    strengths = [p for name, p in model.root.named_parameters() if name.endswith("noise.strength")]
    for parameter in strengths:
        parameter.data.fill_(0.5)
    yield
    for parameter in strengths:
        parameter.data.zero_()


def test_the_latents_of_the_seeds_give_the_images_of_the_seeds(case: Case, model: Model) -> None:
    batch = batch_of(case)
    plain = model.generate(batch)
    latents = model.draw_latents(batch)
    assert latents.shape[0] == 2
    assert torch.equal(model.generate(dataclasses.replace(batch, latents=latents)), plain)
    same = dataclasses.replace(batch, latents=latents, step_seeds=batch.seeds)
    assert torch.equal(model.generate(same), plain)


def test_other_latents_and_their_step_seeds_are_the_other_image(case: Case, model: Model) -> None:
    batch, other = batch_of(case), batch_of(case, seeds=(8, 9))
    latents = model.draw_latents(other)
    full = dataclasses.replace(batch, latents=latents, step_seeds=other.seeds)
    assert torch.equal(model.generate(full), model.generate(other))


def test_step_seeds_change_the_image_if_and_only_if_there_is_other_noise(
    case: Case, model: Model
) -> None:
    batch = batch_of(case)
    # A generator's noise has no strength before it is trained.
    with loud_noise(model), torch.no_grad():
        plain = model.render(batch)
        swapped = model.render(dataclasses.replace(batch, step_seeds=(8, 9)))
    changed = not torch.equal(swapped, plain)
    assert changed == ("step_seeds" in model.sources(recipe_of(case)).values())


def test_latents_of_another_shape_are_refused_with_both_shapes(case: Case, model: Model) -> None:
    batch = batch_of(case)
    latents = model.draw_latents(batch)
    shape = tuple(latents.shape)
    wrong = latents[:, : shape[1] - 1]
    message = f"{tuple(wrong.shape)}: .* of shape {shape}".replace("(", r"\(").replace(")", r"\)")
    with pytest.raises(InputError, match=message):
        model.generate(dataclasses.replace(batch, latents=wrong))


def test_a_rendering_rounded_is_the_image_and_has_a_gradient(case: Case, model: Model) -> None:
    batch = batch_of(case)
    latents = model.draw_latents(batch).requires_grad_()
    shown = model.render(dataclasses.replace(batch, latents=latents))
    assert shown.shape == (2, *model.generate(batch).shape[1:])
    assert torch.equal((shown * 255).round().to(torch.uint8), model.generate(batch))
    (gradient,) = torch.autograd.grad(shown.square().sum(), latents)
    assert bool(gradient.isfinite().all())
    assert bool(gradient.flatten(1).any(1).all())


def test_drawing_latents_leaves_the_host_as_it_was(case: Case, model: Model) -> None:
    batch = batch_of(case)
    plain, state = model.generate(batch), torch.get_rng_state()
    model.draw_latents(batch_of(case, seeds=(8, 9)))
    with pytest.raises(InputError):
        model.generate(dataclasses.replace(batch, latents=torch.zeros(2, 1)))
    assert torch.equal(model.generate(batch), plain)
    assert torch.equal(torch.get_rng_state(), state)


def test_sources_are_those_of_the_family_and_the_recipe() -> None:
    assert zoo("gan").sources(Generation()) == {"z": "latents", "noise": "step_seeds"}
    assert zoo("vae-global").sources(Generation()) == {"code": "latents"}
    ddpm, sd = zoo("ddpm"), CASES["sd"].build()
    assert ddpm.sources(Generation()) == {"x_T": "latents", "classes": "classes"}
    noisy = {"x_T": "latents", "step_noise": "step_seeds"}
    recipe = Generation(scheduler="ddpm", steps=2)
    assert ddpm.sources(recipe) == {**noisy, "classes": "classes"}
    assert sd.sources(recipe) == noisy
    assert sd.sources(Generation(prompts=PROMPTS)) == {"x_T": "latents", "prompts": "prompts"}


@pytest.mark.parametrize(
    ("name", "steps", "noisy"),
    [
        ("ddpm", 3, True),
        # Its one step is the last, which adds none.
        ("ddpm", 1, False),
        ("euler_ancestral", 3, True),
        ("ddim", 3, False),
        ("euler", 3, False),
        ("heun", 3, False),
        ("dpm++", 3, False),
        ("unipc", 3, False),
        ("pndm", 3, False),
    ],
)
def test_a_sampler_with_noise_is_found_out(name: str, steps: int, noisy: bool) -> None:
    import diffusers

    scheduler = make_scheduler(name, diffusers.DDIMScheduler())
    assert draws_noise(scheduler, steps) == noisy


@pytest.mark.parametrize("name", ["zoo-ddpm", "sd", "dit"])
@pytest.mark.parametrize("scheduler", ["ddpm", "euler_ancestral"])
def test_the_noise_of_the_steps_comes_from_its_own_seed(name: str, scheduler: str) -> None:
    case = CASES[name]
    model = case.build()
    batch, other = (batch_of(case, scheduler=scheduler, seeds=s) for s in ((3, 4), (8, 9)))
    one, two = model.draw_latents(batch), model.draw_latents(other)
    swapped = dataclasses.replace(batch, step_seeds=other.seeds)
    assert torch.equal(model.render(swapped), model.render(dataclasses.replace(other, latents=one)))
    plain = model.render(batch)
    assert torch.equal(model.render(dataclasses.replace(batch, latents=one)), plain)
    assert not torch.equal(model.render(swapped), plain)
    both = dataclasses.replace(batch, latents=two, step_seeds=other.seeds)
    assert torch.equal(model.render(both), model.render(other))


def test_the_latents_of_the_seeds_are_of_unit_scale_whatever_the_sampler() -> None:
    case = CASES["sdxl"]
    model = case.build()
    # Euler's own factor is above 10.
    ours, plain = (model.draw_latents(batch_of(case, scheduler=s)) for s in ("", "ddim"))
    assert torch.equal(ours, plain)
    assert 0.8 < float(ours.std()) < 1.2


def test_a_batch_checks_latents_and_step_seeds_at_the_door() -> None:
    with pytest.raises(InputError, match=r"latents torch.float32 \(3, 4\).*\(2, 4\)"):
        GenerateBatch(seeds=(1, 2), latents=torch.zeros(3, 4))
    with pytest.raises(InputError, match=r"torch.int64 \(2, 4\)"):
        GenerateBatch(seeds=(1, 2), latents=torch.zeros(2, 4, dtype=torch.long))
    with pytest.raises(InputError, match="1 step_seeds for 2 seeds"):
        GenerateBatch(seeds=(1, 2), step_seeds=(1,))


def test_images_of_given_latents_have_no_id() -> None:
    from interp.models import find_origin

    model = zoo("gan")
    origin = find_origin(Generation(), model, model.identity())
    batch = Generation(n=2).batch(0, 2)
    assert len(origin.image_ids(batch)) == 2
    for given in ({"latents": torch.zeros(2, 128)}, {"step_seeds": (5, 6)}):
        with pytest.raises(InputError, match="have no id"):
            origin.image_ids(dataclasses.replace(batch, **given))


@pytest.mark.parametrize("name", ["zoo-vit", "zoo-text", "two-layers"])
def test_what_makes_no_images_has_no_sources(name: str) -> None:
    model = CASES[name].build()
    batch = GenerateBatch(seeds=(1,))
    for verb in (model.render, model.draw_latents, model.generate):
        with pytest.raises(InputError, match="cannot generate"):
            verb(batch)
    with pytest.raises(InputError, match="cannot generate"):
        model.sources(Generation())


class Painting:
    """An adapter that makes bytes alone."""

    points: ClassVar = {"out": "0"}

    def reference(self) -> tuple[tuple, dict]:
        return (torch.zeros(1, 3),), {}

    def generate(self, root: nn.Module, batch: GenerateBatch) -> Tensor:
        root(torch.zeros(len(batch.seeds), 3))
        return torch.zeros(len(batch.seeds), 2, 2, 3, dtype=torch.uint8)


class Drawing:
    """An adapter with everything."""

    points: ClassVar = {"out": "0"}

    def reference(self) -> tuple[tuple, dict]:
        return (torch.zeros(1, 3),), {}

    def draw_latents(self, root: nn.Module, batch: GenerateBatch) -> Tensor:
        return torch.stack([torch.full((3,), float(seed)) for seed in batch.seeds])

    def render(self, root: nn.Module, batch: GenerateBatch) -> Tensor:
        z = self.draw_latents(root, batch) if batch.latents is None else batch.latents
        return root(z).sigmoid()[:, None, None, :].expand(-1, 2, 2, 3)


def test_an_adapter_refuses_what_it_lacks_and_does_what_it_has() -> None:
    with torch.random.fork_rng(devices=[]):
        net = nn.Sequential(nn.Linear(3, 3))
    bare, able = load(net, adapter=Painting()), load(net, adapter=Drawing())
    batch = GenerateBatch(seeds=(1, 2))
    assert bare.sources(Generation()) == {}
    with pytest.raises(InputError, match="give its adapter a `render`"):
        bare.render(batch)
    with pytest.raises(InputError, match=r"Painting of .* has no 'draw_latents'"):
        bare.draw_latents(batch)
    with pytest.raises(InputError, match="has no 'draw_latents'"):
        bare.generate(dataclasses.replace(batch, latents=torch.zeros(2, 3)))
    with pytest.raises(InputError, match="no source with the field step_seeds"):
        bare.generate(dataclasses.replace(batch, step_seeds=(1, 2)))
    assert able.sources(Generation()) == {"latents": "latents"}
    latents = able.draw_latents(batch).requires_grad_()
    shown = able.render(dataclasses.replace(batch, latents=latents))
    assert torch.equal((shown * 255).round().to(torch.uint8), able.generate(batch))
    assert torch.autograd.grad(shown.sum(), latents)[0].any()


def test_an_adapter_of_the_readme_still_encodes_alone() -> None:
    assert two_layers().capabilities == {"encode"}
