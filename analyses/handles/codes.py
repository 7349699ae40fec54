"""How well sparse codes rebuild the rows of a point, and whether a coefficient is a category."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from analyses.handles.rows import Config, Judged, PointRows
from interp.sae import Job, TrainConfig, train_many
from interp.stats import FOLDS, jackknife, make_folds, permutations

# Rows on which the random dictionary is fitted by least squares.
N_RANDOM = 1000
# Judged rows that enter the FVU, at most; at random.
N_FVU = 20_000
# Images of a category in each half, at least: below it an AUC is a coin.
LEAST = 4


def train_codes(rows: PointRows, ks: Sequence[int], config: Config, out: Path) -> dict[int, Any]:
    """One TopK SAE for every k, over one pass of the same batches."""
    n, b = len(rows.train), min(config.batch_size, len(rows.train))
    order = np.random.default_rng(config.seed)
    batches = (
        rows.train[torch.from_numpy(order.choice(n, b, replace=False))] for _ in range(config.steps)
    )
    jobs = {
        f"k{k}": Job(
            TrainConfig(
                n_latents=rows.n_latents, k=k, batch_size=b, steps=config.steps,
                seed=config.seed, held_out=0.0, checkpoint_every=0,
            )
        )
        for k in ks
    }  # fmt: skip
    runs = train_many(batches, jobs, out=out, progress=False)
    return {k: runs[f"k{k}"].sae for k in ks}


def measure_fvu(
    rebuild: Callable[[Tensor], Tensor], judged: Judged, limit: int, seed: int
) -> list[float]:
    """Share of the variance within noise levels that a code misses, with its 95 % interval.

    FVU = sum |x - x_hat|^2 / sum |x - mean of its level|^2; jackknife over folds of whole clusters,
    the level means held fixed.
    """
    kept = np.sort(np.random.default_rng(seed).permutation(len(judged.x))[:limit])
    x, level = judged.x[torch.from_numpy(kept)].double(), judged.level[kept]
    with torch.no_grad():
        error = (x - rebuild(x.float()).double()).square().sum(1).numpy()
    spread = np.zeros(len(x))
    for one in np.unique(level):
        part = x[torch.from_numpy(level == one)]
        spread[level == one] = (part - part.mean(0)).square().sum(1).numpy()
    fold = make_folds(judged.cluster[judged.image[kept]].tolist(), FOLDS, seed)
    sums = np.stack([np.bincount(fold, v, FOLDS) for v in (error, spread)])
    value = error.sum() / spread.sum()
    left = sums.sum(1, keepdims=True) - sums
    interval = jackknife(value, left[0] / left[1])
    return [float(value), float(interval.low), float(interval.high)]


def fit_pca(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean [d] and principal directions [d, d] as rows, by falling variance."""
    mean = x.double().mean(0)
    centered = x.double() - mean
    axes = torch.linalg.eigh(centered.T @ centered)[1].T.flip(0)
    return mean.float(), axes.float()


def largest(scores: Tensor, k: int) -> Tensor:
    """The k scores of each row that are largest in absolute value, the others 0."""
    kept = scores.abs().topk(min(k, scores.shape[1]), dim=1).indices
    return torch.zeros_like(scores).scatter_(1, kept, scores.gather(1, kept))


def random_atoms(n_latents: int, d: int, seed: int) -> Tensor:
    """[m, d] random unit directions."""
    generator = torch.Generator().manual_seed(seed)
    return F.normalize(torch.randn(n_latents, d, generator=generator), dim=1)


def refit(x: Tensor, mean: Tensor, atoms: Tensor, k: int) -> Tensor:
    """Least-squares fit of each row by the k atoms with the largest inner products."""
    centered = x - mean
    chosen = (centered @ atoms.T).abs().topk(k, dim=1).indices
    basis, _ = torch.linalg.qr(atoms[chosen].transpose(1, 2))
    return mean + (basis @ (basis.transpose(1, 2) @ centered[:, :, None]))[:, :, 0]


def fvu_curves(rows: PointRows, saes: Mapping[int, Any], config: Config) -> dict[str, Any]:
    """FVU against k of the SAE, k-sparse PCA and a random dictionary, all of k numbers a row."""
    d = rows.train.shape[1]
    mean, axes = fit_pca(rows.train)
    atoms = random_atoms(rows.n_latents, d, config.seed)
    curves: dict[str, Any] = {"sae": {}, "pca": {}, "random": {}}
    for k, sae in saes.items():
        curves["sae"][k] = measure_fvu(sae.forward, rows.judged, N_FVU, config.seed)
        if k < d:
            curves["pca"][k] = measure_fvu(
                lambda x, k=k: mean + largest((x - mean) @ axes.T, k) @ axes,
                rows.judged, N_FVU, config.seed,
            )  # fmt: skip
            curves["random"][k] = measure_fvu(
                lambda x, k=k: refit(x, mean, atoms, k), rows.judged, N_RANDOM, config.seed
            )
    return curves


def k_at(curve: Mapping[int, Sequence[float]], level: float = 0.2) -> float | None:
    """The k at which a curve falls to the level, linear in log k; None: not reached.

    A curve that starts below it has reached it at its first k.
    """
    ks = sorted(curve)
    values = [curve[k][0] for k in ks]
    if not ks or min(values) > level:
        return None
    i = next(i for i, v in enumerate(values) if v <= level)
    if i == 0:
        return float(ks[0])
    share = (values[i - 1] - level) / (values[i - 1] - values[i])
    return float(ks[i - 1] * (ks[i] / ks[i - 1]) ** share)


