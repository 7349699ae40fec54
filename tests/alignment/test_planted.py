"""Planted geometries with known answers: what is shared is found, what is not shared is not."""

from collections.abc import Callable

import numpy as np
import pytest
import torch

from interp.alignment import Alignment, Representation, compare, compare_layers
from interp.geometry import CORE
from interp.stats import acceptance_band, estimate_coverage, power_curve

N = 60
IDS = tuple(f"image{i:03d}" for i in range(N))
NOISES = tuple(f"noise{i:03d}" for i in range(N))
# Larger in small samples: the interval is one around the value of its own sample size.
BIASED = ("procrustes",)
# At most this many of eight intervals lie above 0 by chance: more has probability 8e-4.
FEW = 2


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def net(model: str, x: torch.Tensor, **more) -> list[Representation]:
    return [Representation(model, "block", x, IDS, **more)]


def align(models: dict[str, list[Representation]], **options) -> Alignment:
    defaults = {"pixels": False, "n_permutations": 0, "n_neighbors": 0.1, "n_folds": 20}
    return compare_layers(models, **{**defaults, **options})


@pytest.mark.parametrize("measure", CORE)
def test_nets_that_only_tell_sources_apart_are_not_aligned_within_them(measure: str) -> None:
    source = torch.arange(N) % 3
    strata = [str(s) for s in source.tolist()]
    options = {"n_folds": 0, "n_neighbors": 0.1}
    within = []
    for r in range(12):
        # Each puts the sources where it likes, and has nothing else in common.
        x, y = (
            draw(N, 5, seed=4 * r + s) + 5 * draw(3, 5, seed=4 * r + 2 + s)[source] for s in (0, 1)
        )
        within.append(compare(x, y, measure, strata=strata, seed=r, **options).p)
        assert r or compare(x, y, measure, **options).p == 1 / 201
    # Of twelve uniform p-values more than three are at most 5 % with probability 2e-3.
    assert sum(p <= 0.05 for p in within) <= 3


def noised(own: int, noise: torch.Tensor, way: int) -> torch.Tensor:
    """Content of its own and the noise that it was shown, each mixed in its own way."""
    return draw(N, 3, seed=own) @ draw(3, 8, seed=way) + noise @ draw(4, 8, seed=way + 1)


def noise_only(seed: int) -> tuple[dict[str, list[Representation]], ...]:
    """Two nets that share the noise and no content: as captured, and with the images permuted."""
    noise = draw(N, 4, seed=seed)
    moved = torch.as_tensor(np.random.default_rng(seed).permutation(N))
    labels = tuple(NOISES[i] for i in moved.tolist())
    models = {
        "a": net("a", noised(seed + 1, noise, 1), noise=NOISES),
        "b": net("b", noised(seed + 2, noise, 3), noise=NOISES),
    }
    level = {
        "a": net("a", noised(seed + 1, noise, 1), noise=NOISES),
        "b": net("b", noised(seed + 2, noise[moved], 3), noise=labels),
    }
    return models, level


def test_nets_that_share_only_noise_are_aligned_but_not_beyond_their_noise() -> None:
    models, level = noise_only(0)
    same = align(models, shared_noise=level, measures=CORE, n_permutations=200)
    assert all(f.p_holm <= 0.05 for f in same.families)
    # The same nets under noise of their own.
    own = {"a": models["a"], "b": net("b", noised(2, draw(N, 4, seed=99), 3))}
    assert all(f.p_holm > 0.05 for f in align(own, measures=CORE, n_permutations=200).families)


@pytest.mark.slow
@pytest.mark.parametrize("measure", CORE)
def test_the_difference_to_shared_noise_is_not_positive_where_noise_is_all(measure: str) -> None:
    above = 0
    for r in range(8):
        models, level = noise_only(100 + 10 * r)
        cell = align(models, shared_noise=level, measures=(measure,)).cell(0, 1, measure)
        found = cell.level("shared noise")
        assert found is not None
        assert found.low is not None
        above += found.low > 0
    assert above <= FEW


