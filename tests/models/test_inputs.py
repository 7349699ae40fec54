"""Recipes: checked at the door, the same through JSON, samples a function of their own seed."""

import numpy as np
import pytest
import torch

from interp.errors import InputError
from interp.models import EncodeBatch, Encoding, GenerateBatch, Generation, Rows, noise_seed
from interp.models.inputs import check_latents

RECIPES = [
    Generation(n=3, prompts=("a", "b"), classes=(1,), scheduler="heun", guidance=2.5),
    Encoding(images="glyphs/train", log_snr=(1.0, -1.0), draws=2, condition="class"),
    Rows(positions=16, dtype="float16", cfg="cond"),
]


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda r: type(r).__name__)
def test_a_recipe_survives_json(recipe: Generation) -> None:
    assert type(recipe).from_json(recipe.to_json()) == recipe


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda r: type(r).__name__)
def test_unknown_keys_are_refused(recipe: Generation) -> None:
    with pytest.raises(InputError, match=r"has no field \['colour'\]; its fields are"):
        type(recipe).from_json('{"colour": 1}')


@pytest.mark.parametrize(
    ("cls", "fields", "message"),
    [
        (Generation, {"n": 0}, "Generation.n = 0: an integer >= 1"),
        (Generation, {"steps": 2.5}, "steps = 2.5: an integer"),
        (Generation, {"scheduler": "dimm"}, "scheduler = 'dimm' is not one of ddpm, ddim"),
        (Generation, {"guidance": -1.0}, "guidance = -1.0"),
        (Generation, {"guidance": 0.5}, "guidance = 0.5: a number >= 1 is needed"),
        (Generation, {"guidance": float("inf")}, "guidance = inf"),
        (GenerateBatch, {"seeds": (1,), "guidance": 0.0}, "GenerateBatch.guidance = 0.0"),
        (Generation, {"classes": (-1,)}, "classes = "),
        (Encoding, {"condition": "text"}, "condition = 'text' is not one of null, class, caption"),
        (Encoding, {"draws": 0}, "draws = 0"),
        (Rows, {"positions": "some"}, "positions = 'some' is not one of all, mean"),
        (Rows, {"positions": 0}, "positions = 0: an integer >= 1"),
        (Rows, {"dtype": "int8"}, "dtype = 'int8'"),
        (Rows, {"cfg": "left"}, "cfg = 'left' is not one of both, cond, uncond"),
    ],
)
def test_bad_fields_are_refused(cls: type, fields: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        cls(**fields)


def test_a_number_of_positions_may_come_from_a_command_line() -> None:
    assert Rows(positions="16") == Rows(positions=16)


def test_a_batch_takes_prompts_and_classes_in_turn_by_seed() -> None:
    recipe = Generation(n=5, seed=10, prompts=("a", "b", "c"))
    assert recipe.batch(2, 5).seeds == (12, 13, 14)
    assert recipe.batch(2, 5).prompts == ("a", "b", "c")
    assert Generation(n=5).batch(1, 4, n_classes=3).classes == (1, 2, 0)
    assert Generation(n=5).batch(1, 4).classes == ()


def test_noise_depends_on_seed_image_and_draw_alone() -> None:
    seeds = {noise_seed(s, i, d) for s in (0, 1) for i in ("a", "b") for d in (0, 1)}
    assert len(seeds) == 8
    assert noise_seed(0, "a", 0) == 3434604995308849598
    assert all(0 <= s < 2**63 for s in seeds)


def test_a_batch_has_one_of_each_per_sample() -> None:
    with pytest.raises(InputError, match="2 classes for 3 seeds"):
        GenerateBatch(seeds=(1, 2, 3), classes=(0, 1))
    with pytest.raises(InputError, match="empty batch"):
        GenerateBatch(seeds=())
    images = torch.zeros(3, 4, 4, 3, dtype=torch.uint8)
    with pytest.raises(InputError, match="1 noise_seeds for 3 images"):
        EncodeBatch(images, noise_seeds=(1,))


def test_images_are_bytes_with_channels_last() -> None:
    with pytest.raises(InputError, match=r"torch.float32 \(2, 4, 4, 3\); uint8"):
        EncodeBatch(torch.zeros(2, 4, 4, 3))
    with pytest.raises(InputError, match=r"uint8 \(2, 3, 4, 4\)"):
        EncodeBatch(torch.zeros(2, 3, 4, 4, dtype=torch.uint8))


def test_latents_that_are_no_finite_floats_are_refused() -> None:
    with pytest.raises(InputError, match="latents are a ndarray: seeds here need a float tensor"):
        GenerateBatch(seeds=(1,), latents=np.zeros((1, 4)))  # pyright: ignore
    with pytest.raises(InputError, match="latents are a list: z here need a float tensor of shape"):
        check_latents([0.0], (1, 4), "z")  # pyright: ignore
    values = torch.zeros(2, 4)
    values[1, 2:] = torch.tensor([torch.nan, torch.inf])
    with pytest.raises(InputError, match="2 of 8 numbers of the latents are NaN or infinite"):
        GenerateBatch(seeds=(1, 2), latents=values)
