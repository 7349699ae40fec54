"""MEASURES: every measure of representational similarity, by name.

Each stands, with its definition and invariances, at the end of the file that computes it.
"""

from interp.errors import InputError
from interp.geometry import (
    canonical,
    canonical_gulp,
    canonical_pwcca,
    canonical_svcca,
    cka,
    cka_biased,
    cka_minibatch,
    cka_rbf,
    cknna,
    distance_correlation,
    gromov_wasserstein,
    neighbors,
    overlaps,
    regression,
    rsa,
    rtd,
    sequences,
    shapes,
    soft_matching,
)
from interp.geometry.measure import Measure

MEASURES: dict[str, Measure] = {
    **cka.MEASURES,
    **canonical.MEASURES,
    **canonical_gulp.MEASURES,
    **canonical_pwcca.MEASURES,
    **regression.MEASURES,
    **canonical_svcca.MEASURES,
    **cka_biased.MEASURES,
    **cka_minibatch.MEASURES,
    **cka_rbf.MEASURES,
    **distance_correlation.MEASURES,
    **neighbors.MEASURES,
    **rsa.MEASURES,
    **overlaps.MEASURES,
    **sequences.MEASURES,
    **cknna.MEASURES,
    **shapes.MEASURES,
    **soft_matching.MEASURES,
    **gromov_wasserstein.MEASURES,
    **rtd.MEASURES,
}

# What is compared where nobody asks for more: a global, a local and a metric view.
CORE = ("cka", "mutual_knn", "procrustes")


def get_measure(name: str) -> Measure:
    """The measure of that name. Raises InputError that lists the names."""
    if name not in MEASURES:
        raise InputError(f"no measure {name!r}; there are {', '.join(sorted(MEASURES))}")
    return MEASURES[name]
