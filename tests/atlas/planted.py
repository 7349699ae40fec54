"""Linear models with a planted answer, for the atlas itself: images 1/2 + sum_k U_k a_k / 2."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from interp import load
from interp.models import Model, Site

SIDE, CODE, WIDTH, LAYERS = 16, 12, 4, 6
PIXELS = SIDE * SIDE * 3
NAMES = ("content", "composition", "surface")


def _directions() -> Tensor:
    rng = np.random.default_rng(5)
    return torch.from_numpy(np.linalg.qr(rng.standard_normal((PIXELS, CODE)))[0]).float()


def attributes() -> dict[str, Any]:
    """phi_k = U_k' x."""
    u = _directions()

    def make(k: int) -> Any:
        part = u[:, WIDTH * k : WIDTH * (k + 1)]

        def phi(images: Tensor) -> Tensor:
            x = images.float() / 255 if images.dtype == torch.uint8 else images.float()
            return x.flatten(1) @ part

        return phi

    return {name: make(k) for k, name in enumerate(NAMES)}


class Chain(nn.Module):
    """Six rotations of one 12-d latent: any of them holds everything."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        rng = np.random.default_rng(seed)
        self.maps = nn.ModuleList(nn.Linear(CODE, CODE, bias=False) for _ in range(LAYERS))
        for one in self.maps:
            turn = np.linalg.qr(rng.standard_normal((CODE, CODE)))[0]
            one.weight = nn.Parameter(torch.from_numpy(turn).float())  # pyright: ignore

    def forward(self, w: Tensor) -> Tensor:
        for one in self.maps:
            w = one(w)
        return 0.5 + 0.5 * w @ _directions().T


class Sum(nn.Module):
    """Six writes with inputs of their own; two for each attribute, or (twin) each to all."""

    def __init__(self, seed: int, twin: bool) -> None:
        super().__init__()
        rng = np.random.default_rng([seed, 1])
        self.maps = nn.ModuleList(nn.Linear(WIDTH, CODE, bias=False) for _ in range(LAYERS))
        for i, one in enumerate(self.maps):
            own = np.eye(CODE)[:, WIDTH * (i // 2) : WIDTH * (i // 2 + 1)] / 2**0.5
            weight = rng.standard_normal((CODE, WIDTH)) / CODE**0.5 if twin else own
            one.weight = nn.Parameter(torch.from_numpy(weight).float())  # pyright: ignore

    def forward(self, u: Tensor) -> Tensor:
        parts = [one(u[:, WIDTH * i : WIDTH * (i + 1)]) for i, one in enumerate(self.maps)]
        return 0.5 + 0.5 * torch.stack(parts).sum(0) @ _directions().T


class Adapter:
    """z is `latents`; what is left of the input comes from the seeds of the noise."""

    image_size = (SIDE, SIDE)

    def __init__(self, width: int, latent: int) -> None:
        self.width, self.latent = width, latent
        self.sources = {"z": "latents", "noise": "step_seeds"}
        if latent == width:
            self.sources = {"z": "latents"}
        self.points: Mapping[str, Site] = {
            f"maps.{i}": Site(f"maps.{i}", f"maps.{i}", kind="contrib") for i in range(LAYERS)
        }

    def reference(self) -> tuple[tuple, dict[str, Any]]:
        return (torch.ones(1, self.width),), {}

    def draw_latents(self, root: nn.Module, batch: Any) -> Tensor:
        return _draw(batch.seeds, self.latent, 0)

    def render(self, root: nn.Module, batch: Any) -> Tensor:
        z = self.draw_latents(root, batch) if batch.latents is None else batch.latents
        rest = _draw(batch.step_seeds or batch.seeds, self.width - self.latent, 1)
        return root(torch.cat([z, rest], 1)).reshape(-1, SIDE, SIDE, 3)


def _draw(seeds: tuple[int, ...], width: int, stream: int) -> Tensor:
    rows = [np.random.default_rng([seed, stream]).standard_normal(width) for seed in seeds]
    return torch.from_numpy(np.stack(rows)).float()


def make_strict(seed: int = 0) -> Model:
    """One 12-d latent through six maps: compact, redundant, not specialized."""
    return load(Chain(seed), adapter=Adapter(CODE, CODE))


def make_broad(seed: int = 0) -> Model:
    """Six writes, a third of them from z, the others from noise; seed > 0: a twin."""
    return load(Sum(seed, twin=seed > 0), adapter=Adapter(LAYERS * WIDTH, 2 * WIDTH))
