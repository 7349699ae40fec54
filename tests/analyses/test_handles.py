"""The study of handles: its codes, its bars for a concept, its scores, and the whole run."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from analyses.handles import codes
from analyses.handles.causal import Effects, difference, handle_score, orthonormal
from analyses.handles.report import TABLES, draw, put
from analyses.handles.rows import Config, Judged, PointRows, read_config
from analyses.handles.run import HERE, QUICK, QUICK_CAUSAL, STAGES, main


@pytest.fixture(scope="session", autouse=True)
def _libraries() -> None:
    """Import what takes seconds before any test's clock runs."""
    import plotly.subplots

    _ = plotly.subplots.make_subplots


def settings(**more: Any) -> Config:
    values = json.loads((HERE / "config.json").read_text())
    return dataclasses.replace(read_config(values), **more)


def rows_of(n_images: int = 40, per_image: int = 5, d: int = 6, seed: int = 0) -> Judged:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n_images * per_image, d, generator=generator)
    image = np.repeat(np.arange(n_images), per_image)
    names = np.array([f"c{i}" for i in range(n_images)])
    category = np.array(["a", "b"] * (n_images // 2))
    return Judged(x, np.zeros(len(x), int), image, names, category)


def test_a_code_that_gives_the_mean_misses_all_and_one_that_gives_the_row_nothing() -> None:
    judged = rows_of()
    value, low, high = codes.measure_fvu(
        lambda x: judged.x.mean(0).expand_as(x), judged, 10_000, seed=0
    )
    assert value == pytest.approx(1)
    assert low <= 1 <= high
    assert codes.measure_fvu(lambda x: x, judged, 10_000, seed=0) == [0, 0, 0]


def test_variance_between_noise_levels_is_not_explained_variance() -> None:
    judged = rows_of()
    level = np.tile([0, 1], len(judged.x) // 2)
    shifted = judged.x + 100 * torch.from_numpy(level).float()[:, None]
    both = dataclasses.replace(judged, x=shifted, level=level)
    found = codes.measure_fvu(lambda x: x.round(decimals=-2), both, 10_000, seed=0)[0]
    assert found == pytest.approx(1, abs=0.1)


def test_sparse_pca_with_all_components_is_exact_and_more_are_better() -> None:
    judged = rows_of()
    rows = PointRows(judged.x, judged, 12, 5)
    config = settings(k=(2, 4))
    mean, axes = codes.fit_pca(rows.train)
    torch.testing.assert_close(axes @ axes.T, torch.eye(6), atol=1e-5, rtol=0)
    full = mean + codes.largest((judged.x - mean) @ axes.T, 6) @ axes
    torch.testing.assert_close(full, judged.x, atol=1e-4, rtol=0)

    class Zero:
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.zeros_like(x)

    curves = codes.fvu_curves(rows, {2: Zero(), 4: Zero()}, config)
    for code in ("pca", "random"):
        assert curves[code][4][0] < curves[code][2][0] < 1
    assert curves["sae"][2][0] >= 1


def test_the_least_squares_fit_is_orthogonal_to_its_atoms() -> None:
    judged = rows_of()
    atoms = codes.random_atoms(12, 6, 0)
    mean = judged.x.mean(0)
    fitted = codes.refit(judged.x, mean, atoms, 3)
    chosen = ((judged.x - mean) @ atoms.T).abs().topk(3, dim=1).indices
    left = torch.einsum("nkd,nd->nk", atoms[chosen], judged.x - fitted)
    assert left.abs().max() < 1e-4


def test_the_k_of_a_level_lies_between_measured_ones_or_is_not_reached() -> None:
    curve = {4: [0.5], 8: [0.3], 16: [0.1]}
    assert codes.k_at(curve) == pytest.approx(8 * 2**0.5)
    assert codes.k_at(curve, 0.05) is None
    assert codes.k_at(curve, 0.6) == 4
    assert codes.k_at({}) is None


def test_auc_counts_ties_by_half() -> None:
    scores = np.array([[0.0], [1.0], [1.0], [2.0]])
    members = np.array([[0.0], [0.0], [1.0], [1.0]])
    # Pairs: (1, 0) and (2, 0) and (2, 1) won, (1, 1) tied.
    assert codes.auc_table(scores, members)[0, 0] == pytest.approx(3.5 / 4)


def test_a_planted_coefficient_is_a_concept_and_noise_is_none() -> None:
    judged = rows_of(120)
    rng = np.random.default_rng(0)
    noise = rng.normal(size=(120, 30))
    planted = noise.copy()
    planted[:, 7] += 4 * (judged.category == "a")
    config = settings(permutations=30)
    found = codes.label_scores({"sae": planted, "pca": noise, "twin": noise}, judged, config)
    assert found is not None
    assert found["codes"]["sae"]["concepts"] == ["a", "b"]
    assert found["codes"]["pca"]["concepts"] == []
    assert found["codes"]["sae"]["auc"][0] > 0.95
    low, high = found["codes"]["pca"]["auc"][1:]
    assert low < 0.6
    assert high > 0.4


def test_chance_is_one_half_however_many_coefficients_are_tried() -> None:
    judged = rows_of(80)
    first = codes.split_clusters(judged, 0)
    members = np.stack([judged.category == c for c in "ab"], 1).astype(float)
    drawn = [
        codes.choose_and_score(np.random.default_rng(s).normal(size=(80, 50)), members, first)
        for s in range(40)
    ]
    assert np.mean(drawn) == pytest.approx(0.5, abs=0.04)


def test_images_without_categories_have_no_label_scores() -> None:
    judged = dataclasses.replace(rows_of(), category=np.full(40, ""))
    assert codes.label_scores({"sae": np.zeros((40, 3))}, judged, settings()) is None


def effects(size: float, far: float, n: int = 16, seed: int = 0) -> Effects:
    noise = np.random.default_rng(seed).uniform(0.9, 1.1, (n, 3))
    return Effects(size**2 * noise, np.full((n, 2), far))


def test_a_handle_scores_its_change_per_distance_from_clean_rows() -> None:
    score = handle_score(effects(0.6, 1.5))
    np.testing.assert_allclose(score, 0.4, rtol=0.03)
    config = settings()
    value, low, high = difference(effects(0.9, 1.5), effects(0.6, 1.5, seed=1), config)[0]
    assert value == pytest.approx(0.2, rel=0.05)
    assert 0 < low < value < high
    same = difference(effects(0.6, 1.5), effects(0.6, 1.5), config)
    assert same == [[0, 0, 0], [0, 0, 0]]


def test_directions_become_orthonormal_rows_of_their_span() -> None:
    directions = codes.random_atoms(3, 5, 0)
    basis = orthonormal(directions)
    torch.testing.assert_close(basis @ basis.T, torch.eye(3, dtype=torch.float64))
    torch.testing.assert_close(directions.double() @ basis.T @ basis, directions.double())


def test_the_committed_results_are_those_of_the_config_and_fill_every_table(tmp_path: Path) -> None:
    results = json.loads((HERE / "results.json").read_text())
    assert results["config"] == json.loads((HERE / "config.json").read_text())
    points = [(n, p) for n, some in results["config"]["points"].items() for p in some]
    for stage in STAGES:
        assert [(one["model"], one["point"]) for one in results[stage]] == points
    text = (HERE / "README.md").read_text()
    copy = tmp_path / "README.md"
    copy.write_text(text)
    for marker, make in TABLES.items():
        put(copy, marker, make(results))
    assert copy.read_text() == text
    assert len(draw(results).data) > 3 * len(points)


@pytest.mark.slow
def test_a_quick_run_gives_every_number_and_a_second_one_reads_it(tmp_path: Path) -> None:
    main(["--quick", "--out", str(tmp_path)])
    first = (tmp_path / "results.json").read_bytes()
    results = json.loads(first)
    assert [one["point"] for one in results["codes"]] == ["w", "code"]
    for one in results["causal"]:
        assert one["subspaces"]["full"]["mean_alpha"] == pytest.approx(1, abs=0.01)
        assert {"sae", "pca", "isotropic", "matched"} <= set(one["handles"])
    assert set(QUICK) <= set(results["config"])
    assert set(QUICK_CAUSAL) <= set(results["config"]["causal"])
    main(["--quick", "--out", str(tmp_path)])
    assert (tmp_path / "results.json").read_bytes() == first
