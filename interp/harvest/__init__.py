"""From a model to a store: the only bridge between the two, and the coordinates of every row."""

from interp.harvest.capture import capture, stream
from interp.harvest.plan import Estimate, PointEstimate, estimate
from interp.harvest.rerender import rerender

__all__ = ["Estimate", "PointEstimate", "capture", "estimate", "rerender", "stream"]
