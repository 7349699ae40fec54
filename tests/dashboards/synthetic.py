"""Synthetic features and stores with known content, for the dashboard's tests."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from interp.features import Features
from interp.models.points import HookPoint

CATEGORIES = ("animals", "faces", "flags", "food", "nature", "objects", "symbols", "travel")
HOSTILE = '</script><img src=x onerror="window.hacked=1"><b>bold</b> \u2028 & "quoted"'


def point(grid: tuple[int, ...] = (8, 8)) -> HookPoint:
    """A block of a U-Net with a map, or the entry `w` of a GAN without."""
    if grid:
        name = "up_blocks.1.resnets.0"
        return HookPoint(name, name, "image", "resid", 64, grid, "bchw", 0.6)
    return HookPoint("w", "", "entry", "entry", 64, grid, "bc", 0.0)


@dataclass
class SyntheticStore:
    """A store of `n` pictures of one shape each; category and caption name the shape."""

    hash: str = "5f0c0ffee123"
    n: int = 96
    size: int = 32
    hostile: bool = False

    def __post_init__(self) -> None:
        index = np.arange(self.n)
        category = [CATEGORIES[i % len(CATEGORIES)] for i in index]
        caption = [f"{name} number {i}" for i, name in zip(index, category, strict=True)]
        if self.hostile:
            caption = [f"{HOSTILE} {i}" for i in index]
            category = [HOSTILE if name == "faces" else name for name in category]
        self.generations = {
            "generation": index,
            "image_id": [f"glyph-{i:05d}" for i in index],
            "cluster": index // 2,
            "category": category,
            "caption": caption,
            "seed": index + 100,
            "split": ["heldout"] * self.n,
        }

    def images(self, generations: Any) -> np.ndarray:
        """Pictures of the asked generations, uint8 [g, h, w, 3]."""
        return np.stack([picture(int(g), self.size) for g in generations])


def picture(index: int, size: int) -> np.ndarray:
    """One colored shape on a white ground, uint8 [size, size, 3]."""
    rng = np.random.default_rng(index)
    y, x = np.mgrid[0:size, 0:size] / size
    cy, cx, radius = rng.uniform(0.35, 0.65), rng.uniform(0.35, 0.65), rng.uniform(0.18, 0.34)
    dy, dx = y - cy, x - cx
    angle = np.arctan2(dy, dx)
    shapes = (
        np.hypot(dy, dx) - radius,
        np.maximum(abs(dy), abs(dx)) - radius * 0.9,
        abs(dy) + abs(dx) - radius * 1.2,
        np.hypot(dy, dx) - radius * (0.75 + 0.3 * np.cos(5 * angle)),
        abs(np.hypot(dy, dx) - radius * 0.8) - radius * 0.25,
        np.maximum(abs(dx) - radius, abs(dy) - radius * 0.35),
        np.minimum(np.maximum(abs(dx), abs(dy) * 4), np.maximum(abs(dx) * 4, abs(dy))) - radius,
        np.maximum(dy - radius * 0.7, abs(dx) * 1.6 - dy - radius * 0.8),
    )
    cover = np.clip(0.5 - shapes[index % len(shapes)] * size / 2, 0, 1)[..., None]
    color = np.array(rng.uniform(0.1, 0.9, 3))
    shade = 1 - 0.25 * (y - cy)[..., None]
    pixels = (1 - cover) + cover * np.clip(color * shade, 0, 1)
    return (pixels * 255).astype(np.uint8)


def features(
    n_latents: int = 200,
    *,
    store: SyntheticStore | None = None,
    n_examples: int = 24,
    grid: tuple[int, ...] = (8, 8),
    n_calls: int = 6,
    seed: int = 0,
    model: str = "zoo:ddpm",
) -> Features:
    """Features of `n_latents` latents; every sixteenth is dead, every fiftieth is dense."""
    store = store or SyntheticStore()
    rng = np.random.default_rng(seed)
    m, e, n_bins = n_latents, n_examples, 40
    latent = np.arange(m)
    dead = latent % 16 == 15
    density = np.where(dead, 0, 10 ** rng.uniform(-4, -1.2, m))
    density[latent % 50 == 7] = 0.35
    dead[latent % 50 == 7] = False
    maximum = np.where(dead, 0, rng.uniform(2, 20, m)).astype(np.float32)
    home = latent % len(CATEGORIES)
    examples = _examples(rng, m, e, maximum, home, store.n, dead)
    maps = _maps(rng, examples["example_value"], grid if len(grid) == 2 else (1, 1))
    edges = np.linspace(-3, 2, n_bins + 1)
    centers = np.log10(np.maximum(maximum, 0.1) * 0.2)[:, None]
    bell = np.exp(-((((edges[1:] + edges[:-1]) / 2)[None] - centers) ** 2) / 0.3)
    peak = rng.uniform(0, n_calls, m)[:, None]
    q = min(8, m - 1)
    spec = {"variant": "topk", "d_in": 64, "n_latents": m, "k": 32}
    return Features(
        point=point(grid),
        sae={"digest": f"sae{seed:09d}", "spec": spec, "recipe": {"seed": seed, "steps": 1200}},
        store={"hash": store.hash, "name": "capture", "model": {"spec": model}, "recipe": {}},
        n_rows=100_000,
        n_generations=store.n,
        density=density,
        mean_active=maximum * 0.3,
        maximum=maximum,
        dead=dead,
        histogram=np.where(dead[:, None], 0, density[:, None] * 1e5 * bell).astype(np.int64),
        edges=edges,
        **examples,
        maps=maps,
        grid=grid,
        profile_calls=np.exp(-((np.arange(n_calls)[None] - peak) ** 2) / 4) * (~dead)[:, None],
        calls=[
            {"call": i, "t": 999.0 - 180 * i, "log_snr": -4.0 + 1.6 * i, "n_rows": 1000}
            for i in range(n_calls)
        ],
        category_profile=_categories(rng, m, home, dead),
        categories=list(dict.fromkeys(store.generations["category"])),
        neighbors=((latent[:, None] + np.arange(1, q + 1)) % m).astype(np.int32),
        neighbor_cosine=np.sort(rng.uniform(0.1, 0.8, (m, q)))[:, ::-1].astype(np.float32),
        coactive=((latent[:, None] + 8 * np.arange(1, q + 1)) % m).astype(np.int32),
        coactive_score=np.sort(rng.uniform(0, 0.5, (m, q)))[:, ::-1].astype(np.float32),
        coactive_measure="Jaccard",
        umap=_umap(rng, home, dead),
        seed=seed,
        notes=("co-activation is counted on a random sample of 50000 rows",),
    )


def _examples(rng, m, e, maximum, home, n_generations, dead) -> dict[str, np.ndarray]:
    n_top, n_random = e // 2, e // 6
    kind = np.ones((m, e), np.uint8)
    kind[:, :n_top], kind[:, e - n_random :] = 0, 2
    bins = np.full((m, e), -1, np.int8)
    n_quantile = e - n_top - n_random
    bins[:, n_top : e - n_random] = np.arange(n_quantile)[::-1] * 4 // max(n_quantile, 1)
    level = np.concatenate(
        [np.linspace(1, 0.7, n_top), np.linspace(0.7, 0.1, n_quantile), np.full(n_random, 0.3)]
    )
    value = (maximum[:, None] * level).astype(np.float32)
    n_classes = len(CATEGORIES)
    generation = rng.integers(0, n_generations // n_classes, (m, e)) * n_classes
    other = rng.integers(0, n_classes, (m, e))
    generation += np.where(kind == 0, home[:, None], other)
    row = generation.astype(np.int64) * 64 + rng.integers(0, 64, (m, e))
    row[dead] = -1
    return {
        "example_row": row,
        "example_kind": kind,
        "example_bin": bins,
        "example_value": np.where(row < 0, np.nan, value).astype(np.float32),
        "example_generation": np.where(row < 0, -1, generation).astype(np.int32),
        "example_call": rng.integers(0, 6, (m, e)).astype(np.int16),
        "example_half": np.ones((m, e), np.int8),
        "example_y": rng.integers(0, 8, (m, e)).astype(np.int16),
        "example_x": rng.integers(0, 8, (m, e)).astype(np.int16),
    }


def _maps(rng, value, grid) -> np.ndarray:
    """A Gaussian spot per example; spot i of latent j peaks at `value[j, i]`; NaN: no example."""
    m, e = value.shape
    h, w = grid
    maps = np.empty((m, e, h, w), np.float16)
    for start in range(0, m, 512):
        part = value[start : start + 512]
        cy, cx = rng.uniform(0.3, 0.7, (2, *part.shape, 1, 1))
        dy = (np.arange(h) + 0.5)[:, None] / h - cy
        dx = (np.arange(w) + 0.5)[None] / w - cx
        spot = np.exp(-(dy**2 + dx**2) / 0.03)
        spot[spot < 0.15] = 0
        maps[start : start + 512] = part[..., None, None] * spot
    return maps


def _categories(rng, m, home, dead) -> np.ndarray:
    profile = rng.exponential(0.05, (m, len(CATEGORIES)))
    profile[np.arange(m), home] += rng.exponential(0.6, m)
    return np.where(dead[:, None], 0, profile)


def _umap(rng, home, dead) -> np.ndarray:
    angle = 2 * np.pi * home / len(CATEGORIES)
    center = np.stack([np.cos(angle), np.sin(angle)], 1) * 6
    xy = (center + rng.normal(0, 1.3, center.shape)).astype(np.float32)
    xy[dead] = np.nan
    return xy


def with_few_rows(one: Features, latent: int, n: int) -> Features:
    """`latent` active on `n` rows of one histogram bin, which fill all its examples, repeated."""
    changes = {name: getattr(one, name).copy() for name in ("density", "histogram", "example_row")}
    changes["density"][latent] = n / one.n_rows
    changes["histogram"][latent] = 0
    changes["histogram"][latent, 24] = n
    changes["example_row"][latent] = np.arange(one.example_row.shape[1]) % n
    return edited(one, **changes)


def evaluation() -> dict[str, Any]:
    """An SAE that k-sparse PCA beats, at three noise levels."""
    baselines = (
        ("sae", 0.21, "training rows"),
        ("k-sparse PCA", 0.18, "the judged rows"),
        ("random dictionary", 0.6, "the mean of other rows"),
    )
    return {
        "fvu": 0.2,
        "l0": 32.0,
        "n_rows": 100_000,
        "n_generations": 64,
        "severity": 1.5,
        "baselines": [
            {"name": name, "fvu": fvu, "k": 32, "fitted_on": rows} for name, fvu, rows in baselines
        ],
        "per_call": [
            {"call": i, "log_snr": snr, "fvu": 0.25 + 0.01 * i, "l0": 32.0}
            for i, snr in enumerate((2.0, 0.0, -2.0))
        ],
    }


def edited(features: Features, **changes: Any) -> Features:
    """The same features with some fields replaced."""
    return replace(features, **changes)
