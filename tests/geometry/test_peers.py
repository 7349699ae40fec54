"""Other libraries on the same features: agreement to 6 digits, or the reason, asserted.

peers.json holds what they said (`python -m benchmarks.peers.geometry_values`); here stands what
each value means: AGREE says which of our numbers it is, OTHERS why it is another one and by how
much at least, REFUSED what a library cannot compute. Every value is in one of the three.
"""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch

from benchmarks.peers.geometry_values import CHECKOUTS, HERE, PACKAGES, digest, features
from benchmarks.peers.geometry_values_variants import (
    cknna_with_epsilon,
    first_component,
    lower_median_rbf,
    sample_weighted_pwcca,
    uncentered_cca,
    unwhitened_pwcca,
)
from interp.geometry import MEASURES
from interp.geometry.canonical_gulp import gulp
from interp.geometry.cka_minibatch import minibatch_cka
from interp.geometry.dimension import mle, twonn
from interp.geometry.gromov_wasserstein import gromov_wasserstein_distance
from interp.geometry.rsa import crossnobis, rdm_similarity, rsa_crossnobis

FOUND = json.loads(Path(__file__).with_name("peers.json").read_text())
VALUES = [
    (name, call, data, value)
    for name, peer in FOUND["peers"].items()
    for call, data, value in peer["values"]
]
# Six digits of numbers of order 1.
TOLERANCE = 1e-6
# Neighbors that the libraries were asked for.
K = 5
# Permutations of the least p.
CALIBRATED = 99

Pair = Callable[[torch.Tensor, torch.Tensor], float]


class Other(NamedTuple):
    """A value of the same name that is not ours."""

    ours: Pair
    # Why; with the sign of theirs minus ours where it is known.
    reason: str
    # The two differ by more than this wherever the reason applies.
    least: float = 1e-4
    # What theirs is, where a few lines say it.
    theirs: Pair | None = None


def of(name: str) -> Pair:
    measure = MEASURES[name]

    def call(x: torch.Tensor, y: torch.Tensor) -> float:
        more = {"n_neighbors": K / len(x)} if measure.uses_neighbors else {}
        return measure.function(x, y, **more)

    return call


def angle_of(name: str) -> Pair:
    return lambda x, y: math.acos(of(name)(x, y))


def rest_of(name: str) -> Pair:
    return lambda x, y: 1 - of(name)(x, y)


def of_unit_rows(name: str) -> Pair:
    return lambda x, y: of(name)(*(z / z.norm(dim=1, keepdim=True) for z in (x, y)))


def swapped(name: str) -> Pair:
    return lambda x, y: of(name)(y, x)


def ranks(x: torch.Tensor, y: torch.Tensor) -> tuple[int, int]:
    return min(x.shape[1], len(x) - 1), min(y.shape[1], len(y) - 1)


def shape_distance(x: torch.Tensor, y: torch.Tensor) -> float:
    a, b = (float((z - z.mean(0)).norm()) for z in (x, y))
    return math.sqrt(a**2 + b**2 - 2 * a * b * of("procrustes")(x, y))


def whitened_angle(x: torch.Tensor, y: torch.Tensor) -> float:
    p, q = ranks(x, y)
    return math.acos(min(1.0, of("cca")(x, y) * min(p, q) / math.sqrt(p * q)))


def permutation_p(x: torch.Tensor, y: torch.Tensor) -> float:
    measure, rng = MEASURES["cka_biased"], np.random.default_rng(0)
    xs, ys = [measure.prepare(x)], [measure.prepare(y)]
    orders = np.stack([rng.permutation(len(x)) for _ in range(CALIBRATED)])
    null = measure.permuted(xs, ys, orders).flatten()
    return (1 + int((null >= measure.values(xs, ys)).sum())) / (1 + CALIBRATED)


