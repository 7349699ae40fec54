"""What pushes along directions, and swaps of subspaces, do to images: one rule for all bases."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

import interp
from analyses.handles.codes import fit_pca, random_atoms
from analyses.handles.rows import NOISY, Config, PointRows
from interp.interventions import (
    Carrier,
    embed_images,
    interchange,
    make_attributes,
    measure_interchange,
    off_distribution,
    sefa,
    style_channels,
)
from interp.stats import jackknife, make_folds
from interp.zoo import load_images

# Clean rows that say what is usual, on each side.
N_USUAL = 600
# What every basis is compared with: any direction, any that the rows vary along, components.
RIVALS = ("isotropic", "matched", "pca")


@dataclass(frozen=True)
class Starts:
    """Where images come from: seeds, or codes of held-out images for autoencoders."""

    model: Any
    recipe: interp.Generation
    latents: Tensor | None

    def batch(self, first: int, n: int) -> Any:
        """Samples first..first + n - 1."""
        batch = self.recipe.batch(first, first + n, n_classes=self.model.n_classes)
        if self.latents is None:
            return batch
        return replace(batch, latents=self.latents[first : first + n])


def make_starts(model: Any, name: str, config: Config, out: Path) -> tuple[Starts, Tensor | None]:
    """Starts for all that follows, and the images behind them where they are codes of images."""
    c = config.causal
    n = c.n_choose + c.n_score + c.n_reference + c.n_clean + 2 * c.n_pairs
    steps = {"scheduler": "ddim", "steps": c.sampler_steps} if name in NOISY else {}
    recipe = interp.Generation(n=n, seed=config.seed, **steps)
    if "encode" not in model.capabilities or name in NOISY:
        return Starts(model, recipe, None), None
    images = load_images("glyphs", split="heldout")
    # One image of each cluster: seeds have to be as different as they look.
    first = np.unique(np.array(images.clusters), return_index=True)[1]
    chosen = images.select(np.random.default_rng(config.seed).permutation(first)[:n])
    store = interp.capture(
        model, ["code"], interp.Encoding(), out=out / "stores", images=chosen, progress=False
    )
    numbers = store.generations["generation"]
    maps = torch.stack([store.maps("code", int(g)) for g in numbers])
    codes = maps.movedim(-1, 1) if maps.ndim > 2 else maps
    place = {one: i for i, one in enumerate(chosen.ids)}
    order = np.argsort([place[one] for one in store.generations["image_id"].astype(str)])
    return Starts(model, recipe, (codes[order] - model.shift) * model.scale), chosen.pixels


class Made(NamedTuple):
    """Images of a push, and the rows after it at the middle call."""

    images: Tensor
    rows: Tensor


def make(starts: Starts, point: str, first: int, n: int, push: Tensor | None) -> Made:
    """Run with a vector added to every row of a point, at all positions and calls."""
    model = starts.model
    middle = starts.recipe.steps // 2 if starts.recipe.scheduler else 0
    seen: list[Tensor] = []

    def edit(rows: Tensor, call: Any) -> Tensor:
        new = rows if push is None else rows + push.to(rows)
        if call.call == middle:
            seen.append(new.detach().clone())
        return new

    with torch.no_grad(), interp.editing(model, {point: edit}):
        images = model.generate(starts.batch(first, n))
    return Made(images, seen[0])


def make_bases(model: Any, point: str, rows: PointRows, sae: Any, config: Config) -> dict:
    """Unit directions [r, d] of every basis, by falling energy; random ones as many."""
    d = rows.train.shape[1]
    _, axes = fit_pca(rows.train)
    with torch.no_grad():
        sample = rows.train[:: max(1, len(rows.train) // 5000)]
        energy = sae.encode(sample).dense().square().mean(0)
    found = {"sae": sae.dictionary().detach()[energy.argsort(descending=True)], "pca": axes}
    if point == "w":
        found["sefa"] = sefa(model).vectors.float()
    if point.startswith("s."):
        channels = style_channels(model, [int(point[2:])])[point]
        found["channels"] = channels.vectors[channels.scale.argsort(descending=True)].float()
    found["isotropic"] = random_atoms(d, d, config.seed + 2)
    centered = rows.train - rows.train.mean(0)
    mixed = torch.randn(d, len(centered), generator=torch.Generator().manual_seed(config.seed))
    found["matched"] = torch.nn.functional.normalize(mixed @ centered, dim=1)
    return found


class Yard(NamedTuple):
    """What pushes are measured by."""

    attributes: Mapping[str, Any]
    scale: dict[str, float]
    """Root mean squared distance between two reference images."""
    usual: tuple[Tensor, Tensor]
    """Clean rows: reference and held out."""
    length: float
    """Of a push."""


def make_yard(starts: Starts, point: str, name: str, rows: PointRows, config: Config) -> Yard:
    """Attributes, their scales, and what rows are when nothing is pushed."""
    c = config.causal
    first = c.n_choose + c.n_score
    reference = make(starts, point, first, c.n_reference, None).images
    attributes = make_attributes(reference, encoder=interp.load("zoo:vit"))
    scale = {}
    for key, value in embed_images(reference, attributes).items():
        spread = ((value - value.mean(0)) ** 2).sum()
        scale[key] = float(np.sqrt(2 * spread / (len(value) - 1)))
    usual = rows.train, rows.judged.x
    if name in NOISY:
        # Rows of one call of a generation: other noise levels are other distributions.
        clean = make(starts, point, first + c.n_reference, c.n_clean, None).rows
        usual = tuple(part.flatten(0, 1) for part in clean.chunk(2))  # pyright: ignore
    left, right = (thin(part, config.seed) for part in usual)
    length = float((left - left.mean(0)).square().sum(1).mean().sqrt())
    return Yard(attributes, scale, (left, right), c.strength * length)


def thin(x: Tensor, seed: int) -> Tensor:
    """At most `N_USUAL` rows, at random."""
    order = np.random.default_rng(seed).permutation(len(x))[:N_USUAL]
    return x[torch.from_numpy(order)].float()


class Effects(NamedTuple):
    """Of one push, by sample."""

    moved: np.ndarray
    """[n, attributes] squared length of the change over the squared scale."""
    far: np.ndarray
    """[n, 2] median over positions of Mahalanobis and neighbor distance, clean median 1."""


def measure_push(made: Made, plain: Made, yard: Yard, seed: int) -> Effects:
    """Change of every attribute of every sample, and how far its rows are from clean ones."""
    before, after = (embed_images(x.images, yard.attributes) for x in (plain, made))
    moved = [((after[k] - before[k]) ** 2).sum(1) / yard.scale[k] ** 2 for k in before]
    n, positions = made.rows.shape[:2]
    kept = np.random.default_rng(seed).permutation(positions)[:16]
    rows = made.rows[:, torch.from_numpy(kept)].flatten(0, 1)
    found = off_distribution(rows, *yard.usual)
    far = [
        (one.rows / one.held_out.median()).reshape(n, -1).median(1).values.numpy()
        for one in (found.mahalanobis, found.neighbor)
    ]
    return Effects(np.stack(moved, 1), np.stack(far, 1))


def handle_score(effects: Effects, keep: Any = slice(None)) -> np.ndarray:
    """[2]: mean over attributes of the root mean squared change, per unit of either distance."""
    effect = np.sqrt(effects.moved[keep].mean(0)).mean()
    return effect / effects.far[keep].mean(0)


def score_handles(starts: Starts, point: str, bases: dict, yard: Yard, config: Config) -> dict:
    """The best direction of every basis: chosen on some seeds, scored on others."""
    c = config.causal
    plain = [make(starts, point, f, n, None) for f, n in ((0, c.n_choose), (c.n_choose, c.n_score))]
    chosen: dict[str, Effects] = {}
    table: dict[str, Any] = {}
    # As many of every basis, or the larger one would have the larger maximum.
    count = min(c.n_directions, *(len(basis) for basis in bases.values()))
    for name, basis in bases.items():
        candidates = basis[:count]
        tried = [
            measure_push(make(starts, point, 0, c.n_choose, yard.length * u), plain[0], yard, 0)
            for u in candidates
        ]
        scores = np.array([handle_score(one)[0] for one in tried])
        best = int(scores.argmax())
        made = make(starts, point, c.n_choose, c.n_score, yard.length * candidates[best])
        chosen[name] = measure_push(made, plain[1], yard, 0)
        table[name] = {
            "candidates": count,
            "best": best,
            "chosen_score": float(scores.max()),
            "mean_of_candidates": float(scores.mean()),
            **describe(chosen[name], list(yard.scale), config),
        }
    for name in table:
        for rival in (key for key in RIVALS if key != name):
            table[name][f"over_{rival}"] = difference(chosen[name], chosen[rival], config)
    return table


def describe(effects: Effects, names: list[str], config: Config) -> dict[str, Any]:
    """Handle score with its interval, and what it is made of."""
    size = np.sqrt(effects.moved.mean(0))
    score = handle_score(effects)
    fold = make_folds(range(len(effects.moved)), min(10, len(effects.moved)), config.seed)
    left = np.array([handle_score(effects, fold != f) for f in np.unique(fold)])
    interval = jackknife(score, left)
    return {
        "score": [float(score[0]), float(interval.low[0]), float(interval.high[0])],
        "score_neighbor": [float(score[1]), float(interval.low[1]), float(interval.high[1])],
        "size": dict(zip(names, size.tolist(), strict=True)),
        "off_mahalanobis": float(effects.far[:, 0].mean()),
        "off_neighbor": float(effects.far[:, 1].mean()),
    }


def difference(a: Effects, b: Effects, config: Config) -> list[list[float]]:
    """Score of one over that of another on the same seeds, for either distance, with interval."""
    fold = make_folds(range(len(a.moved)), min(10, len(a.moved)), config.seed)
    value = handle_score(a) - handle_score(b)
    left = np.array(
        [handle_score(a, fold != f) - handle_score(b, fold != f) for f in np.unique(fold)]
    )
    interval = jackknife(value, left)
    return [[float(value[i]), float(interval.low[i]), float(interval.high[i])] for i in (0, 1)]


def swap_subspaces(
    starts: Starts, images: Tensor | None, point: str, bases: dict, yard: Yard, config: Config
) -> dict[str, Any]:
    """Donor share against rank of the top directions of every basis, and of the whole point."""
    c, d = config.causal, next(iter(bases.values())).shape[1]
    n = starts.recipe.n
    first = n - 2 * c.n_pairs
    carriers = [Carrier(points=(point,), name="full")]
    for name in (key for key in bases if key != "matched"):
        carriers += [
            Carrier(points=(point,), name=f"{name}:{r}", subspace=orthonormal(bases[name][:r]))
            for r in c.ranks
            if r < d
        ]
    if images is None:
        recipe = replace(starts.recipe, n=c.n_pairs)
        sides = [replace(recipe, seed=recipe.seed + first + i * c.n_pairs) for i in (0, 1)]
    else:
        sides = list(images[first:].chunk(2))
    reference = make(starts, point, c.n_choose + c.n_score, c.n_reference, None).images
    found = interchange(starts.model, carriers, *sides, batch_size=c.n_pairs, seed=config.seed)
    out = {}
    for one in found:
        effect, _ = measure_interchange(one, yard.attributes, reference, seed=config.seed)
        shares = {k: [a.alpha, a.alpha_low, a.alpha_high] for k, a in effect.attributes.items()}
        alphas = [a.alpha for a in effect.attributes.values()]
        bound = effect.sufficiency
        out[one.carrier.name] = {
            "alpha": shares,
            "mean_alpha": float(np.mean(alphas)),
            "least_alpha": [bound.value, bound.lower, bound.upper],
        }
    return out


def orthonormal(directions: Tensor) -> Tensor:
    """Orthonormal rows that span some directions."""
    return torch.linalg.qr(directions.double().T)[0].T.contiguous()
