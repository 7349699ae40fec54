"""Games in parts, directions of a source, and what the record says of them."""

import dataclasses
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from interp.atlas import AtlasConfig, labor
from interp.atlas.bases import Subject, count_directions, count_image_directions, make_images
from interp.atlas.compact import _check_counted
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
from tests.interventions.linear_toy import make_toy

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


def test_directions_of_images_that_take_too_much_memory_are_refused_with_an_estimate() -> None:
    images = torch.zeros(1, 1, 1, 3, dtype=torch.uint8).expand(128, 1024, 1024, 3)
    pairs: Any = None
    with pytest.raises(InputError, match=r"128 images of 3145728 numbers.*about 27 GiB.* than 8"):
        count_image_directions(pairs, images, images, images, {})


def _recompress(data: bytes) -> bytes:
    """A zip whose table of contents names a method of compression that is unknown here."""
    at = data.find(b"PK\x01\x02") + 10
    return data[:at] + bytes([9]) + data[at + 1 :]


def _arrays(folder, make):
    return keep_arrays(folder, "a", make, ("x",))


def _values(folder, make):
    return keep_values(folder, "a", make, lambda values: values["x"])


DAMAGED = {
    "arrays cut short": (_arrays, lambda data: data[: len(data) // 2]),
    "no arrays": (_arrays, lambda data: b""),
    "arrays in another way": (_arrays, _recompress),
    "other arrays": (_arrays, lambda data: data.replace(b"x.npy", b"y.npy")),
    "values cut short": (_values, lambda data: data[:-1]),
    "no text": (_values, lambda data: b"\xff\xfe"),
    "a list": (_values, lambda data: b"[]"),
    "other values": (_values, lambda data: b"{}"),
}


@pytest.mark.parametrize("case", DAMAGED)
def test_a_part_is_made_once_and_a_damaged_one_again(tmp_path: Path, case: str) -> None:
    keep, spoil = DAMAGED[case]
    made = []

    def make():
        made.append(1)
        return {"x": np.arange(3) if keep is _arrays else 1}

    assert [list(keep(tmp_path, make)) for _ in range(2)] == [["x"], ["x"]]
    assert len(made) == 1
    (path,) = tmp_path.iterdir()
    whole = path.read_bytes()
    path.write_bytes(spoil(whole))
    assert list(keep(tmp_path, make)) == ["x"]
    assert len(made) == 2
    assert [one.read_bytes() for one in tmp_path.iterdir()] == [whole]


@pytest.mark.parametrize("text", ["[]", "3", "{}", '{"width": 3}'])
def test_directions_that_are_no_directions_are_counted_again(tmp_path: Path, text: str) -> None:
    (tmp_path / "directions-z.json").write_text(text)
    assert keep_values(tmp_path, "directions-z", lambda: 1, _check_counted) == 1


def test_a_twin_of_other_weights_is_another_part(monkeypatch: pytest.MonkeyPatch) -> None:
    names = []

    def stop(*_, name, **__):
        names.append(name)
        raise InputError("played enough")

    monkeypatch.setattr(labor, "play_parts", stop)
    monkeypatch.setattr(labor, "_fewer", lambda *_: None)
    job: Any = SimpleNamespace(folder=None, warnings=[], sizes=SimpleNamespace(twin_pairs=10))
    for factor in (1, 1, 2):
        twin, weight = make_toy()
        twin.root.out.weight.data = (factor * weight).float()
        labor._play_twin(job, [], lambda seed, twin=twin: twin, 1)
    assert names[0] == names[1] != names[2]
    assert all(name.startswith("twin-1-") for name in names)


def test_another_recipe_has_another_folder() -> None:
    one = recipe_hash({"config": dataclasses.asdict(AtlasConfig())})
    assert one == recipe_hash({"config": dataclasses.asdict(AtlasConfig())})
    assert one != recipe_hash({"config": dataclasses.asdict(AtlasConfig(seed=1))})


def test_the_scope_is_that_of_the_demo() -> None:
    assert ZOO_SCOPE == SCOPE
