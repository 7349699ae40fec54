"""MEASURES: every measure of representational similarity, with its definition and invariances.

A measure is one readable function of two feature matrices and, for families of pairs, four fast
functions over lists of prepared layers: what costs a pass over the features (self-terms, neighbor
graphs) is done once per layer, and a permutation only relabels.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

from torch import Tensor

from interp.errors import InputError
from interp.geometry import cka, neighbors, shapes


class Measure(NamedTuple):
    """A similarity: larger is more alike, 1 for equal geometries.

    function(x, y) is the readable definition; prepare(x, name, ...) -> layer; values(xs, ys) ->
    [a, b]; permuted(xs, ys, orders [p, n]) -> [p, a, b]; deleted(xs, ys, folds [n]) -> [f, a, b];
    moments(xs, ys) -> exact mean and sd under a uniformly random pairing, or None.
    """

    function: Callable[..., float]
    prepare: Callable[..., Any]
    values: Callable[..., Tensor]
    permuted: Callable[..., Tensor]
    deleted: Callable[..., Tensor]
    moments: Callable[..., tuple[Tensor, Tensor]] | None
    definition: str
    source: str
    cost: str
    bias: str
    # Of "orthogonal", "scale", "translation", "linear" (any invertible map), "permutation".
    invariances: frozenset[str]
    # True where a measure counts neighbors: repeated rows would become each other's neighbors.
    uses_neighbors: bool = False


MEASURES: dict[str, Measure] = {
    "cka": Measure(
        function=cka.debiased_cka,
        prepare=cka.prepare_cka,
        values=cka.cka_values,
        permuted=cka.cka_permuted,
        deleted=cka.cka_deleted,
        moments=cka.cka_moments,
        definition="cosine of the U-centered linear Gram matrices (debiased linear CKA)",
        source="Kornblith et al. 2019, sec. 3; Song et al. 2012, eq. 5",
        cost="n D E or n^2 (D + E + a b), the cheaper; a permutation n^2 a b",
        bias="numerator unbiased, the ratio slightly not; 0 in expectation for unrelated features",
        invariances=frozenset({"orthogonal", "scale", "translation", "permutation"}),
    ),
    "mutual_knn": Measure(
        function=neighbors.mutual_knn,
        prepare=neighbors.prepare_knn,
        values=neighbors.knn_values,
        permuted=neighbors.knn_permuted,
        deleted=neighbors.knn_deleted,
        moments=neighbors.knn_moments,
        definition="mean share of the k nearest (Euclidean) neighbors in common, k a fraction of n",
        source="Huh et al. 2024, app. A (there: cosine)",
        cost="n^2 D once per layer; a pair or a permutation n k a b",
        bias="k / (n - 1) for unrelated features; at fixed k falls as n grows",
        invariances=frozenset({"orthogonal", "scale", "translation", "permutation"}),
        uses_neighbors=True,
    ),
    "procrustes": Measure(
        function=shapes.procrustes,
        prepare=shapes.prepare_procrustes,
        values=shapes.procrustes_values,
        permuted=shapes.procrustes_permuted,
        deleted=shapes.procrustes_deleted,
        moments=None,
        definition="nuclear norm of X'Y for centered features of norm 1; arccos is a metric",
        source="Williams et al. 2021, eq. 5",
        cost="n D E + a b min(d, e)^3, for a permutation too",
        bias="upwards: about 0.8488 sqrt(d / n) for independent Gaussian features, n >> d",
        invariances=frozenset({"orthogonal", "scale", "translation", "permutation"}),
    ),
}


def get_measure(name: str) -> Measure:
    """The measure of that name. Raises InputError that lists the names."""
    if name not in MEASURES:
        raise InputError(f"no measure {name!r}; there are {', '.join(sorted(MEASURES))}")
    return MEASURES[name]
