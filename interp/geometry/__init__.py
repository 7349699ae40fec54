"""Representational geometry: measures on feature matrices [n rows, d columns], arrays only."""

from interp.geometry.canonical import cca, cca_r2
from interp.geometry.canonical_gulp import gulp
from interp.geometry.canonical_pwcca import pwcca
from interp.geometry.canonical_svcca import svcca
from interp.geometry.cka import debiased_cka
from interp.geometry.cka_biased import BothCKA, biased_cka, both_cka
from interp.geometry.cka_minibatch import minibatch_cka, stream_cka
from interp.geometry.cka_rbf import rbf_cka, rbf_cka_all
from interp.geometry.cost import Cost, cost, gemm_rate
from interp.geometry.curves import KCurve, k_curve
from interp.geometry.descriptors import (
    DESCRIPTORS,
    Descriptor,
    NCurve,
    anisotropy,
    describe_interval,
    get_descriptor,
    n_curve,
    uniformity,
)
from interp.geometry.dimension import (
    Distinct,
    GrideCurve,
    distinct_rows,
    gride,
    gride_curve,
    mle,
    twonn,
)
from interp.geometry.distance_correlation import (
    distance_correlation_squared,
    distance_correlation_u,
    distance_correlation_v,
)
from interp.geometry.explain import explain, measure_rows, measures_markdown
from interp.geometry.gromov_wasserstein import (
    GromovWasserstein,
    gromov_wasserstein_distance,
    solve_gromov_wasserstein,
)
from interp.geometry.measure import Measure
from interp.geometry.measures import CORE, MEASURES, get_measure
from interp.geometry.neighbors import mutual_knn
from interp.geometry.preprocessing import Preprocessing, clip, normalize
from interp.geometry.probes import LabelOverlap, Probe, knn_label_overlap, linear_probe
from interp.geometry.regression import r2, ridge_cv
from interp.geometry.rsa import (
    compare_rdms,
    crossnobis,
    noise_variances,
    prepare_crossnobis,
    rdm_similarity,
    rsa_crossnobis,
)
from interp.geometry.rtd import topology_divergence
from interp.geometry.search import nearest
from interp.geometry.shapes import angular_distance, procrustes
from interp.geometry.soft_matching import (
    Transport,
    soft_matching_correlation,
    soft_matching_distance,
    transport,
)
from interp.geometry.spectra import (
    alpha,
    effective_rank,
    participation_ratio,
    participation_ratio_unbiased,
    rankme,
)
from interp.geometry.sums import Sums, Totals
from interp.geometry.sums_measures import sum_deleted, sum_moments, sum_values

__all__ = [
    "CORE",
    "DESCRIPTORS",
    "MEASURES",
    "BothCKA",
    "Cost",
    "Descriptor",
    "Distinct",
    "GrideCurve",
    "GromovWasserstein",
    "KCurve",
    "LabelOverlap",
    "Measure",
    "NCurve",
    "Preprocessing",
    "Probe",
    "Sums",
    "Totals",
    "Transport",
    "alpha",
    "angular_distance",
    "anisotropy",
    "biased_cka",
    "both_cka",
    "cca",
    "cca_r2",
    "clip",
    "compare_rdms",
    "cost",
    "crossnobis",
    "debiased_cka",
    "describe_interval",
    "distance_correlation_squared",
    "distance_correlation_u",
    "distance_correlation_v",
    "distinct_rows",
    "effective_rank",
    "explain",
    "gemm_rate",
    "get_descriptor",
    "get_measure",
    "gride",
    "gride_curve",
    "gromov_wasserstein_distance",
    "gulp",
    "k_curve",
    "knn_label_overlap",
    "linear_probe",
    "measure_rows",
    "measures_markdown",
    "minibatch_cka",
    "mle",
    "mutual_knn",
    "n_curve",
    "nearest",
    "noise_variances",
    "normalize",
    "participation_ratio",
    "participation_ratio_unbiased",
    "prepare_crossnobis",
    "procrustes",
    "pwcca",
    "r2",
    "rankme",
    "rbf_cka",
    "rbf_cka_all",
    "rdm_similarity",
    "ridge_cv",
    "rsa_crossnobis",
    "soft_matching_correlation",
    "soft_matching_distance",
    "solve_gromov_wasserstein",
    "stream_cka",
    "sum_deleted",
    "sum_moments",
    "sum_values",
    "svcca",
    "topology_divergence",
    "transport",
    "twonn",
    "uniformity",
]