def halves(x: torch.Tensor, y: torch.Tensor) -> float:
    return minibatch_cka(x, y, len(x) // 2)


def compared(metric: str, comparison: str) -> Pair:
    return lambda x, y: rdm_similarity(x, y, metric, comparison)


RSA = {"corr": "pearson", "tau-b": "kendall", "tau-a": "kendall_a", "cosine_cov": "whitened"}
HOWS = ("corr", "spearman", "tau-b", "tau-a", "cosine", "cosine_cov")
UNIT = f"unit rows, topk={K}"

AGREE: dict[tuple[str, str], Pair] = {
    ("netrep", "LinearMetric(alpha=1, score_method='angular').fit_score"): angle_of("procrustes"),
    ("netrep", "LinearMetric(alpha=1, score_method='euclidean').fit_score"): shape_distance,
    ("netrep", "LinearMetric(alpha=0, score_method='angular').fit_score"): whitened_angle,
    ("netrep", "LinearCKA().score"): angle_of("cka_biased"),
    ("netrep", "PermutationMetric(score_method='angular').fit_score"): (
        lambda x, y: math.acos(1 - of("soft_matching")(x, y) ** 2 / 2)
    ),
    ("ckatorch", "cka_base(x, y)"): of("cka_biased"),
    ("ckatorch", "cka_base(x, y, method='hsic')"): of("cka_biased"),
    ("ckatorch", "cka_base(x, y, unbiased=True)"): of("cka"),
    ("ckatorch", "cka_batch of two halves"): halves,
    ("torch-cka", "CKA.compare of one batch"): of("cka"),
    ("torch-cka", "CKA.compare of two halves"): halves,
    **{
        ("rsatoolbox", f"compare(calc_rdm 'euclidean', '{how}')"): compared(
            "squared", RSA.get(how, how)
        )
        for how in HOWS
    },
    ("rsatoolbox", "compare(calc_rdm 'correlation', 'corr')"): of("rsa_correlation_pearson"),
    ("rsatoolbox", "compare(calc_rdm 'correlation', 'spearman')"): of("rsa_correlation_spearman"),
    # Theirs is divided by the number of columns.
    ("rsatoolbox", "draws: mean of calc_rdm 'crossnobis'"): (
        lambda x, y: float(crossnobis(x).mean()) / x.shape[2]
    ),
    ("rsatoolbox", "draws: compare(calc_rdm 'crossnobis', 'corr')"): rsa_crossnobis,
    ("rsatoolbox", "draws: compare(calc_rdm 'crossnobis', 'cosine')"): (
        lambda x, y: rsa_crossnobis(x, y, "cosine")
    ),
    ("dcor", "distance_correlation(x, y)"): of("distance_correlation"),
    ("dcor", "distance_correlation_sqr(x, y)"): of("distance_correlation_squared"),
    ("dcor", "u_distance_correlation_sqr(x, y)"): of("distance_correlation_u"),
    ("pot", "emd2 of squared distances of centered, scaled units"): (
        lambda x, y: of("soft_matching")(x, y) ** 2
    ),
    ("pot", "1 - emd2 of correlation distances of units"): of("soft_matching_correlation"),
    ("faiss", f"IndexFlatL2.search, {K} neighbors in common"): of("mutual_knn"),
    ("scikit-learn", "CCA(n_components=min(d, e)), mean correlation"): of("cca"),
    ("scikit-learn", "r2_score(LinearRegression, 'variance_weighted')"): of("r2"),
    ("scipy", "pearsonr(pdist(x), pdist(y))"): of("rsa_pearson"),
    ("scipy", "spearmanr(pdist(x), pdist(y))"): of("rsa_spearman"),
    ("scipy", "kendalltau(pdist(x), pdist(y))"): of("rsa_kendall"),
    ("scipy", "spatial.procrustes disparity"): lambda x, y: 1 - of("procrustes")(x, y) ** 2,
    ("platonic-rep", f"measure('mutual_knn', {UNIT})"): of("mutual_knn_cosine"),
    ("platonic-rep", f"measure('cycle_knn', {UNIT})"): of_unit_rows("cycle_knn"),
    # Theirs counts, ours is a share.
    ("platonic-rep", f"measure('lcs_knn', {UNIT})"): (
        lambda x, y: K * of_unit_rows("lcs_knn")(x, y)
    ),
    ("platonic-rep", f"measure('edit_distance_knn', {UNIT})"): of_unit_rows("edit_knn"),
    ("platonic-rep", "measure('cka', x, y)"): of("cka_biased"),
    ("platonic-rep", f"measure('cknna', x, y, topk={K})"): of("cknna_code"),
    ("platonic-rep", "measure('unbiased_cka', x, y)"): of("cka"),
    ("resi", "centered_kernel_alignment"): of("cka_biased"),
    ("resi", "hard_correlation_match"): of("soft_matching_correlation"),
    ("resi", "distance_correlation"): of("distance_correlation"),
    # The square, without ridge.
    ("resi", "gulp"): lambda x, y: gulp(x, y, ridge=0) ** 2,
    # They explain x by y.
    ("resi", "linear_reg"): swapped("r2"),
    ("resi", f"jaccard_similarity(k={K}, inner='euclidean')"): of("jaccard_knn"),
    ("resi", "orthogonal_procrustes_centered_and_normalized"): (
        lambda x, y: math.sqrt(2 - 2 * of("procrustes")(x, y))
    ),
    ("resi", "orthogonal_angular_shape_metric_centered"): angle_of("procrustes"),
    ("resi", "representational_similarity_analysis"): of("rsa_correlation_spearman"),
    ("resi", "representational_similarity_analysis(inner='euclidean')"): of("rsa_spearman"),
    ("sim_metric", "mean_cca_corr"): of("cca"),
    ("sim_metric", "mean_sq_cca_corr"): of("cca_r2"),
    ("sim_metric", "pwcca_dist"): rest_of("pwcca"),
    ("sim_metric", "lin_cka_dist"): rest_of("cka_biased"),
    ("sim_metric", "procrustes"): lambda x, y: 2 - 2 * of("procrustes")(x, y),
    ("calibrated-similarity", f"calibrate(x, y, cka, K={CALIBRATED})[1]"): permutation_p,
    ("scikit-dimension", "id.TwoNN().fit(x).dimension_"): lambda x, y: twonn(x),
    ("scikit-dimension", f"id.MLE().fit(x, n_neighbors={K}).dimension_"): (
        lambda x, y: mle(x, K / len(x))
    ),
    # Its K is not used: the neighbors are 20.
    ("scikit-dimension", f"id.MLE(K={K}).fit(x).dimension_"): lambda x, y: mle(x, 20 / len(x)),
    ("svcca", "mean of get_cca_similarity cca_coef1"): of("cca"),
    ("representation_similarity", "cka(gram_linear)"): of("cka_biased"),
    ("representation_similarity", "cka(gram_linear, debiased=True)"): of("cka"),
    ("representation_similarity", "cka(gram_rbf(threshold=1))"): of("cka_rbf_all"),
    ("representation_similarity", "feature_space_linear_cka"): of("cka_biased"),
    ("representation_similarity", "feature_space_linear_cka(debiased=True)"): of("cka"),
    ("representation_similarity", "cca of centered columns"): of("cca_r2"),
    ("anatome", "svcca_distance(x, y, 0.99, 'svd')"): rest_of("svcca_singular"),
    ("anatome", "linear_cka_distance(x, y, False)"): rest_of("cka_biased"),
    ("anatome", "linear_cka_distance(x, y, True)"): rest_of("cka"),
    ("anatome", "orthogonal_procrustes_distance"): rest_of("procrustes"),
    ("rtd", "rtd1(x, y, pdist_device='cpu')"): of("rtd"),
}

EPSILON = "theirs adds 1e-6 to the root of the self-terms, which an invariance to scale forbids"
ONE_COMPONENT = (
    "it compares the share of the variance with 0.99 of the total variance, not with 0.99: "
    "whenever that is above 1, one component is left"
)
UNMATCHED = (
    "units of the wider side beyond the width of the other are left out, or matched with zeros"
)
UNWHITENED = (
    "the directions are rotated but not whitened (coef_x without invsqrt_xx), so that they are no "
    "canonical variates, and a QR depends on their order"
)

# (library, call, data set; "" stands for all that are not named)
OTHERS: dict[tuple[str, str, str], Other] = {
    **{
        ("netrep", "PermutationMetric(score_method='angular').fit_score", data): Other(
            AGREE["netrep", "PermutationMetric(score_method='angular').fit_score"], UNMATCHED, 1e-3
        )
        for data in ("wider", "narrower", "wide")
    },
    **{
        ("resi", "hard_correlation_match", data): Other(
            of("soft_matching_correlation"), UNMATCHED, 1e-2
        )
        for data in ("wider", "narrower", "wide")
    },
    ("resi", "svcca", ""): Other(of("svcca"), ONE_COMPONENT, 1e-3, first_component),
    ("pot", "gromov.gromov_wasserstein2 of distances of mean square 1", ""): Other(
        lambda x, y: gromov_wasserstein_distance(x, y) ** 2,
        "one descent from the uniform plan, which ends where no assignment gains; ours also "
        "exchanges partners and starts seven times: theirs is larger",
    ),
    ("platonic-rep", "measure('svcca', x, y, cca_dim=10)", ""): Other(
        of("svcca_standardized10"),
        "a randomized SVD without enough iterations, and CCA stopped early: it depends on the "
        "generator, and is lower than of the exact components",
        1e-3,
    ),
    ("platonic-rep", f"measure('cknna', {UNIT})", ""): Other(
        of_unit_rows("cknna_code"), EPSILON, 1e-6, cknna_with_epsilon
    ),
    ("ckatorch", "cka_base(x, y, kernel='rbf')", ""): Other(
        of("cka_rbf_all"),
        "the median of an even number of distances is the lower of the two in the middle",
        5e-7,
        lower_median_rbf,
    ),
    ("anatome", "pwcca_distance(x, y, 'svd')", ""): Other(
        rest_of("pwcca"),
        "the weights come from an orthogonal basis of the coefficients, summed over samples, "
        "instead of the variates, summed over columns",
        1e-4,
        sample_weighted_pwcca,
    ),
    ("sim_metric", "pwcca_dist", "wider"): Other(
        rest_of("pwcca"),
        "the weights are normalized over directions of x that have no partner in y",
        1e-2,
    ),
    **{
        (name, call, ""): Other(
            of("pwcca_narrow"),
            UNWHITENED + "; means are added to them, so that the arbitrary sign of each counts",
            1e-3,
        )
        for name, call in (("svcca", "compute_pwcca(x.T, y.T)[0]"), ("resi", "pwcca"))
    },
    ("svcca", "compute_pwcca of centered columns", ""): Other(
        of("pwcca_narrow"),
        UNWHITENED,
        1e-3,
        unwhitened_pwcca,
    ),
    ("representation_similarity", "cca", ""): Other(
        of("cca_r2"), "the columns are not centered", 1e-4, uncentered_cca
    ),
    ("representation_similarity", "cca of centered columns", "wide"): Other(
        of("cca_r2"),
        "divided by the smaller width where n - 1 rows cannot fill it: two spaces that both are "
        "all of R^n have 1",
        1e-2,
        lambda x, y: uncentered_cca(x - x.mean(0), y - y.mean(0)),
    ),
}

ROWS = "it needs more rows than columns"
BRANCH = "where y is the narrower it weights by y, but with the activations of x"
REFUSED: dict[tuple[str, str, str], str] = {
    ("anatome", "pwcca_distance(x, y, 'svd')", "wide"): ROWS,
    ("resi", "pwcca", "wide"): ROWS,
    ("resi", "pwcca", "wider"): BRANCH,
    ("resi", "gulp", "wide"): ROWS,
    ("scikit-learn", "CCA(n_components=min(d, e)), mean correlation", "wide"): ROWS,
    ("sim_metric", "mean_cca_corr", "wide"): ROWS,
    ("sim_metric", "mean_sq_cca_corr", "wide"): ROWS,
    ("sim_metric", "pwcca_dist", "wide"): ROWS,
    ("svcca", "mean of get_cca_similarity cca_coef1", "wide"): ROWS,
    ("svcca", "compute_pwcca(x.T, y.T)[0]", "wide"): ROWS,
    ("svcca", "compute_pwcca(x.T, y.T)[0]", "wider"): BRANCH,
    ("svcca", "compute_pwcca of centered columns", "wide"): ROWS,
    ("svcca", "compute_pwcca of centered columns", "wider"): BRANCH,
    **{
        ("platonic-rep", "measure('svcca', x, y, cca_dim=10)", data): "10 of fewer columns"
        for data in ("tall", "wider", "narrower")
    },
}


def entry(name: str, call: str, data: str) -> Other | None:
    return OTHERS.get((name, call, data), OTHERS.get((name, call, "")))


@pytest.mark.parametrize("data", ["tall", "wider", "narrower", "wide", "draws"])
def test_the_features_are_those_that_the_libraries_saw(data: str) -> None:
    assert digest(data) == FOUND["data"][data]


@pytest.mark.parametrize(
    ("name", "call", "data", "value"),
    [pytest.param(*row, id="-".join(map(str, row[:3]))) for row in VALUES],
)
def test_a_value_is_ours_or_its_difference_has_a_reason(
    name: str, call: str, data: str, value: float | str
) -> None:
    x, y = (torch.as_tensor(z) for z in features(data))
    other = entry(name, call, data)
    ours = (AGREE[name, call] if other is None else other.ours)(x, y)
    if isinstance(value, str):
        assert REFUSED[name, call, data]
        assert math.isfinite(ours)
    elif other is None:
        assert ours == pytest.approx(value, abs=TOLERANCE)
    else:
        assert abs(ours - value) > other.least, f"no longer: {other.reason}"
        if other.theirs is not None:
            assert other.theirs(x, y) == pytest.approx(value, abs=TOLERANCE)


def test_no_reason_is_left_without_its_value() -> None:
    known = {(name, call, data): value for name, call, data, value in VALUES}
    calls = {key[:2] for key in known}
    assert set(AGREE) <= calls
    assert {key[:2] for key in OTHERS} <= calls
    assert {key for key in OTHERS if key[2]} <= set(known)
    assert set(REFUSED) == {key for key, value in known.items() if isinstance(value, str)}


def test_every_library_has_values_or_says_why_not() -> None:
    assert set(FOUND["peers"]) == {*PACKAGES, *HERE, *CHECKOUTS}
    for peer in FOUND["peers"].values():
        assert peer["values"] or peer["reason"]
        assert peer.get("version") or not peer["values"]
