"""Figures and static pages of features, comparisons and atlases: from data, never from models."""

from interp.dashboards.atlas import build_atlas_page
from interp.dashboards.atlas_figures import compactness_figure, kinds_figure, step_map_figure
from interp.dashboards.atlas_layers import (
    interactions_figure,
    shares_figure,
    specialization_figure,
)
from interp.dashboards.atlas_overview import atlas_figure
from interp.dashboards.bundle import build_dashboard
from interp.dashboards.figures import comparison_figure, feature_figure, layer_profile_figure
from interp.dashboards.live import Dial, Live, LiveRequest, LiveSAE
from interp.dashboards.server import make_server, serve
from interp.dashboards.steering import steering_figure

__all__ = [
    "Dial",
    "Live",
    "LiveRequest",
    "LiveSAE",
    "atlas_figure",
    "build_atlas_page",
    "build_dashboard",
    "compactness_figure",
    "comparison_figure",
    "feature_figure",
    "interactions_figure",
    "kinds_figure",
    "layer_profile_figure",
    "make_server",
    "serve",
    "shares_figure",
    "specialization_figure",
    "steering_figure",
    "step_map_figure",
]
