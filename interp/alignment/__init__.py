"""Store + geometry + stats -> Comparison: how alike layers are, with nulls and intervals."""

from interp.alignment.compare import compare, compare_layers
from interp.alignment.records import Alignment, Cell, Comparison, Family, Layer
from interp.alignment.representations import (
    Representation,
    load_representations,
    pixel_representation,
)

__all__ = [
    "Alignment",
    "Cell",
    "Comparison",
    "Family",
    "Layer",
    "Representation",
    "compare",
    "compare_layers",
    "load_representations",
    "pixel_representation",
]
