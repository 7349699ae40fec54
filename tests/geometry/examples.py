"""Features that the tests of geometry share."""

import torch

from interp.geometry import MEASURES

# n > d, n < d, d = 1, a repeated row, a constant column.
SHAPES = ["tall", "wide", "narrow", "repeated", "constant_column"]


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def example(kind: str, seed: int = 0) -> torch.Tensor:
    n, d = {"wide": (20, 50), "narrow": (30, 1)}.get(kind, (40, 6))
    x = draw(n, d, seed=seed)
    if kind == "repeated":
        x[n // 2 :] = x[: n // 2]
    if kind == "constant_column":
        x[:, 0] = 3.0
    return x


def related(x: torch.Tensor, seed: int = 1) -> torch.Tensor:
    return x @ draw(x.shape[1], 7, seed=seed) + draw(x.shape[0], 7, seed=seed + 1)


def prepare(name: str, x: torch.Tensor, k: float = 0.1, label: str = "x", **more):
    measure = MEASURES[name]
    more = {"n_neighbors": k, **more} if measure.uses_neighbors else more
    return measure.prepare(x, label, **more)
