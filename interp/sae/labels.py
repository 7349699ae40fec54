"""How well single coefficients of a code tell labeled images apart."""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

# Images of a category in each half, at least: below it an AUC is a coin.
LEAST = 4


@dataclass(frozen=True)
class LabelAUC:
    """AUC of single coefficients, one category against the others, on images not chosen by.

    An image's score is the mean of a coefficient over its rows. Clusters of images are split into
    halves; category and sign are chosen on one half and the AUC is measured on the other, and the
    two directions are averaged, so that chance is 0.5 however many coefficients there are.
    """

    per_latent: float
    """Mean over the coefficients that vary of the AUC of the category that suits each best."""
    per_category: float
    """Mean over categories of the AUC of the coefficient that suits each best."""
    n_categories: int
    n_images: int


def auc_table(scores: Float[Tensor, "g c"], members: Bool[Tensor, "g l"]) -> Float[Tensor, "c l"]:
    """AUC of every coefficient for every category against the rest, ties by half.

    AUC = (sum of the members' ranks - p (p + 1) / 2) / (p q) with p members and q others (Mann and
    Whitney 1947)

    Args:
        scores: [g, c] scores of g images.
        members: [g, l] whether an image is of a category.

    Returns:
        [c, l] float64; NaN for a category without members or without others.
    """
    values = scores.T.double().contiguous()
    order = values.sort(dim=1).values
    sides = [torch.searchsorted(order, values, right=right) for right in (False, True)]
    rank = (sides[0] + sides[1] + 1).double() / 2
    inside = members.double()
    p = inside.sum(dim=0)
    q = len(members) - p
    return (rank @ inside - p * (p + 1) / 2) / (p * q)


def label_auc(
    scores: Float[Tensor, "g c"], category: np.ndarray, cluster: np.ndarray, seed: int
) -> LabelAUC | None:
    """Judge the coefficients of a code by labels that they were not fitted to.

    Args:
        scores: [g, c] mean of each coefficient over the rows of each image.
        category: [g] names; "" for images without one, which are left out.
        cluster: [g] names; images of one cluster are on one side of the split.
        seed: of the split.

    Returns:
        The record, or None where fewer than two categories have four images in both halves.
    """
    known = np.array([bool(name) for name in category])
    names = sorted(set(category[known].tolist()))
    clusters = np.unique(cluster[known])
    chosen = np.random.default_rng(seed).permutation(clusters)[: len(clusters) // 2]
    first = np.isin(cluster, chosen)
    members = np.stack([category == name for name in names], axis=1) if names else None
    if members is None:
        return None
    halves = [torch.from_numpy(np.flatnonzero(known & side)) for side in (first, ~first)]
    table = torch.from_numpy(members)
    kept = torch.stack([table[half].sum(dim=0) >= LEAST for half in halves]).all(dim=0)
    if int(kept.sum()) < 2:
        return None
    table = table[:, kept]
    aucs = [auc_table(scores[half], table[half]) for half in halves]
    varies = (scores[torch.cat(halves)].amax(dim=0) > scores[torch.cat(halves)].amin(dim=0)).cpu()
    found = [_transfer(aucs[i], aucs[1 - i], varies) for i in (0, 1)]
    per_latent, per_category = (sum(pair) / 2 for pair in zip(*found, strict=True))
    return LabelAUC(per_latent, per_category, int(kept.sum()), int(known.sum()))


def _transfer(choose: Tensor, measure: Tensor, varies: Tensor) -> tuple[float, float]:
    """AUC where `choose` is farthest from 1/2, read from `measure` with that sign."""
    signed = torch.where(choose >= 0.5, measure, 1 - measure)
    distance = (choose - 0.5).abs()
    latent = signed.gather(1, distance.argmax(dim=1, keepdim=True))[:, 0]
    category = signed.gather(0, distance.argmax(dim=0, keepdim=True))[0]
    mean = float(latent[varies].mean()) if bool(varies.any()) else 0.5
    return mean, float(category.mean())
