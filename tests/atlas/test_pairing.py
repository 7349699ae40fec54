"""Donors and recipients: disjoint, independent in every source, or of equal noise alone."""

import pytest

from interp import load
from interp.atlas import AtlasConfig, find_prompts
from interp.atlas.config import choose_sizes
from interp.atlas.games import cut_windows, merge_players, take_rows
from interp.atlas.pairing import align, draw_recipes, settle_recipe, warn_of_texts
from interp.atlas.twins import list_training_seeds
from interp.errors import InputError
from interp.interventions import Carrier
from interp.models import Generation
from tests.atlas import planted

CONFIG = AtlasConfig(n_pairs=30, steps=3)


def _draw(model, prompts=()):
    recipe = settle_recipe(model, CONFIG, prompts)
    return draw_recipes(model, recipe, CONFIG, choose_sizes(CONFIG, 3), prompts)


def test_sample_i_takes_value_i_whatever_the_seed() -> None:
    values = tuple(f"text {i}" for i in range(7))
    for seed in (0, 5, 1_000_003):
        recipe = Generation(n=7, seed=seed, prompts=align(values, seed))
        assert recipe.batch(0, 7).prompts == values
        assert take_rows(recipe, (2, 5)).batch(0, 3).prompts == values[2:5]


def test_classes_of_donors_and_recipients_are_independent() -> None:
    model = load("zoo:dit", untrained=True)
    drawn = _draw(model)
    a, b = (one.batch(0, 30, n_classes=model.n_classes) for one in (drawn.donor, drawn.recipient))
    assert not set(a.seeds) & set(b.seeds)
    same = sum(x == y for x, y in zip(a.classes, b.classes, strict=True))
    assert same < 10
    assert len(set(a.classes)) > 5


def test_the_shared_arm_has_equal_noise_and_another_class_in_every_pair() -> None:
    model = load("zoo:dit", untrained=True)
    shared = _draw(model).shared
    assert shared is not None
    a, b = (one.batch(0, 30, n_classes=model.n_classes) for one in shared)
    assert a.seeds == b.seeds
    assert all(x != y for x, y in zip(a.classes, b.classes, strict=True))


def test_noise_alone_has_no_shared_arm() -> None:
    assert _draw(planted.make_strict()).shared is None


def test_a_sampler_that_draws_noise_is_replaced_by_ddim() -> None:
    from diffusers.schedulers.scheduling_ddpm import DDPMScheduler

    model = load("zoo:ddpm", untrained=True)
    assert settle_recipe(model, CONFIG, ()).scheduler == ""
    host = model.host  # pyright: ignore
    host._scheduler = DDPMScheduler.from_config(host.scheduler.config)
    assert settle_recipe(model, CONFIG, ()).scheduler == "ddim"
    own = AtlasConfig(scheduler="ddpm", steps=3)
    assert "step_noise" in model.sources(settle_recipe(model, own, ()))


def test_texts_of_a_pair_differ_and_none_is_used_twice_where_there_are_enough() -> None:
    model = load("zoo:ldm", untrained=True)
    captions = find_prompts(model)
    drawn = _draw(model, captions)
    a, b = (one.batch(0, 30).prompts for one in (drawn.donor, drawn.recipient))
    assert len({*a, *b}) == 60
    assert warn_of_texts(drawn) == []
    few = _draw(model, ("red star", "blue fish", "green tree"))
    a, b = (one.batch(0, 30).prompts for one in (few.donor, few.recipient))
    assert all(x != y for x, y in zip(a, b, strict=True))
    (said,) = warn_of_texts(few)
    assert said.startswith("The 30 pairs share 3 texts, of which 3 are in several pairs")
    assert "60 different texts" in said


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"n_pairs": 9}, "9 pairs: intervals over pairs need 10"),
        ({"twins": 1}, "twins = 1: at least 2"),
        ({"steps": 0}, "steps = 0: at least 1"),
        ({"attributes": ("content",)}, "two or more"),
    ],
)
def test_settings_that_no_atlas_can_be_made_with_are_refused(values, message) -> None:
    with pytest.raises(InputError, match=message):
        AtlasConfig(**values)


def test_texts_for_a_model_without_texts_are_refused() -> None:
    with pytest.raises(InputError, match="takes no prompts"):
        settle_recipe(planted.make_strict(), AtlasConfig(prompts=("a", "b")), ("a", "b"))


def test_players_are_joined_in_order_and_windows_cover_every_call() -> None:
    players = [Carrier((f"p{i}",)) for i in range(6)]
    merged = merge_players(players, 4)
    assert [one.points for one in merged] == [("p0", "p1"), ("p2", "p3"), ("p4",), ("p5",)]
    assert merge_players(players, 6) == players
    for calls in (1, 2, 3, 8, 10):
        windows = [one for _, one in cut_windows(calls)]
        assert [c for window in windows for c in window] == list(range(calls))


def test_training_seeds_that_exist_are_listed() -> None:
    assert list_training_seeds("zoo:gan") == ("zoo:gan",)
    assert list_training_seeds("diffusers:here") == ("diffusers:here",)
