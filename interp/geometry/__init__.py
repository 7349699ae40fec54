"""Representational geometry: measures on feature matrices [n rows, d columns], arrays only."""

from interp.geometry.cka import debiased_cka
from interp.geometry.measure import Measure
from interp.geometry.measures import CORE, MEASURES, get_measure
from interp.geometry.neighbors import mutual_knn, nearest
from interp.geometry.shapes import angular_distance, procrustes

__all__ = [
    "CORE",
    "MEASURES",
    "Measure",
    "angular_distance",
    "debiased_cka",
    "get_measure",
    "mutual_knn",
    "nearest",
    "procrustes",
]
