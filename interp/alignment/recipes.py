"""Published recipes, exactly, each beside what its search alone would give.

A recipe fixes measure, preprocessing, neighbors and search. The search is part of the number: the
largest of many cells is above chance when nothing is aligned. So the same search runs through every
permutation, and its critical value tau is where the scale begins.
"""

import dataclasses
import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from interp.alignment.cells import Setting, make_setting
from interp.alignment.representations import Representation
from interp.errors import InputError
from interp.geometry import get_measure
from interp.geometry.preprocessing import PRH, clip, clip_threshold, normalize
from interp.stats import MIN_PERMUTATIONS, check_permutations, holm, relative

# Huh et al. 2024, app. A: k = 10 of n = 1024.
PRH_NEIGHBORS = 10
ALPHA = 0.05
# Published recipes that `interp compare --recipe` knows.
RECIPES = ("prh",)

Layers = Float[Tensor, "n d"] | Float[Tensor, "n l d"] | Sequence[Float[Tensor, "n d"]]


@dataclass(frozen=True)
class RecipeScore:
    """A published score of two models, beside its calibrated value."""

    recipe: str
    model_a: str
    model_b: str
    value: float
    """The published number: the largest over all layer pairs, from 0 on."""
    best: tuple[str, str] | None
    """Names of the layers that give it; None where no pair is above 0."""
    n_cells: int
    """Layer pairs searched."""
    chance: float
    """Expectation of one fixed layer pair without alignment: k / (n - 1)."""
    null_mean: float
    """Mean of the largest over all layer pairs under permuted pairing: chance after the search."""
    tau: float
    """Critical value: the largest over all layer pairs exceeds it with probability alpha by
    chance."""
    calibrated: float
    """max(0, (value - tau) / (1 - tau)): 0 where the score is what a search finds by chance."""
    p: float
    """(1 + b) / (1 + K), b the permutations whose largest cell reaches `value`."""
    p_holm: float
    """p after Holm over the model pairs scored together."""
    n: int
    k: int
    n_permutations: int
    alpha: float
    seed: int
    preprocessing: str
    twin_value: float | None = None
    """The same number between the untrained twins."""


def prh(
    x: Layers,
    y: Layers,
    *,
    k: int = PRH_NEIGHBORS,
    strata: Sequence[Hashable] | None = None,
    clusters: Sequence[Hashable] | None = None,
    n_permutations: int = MIN_PERMUTATIONS,
    alpha: float = ALPHA,
    seed: int = 0,
) -> RecipeScore:
    """The alignment score of the Platonic Representation Hypothesis paper, and its calibration.

    Clip every model's features at the 0.95 quantile of their absolute values (one threshold for all
    layers where they are equally wide, as in one array; else one per layer), scale rows to length
    1, take mutual k-NN by cosine for every pair of layers, and report the largest, starting at 0.

    Args:
        x, y: one model each: [n, d], [n, layers, d], or a list of [n, d] of any widths. Row i is
            the same sample in all.
        k: neighbors, a count as in the paper; chance is k / (n - 1), so scores of different n do
            not compare.
        strata, clusters: [n] labels, as in `compare`.
        n_permutations: at least 200.
        alpha: level of the critical value.
        seed: of permutations and of the order of tied rows.

    Returns:
        The published score with chance, critical value, calibrated value and p.

    Raises:
        InputError: shapes, NaN, a row of zeros, constant layers, k > n - 2, too few permutations.

    Source: Huh et al. 2024, app. A, and the released code; calibration by the permuted maximum of
    Groeger et al. 2026, algorithm 2.
    """
    models = {"x": _split(x, "x"), "y": _split(y, "y")}
    n, other = (len(parts[0]) for parts in models.values())
    if n != other:
        raise InputError(f"x has {n} rows and y {other}; row i of both is the same sample")
    ids = tuple(map(str, range(n)))
    near = () if clusters is None else tuple(map(str, clusters))
    within = () if strata is None else tuple(map(str, strata))
    layers = {
        name: [Representation(name, str(i), z, ids, near, within) for i, z in enumerate(parts)]
        for name, parts in models.items()
    }
    options = {"n_permutations": n_permutations, "alpha": alpha, "seed": seed}
    return score_models(layers, k=k, **options)[0]


def score_models(
    models: Mapping[str, Sequence[Representation]],
    *,
    twins: Mapping[str, Sequence[Representation]] | None = None,
    pairs: Sequence[tuple[str, str]] | None = None,
    k: int = PRH_NEIGHBORS,
    n_permutations: int = MIN_PERMUTATIONS,
    alpha: float = ALPHA,
    seed: int = 0,
) -> list[RecipeScore]:
    """`prh` of every pair of models; twins: their untrained counterparts, scored beside them.

    Rows must already be in one order (`pair_up`). Raises InputError as `prh`.
    """
    layers = [one for parts in models.values() for one in parts]
    if len(models) < 2 or not all(models.values()):
        raise InputError(f"{len(models)} models to score: two or more with layers are needed")
    setting = _setting(layers, k, n_permutations, seed)
    names = list(models)
    chosen = pairs or [(a, b) for i, a in enumerate(names) for b in names[i + 1 :]]
    check_permutations(n_permutations, len(chosen), alpha, possible=setting.possible)
    ready = {name: _prepare(parts, setting) for name, parts in models.items()}
    beside = {name: _prepare(parts, setting) for name, parts in (twins or {}).items()}
    orders = {name: setting.orders(name) for name in names}
    out = []
    for a, b in chosen:
        moved = relative(orders[a], orders[b])
        score = _score(models[a], models[b], (ready[a], ready[b]), setting, moved, alpha)
        if beside:
            two = [beside.get(name, ready[name]) for name in (a, b)]
            score = dataclasses.replace(score, twin_value=_largest(_values(two)))
        out.append(score)
    adjusted = holm([score.p for score in out])
    return [dataclasses.replace(s, p_holm=float(q)) for s, q in zip(out, adjusted, strict=True)]


