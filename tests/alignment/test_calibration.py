"""Error rates under the null and coverage of intervals, measured."""

import dataclasses
import functools
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from analyses.calibration.cells import Config, Task, code, key, run, tasks
from analyses.calibration.report import draw as draw_figure
from analyses.calibration.report import place, summarize, tables
from analyses.calibration.run import HERE, finished
from analyses.calibration.scenarios import SCENARIOS
from interp.alignment import compare
from interp.geometry import CORE, MEASURES
from interp.stats import acceptance_band


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def settings(**more) -> Config:
    raw = json.loads((HERE / "config.json").read_text())
    read = {k: tuple(v) if isinstance(v, list) else v for k, v in raw.items()}
    return Config(**{**read, **more})


# One of each scheme, the hardest: no variance, uneven sources, uneven clusters.
QUICK = ("heavy tails", "uneven sources", "uneven clusters")


@pytest.mark.slow
@pytest.mark.parametrize("measure", sorted(MEASURES))
def test_every_measure_rejects_as_often_as_it_says_under_every_scheme(measure: str) -> None:
    config = settings(repeats=16)
    for scenario in QUICK:
        cell = run(Task("null", measure, scenario), config)
        assert "refused" not in cell
        band = acceptance_band(cell["repeats"], 0.05, len(QUICK) * len(MEASURES))
        assert place(cell["count"], cell["randomized"], band) != "outside", (cell, band)


@pytest.mark.parametrize("measure", CORE)
def test_the_calibration_sees_a_scheme_that_is_wrong(measure: str) -> None:
    config = settings(wrong_repeats=12)
    for scenario in ("two sources", "near copies"):
        cell = run(Task("wrong", measure, scenario), config)
        # Twelve true nulls give four rejections or more with probability 2e-3.
        assert cell["count"] >= 4, cell


@functools.cache
def small() -> tuple[Config, list[dict]]:
    more = {"repeats": 12, "power_repeats": 10, "wrong_repeats": 10, "coverage_repeats": 10}
    config = settings(**more, strengths=(0.4, 1.6), population_n=100)
    kept = ("iid", "two sources", "near copies")
    todo = [t for t in tasks(["cka"], config) if t.kind != "null" or t.scenario in kept]
    return config, [{"key": key(t, config), "code": "", **run(t, config)} for t in todo]


def test_the_summary_judges_every_cell_and_says_what_is_outside() -> None:
    config, cells = small()
    results = summarize(cells, config)
    assert results["verdict"] == "4 cells of 1 measures: no cell outside of the band"
    results["config"] = dataclasses.asdict(config)
    row = results["measures"]["cka"]
    assert row["repeats"] == 4 * 12
    assert set(row["by_scheme"]) == {"free", "strata", "clusters", "max-T"}
    assert row["power"]["1.6"][0] == 1
    assert len(draw_figure(results).data) > 4
    assert "| `cka` |" in tables(results)
    broken = [c | {"count": 12, "randomized": 12} if c["kind"] == "null" else c for c in cells]
    assert "OUTSIDE: cka, iid; cka, near copies" in summarize(broken, config)["verdict"]


def test_a_cell_does_not_depend_on_what_ran_before_it() -> None:
    config, cells = small()
    task = Task("null", "cka", "two sources")
    both = run(task, dataclasses.replace(config, repeats=24))
    second = run(dataclasses.replace(task, batch=1), config)
    again = run(task, config)
    first = next(c for c in cells if (c["kind"], c["scenario"]) == ("null", "two sources"))
    assert (again["count"], again["randomized"]) == (first["count"], first["randomized"])
    assert second["count"] == both["count"] - first["count"]
    assert key(task, config) == first["key"] != key(task, settings())
    assert code("cka") != code("procrustes")


def test_a_line_that_was_cut_off_is_run_again(tmp_path: Path) -> None:
    path = tmp_path / "cells.jsonl"
    path.write_text('{"key": "a", "count": 1}\n{"key": "b", "cou')
    assert list(finished(path)) == ["a"]
    assert finished(tmp_path / "none.jsonl") == {}


def test_ties_may_only_make_a_test_conservative() -> None:
    assert place(5, 5, (1, 12)) == "inside"
    assert place(0, 5, (1, 12)) == "conservative"
    assert place(0, 0, (1, 12)) == place(13, 5, (1, 12)) == place(5, 13, (1, 12)) == "outside"


def test_every_scheme_has_scenarios_and_none_has_labels_that_it_does_not_use() -> None:
    for name, scenario in SCENARIOS.items():
        pair = scenario.draw(np.random.default_rng(0))
        assert len(pair.x) == len(pair.y), name
        assert (pair.clusters is not None) == (scenario.scheme == "clusters"), name
        assert (pair.strata is not None) >= (scenario.scheme == "strata"), name
    assert {one.scheme for one in SCENARIOS.values()} == {"free", "strata", "clusters"}


