"""How latents relate: decoder neighbors, co-activation, and a map of the decoder directions."""

import warnings

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from interp.features.scan import Scan

# Latents handled at once: 512 x 16k float32 are 32 MB.
_BLOCK = 512
# UMAP's graph of 15 neighbors (its default) needs more points than that.
_FEWEST_FOR_UMAP = 16


def decoder_neighbors(
    dictionary: Float[Tensor, "m d"], dead: np.ndarray, q: int
) -> tuple[np.ndarray, np.ndarray]:
    """Live latents with the largest cosine between decoder directions, ties to the lower latent.

    Args:
        dictionary: [m, d].
        dead: [m] bool; dead latents are nobody's neighbors.
        q: neighbors per latent.

    Returns:
        latents [m, q] int32 (-1 where there are fewer) and cosines [m, q] float32 (NaN there).
    """
    rows = F.normalize(dictionary.detach().float(), dim=1)
    blocked = torch.from_numpy(dead)
    found, cosines = [], []
    for first in range(0, len(rows), _BLOCK):
        cosine = rows[first : first + _BLOCK] @ rows.T
        cosine[:, blocked] = -torch.inf
        own = torch.arange(len(cosine))
        cosine[own, first + own] = -torch.inf
        latents, scores = _largest(cosine.numpy(), q, -np.inf)
        found.append(latents)
        cosines.append(scores)
    return np.concatenate(found), np.concatenate(cosines)


def coactive(scan: Scan, n_latents: int, q: int) -> tuple[np.ndarray, np.ndarray]:
    """Latents that fire on the same rows, by the Jaccard index over the sampled rows.

    J(i, j) = |rows of i and j| / |rows of i or j|; exact up to `scan.SAMPLE` rows, a seeded
    uniform sample of them beyond.

    Returns:
        latents [m, q] int32 (-1 where there are fewer) and Jaccard indices [m, q] float32 (NaN).
    """
    latents = np.concatenate(scan.sampled_latents).astype(np.int64)
    sizes = np.concatenate(scan.sampled_sizes).astype(np.int64)
    starts = np.concatenate([[0], np.cumsum(sizes)])
    owner = np.repeat(np.arange(len(sizes)), sizes)
    count = np.bincount(latents, minlength=n_latents)
    by_latent = np.argsort(latents, kind="stable")
    edges = np.searchsorted(latents[by_latent], np.arange(n_latents + 1))
    found, scores = [], []
    for first in range(0, n_latents, _BLOCK):
        last = min(first + _BLOCK, n_latents)
        entries = by_latent[edges[first] : edges[last]]
        both = np.zeros((last - first) * n_latents, dtype=np.int64)
        for part in np.array_split(entries, len(entries) // 65536 + 1):
            row, length = owner[part], sizes[owner[part]]
            offset = np.arange(length.sum()) - np.repeat(np.cumsum(length) - length, length)
            partner = latents[np.repeat(starts[row], length) + offset]
            pair = np.repeat(latents[part] - first, length) * n_latents + partner
            np.add.at(both, pair, 1)
        together = both.reshape(last - first, n_latents)
        own = np.arange(last - first)
        together[own, first + own] = 0
        either = count[first:last, None] + count - together
        jaccard = together / np.maximum(either, 1)
        best, score = _largest(jaccard, q, 0.0)
        found.append(best)
        scores.append(score)
    return np.concatenate(found), np.concatenate(scores)


def _largest(scores: np.ndarray, q: int, nothing: float) -> tuple[np.ndarray, np.ndarray]:
    """The q largest per line, ties to the lower column; -1 and NaN where only `nothing` is left."""
    q = min(q, scores.shape[1])
    candidates = np.sort(np.argpartition(-scores, q - 1, axis=1)[:, :q], axis=1)
    values = np.take_along_axis(scores, candidates, axis=1)
    # argpartition breaks ties at the edge as it likes: those lines are sorted whole.
    tied = np.flatnonzero((scores >= values.min(axis=1, keepdims=True)).sum(axis=1) > q)
    if len(tied):
        whole = np.argsort(-scores[tied], axis=1, kind="stable")[:, :q]
        candidates[tied] = np.sort(whole, axis=1)
        values = np.take_along_axis(scores, candidates, axis=1)
    order = np.argsort(-values, axis=1, kind="stable")
    candidates = np.take_along_axis(candidates, order, axis=1).astype(np.int32)
    values = np.take_along_axis(values, order, axis=1).astype(np.float32)
    empty = values <= nothing
    candidates[empty], values[empty] = -1, np.nan
    return candidates, values


def direction_map(
    dictionary: Float[Tensor, "m d"], dead: np.ndarray, seed: int, *, umap: bool
) -> tuple[np.ndarray, str]:
    """Lay the live decoder directions out in the plane.

    Args:
        dictionary: [m, d].
        dead: [m] bool; dead latents get NaN.
        seed: of UMAP's initial layout and of its negative samples.
        umap: UMAP (cosine, one job, reproducible); False: the first two principal components.

    Returns:
        [m, 2] float32, and a note where the map is not UMAP ("" otherwise).
    """
    rows = F.normalize(dictionary.detach().double(), dim=1).numpy()[~dead]
    layout = np.full((len(dead), 2), np.nan, dtype=np.float32)
    if len(rows) >= _FEWEST_FOR_UMAP and umap:
        layout[~dead] = _umap(rows, seed)
        return layout, ""
    if not len(rows):
        return layout, "no latent is alive: there is no map"
    centered = rows - rows.mean(axis=0)
    axes = np.linalg.svd(centered, full_matrices=False)[2][:2]
    axes = axes * np.where(axes.sum(axis=1) < 0, -1, 1)[:, None]
    layout[~dead, : len(axes)] = centered @ axes.T
    layout[~dead, len(axes) :] = 0
    why = "as asked" if not umap else f"{len(rows)} live latents are too few for UMAP"
    return layout, f"the map shows two principal components: {why}"


def _umap(rows: np.ndarray, seed: int) -> np.ndarray:
    with warnings.catch_warnings():
        # umap warns on import that TensorFlow, which it does not need here, is missing.
        warnings.simplefilter("ignore", ImportWarning)
        from umap import UMAP

    reducer = UMAP(n_components=2, metric="cosine", random_state=seed, n_jobs=1)
    # numba's OpenMP layer sets the thread count of the whole process, torch's too, at its first
    # call: sums would then round differently before and after it.
    threads = torch.get_num_threads()
    try:
        return np.asarray(reducer.fit_transform(rows.astype(np.float32)), dtype=np.float32)
    finally:
        torch.set_num_threads(threads)
