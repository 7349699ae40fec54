"""How much an encoder's features tell of categories it never saw, and whether they collapsed."""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from interp.zoo.vit import WIDTH

# Neighbors that vote. Of 3,407 training images in 16 categories the smallest has some dozens.
NEIGHBORS = 20
# Temperature of the votes: Wu et al. 2018 (arXiv 1805.01978), section 3.4.
TEMPERATURE = 0.07
# Weights of the probe's squared norm; the best on held-out folds of the training clusters is taken.
PENALTIES = (1e-3, 1e-2, 1e-1)
FOLDS = 4
# The encoder must name categories this much more often than its untrained twin and than pixels:
# two standard errors of a paired difference on 1,140 images of which 30 % are judged differently.
MARGIN = 0.03
# Features with fewer effective directions than this share of their width count as collapsed.
COLLAPSE_SHARE = 0.05


def effective_rank(x: Float[Tensor, "n d"]) -> float:
    """Return exp(-sum_i p_i log p_i), p_i = s_i / sum_j s_j, s the singular values of x - mean x.

    Between 1 and min(n - 1, d). Source: Roy and Vetterli 2007, "The effective rank", equation 3;
    centered here, so that a shared offset is no direction.
    """
    x = x.double()
    values = torch.linalg.svdvals(x - x.mean(0))
    share = values / values.sum()
    share = share[share > 0]
    return float((-(share * share.log()).sum()).exp())


def knn_accuracy(
    train: Float[Tensor, "n d"],
    labels: Int[Tensor, " n"],
    heldout: Float[Tensor, "m d"],
    truth: Int[Tensor, " m"],
) -> float:
    """Return the share of held-out rows whose category the nearest training rows vote for.

    Rows are centered by the training mean; the 20 of highest cosine vote with exp(cosine / 0.07).
    """
    mean = train.double().mean(0)
    a = F.normalize(train.double() - mean, dim=1)
    b = F.normalize(heldout.double() - mean, dim=1)
    near = (b @ a.T).topk(min(NEIGHBORS, len(a)), dim=1)
    votes = torch.zeros(len(b), int(labels.max()) + 1, dtype=torch.float64)
    votes.scatter_add_(1, labels[near.indices], (near.values / TEMPERATURE).exp())
    return float((votes.argmax(1) == truth).double().mean())


def probe_accuracy(
    train: Float[Tensor, "n d"],
    labels: Int[Tensor, " n"],
    clusters: Sequence[str],
    heldout: Float[Tensor, "m d"],
    truth: Int[Tensor, " m"],
) -> float:
    """Return the held-out accuracy of a linear classifier on standardized features.

    Multinomial logistic regression with penalty / 2 * |W|^2, the penalty chosen by four folds of
    whole training clusters; strictly convex, so a function of its inputs alone.
    """
    names = {name: i for i, name in enumerate(sorted(set(clusters)))}
    fold = torch.tensor([names[name] % FOLDS for name in clusters])
    n_classes = int(labels.max()) + 1

    def score(penalty: float) -> float:
        hits = 0
        for k in range(FOLDS):
            inner, outer = fold != k, fold == k
            weights = _fit(train[inner], labels[inner], n_classes, penalty)
            hits += int((_predict(weights, train[inner], train[outer]) == labels[outer]).sum())
        return hits / len(labels)

    best = max(PENALTIES, key=score)
    weights = _fit(train, labels, n_classes, best)
    return float((_predict(weights, train, heldout) == truth).double().mean())


def _standard(x: Tensor, like: Tensor) -> Tensor:
    """Standardize by the columns of `like` and append a column of ones."""
    like = like.double()
    x = (x.double() - like.mean(0)) / like.std(0).clamp_min(1e-12)
    return F.pad(x, (0, 1), value=1.0)


def _fit(x: Tensor, labels: Tensor, n_classes: int, penalty: float) -> Tensor:
    x = _standard(x, x)
    weights = torch.zeros(x.shape[1], n_classes, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([weights], max_iter=200, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = F.cross_entropy(x @ weights, labels) + penalty / 2 * weights[:-1].square().sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    return weights.detach()


def _predict(weights: Tensor, like: Tensor, x: Tensor) -> Tensor:
    return (_standard(x, like) @ weights).argmax(1)


def principal(
    train: Float[Tensor, "n d"], heldout: Float[Tensor, "m d"], width: int
) -> tuple[Float[Tensor, "n w"], Float[Tensor, "m w"]]:
    """Return both in the first `width` principal components of the training rows."""
    mean = train.double().mean(0)
    _, vectors = torch.linalg.eigh(torch.cov(train.double().T))
    basis = vectors.flip(1)[:, :width]
    return (train.double() - mean) @ basis, (heldout.double() - mean) @ basis


def judge(
    features: dict[str, tuple[Tensor, Tensor]], train: Any, heldout: Any
) -> dict[str, dict[str, float]]:
    """Return k-NN accuracy, probe accuracy and effective rank of each kind of features.

    Args:
        features: by name, rows of the training and of the held-out images.
        train: training `Images`, whose labels fit the judges and nothing else.
        heldout: held-out `Images`, of other clusters.
    """
    found: dict[str, dict[str, float]] = {"knn": {}, "probe": {}, "effective_rank": {}}
    width = min(rows.shape[1] for rows, _ in features.values())
    for name, (a, b) in features.items():
        found["knn"][name] = knn_accuracy(a, train.labels, b, heldout.labels)
        # A probe of pixels has as many inputs as one of features.
        a, b = principal(a, b, width) if a.shape[1] > width else (a, b)
        found["probe"][name] = probe_accuracy(a, train.labels, train.clusters, b, heldout.labels)
        found["effective_rank"][name] = effective_rank(b)
    return found


def reasons(quality: Any) -> list[str]:
    """Return why a self-supervised encoder is undertrained; empty where it is not, or is none."""
    found = []
    for key, what in (("knn", "k-NN"), ("probe", "linear-probe")):
        scores = getattr(quality, key)
        for rival in ("untrained", "pixels"):
            if scores is not None and scores["ssl"] < scores[rival] + MARGIN:
                found.append(
                    f"{what} accuracy {scores['ssl']:.1%} is not {100 * MARGIN:g} points above "
                    f"{rival} ({scores[rival]:.1%})"
                )
    ranks = quality.effective_rank
    if ranks is not None and ranks["ssl"] < COLLAPSE_SHARE * WIDTH:
        found.append(
            f"collapsed: {ranks['ssl']:.1f} effective directions of {WIDTH} "
            f"(limit {COLLAPSE_SHARE * WIDTH:g})"
        )
    return found
