"""Simulated pairs of representations without a common cause, and with a planted one.

Under the null the rows of x and y are independent given what the scheme holds fixed: nothing
(free), the stratum (strata), the cluster (clusters).
"""

import zlib
from collections.abc import Callable
from typing import NamedTuple

import numpy as np


class Pair(NamedTuple):
    x: np.ndarray  # [n, d]
    y: np.ndarray  # [n, e]
    strata: list[str] | None = None
    clusters: list[str] | None = None


class Scenario(NamedTuple):
    scheme: str
    words: str
    draw: Callable[[np.random.Generator], Pair]


def generator(seed: int, name: str, repeat: int) -> np.random.Generator:
    """The stream of one repeat, the same for every measure."""
    return np.random.default_rng([seed, zlib.crc32(name.encode()), repeat])


def gaussian(rng: np.random.Generator, n: int, spectrum: np.ndarray) -> np.ndarray:
    """Gaussian rows in random directions with these standard deviations."""
    d = len(spectrum)
    turned = np.linalg.qr(rng.normal(size=(d, d)))[0]
    return rng.normal(size=(n, d)) * spectrum @ turned


def flat(n: int, d: int, e: int) -> Callable[[np.random.Generator], Pair]:
    def draw(rng: np.random.Generator) -> Pair:
        return Pair(rng.normal(size=(n, d)), rng.normal(size=(n, e)))

    return draw


def power_law(rng: np.random.Generator) -> Pair:
    x, y = (gaussian(rng, 48, np.arange(1.0, d + 1) ** -1) for d in (16, 12))
    return Pair(x, y)


def near_rank_one(rng: np.random.Generator) -> Pair:
    x, y = (gaussian(rng, 32, np.r_[1.0, np.full(d - 1, 0.01)]) for d in (8, 6))
    return Pair(x, y)


def heavy_tails(rng: np.random.Generator) -> Pair:
    # Without a variance: single rows carry most of every sum of squares.
    return Pair(rng.standard_t(1.5, (40, 5)), rng.standard_t(1.5, (40, 7)))


def one_hot(rng: np.random.Generator) -> Pair:
    x, y = (np.eye(6)[rng.permutation(np.arange(36) % 6)] for _ in range(2))
    # Rows of a category are equal, categories are not.
    return Pair(x * np.arange(1.0, 7), y * np.arange(1.0, 7)[::-1])


def two_sources(rng: np.random.Generator) -> Pair:
    source = np.arange(32) % 2
    x, y = (rng.normal(size=(32, d)) + 3.0 * source[:, None] for d in (5, 4))
    return Pair(x, y, strata=source.astype(str).tolist())


def uneven_sources(rng: np.random.Generator) -> Pair:
    source = np.repeat([0, 1], [12, 28])
    scale = np.where(source, 0.3, 1.0)[:, None]
    x, y = (scale * rng.standard_t(3, (40, d)) + 2.0 * source[:, None] for d in (4, 6))
    return Pair(x, y, strata=source.astype(str).tolist())


def categories(rng: np.random.Generator) -> Pair:
    """Both tell four categories within two sources apart, and nothing else in common."""
    kind = np.arange(40) % 4
    x, y = (rng.normal(size=(40, d)) + 3.0 * rng.normal(size=(4, d))[kind] for d in (6, 5))
    return Pair(x, y, strata=[f"{k // 2}/{k % 2}" for k in kind])


def near_copies(rng: np.random.Generator) -> Pair:
    cluster = np.repeat(np.arange(16), 2)
    x, y = (rng.normal(size=(16, d))[cluster] + 0.1 * rng.normal(size=(32, d)) for d in (5, 4))
    return Pair(x, y, clusters=cluster.astype(str).tolist())


def uneven_clusters(rng: np.random.Generator) -> Pair:
    """Clusters of one to four rows in two sources; both keep near-copies together."""
    sizes = np.tile([1, 2, 3, 4], 4)
    cluster = np.repeat(np.arange(16), sizes)
    source = (cluster >= 8).astype(int)
    x, y = (
        rng.normal(size=(16, d))[cluster] + 0.2 * rng.normal(size=(40, d)) + 2.0 * source[:, None]
        for d in (4, 6)
    )
    return Pair(x, y, source.astype(str).tolist(), cluster.astype(str).tolist())


SCENARIOS: dict[str, Scenario] = {
    "iid": Scenario("free", "n 32, d 4 and 6", flat(32, 4, 6)),
    "wide": Scenario("free", "n 24, d 48 and 64", flat(24, 48, 64)),
    "tall": Scenario("free", "n 64, d 3 and 3", flat(64, 3, 3)),
    "power law": Scenario("free", "n 48, sd 1/i, d 16 and 12", power_law),
    "near rank 1": Scenario("free", "n 32, sd 1, 0.01, ..., d 8 and 6", near_rank_one),
    "heavy tails": Scenario("free", "n 40, t with 1.5 df, d 5 and 7", heavy_tails),
    "ties": Scenario("free", "n 36, six equal rows in each of six categories", one_hot),
    "two sources": Scenario("strata", "n 32, both shifted by source", two_sources),
    "uneven sources": Scenario("strata", "n 12 + 28, shift, spread, t with 3 df", uneven_sources),
    "categories": Scenario("strata", "n 40, four categories in two sources", categories),
    "near copies": Scenario("clusters", "n 32 in pairs", near_copies),
    "uneven clusters": Scenario("clusters", "n 40, 1 to 4 rows, two sources", uneven_clusters),
}

# What the scheme is for: the same pairs, permuted as if it were not needed.
WRONG = {"two sources": "strata ignored", "near copies": "clusters ignored"}


def layers(rng: np.random.Generator) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Two and three layers of two unrelated models; layers of a model have a latent in common."""
    models = []
    for count in (2, 3):
        latent = rng.normal(size=(32, 3))
        models.append(
            [latent @ rng.normal(size=(3, 5)) + rng.normal(size=(32, 5)) for _ in range(count)]
        )
    return models[0], models[1]


def planted(rng: np.random.Generator, n: int, strength: float) -> Pair:
    """A latent of three numbers in both, `strength` times as strong as each one's own noise.

    Where and how it shows is fixed; rows and noise are drawn, so that repeats estimate one value.
    """
    fixed = np.random.default_rng(0)
    ways = [fixed.normal(size=(3, d)) / 3**0.5 for d in (6, 5)]
    latent = rng.normal(size=(n, 3))
    x, y = (strength * latent @ way + rng.normal(size=(n, way.shape[1])) for way in ways)
    return Pair(x, y)
