"""Games in parts, directions of a source, and what the record says of them."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from interp.atlas import AtlasConfig
from interp.atlas.bases import Subject, count_directions, count_image_directions, make_images
from interp.atlas.games import Arms, play_parts, remember
from interp.atlas.parts import keep_arrays, keep_values, recipe_hash
from interp.atlas.words import ZOO_SCOPE
from interp.demo import SCOPE
from interp.errors import InputError
from interp.interventions import (
    embed_images,
    list_carriers,
    make_pairs,
    measure_layers,
    play_carriers,
)
from interp.models import Generation
from tests.atlas import planted

DONOR = Generation(n=24, seed=0, batch_size=12)
RECIPIENT = Generation(n=24, seed=1000, batch_size=12)
OTHER = Generation(n=40, seed=2000, batch_size=40)


def _arms(model) -> Arms:
    reference = make_images(model, OTHER)
    return Arms(DONOR, RECIPIENT, remember(planted.attributes(), reference), reference)


def test_a_game_in_parts_is_the_whole_game(tmp_path: Path) -> None:
    model = planted.make_broad()
    arms = _arms(model)
    players = list_carriers(model, RECIPIENT, "stages")[:3]
    whole = play_carriers(
        model, players, DONOR, RECIPIENT, arms.attributes, arms.reference, batch_size=12
    )
    parts = play_parts(model, players, arms, folder=tmp_path, name="game")
    assert parts.subsets == whole.subsets
    assert np.array_equal(parts.moments, whole.moments)
    assert len(list(tmp_path.iterdir())) == 2
    again = play_parts(model, players, arms, folder=tmp_path, name="game")
    assert np.array_equal(again.moments, whole.moments)
    assert np.array_equal(measure_layers(again).shapley, measure_layers(whole).shapley)


def test_directions_of_a_latent_with_a_planted_number() -> None:
    model = planted.make_strict()
    arms = _arms(model)
    a, b = (make_images(model, one) for one in (DONOR, RECIPIENT))
    embedded = (embed_images(x, arms.attributes) for x in (a, b, arms.reference))
    pairs = make_pairs(next(embedded), next(embedded), reference=next(embedded))
    gradient = dataclasses.replace(OTHER, seed=3000, n=30)
    subject = Subject(model, DONOR, RECIPIENT, OTHER, gradient, arms.attributes, pairs)
    found = count_directions(subject, 60, seed=0)
    assert found.width == planted.CODE
    assert found.jacobian.rank == planted.CODE
    assert found.jacobian.full == pytest.approx(1, abs=0.01)
    assert (found.pca.d_star or 0) > 9
    assert (found.jacobian.d_star or 0) > 9
    image = count_image_directions(pairs, a, b, arms.reference, arms.attributes)
    assert (image.d_star or 0) > 9


def test_a_part_is_made_once_and_a_damaged_one_is_named(tmp_path: Path) -> None:
    made = []

    def make():
        made.append(1)
        return {"x": np.arange(3)}

    for _ in range(2):
        assert keep_arrays(tmp_path, "a", make)["x"].tolist() == [0, 1, 2]
    assert len(made) == 1
    assert keep_values(tmp_path, "b", lambda: [1]) == keep_values(tmp_path, "b", lambda: [2])
    (tmp_path / "a.npz").write_bytes(b"PK")
    (tmp_path / "b.json").write_text("[1")
    for keep, name in ((keep_arrays, "a"), (keep_values, "b")):
        with pytest.raises(InputError, match="delete it to go on"):
            keep(tmp_path, name, make)


def test_another_recipe_has_another_folder() -> None:
    one = recipe_hash({"config": dataclasses.asdict(AtlasConfig())})
    assert one == recipe_hash({"config": dataclasses.asdict(AtlasConfig())})
    assert one != recipe_hash({"config": dataclasses.asdict(AtlasConfig(seed=1))})


def test_the_scope_is_that_of_the_demo() -> None:
    assert ZOO_SCOPE == SCOPE
