"""Directions, distances and layers in compare_layers; records of an older format."""

import json
from pathlib import Path

import pytest
import torch

from interp.alignment import Alignment, Representation, compare, compare_layers
from interp.errors import InputError

N = 60
IDS = tuple(f"glyph{i:03d}" for i in range(N))
# Of the fields of a Comparison that came with format 2.
ADDED = ("detectable", "direction", "reverse")


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def layers(model: str, count: int, signal: float, seed: int) -> list[Representation]:
    """Layers that share one latent with every other model, `signal` times the noise."""
    latent = draw(N, 4, seed=99)
    return [
        Representation(
            model,
            f"block{i}",
            signal * latent @ draw(4, 6, seed=seed + i) + draw(N, 6, seed=seed + 50 + i),
            IDS,
        )
        for i in range(count)
    ]


def small(models, **options) -> Alignment:
    return compare_layers(models, **{"pixels": False, "measures": ("cka",), **options})


def test_a_measure_with_a_direction_is_taken_both_ways_as_one_family() -> None:
    x = draw(N, 6)
    y = x[:, :2] + 0.1 * draw(N, 2, seed=1)
    one, back = compare(x, y, "r2"), compare(y, x, "r2")
    assert one.reverse == pytest.approx(back.value)
    assert back.reverse == pytest.approx(one.value)
    assert one.value > 0.9 > 0.5 > one.reverse
    models = {"a": layers("a", 2, 1, 0), "b": layers("b", 3, 1, 200)}
    result = small(models, measures=("r2",))
    assert result.families[0].n_cells == 12
    cell = result.cell("a/block1", "b/block0")
    assert cell.comparison.direction == "a/block1 -> b/block0"
    assert cell.reverse.direction == "b/block0 -> a/block1"
    assert cell.reverse.value == cell.comparison.reverse
    forward = compare(models["a"][1].x, models["b"][0].x, "r2", n_permutations=0)
    assert cell.comparison.value == pytest.approx(forward.value)
    assert cell.reverse.value == pytest.approx(forward.reverse)
    i, j = result.index("a/block1"), result.index("b/block0")
    assert result.matrix()[i, j] == cell.comparison.value
    assert result.matrix()[j, i] == cell.reverse.value
    assert cell.comparison.p == cell.reverse.p == 1 / 201


def test_a_distance_is_judged_by_how_small_it_is() -> None:
    models = {m: layers(m, 2, s, k) for m, s, k in (("a", 1, 0), ("b", 1, 200), ("c", 0, 400))}
    twins = {m: layers(m, 2, 0, k) for m, k in (("a", 600), ("b", 800))}
    result = small(models, twins=twins, measures=("gulp", "cka"), n_folds=5)
    assert result.distances == ("gulp",)
    by_pair = {(f.model_a, f.model_b): f for f in result.families if f.measure == "gulp"}
    assert by_pair["a", "b"].p == 1 / 201
    assert by_pair["a", "c"].p > 0.05
    best = result.strongest(1, "gulp")[0]
    assert {result.layers[best.i].model, result.layers[best.j].model} == {"a", "b"}
    # Raw, nearer than the twins are: below 0.
    assert best.difference_high < 0
    assert best.comparison.value < best.comparison.tau < best.comparison.null_mean
    rows = result.table("gulp")
    assert rows[0]["z"] == max(row["z"] for row in rows)
    assert rows[0]["value"] == min(row["value"] for row in rows)


def test_a_file_of_the_first_format_is_read_and_a_newer_one_refused(tmp_path: Path) -> None:
    models = {m: layers(m, 1, 1, k) for m, k in (("a", 0), ("b", 200))}
    result = small(models, twins=models)
    values = json.loads(result.save(tmp_path / "new.json").read_text())
    added = {
        "comparison": ("distance", "tau", "corrected", "calibrated", "se", *ADDED),
        "cells": ("twin_values", "levels", "reverse"),
        "families": ("critical_z", "p_layers_a", "p_layers_b"),
        "layers": ("leaks",),
    }
    del values["distances"]
    for part in ("cells", "families", "layers"):
        for one in values[part]:
            for name in added[part]:
                del one[name]
            for name in added["comparison"] if part == "cells" else ():
                del one["comparison"][name]
    (tmp_path / "old.json").write_text(json.dumps(values | {"format": 1}))
    old = Alignment.load(tmp_path / "old.json")
    assert old.cell(0, 1).twin_value == pytest.approx(result.cell(0, 1).twin_value, abs=1e-9)
    assert old.cell(0, 1).levels == ()
    (tmp_path / "newer.json").write_text(json.dumps(values | {"format": 3}))
    with pytest.raises(InputError, match="has format 3 of a saved Alignment; this version reads 1"):
        Alignment.load(tmp_path / "newer.json")


def test_layers_have_p_values_of_their_own_within_the_family() -> None:
    models = {"a": [*layers("a", 1, 1, 0), *layers("a", 2, 0, 5)[1:]], "b": layers("b", 2, 1, 200)}
    family = small(models).families[0]
    assert family.p_layers_a[0] == 1 / 201
    assert family.p_layers_a[1] > 0.05
    assert family.p_layers_b == (1 / 201, 1 / 201)
    assert family.critical_z > 1.6
