"""What a representation says of labels: its neighbors' labels, and a linear probe with a control.

Both ask whether labels can be read off, not whether the model uses them, and both stand beside what
labels without meaning would give: labels permuted over the rows (over whole clusters, within
strata), and for the probe the control task of Hewitt and Liang (2019), which a probe can only solve
by remembering.
"""

from collections.abc import Callable, Hashable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.errors import InputError
from interp.geometry.features import as_rows, center
from interp.geometry.moments import pairing_moments, share_sums
from interp.geometry.neighbors import FRACTION, edge_sums, prepare_knn
from interp.stats import MIN_PERMUTATIONS, check_permutations, make_folds, permutation_p
from interp.stats import permutations as draw_permutations

# Folds of a probe: four fifths of the rows train it, as in most published probes.
PROBE_FOLDS = 5
# Penalties of the ridge as shares of the mean eigenvalue of the training rows.
PENALTIES = tuple(10.0**e for e in range(-3, 4))
# Inverse penalty of the logistic probe on standardized columns: scikit-learn's default.
LOGISTIC_C = 1.0
# Random labelings of the control task, averaged.
CONTROLS = 5
# Floats of targets at a time: 128 MB in float64.
TARGETS = 1 << 24


class LabelOverlap(NamedTuple):
    """Share of neighbors with the row's own label, with its null."""

    value: float
    # Of permuted labels: exact where every permutation is allowed, else over those drawn.
    null_mean: float | None
    null_sd: float | None
    p: float | None
    n: int
    k: int
    n_labels: int
    n_permutations: int


def knn_label_overlap(
    x: Float[Tensor, "n d"],
    labels: Sequence[Hashable] | np.ndarray,
    n_neighbors: float = FRACTION,
    *,
    clusters: Sequence[Hashable] | None = None,
    strata: Sequence[Hashable] | None = None,
    metric: str = "euclidean",
    n_permutations: int = MIN_PERMUTATIONS,
    seed: int = 0,
) -> LabelOverlap:
    """Share of the k nearest neighbors that have the row's own label.

    1 / (n k) sum_i sum over j in N(i) of [label_j = label_i]. Under labels permuted freely its mean
    is exactly sum_c n_c (n_c - 1) / (n (n - 1)), n_c rows of label c, and its sd follows from the
    in-degrees of the graph and the counts.

    Args:
        x: features, n >= 4 rows. labels: [n].
        n_neighbors: k as a fraction of n.
        clusters: [n] near-duplicates: never neighbors of each other, permuted together.
        strata: [n]; labels are permuted only within a stratum.
        metric: as of `nearest`.
        n_permutations: 0 for no p, else at least 200.
        seed: of permutations and of the order of rows at equal distance.

    Raises:
        InputError: features as `prepare_knn`; one label only; too few permutations; clusters so
            large that k neighbors outside them do not exist.

    Source: Doimo et al. 2020, sec. 2 (overlap with the ground truth).
    """
    codes = _label_codes(labels, len(as_rows(x)))
    units = None if clusters is None else _codes(clusters, len(codes), "clusters")
    options = {"n_neighbors": n_neighbors, "units": units, "seed": seed, "metric": metric}
    layer = prepare_knn(x, **options)
    ids = layer.ids[:, : layer.k].long()
    orders = _orders(len(codes), n_permutations, clusters, strata, seed)
    held = torch.as_tensor(codes)

    def overlap(own: Tensor) -> float:
        return float((own[ids] == own[:, None]).double().mean())

    value = overlap(held)
    permuted = np.array([overlap(held[torch.as_tensor(order)]) for order in orders])
    mean = sd = None
    if clusters is None and strata is None:
        mean, sd = _label_moments(codes, edge_sums(layer), layer.k)
    elif len(permuted):
        mean, sd = float(permuted.mean()), float(permuted.std(ddof=1))
    p = float(permutation_p(np.array(value), permuted)) if len(permuted) else None
    n_labels = int(codes.max()) + 1
    return LabelOverlap(value, mean, sd, p, len(codes), layer.k, n_labels, n_permutations)


def _label_moments(codes: np.ndarray, edges: Tensor, k: int) -> tuple[float, float]:
    """Mean and sd over all permutations of the labels: the graph against equality of labels."""
    n = len(codes)
    others = torch.as_tensor(np.bincount(codes)[codes] - 1).double()
    total = float(others.sum())
    mean, sd = pairing_moments(edges[None], share_sums(others, others, total, total)[None], n)
    return float(mean) / (n * k), float(sd) / (n * k)


