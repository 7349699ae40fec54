"""compare(): how alike two feature matrices are, with a null, an interval and effect sizes."""

from collections.abc import Hashable, Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from interp.alignment.cells import (
    comparison_at,
    compute_block,
    make_setting,
    measured,
    scaling,
)
from interp.alignment.matrices import as_features
from interp.alignment.records import Comparison
from interp.alignment.representations import Representation
from interp.errors import InputError
from interp.geometry.neighbors import FRACTION
from interp.stats import FOLDS, MIN_PERMUTATIONS, check_permutations


def compare(
    x: Float[Tensor, "n ..."],
    y: Float[Tensor, "n ..."],
    measure: str = "cka",
    *,
    strata: Sequence[Hashable] | np.ndarray | None = None,
    clusters: Sequence[Hashable] | np.ndarray | None = None,
    n_permutations: int = MIN_PERMUTATIONS,
    n_folds: int = FOLDS,
    n_neighbors: float = FRACTION,
    seed: int = 0,
) -> Comparison:
    """How alike two representations of the same n images are, with its null and interval.

    Args:
        x, y: features [n, d] and [n, e], or [n, p, d] with p positions; row i of both is the same
            image. Arrays and tensors of any real dtype.
        measure: a key of `interp.geometry.MEASURES`.
        strata: [n] labels; images are permuted only within their stratum.
        clusters: [n] labels of near-duplicates: permuted and left out together.
        n_permutations: 0 for none (then p is None), else at least 200.
        n_folds: folds of the jackknife; 0 for no interval.
        n_neighbors: neighbors as a fraction of n, for measures that count them.
        seed: of permutations, folds and the order of rows at equal distance (mutual_knn).

    Returns:
        The value with the mean and sd of its null, p, effect sizes and jackknife interval. Values
        are raw: for a distance the null lies above, and z and p are turned. A measure with a
        direction is taken from x to y; `reverse` is the value from y to x, and p counts both.

    Raises:
        InputError: shapes, NaN, n < 4, constant features, too few permutations or clusters.
    """
    x, y = (
        z if isinstance(z, Tensor) else as_features(z, name) for name, z in (("x", x), ("y", y))
    )
    if len(x) != len(y):
        raise InputError(f"x has {len(x)} rows and y {len(y)}; row i of both is the same image")
    if n_permutations:
        # Before the work of preparing; once more below, where strata and clusters are known.
        check_permutations(n_permutations, 1)
    ids = tuple(map(str, range(len(x))))
    labels = (label_rows(clusters, "clusters", len(x)), label_rows(strata, "strata", len(x)))
    pair = [Representation(name, "features", z, ids, *labels) for name, z in (("x", x), ("y", y))]
    setting = make_setting(pair, n_permutations, n_folds, n_neighbors, seed)
    if n_permutations:
        check_permutations(n_permutations, 1, possible=setting.possible)
    used = measured(measure, setting)
    first, second = ([setting.prepare(used.spec, one)] for one in pair)
    orders = setting.orders("y") if n_permutations else None
    block = compute_block(used, (first, second), setting, orders, setting.folds)
    return comparison_at(block, (0, 0), used, setting, scaling(used.spec), names=("x", "y"))


def label_rows(given: Sequence[Hashable] | np.ndarray | None, name: str, n: int) -> tuple[str, ...]:
    """One label per image as text; of a list, an array or a tensor."""
    if given is None:
        return ()
    values = given.tolist() if isinstance(given, np.ndarray | torch.Tensor) else list(given)
    if not isinstance(values, list) or any(isinstance(one, list) for one in values):
        raise InputError(f"{name}: one label per image, not {getattr(given, 'shape', 'lists')}")
    if len(values) != n:
        raise InputError(f"{len(values)} {name} for {n} image ids: one label per image is needed")
    return tuple(map(str, values))