def critical_value(maxima: Float[np.ndarray, " p"], alpha: float = ALPHA) -> float:
    """The smallest tau with (1 + #{maxima >= s}) / (1 + K) <= alpha for every s > tau.

    It is the order statistic number ceil((1 - alpha)(K + 1)) of the K permuted maxima: a score
    above it, and no other, is significant at alpha.
    Raises InputError where K is too small for any score to be.
    """
    place = math.ceil((1 - alpha) * (len(maxima) + 1) - 1e-9)
    if not 1 <= place <= len(maxima):
        raise InputError(
            f"{len(maxima)} permutations have no critical value at {alpha}: at least "
            f"{math.ceil(1 / alpha - 1 - 1e-9)} are needed"
        )
    return float(np.sort(maxima)[place - 1])


def calibrate(value: float, tau: float, largest: float = 1.0) -> float:
    """max(0, (value - tau) / (largest - tau)): 0 at chance after the search, 1 at the largest.

    Raises InputError unless tau < largest.
    Source: Groeger et al. 2026, eq. of the calibrated score.
    """
    if not tau < largest:
        raise InputError(f"critical value {tau} leaves no room below {largest}: use more rows")
    return max(0.0, (value - tau) / (largest - tau))


def _split(given: Any, name: str) -> list[Tensor]:
    """One [n, d] per layer."""
    parts = list(given) if isinstance(given, list | tuple) else [torch.as_tensor(given)]
    if len(parts) == 1 and not isinstance(given, list | tuple) and parts[0].ndim == 3:
        parts = list(parts[0].unbind(1))
    parts = [torch.as_tensor(part) for part in parts]
    shapes = [tuple(part.shape) for part in parts]
    if not parts or any(part.ndim != 2 or len(part) != len(parts[0]) for part in parts):
        raise InputError(f"{name} has layers {shapes}: [n, d] each, of one n, are needed")
    return parts


def _setting(layers: Sequence[Representation], k: int, n_permutations: int, seed: int) -> Setting:
    n, positions = len(layers[0].ids), {one.x.ndim for one in layers}
    if positions != {2}:
        raise InputError("the PRH recipe takes one row per image: pool over positions first")
    if {len(one.ids) for one in layers} != {n}:
        raise InputError(f"layers of {sorted({len(one.ids) for one in layers})} rows: one n")
    if not 1 <= k <= n - 2:
        raise InputError(f"k = {k} neighbors of n = {n} rows: 1 <= k <= n - 2 = {n - 2} is needed")
    return make_setting(layers, n_permutations, 0, k / n, seed)


def _prepare(layers: Sequence[Representation], setting: Setting) -> list[Any]:
    """Clip, normalize, find neighbors. Equally wide layers share a threshold, as in one array."""
    one_width = len({one.x.shape[1] for one in layers}) == 1
    shared = clip_threshold([one.x for one in layers], PRH.clip or 1) if one_width else None
    measure = get_measure("mutual_knn")
    out = []
    for one in layers:
        clipped = clip(one.x, PRH.clip or 1, threshold=shared, name=one.name)
        # Among rows of length 1 the nearest by distance are the nearest by cosine.
        rows = normalize(clipped, one.name)
        out.append(setting.prepare(measure, dataclasses.replace(one, x=rows)))
    return out


def _values(ready: Sequence[list[Any]]) -> np.ndarray:
    return get_measure("mutual_knn").values(*ready).numpy()


def _largest(values: np.ndarray) -> float:
    return max(0.0, float(values.max()))


def _score(
    first: Sequence[Representation],
    second: Sequence[Representation],
    ready: tuple[list[Any], list[Any]],
    setting: Setting,
    orders: np.ndarray,
    alpha: float,
) -> RecipeScore:
    values = _values(ready)
    permuted = get_measure("mutual_knn").permuted(*ready, orders).numpy()
    maxima = permuted.reshape(len(permuted), -1).max(1)
    value, tau = _largest(values), critical_value(maxima, alpha)
    i, j = divmod(int(values.argmax()), values.shape[1])
    p = float((1 + (maxima >= value).sum()) / (1 + len(maxima)))
    k = setting.n_counted(get_measure("mutual_knn")) or 0
    pooling = "; ".join(dict.fromkeys(one.preprocessing for one in (*first, *second)))
    return RecipeScore(
        recipe="prh",
        model_a=first[0].model,
        model_b=second[0].model,
        value=value,
        best=(first[i].name, second[j].name) if value > 0 else None,
        n_cells=values.size,
        chance=k / (setting.n - 1),
        null_mean=float(maxima.mean()),
        tau=tau,
        calibrated=calibrate(value, tau),
        p=p,
        p_holm=p,
        n=setting.n,
        k=k,
        n_permutations=len(maxima),
        alpha=alpha,
        seed=setting.seed,
        preprocessing=f"{pooling}; {PRH}; cosine; largest over layer pairs, from 0 on",
    )
