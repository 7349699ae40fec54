"""Error rates under the null and coverage of intervals, measured."""

from collections.abc import Callable

import numpy as np
import pytest
import torch

from interp.alignment import compare
from interp.geometry import MEASURES


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.slow
@pytest.mark.parametrize("measure", sorted(MEASURES))
@pytest.mark.parametrize("design", ["free", "strata", "clusters"])
def test_type_one_error_is_nominal_under_the_null(measure: str, design: str) -> None:
    n, repeats, rejected = 32, 300, 0
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
    # 99.9 % binomial bound on either side of 5 %.
    assert abs(rejected / repeats - 0.05) <= 3.3 * (0.05 * 0.95 / repeats) ** 0.5


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
    n, repeats, rejected = 60, 300, 0
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
    # 99.9 % binomial bound on either side of 5 %.
    assert abs(rejected / repeats - 0.05) <= 3.3 * (0.05 * 0.95 / repeats) ** 0.5


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
    found = [compare(*pair(200, 100 + 3 * r), measure, n_permutations=0) for r in range(200)]
    covered = np.mean([one.low <= truth <= one.high for one in found])
    assert covered >= 0.95 - 3.3 * (0.95 * 0.05 / 200) ** 0.5
