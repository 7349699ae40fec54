"""Values over the number of neighbors, from one graph per representation."""

from collections.abc import Sequence
from typing import NamedTuple

from jaxtyping import Float
from torch import Tensor

from interp.errors import InputError
from interp.geometry.features import same_rows
from interp.geometry.measures import MEASURES, get_measure
from interp.geometry.neighbors import count_neighbors

# Of n = 1024 these are k = 5, 10, 20, 51 and 102: around the published 10, to a tenth of the rows.
FRACTIONS = (0.005, 0.01, 0.02, 0.05, 0.1)


class KCurve(NamedTuple):
    """A neighbor measure over k. The first three have an entry per fraction."""

    fractions: tuple[float, ...]
    k: tuple[int, ...]
    values: tuple[float, ...]
    n: int
    # k / (n - 1) for each k: what mutual overlap expects of unrelated features.
    chance: tuple[float, ...]


def k_curve(
    x: Float[Tensor, "n d"],
    y: Float[Tensor, "n e"],
    fractions: Sequence[float] = FRACTIONS,
    *,
    measure: str = "mutual_knn",
    seed: int = 0,
) -> KCurve:
    """A neighbor measure at several k; the neighbors are searched once, for the largest.

    x, y: features of the same n images. fractions: k as fractions of n. measure: a key of MEASURES
    that counts neighbors. seed: of the order of tied rows. Cost n^2 (d + e), then that of a value
    for each k.
    Raises InputError for another measure, no fractions, k > n - 2, and as the measure.
    """
    one = get_measure(measure)
    if not one.uses_neighbors:
        counting = ", ".join(name for name, other in MEASURES.items() if other.uses_neighbors)
        raise InputError(f"{measure} counts no neighbors; those that do: {counting}")
    if not fractions:
        raise InputError("a k-curve needs at least one fraction of n")
    n = same_rows(x, y)
    counts = tuple(count_neighbors(n, fraction) for fraction in fractions)
    options = {"n_neighbors": max(fractions), "seed": seed}
    layers = [one.prepare(z, name, **options) for name, z in (("x", x), ("y", y))]
    values = []
    for k in counts:
        first, second = ([layer._replace(k=k)] for layer in layers)
        values.append(float(one.values(first, second)[0, 0]))
    chance = tuple(k / (n - 1) for k in counts)
    return KCurve(tuple(fractions), counts, tuple(values), n, chance)