def _codes(labels: Sequence[Hashable] | np.ndarray, n: int, name: str) -> Int[np.ndarray, " n"]:
    """Numbers 0, 1, ... of labels in the order in which they first appear."""
    values = labels.tolist() if isinstance(labels, np.ndarray | Tensor) else list(labels)
    if len(values) != n:
        raise InputError(f"{len(values)} {name} for {n} rows: one per row is needed")
    first: dict[Hashable, int] = {}
    return np.array([first.setdefault(one, len(first)) for one in values], dtype=np.int64)


def _label_codes(labels: Sequence[Hashable] | np.ndarray, n: int) -> Int[np.ndarray, " n"]:
    codes = _codes(labels, n, "labels")
    if codes.max() == 0:
        raise InputError(f"all {n} rows have the same label: there is nothing to tell apart")
    return codes


def _orders(n: int, count: int, clusters, strata, seed: int) -> Int[np.ndarray, "p n"]:
    if not count:
        return np.empty((0, n), dtype=np.int64)
    check_permutations(count, 1)
    return draw_permutations(n, count, seed=seed, model="labels", strata=strata, clusters=clusters)


class Probe(NamedTuple):
    """Held-out accuracy of a linear probe, with its null and its control."""

    accuracy: float
    # Share of the most frequent label: what a probe that ignores the features reaches.
    majority: float
    # Of permuted labels.
    null_mean: float | None
    null_sd: float | None
    p: float | None
    # Accuracy on random labels per cluster, and on the labels themselves with the same split, in
    # which every cluster is in training and test; None where fewer than two rows per fold share
    # a cluster.
    control: float | None
    seen: float | None
    # seen - control.
    selectivity: float | None
    n: int
    n_labels: int
    n_folds: int
    n_permutations: int
    method: str


def linear_probe(
    x: Float[Tensor, "n d"],
    labels: Sequence[Hashable] | np.ndarray,
    clusters: Sequence[Hashable] | None = None,
    *,
    method: str = "ridge",
    n_folds: int = PROBE_FOLDS,
    strata: Sequence[Hashable] | None = None,
    n_permutations: int = MIN_PERMUTATIONS,
    seed: int = 0,
) -> Probe:
    """Held-out accuracy of a linear classifier of labels, whole clusters held out.

    Columns are standardized by the training rows of each fold. The control task gives every cluster
    one random label, drawn from the labels' frequencies, so that nothing but the identity of the
    cluster predicts it. It is scored, and the labels beside it, on a split of the rows *within*
    clusters, without which no control label could be known; selectivity is the difference.

    Args:
        x: features, n >= 4 rows. labels: [n].
        clusters: [n] rows of one image (near-duplicates, noise draws, positions): held out and
            permuted together. None: each row its own, and no control.
        method: "ridge" (least squares on +-1, penalty by leave-one-out on the training rows, all
            permutations from one decomposition per fold) or "logistic" (scikit-learn, C = 1, a fit
            per fold and permutation).
        n_folds: parts of which each is held out once.
        strata: [n]; labels are permuted only within a stratum.
        n_permutations: 0 for no p, else at least 200.
        seed: of folds, permutations and control labels.

    Raises:
        InputError: features as `center`; one label only; another method; fewer clusters than
            folds; too few permutations.

    Source: Alain and Bengio 2016 (probes); Hewitt and Liang 2019, sec. 2 (control, selectivity).
    """
    if method not in FITTERS:
        raise InputError(f"method {method!r} is {' or '.join(FITTERS)}")
    center(x)
    rows = as_rows(x)
    codes = _label_codes(labels, len(rows))
    group = np.arange(len(rows)) if clusters is None else _codes(clusters, len(rows), "clusters")
    orders = _orders(len(rows), n_permutations, clusters, strata, seed)
    columns = np.stack([codes, *(codes[order] for order in orders)], 1)
    scores = _held_out(rows, columns, make_folds(group.tolist(), n_folds, seed), method)
    null = scores[1:]
    has = len(null) > 0
    control, seen = _control(rows, codes, group, (method, n_folds, seed))
    return Probe(
        accuracy=float(scores[0]),
        majority=float(np.bincount(codes).max() / len(codes)),
        null_mean=float(null.mean()) if has else None,
        null_sd=float(null.std(ddof=1)) if has else None,
        p=float(permutation_p(scores[0], null)) if has else None,
        control=control,
        seen=seen,
        selectivity=None if control is None or seen is None else seen - control,
        n=len(codes),
        n_labels=int(codes.max()) + 1,
        n_folds=n_folds,
        n_permutations=n_permutations,
        method=method,
    )


