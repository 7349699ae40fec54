"""RSA: closed forms, exact null moments, crossnobis without bias, errors with numbers."""

import itertools

import numpy as np
import pytest
import torch
from scipy import stats
from scipy.spatial.distance import pdist

from interp.errors import InputError
from interp.geometry import MEASURES
from interp.geometry import pairs as pairs_module
from interp.geometry.pairs import as_square, blocks, distances, pair_values, row_sums
from interp.geometry.rsa import (
    compare_rdms,
    crossnobis,
    noise_variances,
    prepare_crossnobis,
    prepare_rsa,
    rdm_similarity,
    rsa_crossnobis,
)


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def linear_cka(x: torch.Tensor, y: torch.Tensor) -> float:
    x, y = x - x.mean(0), y - y.mean(0)
    return float((x.T @ y).norm() ** 2 / ((x.T @ x).norm() * (y.T @ y).norm()))


@pytest.mark.parametrize(
    ("metric", "theirs"),
    [("euclidean", "euclidean"), ("squared", "sqeuclidean"), ("correlation", "correlation")],
)
def test_rdms_are_those_of_scipy_up_to_scale(metric: str, theirs: str) -> None:
    x = draw(30, 6)
    ours, expected = distances(x, metric).numpy(), pdist(x.numpy(), theirs)
    assert ours / np.linalg.norm(ours) == pytest.approx(expected / np.linalg.norm(expected), 1e-10)
    if metric == "correlation":
        assert ours == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("metric", ["euclidean", "squared", "correlation"])
@pytest.mark.parametrize("n_values", [3, 1000])
def test_comparisons_are_those_of_scipy_with_and_without_ties(metric: str, n_values: int) -> None:
    x, y = draw(25, 3), draw(25, 4, seed=1)
    if n_values == 3:
        x, y = x.round().clamp(-1, 1) + draw(3, seed=2), y.round().clamp(-1, 1) + draw(4, seed=3)
    # Ties as they are after rounding errors have been rounded away.
    a, b = (pdist(z.numpy(), metric.replace("squared", "sqeuclidean")).round(9) for z in (x, y))
    expected = {
        "pearson": stats.pearsonr(a, b)[0],
        "spearman": stats.spearmanr(a, b)[0],
        "kendall": stats.kendalltau(a, b)[0],
    }
    found = {how: rdm_similarity(x, y, metric, how) for how in expected}
    assert found == pytest.approx(expected, abs=1e-7)


def test_kendall_a_counts_ties_as_neither() -> None:
    x, y = draw(9, 2).round(), draw(9, 2, seed=1).round()
    a, b = (pdist(z.numpy()).round(9) for z in (x, y))
    signs = [
        np.sign(a[i] - a[j]) * np.sign(b[i] - b[j]) for i, j in itertools.combinations(range(36), 2)
    ]
    assert rdm_similarity(x, y, "euclidean", "kendall_a") == pytest.approx(
        np.mean(signs), abs=1e-12
    )
    assert abs(rdm_similarity(x, y, "euclidean", "kendall")) > abs(np.mean(signs))


