"""Figures and the static dashboard: pages from data, never from models."""

from interp.dashboards.bundle import build_dashboard
from interp.dashboards.figures import comparison_figure, feature_figure, layer_profile_figure
from interp.dashboards.server import make_server, serve

__all__ = [
    "build_dashboard",
    "comparison_figure",
    "feature_figure",
    "layer_profile_figure",
    "make_server",
    "serve",
]