@pytest.mark.slow
@pytest.mark.parametrize("measure", CORE)
def test_nets_that_copy_pixels_are_aligned_but_not_beyond_the_pixels(measure: str) -> None:
    above = 0
    for r in range(8):
        pixels = draw(N, 12, seed=10 * r) * torch.logspace(0, -1, 12)
        level = Representation("pixels", "rgb", pixels, IDS, reference=True)
        copies = {
            m: net(m, pixels @ draw(12, 8, seed=s) + 0.1 * draw(N, 8, seed=10 * r + s))
            for m, s in (("a", 1), ("b", 2))
        }
        tested = 0 if r else 200
        result = align(copies, pixels=level, measures=(measure,), n_permutations=tested)
        if tested:
            assert result.families[0].p_holm == 1 / 201
        for other in ("a/block", "b/block"):
            _, interval = result.difference(("a/block", "b/block"), ("pixels/rgb", other), measure)
            above += bool(interval.low > 0)
    # Two comparisons of each of eight pairs.
    assert above <= 2 * FEW


def shared(strength: float, n: int, rng: np.random.Generator) -> tuple[torch.Tensor, ...]:
    """Two views of one latent, `strength` times their own noise."""
    latent = torch.as_tensor(rng.normal(size=(n, 3)))
    return tuple(
        strength * latent @ draw(3, 6, seed=s) + torch.as_tensor(rng.normal(size=(n, 6)))
        for s in (1, 2)
    )


def p_of(measure: str) -> Callable[[float, np.random.Generator], float]:
    def test(strength: float, rng: np.random.Generator) -> float:
        x, y = shared(strength, 40, rng)
        found = compare(x, y, measure, n_folds=0, n_neighbors=0.1, seed=int(rng.integers(1000)))
        assert found.p is not None
        return found.p

    return test


@pytest.mark.slow
@pytest.mark.parametrize("measure", CORE)
def test_power_grows_with_the_strength_of_a_shared_latent(measure: str) -> None:
    none, weak, middle, strong = power_curve(p_of(measure), [0, 0.25, 0.75, 2.0], repeats=20)
    low, high = acceptance_band(none.repeats, 0.05, len(CORE))
    assert low <= none.count <= high
    assert none.share < middle.share <= strong.share
    assert weak.share <= middle.share
    assert strong.share > 0.9


@pytest.mark.slow
@pytest.mark.parametrize("measure", CORE)
@pytest.mark.parametrize("strength", [0.5, 1.0, 2.0])
def test_the_interval_covers_what_a_shared_latent_gives(measure: str, strength: float) -> None:
    options = {"n_permutations": 0, "n_neighbors": 0.1}
    rng = np.random.default_rng(0)
    found = [compare(*shared(strength, 150, rng), measure, **options) for _ in range(40)]
    ends = np.array([(one.low, one.high) for one in found]).T
    truth = compare(*shared(strength, 1500, rng), measure, n_folds=0, **options).value
    if measure in BIASED:
        assert np.mean([one.value for one in found]) > truth
        truth = float(np.mean([one.value for one in found]))
    # Forty intervals of 95 %: 31 or fewer hold the truth with probability 1e-4.
    assert estimate_coverage(*ends, truth).count > 31


@pytest.mark.parametrize("measure", CORE)
def test_of_three_nets_only_the_two_that_share_are_found(measure: str) -> None:
    latent = draw(N, 4, seed=9)
    models = {}
    for m, strength in (("a", 1.0), ("b", 1.0), ("c", 0.0)):
        # Two layers each; the third net has a latent of its own.
        own = draw(N, 4, seed=40 + ord(m))
        base = strength * latent + (1 - strength) * own
        models[m] = [
            Representation(
                m,
                f"block{i}",
                base @ draw(4, 6, seed=10 * ord(m) + i) + draw(N, 6, seed=20 * ord(m) + i),
                IDS,
            )
            for i in range(2)
        ]
    result = align(models, measures=(measure,), n_permutations=200, n_folds=0)
    rejected = {(f.model_a, f.model_b) for f in result.families if f.p_holm <= 0.05}
    assert rejected == {("a", "b")}
