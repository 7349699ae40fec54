"""Activations of one point, as every code of this study sees them: training rows, judged rows."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

import interp

# Denoisers: shown images at several noise levels.
NOISY = ("ddpm", "dit", "ldm")
# Seeds of GAN samples that train and that judge; those of the interventions are below 100,000.
TRAIN, JUDGE = 1_000_000, 2_000_000
# Vectors of a GAN that its mapping network makes of z alone, without making an image.
DRAWN = ("w", "s.")
# Draws of such a vector that judge a code.
N_DRAWN = 4096


@dataclass(frozen=True)
class Causal:
    """Settings of the interventions."""

    sampler_steps: int
    n_directions: int  # candidates of every basis
    n_choose: int  # seeds that choose the best
    n_score: int  # seeds that score it
    n_reference: int  # other seeds: origin of the attributes
    n_clean: int  # other seeds: clean rows
    strength: float  # in root mean squared lengths of centered rows
    weaker: float
    ranks: tuple[int, ...]
    n_pairs: int


@dataclass(frozen=True)
class Config:
    """Settings of the study."""

    points: Mapping[str, tuple[str, ...]]
    expansion: int  # latents per width
    k: tuple[int, ...]
    k_handle: int  # of the SAE whose latents are handles
    n_train: int
    n_judge: int
    rows_per_latent: int
    log_snr: tuple[float, ...]
    steps: int
    batch_size: int
    permutations: int
    twin_seed: int
    seed: int
    causal: Causal


def read_config(values: Mapping[str, Any]) -> Config:
    """The settings from their JSON values."""
    causal: dict[str, Any] = values["causal"]
    causal = {k: tuple(v) if isinstance(v, list) else v for k, v in causal.items()}
    points = {name: tuple(some) for name, some in values["points"].items()}
    rest: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
    return Config(**{**rest, "points": points, "causal": Causal(**causal)})


@dataclass(frozen=True)
class Judged:
    """Rows that judge a code; row i is of image `image[i]`."""

    x: torch.Tensor
    """[n, d]."""
    level: np.ndarray
    """[n], number of the noise level; 0 without one."""
    image: np.ndarray
    """[n], index into the next two."""
    cluster: np.ndarray
    """[images], names of groups of near-duplicates."""
    category: np.ndarray
    """[images]; "" where there is none."""


@dataclass(frozen=True)
class PointRows:
    """What one point of one network gives."""

    train: torch.Tensor
    """[n, d]."""
    judged: Judged
    n_latents: int
    per_image: int
    """Rows of an image at one noise level."""

    @property
    def rows_per_latent(self) -> float:
        """Training rows for each latent."""
        return len(self.train) / self.n_latents


def gather(name: str, twin: int | None, config: Config, out: Path) -> tuple[Any, dict]:
    """A model of the box (twin None) or an untrained twin of it, and the rows of its points."""
    model = interp.load(f"zoo:{name}", untrained=twin is not None, seed=twin or 0)
    points = config.points[name]
    drawn = [p for p in points if name == "gan" and p.startswith(DRAWN)]
    found = {p: draw(model, p, config) for p in drawn}
    rest = [p for p in points if p not in drawn]
    if rest:
        found |= capture(name, model, rest, config, out)
    return model, {p: found[p] for p in points}


def draw(model: Any, point: str, config: Config) -> PointRows:
    """Vectors of fresh z: as many as the floor of rows per latent asks for."""
    n_latents = config.expansion * model.points[point].width
    train = vectors(model, point, config.rows_per_latent * n_latents, config.seed + TRAIN)
    x = vectors(model, point, N_DRAWN, config.seed + JUDGE)
    image, names = np.arange(N_DRAWN), np.array([f"z{i}" for i in range(N_DRAWN)])
    none = np.full(N_DRAWN, "")
    judged = Judged(x, np.zeros(N_DRAWN, int), image, names, none)
    return PointRows(train, judged, n_latents, 1)


def vectors(model: Any, point: str, n: int, seed: int) -> torch.Tensor:
    """[n, d] values of w, or of a style s.l, at standard normal z."""
    z = torch.randn(n, model.points["z"].width, generator=torch.Generator().manual_seed(seed))
    with torch.no_grad():
        x = model.root.get_submodule(model.points["w"].module)(z)
        if point != "w":
            x = model.root.get_submodule(model.points[point].module)(x)
    return x.float()


def capture(name: str, model: Any, points: list[str], config: Config, out: Path) -> dict:
    """Rows at random positions: enough of each map for the floor of rows per latent."""
    levels = config.log_snr if name in NOISY else ()
    widest = max(model.points[p].width for p in points)
    wanted = config.rows_per_latent * config.expansion * widest
    kept = math.ceil(wanted / (config.n_train * max(1, len(levels))))
    largest = max(math.prod(model.points[p].grid) for p in points)
    rows = interp.Rows(positions=min(kept, largest), seed=config.seed)
    if "encode" in model.capabilities:
        parts = (("train", config.n_train), ("heldout", config.n_judge))
        options = {"seed": config.seed, "log_snr": levels}
        recipes = [interp.Encoding(f"glyphs/{part}", limit=n, **options) for part, n in parts]
    else:
        seeds = ((config.n_train, TRAIN), (config.n_judge, JUDGE))
        recipes = [interp.Generation(n=n, seed=config.seed + s, batch_size=64) for n, s in seeds]
    stores = [
        interp.capture(model, points, r, out=out / "stores", rows=rows, progress=False)
        for r in recipes
    ]
    found = {}
    for point in points:
        n_latents = config.expansion * model.points[point].width
        train = stores[0].rows(point).float()
        judged = judge_rows(stores[1], point)
        per_image = len(train) // (len(stores[0].generations["generation"]) or 1)
        found[point] = PointRows(train, judged, n_latents, per_image)
    return found


def judge_rows(store: Any, point: str) -> Judged:
    """Rows of a store with their images' clusters and categories."""
    table = store.generations
    coords = store.coords(point, columns=["generation", "call"])
    place = np.searchsorted(table["generation"], coords["generation"])
    ids = table["image_id"].astype(str)
    images, first, of = np.unique(ids, return_index=True, return_inverse=True)
    category = table["category"].astype(str) if "category" in table else np.full(len(ids), "")
    cluster = table["cluster"].astype(str)
    assert len(images) == len(first)
    level = coords["call"].astype(int)
    return Judged(store.rows(point).float(), level, of[place], cluster[first], category[first])