@pytest.mark.slow
@pytest.mark.parametrize("measure", CORE)
@pytest.mark.parametrize("design", ["free", "strata", "clusters"])
def test_type_one_error_is_nominal_under_the_null(measure: str, design: str) -> None:
    n, repeats, rejected = 32, 40, 0
    labels: dict[str, list[str]] = {}
    if design == "strata":
        labels = {"strata": [str(i % 2) for i in range(n)]}
    if design == "clusters":
        labels = {"clusters": [str(i // 2) for i in range(n)]}
    for r in range(repeats):
        x, y = (draw(n, 3, seed=10 * r + s) * torch.tensor([3.0, 1, 0.3]) for s in (1, 2))
        if design == "strata":
            x, y = (z + 3.0 * (torch.arange(n) % 2)[:, None] for z in (x, y))
        if design == "clusters":
            x, y = (z[::2].repeat_interleave(2, 0) + 0.1 * z for z in (x, y))
        p = compare(x, y, measure, n_folds=0, n_neighbors=0.1, seed=r, **labels).p
        rejected += p <= 0.05
    low, high = acceptance_band(repeats, 0.05)
    assert low <= rejected <= high


def one_hot(n: int, rng: np.random.Generator) -> torch.Tensor:
    return torch.eye(4)[rng.integers(4, size=n)]


def sparse_relu(n: int, rng: np.random.Generator) -> torch.Tensor:
    # Two rows of three are zero.
    return torch.as_tensor(np.maximum(rng.standard_normal((n, 12)) - 1.8, 0))


def duplicated(n: int, rng: np.random.Generator) -> torch.Tensor:
    return torch.as_tensor(rng.standard_normal((n // 4, 3))[rng.integers(n // 4, size=n)])


def levels(n: int, rng: np.random.Generator) -> torch.Tensor:
    return torch.as_tensor(rng.integers(5, size=(n, 2)), dtype=torch.float64)


TIED = [one_hot, sparse_relu, duplicated, levels]


@pytest.mark.parametrize("features", TIED)
def test_independent_features_with_ties_share_no_neighbors_but_by_chance(
    features: Callable[[int, np.random.Generator], torch.Tensor],
) -> None:
    rng = np.random.default_rng(0)
    pairs = [(features(200, rng), features(200, rng)) for _ in range(6)]
    z = [compare(x, y, "mutual_knn", n_folds=0, n_neighbors=0.02).z for x, y in pairs]
    # The mean of six; ties that go to the lower id in both give 10 each.
    assert abs(np.mean(z)) < 3.3 / 6**0.5


@pytest.mark.slow
@pytest.mark.parametrize("design", ["free", "strata", "clusters"])
@pytest.mark.parametrize("features", TIED)
def test_type_one_error_is_nominal_under_ties(
    features: Callable[[int, np.random.Generator], torch.Tensor], design: str
) -> None:
    n, repeats, rejected = 60, 40, 0
    rng = np.random.default_rng(1)
    labels = {"strata": [str(i % 2) for i in range(n)], "clusters": [str(i // 2) for i in range(n)]}
    chosen = {design: labels[design]} if design in labels else {}
    for r in range(repeats):
        x, y = features(n, rng), features(n, rng)
        if design == "strata":
            # A function of the stratum in both, and nothing else in common.
            x, y = (torch.cat([z, 9.0 * (torch.arange(n) % 2)[:, None]], 1) for z in (x, y))
        if design == "clusters":
            x, y = (z[::2].repeat_interleave(2, 0) for z in (x, y))
        p = compare(x, y, "mutual_knn", n_folds=0, n_neighbors=0.1, seed=r, **chosen).p
        rejected += p <= 0.05
    low, high = acceptance_band(repeats, 0.05)
    assert low <= rejected <= high


def test_saturated_layers_are_not_aligned_within_the_strata_that_they_encode() -> None:
    rng = np.random.default_rng(2)
    found = []
    for r in range(12):
        kind = rng.integers(3, size=60)
        x, y = torch.eye(3)[kind], 5 * torch.eye(3)[kind]
        strata = kind.astype(str).tolist()
        options = {"n_folds": 0, "n_neighbors": 0.1, "seed": r}
        found.append(compare(x, y, "mutual_knn", strata=strata, **options).p)
        assert compare(x, y, "mutual_knn", **options).p == 1 / 201
    # Twelve uniform p-values: three at most 5 % have probability 0.02.
    assert sum(p <= 0.05 for p in found) < 4


@pytest.mark.slow
@pytest.mark.parametrize("measure", ["cka", "procrustes"])
def test_the_jackknife_interval_covers(measure: str) -> None:
    mix = [draw(4, 6, seed=s) for s in (1, 2)]

    def pair(n: int, seed: int) -> tuple[torch.Tensor, ...]:
        latent = draw(n, 4, seed=seed)
        return tuple(latent @ m + draw(n, 6, seed=seed + 1 + i) for i, m in enumerate(mix))

    truth = compare(*pair(20_000, 7), measure, n_permutations=0, n_folds=0).value
    found = [compare(*pair(200, 100 + 3 * r), measure, n_permutations=0) for r in range(100)]
    covered = np.mean([one.low <= truth <= one.high for one in found])
    assert covered >= 0.95 - 3.3 * (0.95 * 0.05 / 100) ** 0.5