def _control(
    rows: Tensor, codes: np.ndarray, group: np.ndarray, setting: tuple[str, int, int]
) -> tuple[float | None, float | None]:
    """Accuracies of the control task and of the labels on a split within clusters."""
    method, n_folds, seed = setting
    repeated = np.bincount(group)[group] > 1
    if repeated.sum() < 2 * n_folds:
        return None, None
    rng = np.random.default_rng([seed, 1])
    part, own = group[repeated], codes[repeated]
    # Each cluster's rows go to different folds, starting anywhere.
    order = np.lexsort((rng.random(len(part)), part))
    sizes = np.bincount(part)
    starts = np.cumsum(sizes) - sizes
    folds = np.empty(len(part), dtype=np.int64)
    shift = rng.integers(n_folds, size=len(sizes))[part[order]]
    folds[order] = (np.arange(len(part)) - starts[part[order]] + shift) % n_folds
    drawn = [codes[rng.integers(len(codes), size=len(sizes))][part] for _ in range(CONTROLS)]
    columns = np.stack([own, *drawn], 1)
    scores = _held_out(rows[torch.as_tensor(repeated)], columns, folds, method)
    return float(scores[1:].mean()), float(scores[0])


def _held_out(
    rows: Tensor, columns: Int[np.ndarray, "n q"], folds: np.ndarray, method: str
) -> Float[np.ndarray, " q"]:
    """Share of rows whose label, one column of labels at a time, is predicted when held out."""
    right = np.zeros(columns.shape[1])
    for f in np.unique(folds):
        train, test = np.flatnonzero(folds != f), np.flatnonzero(folds == f)
        known, new = rows[torch.as_tensor(train)], rows[torch.as_tensor(test)]
        middle, scale = known.mean(0), known.std(0, correction=0)
        if not bool((scale > 0).any()):
            raise InputError(f"without fold {f} all {len(train)} rows are equal: use fewer folds")
        scale = torch.where(scale > 0, scale, 1.0)
        parts = ((known - middle) / scale, (new - middle) / scale)
        predicted = FITTERS[method](*parts, columns[train])
        right += (predicted == columns[test]).sum(0)
    return right / len(rows)


def _ridge(known: Tensor, new: Tensor, labels: Int[np.ndarray, "m q"]) -> Int[np.ndarray, "t q"]:
    """Labels of new rows by ridge regression on +-1, for every column of labels."""
    u, s, v = torch.linalg.svd(known, full_matrices=False)
    kept = s > 1e-12 * s[0]
    basis = (u[:, kept], s[kept], new @ v[kept].T)
    n_labels = int(labels.max()) + 1
    step = max(1, TARGETS // (len(labels) * n_labels))
    parts = torch.as_tensor(labels).split(step, 1)
    return torch.cat([_ridge_part(basis, part, n_labels) for part in parts], 1).numpy()


def _ridge_part(basis: tuple[Tensor, Tensor, Tensor], labels: Tensor, n_labels: int) -> Tensor:
    u, s, new = basis
    m, q = labels.shape
    targets = 2 * torch.nn.functional.one_hot(labels, n_labels).double().flatten(1) - 1
    middle = targets.mean(0)
    targets -= middle
    inner = u.T @ targets
    least = torch.full((q,), torch.inf, dtype=torch.float64)
    best = torch.zeros(len(new), q, n_labels, dtype=torch.float64)
    for penalty in (s.square().mean() * share for share in PENALTIES):
        shrunk = s.square() / (s.square() + penalty)
        # Leaving row i out divides its residual by 1 - h_i; 1 / m is the intercept's part.
        leverage = u.square() @ shrunk + 1 / m
        residual = (targets - u @ (shrunk[:, None] * inner)) / (1 - leverage)[:, None]
        error = residual.square().view(m, q, n_labels).sum((0, 2))
        predicted = new @ ((shrunk / s)[:, None] * inner) + middle
        better = error < least
        least = torch.where(better, error, least)
        best = torch.where(better[None, :, None], predicted.view(-1, q, n_labels), best)
    return best.argmax(2)


def _logistic(known: Tensor, new: Tensor, labels: Int[np.ndarray, "m q"]) -> Int[np.ndarray, "t q"]:
    """Labels of new rows by penalized logistic regression, a fit per column of labels."""
    return np.stack(list(_logistic_fits(known.numpy(), new.numpy(), labels)), 1)


def _logistic_fits(known: np.ndarray, new: np.ndarray, labels: np.ndarray) -> Iterator[np.ndarray]:
    from sklearn.linear_model import LogisticRegression

    for column in labels.T:
        if len(np.unique(column)) == 1:
            yield np.full(len(new), column[0])
            continue
        yield LogisticRegression(C=LOGISTIC_C, max_iter=1000).fit(known, column).predict(new)


FITTERS: dict[str, Callable[..., Any]] = {"ridge": _ridge, "logistic": _logistic}
