"""Error rates under the null and coverage of intervals, measured."""

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
