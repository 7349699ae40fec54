"""Store + geometry + stats -> Comparison: how alike layers are, with nulls and intervals."""

from interp.alignment.compare import compare
from interp.alignment.layers import compare_layers
from interp.alignment.levels import (
    caption_representations,
    color_representation,
    matched_spectrum,
    random_convolutions,
    reference,
    text_representations,
)
from interp.alignment.outcome import Alignment
from interp.alignment.records import Cell, Comparison, Family, Layer, Level
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
    "Level",
    "Representation",
    "caption_representations",
    "color_representation",
    "compare",
    "compare_layers",
    "load_representations",
    "matched_spectrum",
    "pixel_representation",
    "random_convolutions",
    "reference",
    "text_representations",
]
