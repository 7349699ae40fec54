"""Layers chosen on one half of the images and scored on the other."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from interp.alignment import Choices, Representation, choose_and_score, compare, half_images
from interp.errors import InputError

N = 80
IDS = tuple(f"i{i:02d}" for i in range(N))
CLUSTERS = tuple(f"c{i // 4}" for i in range(N))
FAST = {"pixels": False, "measures": ("cka",), "n_folds": 8}


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def model(name: str, signals: tuple[float, ...], seed: int) -> list[Representation]:
    latent = draw(N, 3, seed=99)
    return [
        Representation(
            name,
            f"p{i}",
            signal * latent @ draw(3, 5, seed=seed + i) + draw(N, 5, seed=seed + 40 + i),
            IDS,
            CLUSTERS,
        )
        for i, signal in enumerate(signals)
    ]


def test_halves_are_whole_clusters_of_equal_size() -> None:
    first, second = half_images(IDS, CLUSTERS, seed=3)
    assert sorted(first + second) == sorted(IDS)
    assert len(first) == len(second) == 40
    cluster = dict(zip(IDS, CLUSTERS, strict=True))
    assert not {cluster[name] for name in first} & {cluster[name] for name in second}
    assert half_images(IDS, CLUSTERS, seed=3) == (first, second)
    assert half_images(IDS, CLUSTERS, seed=4) != (first, second)
    with pytest.raises(InputError, match="2 folds from 1 clusters"):
        half_images(IDS, ["one"] * N)


def test_the_chosen_pair_is_the_planted_one_and_scored_on_other_images() -> None:
    models = {"a": model("a", (0, 3, 0), 0), "b": model("b", (0, 0, 3), 200)}
    result = choose_and_score(models, **FAST)
    assert result.n == (40, 40)
    assert result.sample_set == "real images"
    halves = half_images(IDS, CLUSTERS)
    assert [one.half for one in result.choices] == [1, 0]
    for one in result.choices:
        assert (one.layer_a, one.layer_b, one.n_cells) == ("a/p1", "b/p2", 9)
        for half, value in (
            (halves[one.half], one.comparison.value),
            (halves[1 - one.half], one.searched_value),
        ):
            rows = torch.tensor([IDS.index(name) for name in sorted(half)])
            x, y = models["a"][1].x[rows], models["b"][2].x[rows]
            by_hand = compare(x, y, n_permutations=0, n_folds=0).value
            assert value == pytest.approx(by_hand, abs=1e-9)
        assert one.comparison.p == 1 / 201
        assert one.p_holm == pytest.approx(2 / 201)
        assert one.comparison.low < one.comparison.value < one.comparison.high
        assert one.comparison.n == 40


def test_a_search_through_noise_overstates_itself_and_its_score_does_not() -> None:
    searched, scored = [], []
    for r in range(6):
        models = {"a": model("a", (0,) * 5, 1000 * r), "b": model("b", (0,) * 5, 1000 * r + 500)}
        options = {**FAST, "n_folds": 0, "n_permutations": 0, "by": "value", "seed": r}
        for one in choose_and_score(models, **options).choices:
            searched.append(one.searched_value)
            scored.append(one.comparison.value)
    # Debiased CKA of 40 independent rows has standard deviation 0.037.
    sd = (2 / (40 * 37)) ** 0.5
    assert np.mean(searched) > 1.5 * sd
    assert abs(np.mean(scored)) < 3.3 * sd / len(scored) ** 0.5


def test_levels_stand_beside_the_chosen_cell() -> None:
    models = {"a": model("a", (0, 3), 0), "b": model("b", (2, 3), 200)}
    twins = {
        name: [model(name, (0, 0), seed + 10 * t) for t in range(2)]
        for name, seed in (("a", 600), ("b", 800))
    }
    codes = Representation("vae", "code", draw(N, 4, seed=5), IDS, CLUSTERS)
    options = {**FAST, "levels": [codes, "spectrum"], "swap": False, "by": "difference"}
    (one,) = choose_and_score(models, twins=twins, **options).choices
    assert [(level.name, level.stands_for) for level in one.levels] == [
        ("untrained twins", "both"),
        ("spectrum", "both"),
        ("vae/code", "i"),
        ("vae/code", "j"),
    ]
    assert len(one.levels[0].values) == 2
    assert one.levels[0].low > 0
    assert one.half == 1


def test_directions_and_distances_are_chosen_by_what_is_more_alike() -> None:
    models = {"a": model("a", (3, 0), 0), "b": model("b", (0, 3), 200)}
    wide = dataclasses.replace(
        models["a"][0], x=torch.cat([models["a"][0].x, draw(N, 12, seed=7)], 1)
    )
    models["a"] = [wide, models["a"][1]]
    options = {**FAST, "measures": ("r2", "gulp"), "swap": False, "by": "value"}
    first, second = choose_and_score(models, **options).choices
    # 17 columns explain 5, not the other way round.
    assert first.comparison.direction == "a/p0 -> b/p1"
    assert (first.layer_a, first.layer_b) == ("a/p0", "b/p1")
    assert second.comparison.distance
    assert {second.layer_a, second.layer_b} == {"a/p0", "b/p1"}


def test_choices_survive_the_file_and_become_rows(tmp_path: Path) -> None:
    models = {"a": model("a", (1, 3), 0), "b": model("b", (1, 3), 200)}
    result = choose_and_score(models, levels=["spectrum"], **FAST)
    again = Choices.load(result.save(tmp_path / "one.json"))
    assert again.save(tmp_path / "two.json").read_bytes() == (tmp_path / "one.json").read_bytes()
    assert again.choices[0].comparison.measure == "cka"
    row = result.table()[0]
    assert row["layer_a"] == result.choices[0].layer_a
    assert row["spectrum [both] difference"] == result.choices[0].levels[0].difference
    (tmp_path / "bad.json").write_text('{"format": 1}')
    with pytest.raises(InputError, match="is not a saved Choices"):
        Choices.load(tmp_path / "bad.json")


def test_wrong_choices_are_refused() -> None:
    models = {"a": model("a", (1,), 0), "b": model("b", (1,), 200)}
    with pytest.raises(InputError, match="not 'best'; 'difference' needs twins"):
        choose_and_score(models, by="best", **FAST)
    with pytest.raises(InputError, match="not 'difference'; 'difference' needs twins"):
        choose_and_score(models, by="difference", **FAST)
    with pytest.raises(InputError, match="choosing by 'corrected' needs a null"):
        choose_and_score(models, n_permutations=0, **FAST)
    with pytest.raises(InputError, match="a/p0 lacks 1 of images=: other"):
        choose_and_score(models, images=[*IDS, "other"], **FAST)
