"""dcor: distance correlation, biased (V) and bias-corrected (U)."""

import dcor

PACKAGES = ("dcor",)
MEASURES = {
    "distance_correlation": dcor.distance_correlation,
    "distance_correlation_squared": dcor.distance_correlation_sqr,
    "distance_correlation_u": dcor.u_distance_correlation_sqr,
}