@pytest.mark.parametrize(("n", "d", "e"), [(12, 4, 7), (10, 30, 3)])
def test_the_whitened_cosine_is_linear_cka(n: int, d: int, e: int) -> None:
    x, y = draw(n, d), draw(n, e, seed=1) + draw(n, d) @ draw(d, e, seed=2)
    contrasts = np.zeros((n * (n - 1) // 2, n))
    for row, (i, j) in enumerate(itertools.combinations(range(n), 2)):
        contrasts[row, i], contrasts[row, j] = 1, -1
    whitener = np.linalg.inv((contrasts @ contrasts.T) ** 2)
    a, b = (pdist(z.numpy(), "sqeuclidean") for z in (x, y))
    written_out = a @ whitener @ b / np.sqrt((a @ whitener @ a) * (b @ whitener @ b))
    assert written_out == pytest.approx(linear_cka(x, y), abs=1e-9)
    assert rdm_similarity(x, y, "squared", "whitened") == pytest.approx(linear_cka(x, y), abs=1e-12)


@pytest.mark.parametrize("metric", ["euclidean", "squared", "correlation"])
@pytest.mark.parametrize("comparison", ["cosine", "whitened"])
def test_other_comparisons_have_a_fast_path_too(metric: str, comparison: str) -> None:
    x, y = draw(20, 4), draw(20, 5, seed=1)
    layers = [[prepare_rsa(z, metric=metric, comparison=comparison)] for z in (x, y)]
    assert float(pair_values(*layers)) == pytest.approx(
        rdm_similarity(x, y, metric, comparison), abs=1e-12
    )


@pytest.mark.parametrize("name", [n for n in sorted(MEASURES) if n.startswith("rsa_")])
@pytest.mark.parametrize("seed", [0, 1])
def test_null_moments_are_exact_over_all_pairings(name: str, seed: int) -> None:
    x, y = draw(5, 4, seed=seed).exp(), draw(5, 9, seed=seed + 5)
    measure = MEASURES[name]
    xs, ys = [measure.prepare(x)], [measure.prepare(y)]
    orders = np.array(list(itertools.permutations(range(5))))
    values = measure.permuted(xs, ys, orders).flatten()
    assert float(values.mean()) == pytest.approx(0, abs=1e-7)
    if measure.moments is not None:
        mean, sd = measure.moments(xs, ys)
        assert float(mean) == pytest.approx(0, abs=1e-12)
        assert float(sd) == pytest.approx(float(values.std(correction=0)), abs=1e-7)


def test_slabs_and_groups_of_tables_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    x, ys = draw(23, 4), [draw(23, 5, seed=s) for s in range(1, 4)]
    orders = np.stack([np.random.default_rng(s).permutation(23) for s in range(2)])
    folds = np.arange(23) % 4
    measure = MEASURES["distance_correlation_squared"]

    def everything() -> list[torch.Tensor]:
        first, second = [measure.prepare(x)], [measure.prepare(y) for y in ys]
        return [
            measure.values(first, second),
            measure.permuted(second, first, orders),
            measure.permuted(second[:2], second[1:], orders),
            measure.deleted(first, second, folds),
        ]

    whole = everything()
    monkeypatch.setattr(pairs_module, "SLAB", 60)
    monkeypatch.setattr(pairs_module, "TABLE_BYTES", 1)
    for a, b in zip(whole, everything(), strict=True):
        assert torch.allclose(a, b, rtol=0, atol=1e-6)


@pytest.mark.parametrize("slab", [1, 10, 37, 1000])
def test_blocks_visit_every_pair_once_in_order(slab: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pairs_module, "SLAB", slab)
    found = [
        (int(i), int(j)) for _, rows, cols in blocks(9) for i, j in zip(rows, cols, strict=True)
    ]
    assert found == list(itertools.combinations(range(9), 2))
    off = draw(36)
    assert torch.allclose(row_sums(off, 9), as_square(off, 9).sum(1))


def test_crossnobis_is_the_mean_over_pairs_of_draws() -> None:
    draws = draw(7, 3, 5) + 100
    found = as_square(crossnobis(draws), 7)
    for i, j in itertools.combinations(range(7), 2):
        g = draws[i] - draws[j]
        products = [float(g[a] @ g[b]) for a, b in itertools.permutations(range(3), 2)]
        assert float(found[i, j]) == pytest.approx(np.mean(products), abs=1e-9)


def test_crossnobis_has_expectation_zero_for_equal_rows_and_the_distance_for_others() -> None:
    truth = torch.zeros(4, 6, dtype=torch.float64)
    truth[3] = 0.5
    means, naive = [], []
    for seed in range(200):
        noise = draw(4, 3, 6, seed=seed)
        means.append(crossnobis(truth[:, None] + noise))
        naive.append(pdist((truth[:, None] + noise).mean(1).numpy(), "sqeuclidean"))
    found = torch.stack(means)
    error = found.std(0) / 200**0.5
    expected = torch.tensor([0, 0, 1.5, 0, 1.5, 1.5], dtype=torch.float64)
    assert bool(((found.mean(0) - expected).abs() < 4 * error).all())
    # Plain distances of the mean draw add 2 d / r of noise.
    assert np.mean(naive, axis=0) == pytest.approx(expected.numpy() + 4, abs=0.5)


def test_crossnobis_with_the_noise_known_is_the_mahalanobis_distance() -> None:
    draws, root = draw(6, 2, 3), draw(3, 3, seed=1)
    mixed = draws @ root.T
    assert torch.allclose(crossnobis(mixed, root @ root.T), crossnobis(draws), atol=1e-9)
    scales = torch.tensor([0.1, 1, 10], dtype=torch.float64)
    assert torch.allclose(crossnobis(draws * scales, scales**2), crossnobis(draws), atol=1e-9)
    pooled = draws.numpy().var(1, ddof=1).mean(0)
    assert noise_variances(draws).numpy() == pytest.approx(pooled)


def test_crossnobis_rsa_uses_the_fast_paths_of_its_comparison() -> None:
    x, y = draw(24, 3, 5), draw(24, 2, 4, seed=1)
    folds, order = np.arange(24) % 3, np.random.default_rng(0).permutation(24)
    for comparison in ("pearson", "spearman"):
        measure = MEASURES[f"rsa_{comparison}"]
        xs, ys = ([prepare_crossnobis(z, comparison=comparison)] for z in (x, y))
        values = [measure.values(xs, ys), measure.permuted(xs, ys, order[None])[0]]
        kept = torch.as_tensor(folds != 0)
        values.append(measure.deleted(xs, ys, folds)[0])
        slow = [rsa_crossnobis(a, b, comparison) for a, b in ((x, y), (x, y[order]))]
        slow.append(rsa_crossnobis(x[kept], y[kept], comparison))
        assert [float(v) for v in values] == pytest.approx(slow, abs=1e-6)


def test_what_is_refused_names_the_numbers_and_the_fix() -> None:
    x = draw(10, 3)
    with pytest.raises(InputError, match="no metric 'cosine'; there are euclidean, squared"):
        rdm_similarity(x, x, metric="cosine")
    with pytest.raises(InputError, match="no comparison 'rank'; there are pearson, spearman"):
        rdm_similarity(x, x, comparison="rank")
    with pytest.raises(InputError, match="x: nothing is left of its distances"):
        rdm_similarity(torch.eye(8), torch.eye(8), comparison="pearson")
    flat = x.clone()
    flat[4] = 2.5
    with pytest.raises(InputError, match=r"x: 1 rows are constant over their 3 columns.*row 4"):
        distances(flat, "correlation")
    with pytest.raises(InputError, match="the RDMs have 45 and 36 entries"):
        compare_rdms(np.arange(45.0), np.arange(36.0))
    with pytest.raises(InputError, match="44 entries are not n"):
        compare_rdms(np.arange(44.0), np.arange(44.0))
    with pytest.raises(InputError, match=r"shape \(10, 1, 3\); crossnobis takes \[n rows, r >= 2"):
        crossnobis(x[:, None])
    with pytest.raises(InputError, match="3 positive variances or a positive definite"):
        crossnobis(draw(5, 2, 3), torch.zeros(3))
    with pytest.raises(InputError, match=r"x has n = 20001 rows.*1\.6 GB.*n <= 20000"):
        prepare_rsa(torch.arange(20001.0)[:, None], metric="euclidean", comparison="pearson")