def image_scores(code: Callable[[Tensor], Tensor], judged: Judged) -> np.ndarray:
    """[images, c]: mean of each coefficient over an image's rows at the first noise level."""
    kept = judged.level == judged.level.min()
    with torch.no_grad():
        values = code(judged.x[torch.from_numpy(kept)]).float()
    index = torch.from_numpy(judged.image[kept])
    n = len(judged.cluster)
    sums = torch.zeros(n, values.shape[1]).index_add_(0, index, values)
    return (sums / torch.bincount(index, minlength=n).clamp(min=1)[:, None]).numpy()


def rank(scores: np.ndarray) -> np.ndarray:
    """[n, c] ranks within columns from 1, ties sharing their mean."""
    values = torch.from_numpy(scores.T.astype(np.float64)).contiguous()
    ordered = values.sort(dim=1).values
    left, right = (torch.searchsorted(ordered, values, right=side) for side in (False, True))
    return ((left + right + 1).double() / 2).T.numpy()


def auc_table(scores: np.ndarray, members: np.ndarray) -> np.ndarray:
    """[c, l] AUC of every coefficient for every category against the rest, ties by half."""
    ranks = rank(scores)
    p = members.sum(0)
    return (ranks.T @ members - p * (p + 1) / 2) / (p * (len(members) - p))


def split_clusters(judged: Judged, seed: int) -> np.ndarray:
    """[images] True on the half that chooses; halves are of whole clusters."""
    names = np.unique(judged.cluster)
    chosen = np.random.default_rng(seed).permutation(names)[: len(names) // 2]
    return np.isin(judged.cluster, chosen)


def label_scores(
    scores: Mapping[str, np.ndarray], judged: Judged, config: Config
) -> dict[str, Any] | None:
    """AUC of single coefficients: chosen on one half of the clusters, scored on the other.

    scores: code -> [images, c]; the key "twin" is the untrained network's SAE. A category is a
    "concept" of a code where the scored AUC is above the largest on the scoring half of any latent
    of the twin, and above the 95 % quantile of that maximum under permuted categories.
    """
    first = split_clusters(judged, config.seed)
    names = sorted(set(judged.category.tolist()) - {""})
    members = np.stack([judged.category == name for name in names], 1) if names else None
    if members is None:
        return None
    enough = (members[first].sum(0) >= LEAST) & (members[~first].sum(0) >= LEAST)
    members = members[:, enough].astype(float)
    names = [name for name, kept in zip(names, enough, strict=True) if kept]
    ceiling = {
        key: np.abs(auc_table(s[~first], members[~first]) - 0.5).max(0) + 0.5
        for key, s in scores.items()
    }
    found: dict[str, Any] = {"categories": names, "codes": {}}
    for key, s in scores.items():
        null = permuted_maxima(s[~first], members[~first], judged.cluster[~first], config)
        own = choose_and_score(s, members, first)
        value, low, high = mean_auc(s, members, first, judged.cluster, config.seed)
        bar = np.maximum(null, ceiling["twin"]) if "twin" in ceiling else null
        found["codes"][key] = {
            "auc": [value, low, high],
            "per_category": own.round(3).tolist(),
            "permuted_95": null.round(3).tolist(),
            "twin_largest": ceiling.get("twin", null).round(3).tolist(),
            "concepts": [n for n, a, b in zip(names, own, bar, strict=True) if a > b],
        }
    return found


def choose_and_score(s: np.ndarray, members: np.ndarray, first: np.ndarray) -> np.ndarray:
    """[l] AUC on the second half of the coefficient and sign that are best on the first."""
    chosen = auc_table(s[first], members[first])
    scored = auc_table(s[~first], members[~first])
    best = np.abs(chosen - 0.5).argmax(0)
    column = np.arange(members.shape[1])
    up = chosen[best, column] >= 0.5
    return np.where(up, scored[best, column], 1 - scored[best, column])


def mean_auc(
    s: np.ndarray, members: np.ndarray, first: np.ndarray, cluster: np.ndarray, seed: int
) -> tuple[float, float, float]:
    """Mean over categories of the scored AUC; jackknife over folds of the scoring clusters."""
    chosen = auc_table(s[first], members[first])
    best = np.abs(chosen - 0.5).argmax(0)
    column = np.arange(members.shape[1])
    sign = np.where(chosen[best, column] >= 0.5, 1.0, -1.0)
    values, inside = s[~first][:, best] * sign, members[~first]

    def mean(keep: np.ndarray) -> float:
        aucs = [auc_table(values[keep, i : i + 1], inside[keep, i : i + 1])[0, 0] for i in column]
        return float(np.nanmean(aucs))

    fold = make_folds(cluster[~first].tolist(), FOLDS, seed)
    with np.errstate(invalid="ignore"):
        value = mean(np.ones(len(values), bool))
        interval = jackknife(value, np.array([mean(fold != f) for f in range(FOLDS)]))
    return value, float(interval.low), float(interval.high)


def permuted_maxima(
    s: np.ndarray, members: np.ndarray, cluster: np.ndarray, config: Config
) -> np.ndarray:
    """[l] 95 % quantile over permutations of whole clusters of the largest AUC of a coefficient."""
    ranks = rank(s).T
    orders = permutations(
        len(members), config.permutations, clusters=cluster.tolist(), seed=config.seed
    )
    p = members.sum(0)
    found = []
    for order in orders:
        auc = (ranks @ members[order] - p * (p + 1) / 2) / (p * (len(members) - p))
        found.append(np.abs(auc - 0.5).max(0) + 0.5)
    return np.quantile(found, 0.95, axis=0)
