"""Representational geometry: measures on feature matrices [n rows, d columns], arrays only."""

from interp.geometry.cka import debiased_cka
from interp.geometry.measures import MEASURES, Measure, get_measure
from interp.geometry.neighbors import mutual_knn, nearest
from interp.geometry.shapes import angular_distance, procrustes

__all__ = [
    "MEASURES",
    "Measure",
    "angular_distance",
    "debiased_cka",
    "get_measure",
    "mutual_knn",
    "nearest",
    "procrustes",
]
