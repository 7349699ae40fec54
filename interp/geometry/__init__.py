"""Representational geometry: measures on feature matrices [n rows, d columns], arrays only."""

from interp.geometry.canonical import cca, cca_r2
from interp.geometry.canonical_gulp import gulp
from interp.geometry.canonical_pwcca import pwcca
from interp.geometry.canonical_svcca import svcca
from interp.geometry.cka import debiased_cka
from interp.geometry.cka_biased import BothCKA, biased_cka, both_cka
from interp.geometry.measure import Measure
from interp.geometry.measures import CORE, MEASURES, get_measure
from interp.geometry.neighbors import mutual_knn, nearest
from interp.geometry.regression import r2, ridge_cv
from interp.geometry.shapes import angular_distance, procrustes
from interp.geometry.sums import Sums, Totals
from interp.geometry.sums_measures import sum_deleted, sum_moments, sum_values

__all__ = [
    "CORE",
    "MEASURES",
    "BothCKA",
    "Measure",
    "Sums",
    "Totals",
    "angular_distance",
    "biased_cka",
    "both_cka",
    "cca",
    "cca_r2",
    "debiased_cka",
    "get_measure",
    "gulp",
    "mutual_knn",
    "nearest",
    "procrustes",
    "pwcca",
    "r2",
    "ridge_cv",
    "sum_deleted",
    "sum_moments",
    "sum_values",
    "svcca",
]
