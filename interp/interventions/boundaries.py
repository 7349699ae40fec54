"""Boundaries in a code from labels: InterFaceGAN's directions, and conditional ones."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from interp.errors import InputError
from interp.interventions.directions import Directions

# What is left of a unit vector below this is rounding.
_NOTHING = 1e-5


def interfacegan(
    codes: Float[Tensor, "n d"],
    labels: Tensor | Sequence[bool] | Sequence[float],
    *,
    points: Sequence[str] = ("w",),
    method: Literal["logistic", "svm"] = "logistic",
    extremes: float = 0.25,
    test_share: float = 0.3,
    shuffles: int = 20,
    seed: int = 0,
) -> Directions:
    """The unit normal of a linear boundary between codes with and without a property.

    It points to the property. `value` is the balanced accuracy (mean of the two classes' recalls,
    .5 by chance) on held-out codes; `facts` adds the same with shuffled labels (mean and largest),
    and the numbers of codes.

    Args:
        codes: one row per seed, from `collect_codes`.
        labels: [n], true or false (0 or 1) of each; or scores, of which the highest and the lowest
            part become the two classes.
        points: where the codes live.
        method: logistic regression, or a linear support vector machine (InterFaceGAN's), both
            of scikit-learn with C = 1 and classes weighted alike.
        extremes: the part of the codes at each end of the scores. A quarter: the paper's 2 % of
            500 000 would leave too few of some thousands.
        test_share: part of the codes that is held out.
        shuffles: label permutations behind the control; 0 for none.
        seed: of the split and the permutations.

    Raises:
        InputError: shapes differ, or a class has fewer than 4 codes.

    Source: Shen et al. 2020 (arXiv 1907.10786).
    """
    x, y = _two_classes(codes, labels, extremes)
    if method not in ("logistic", "svm"):
        raise InputError(f"method {method!r} is not 'logistic' or 'svm'")
    rng = np.random.default_rng([seed, len(x)])
    order = rng.permutation(len(x))
    held = order[: max(2, round(test_share * len(x)))]
    train = order[len(held) :]
    normal, accuracy = _boundary(x, y, train, held, method)
    control = [_boundary(x, rng.permutation(y), train, held, method)[1] for _ in range(shuffles)]
    facts = {"n_train": float(len(train)), "n_test": float(len(held))}
    if control:
        facts |= {"shuffled_mean": float(np.mean(control)), "shuffled_max": float(max(control))}
    unit = torch.from_numpy(normal / np.linalg.norm(normal))[None]
    scale = (codes.double().cpu() @ unit.T).std(0)
    value = torch.tensor([accuracy], dtype=torch.float64)
    return Directions("interfacegan", tuple(points), unit, scale, value, facts)


def _two_classes(codes: Tensor, labels: Any, extremes: float) -> tuple[np.ndarray, np.ndarray]:
    x = codes.detach().cpu().double().numpy()
    y = np.asarray(torch.as_tensor(labels).cpu())
    if x.ndim != 2 or y.shape != (len(x),):
        raise InputError(f"codes {x.shape} and labels {y.shape}: [n, d] and [n] are needed")
    if not np.isin(y, (0, 1)).all():
        if not 0 < extremes <= 0.5:
            raise InputError(f"extremes = {extremes}: a part of the scores in (0, .5] is needed")
        order, count = np.argsort(y, kind="stable"), int(extremes * len(y))
        chosen = np.concatenate([order[:count], order[len(y) - count :]])
        x, y = x[chosen], np.repeat([0, 1], count)
    counts = np.bincount(y.astype(int), minlength=2)
    if counts.min() < 4:
        raise InputError(f"{counts[1]} codes with the property, {counts[0]} without: 4 are needed")
    return x, y.astype(int)


def _boundary(
    x: np.ndarray, y: np.ndarray, train: np.ndarray, held: np.ndarray, method: str
) -> tuple[np.ndarray, float]:
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import balanced_accuracy_score
    from sklearn.svm import LinearSVC

    if len(set(y[train])) < 2 or len(set(y[held])) < 2:
        raise InputError("one class is missing from the training or the held-out codes: give more")
    options: dict[str, Any] = {"class_weight": "balanced", "max_iter": 10_000}
    svm = method == "svm"
    fit: Any = LinearSVC(**options, random_state=0) if svm else LogisticRegression(**options)
    fit.fit(x[train], y[train])
    return fit.coef_[0], float(balanced_accuracy_score(y[held], fit.predict(x[held])))


def project_out(
    directions: Directions, others: Directions, codes: Float[Tensor, "n d"]
) -> Directions:
    """Conditional directions: each without its part in the span of `others`, at unit norm.

    One other direction: n1 - (n1 . n2) n2. `value` stays that of the direction before.

    Args:
        directions: n1, each for itself.
        others: n2; several are made orthonormal first.
        codes: samples, for the standard deviation along what is left.

    Raises:
        InputError: widths differ, or nothing is left of a direction.

    Source: Shen et al. 2020 (arXiv 1907.10786), conditional manipulation.
    """
    widths = [directions.vectors.shape[1], others.vectors.shape[1], codes.shape[1]]
    if len(set(widths)) != 1:
        raise InputError(f"directions, others and codes are {widths} wide: one code is needed")
    basis = others.subspace()
    rest = directions.vectors - directions.vectors @ basis.T @ basis
    length = rest.norm(dim=1, keepdim=True)
    if float(length.min()) < _NOTHING:
        raise InputError(f"a direction of {directions.name} lies in the span of {others.name}")
    unit = rest / length
    name = f"{directions.name} | {others.name}"
    scale = (codes.double().cpu() @ unit.T).std(0)
    return replace(directions, name=name, vectors=unit, scale=scale)
