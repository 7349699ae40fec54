"""Numbers and attributes that no measurement can be made with are refused with their bounds."""

import numpy as np
import pytest
import torch

from interp.errors import InputError
from interp.interventions import (
    Carrier,
    interchange,
    make_pairs,
    measure_effect,
    measure_layers,
    measure_specialization,
    play,
    play_carriers,
    put_latents,
    scan,
)
from interp.interventions.swapping import embed_images
from interp.models import Generation
from tests.interventions.linear_toy import make_toy

DONOR, RECIPIENT = Generation(n=10, seed=0), Generation(n=10, seed=100)
IMAGES = torch.zeros(10, 4, 4, 3, dtype=torch.uint8)
ATTRIBUTE = {"color": lambda x: x.double().mean((1, 2))}


@pytest.fixture(scope="module")
def pairs():
    rng = np.random.default_rng(0)
    sides = [{"color": rng.standard_normal((10, 3))} for _ in range(3)]
    return make_pairs(sides[0], sides[1], reference=sides[2])


@pytest.mark.parametrize("value", [0, -1, 2.5, True, "8"])
def test_a_batch_of_less_than_one_is_refused_before_anything_runs(value):
    model, _ = make_toy()
    carriers = [Carrier(("hidden",)), Carrier(("later",))]
    options = {"batch_size": value}
    sides = (DONOR, RECIPIENT)
    with pytest.raises(InputError, match=r"batch_size = .*from 1 on is needed"):
        interchange(model, carriers, *sides, **options)
    with pytest.raises(InputError, match=r"batch_size = .*from 1 on is needed"):
        play_carriers(model, carriers, *sides, ATTRIBUTE, IMAGES, **options)
    with pytest.raises(InputError, match=r"batch_size = .*from 1 on is needed"):
        put_latents(model, RECIPIENT, torch.zeros(10, 5), **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_resamples": 0}, "n_resamples = 0: a whole number from 2 on"),
        ({"n_resamples": -1}, "n_resamples = -1: a whole number from 2 on"),
        ({"n_resamples": 1}, "n_resamples = 1: a whole number from 2 on"),
        ({"seed": -1}, "seed = -1: a whole number from 0 on"),
        ({"n_tests": 0}, "n_tests = 0: a whole number from 1 on"),
        ({"n_tests": -1}, "n_tests = -1: a whole number from 1 on"),
    ],
)
def test_a_number_below_its_bound_is_refused(pairs, options, message):
    with pytest.raises(InputError, match=message):
        measure_effect(pairs, pairs.donor, carrier="a", **options)
    if "n_tests" in options:
        return
    game = play(pairs, lambda chosen: pairs.recipient, ["a", "b"])
    for measure in (measure_layers, measure_specialization):
        with pytest.raises(InputError, match=message):
            measure(game, **options)


def test_random_directions_of_a_seed_below_zero_are_refused(pairs):
    model, _ = make_toy()
    with pytest.raises(InputError, match="seed = -1: a whole number from 0 on"):
        interchange(model, Carrier(("hidden",)), DONOR, RECIPIENT, seed=-1)
    with pytest.raises(InputError, match="seed = -1: a whole number from 0 on"):
        play(pairs, lambda chosen: pairs.recipient, list("abcdefgh"), seed=-1)
    with pytest.raises(InputError, match="seed = -1: a whole number from 0 on"):
        scan(model, [Carrier(("hidden",))], DONOR, RECIPIENT, ATTRIBUTE, IMAGES, seed=-1)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (None, "color gave a NoneType, not an array of numbers"),
        (["a"] * 10, "color gave a list, not an array of numbers"),
        (np.array(["a"] * 10), "color gave a ndarray, not an array of numbers"),
        (torch.zeros(10, 0), r"color gave \(10, 0\) for 10 images"),
    ],
)
def test_an_attribute_that_is_no_numbers_is_refused(value, message):
    with pytest.raises(InputError, match=message):
        embed_images(IMAGES, {"color": lambda images: value})
