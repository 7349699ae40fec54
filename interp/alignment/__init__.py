"""Store + geometry + stats -> Comparison: how alike layers are, with nulls and intervals."""

from interp.alignment.compare import compare
from interp.alignment.curves import Curve, CurvePoint, k_curve, n_curve
from interp.alignment.effects import (
    Ceiling,
    EffectSizes,
    ceilings,
    effect_sizes,
    pair_ceiling,
    split_half_ceiling,
)
from interp.alignment.halves import Choice, Choices, choose_and_score, half_images
from interp.alignment.layers import compare_layers
from interp.alignment.levels import (
    caption_representations,
    color_representation,
    matched_spectrum,
    random_convolutions,
    reference,
    text_representations,
)
from interp.alignment.matrices import read_labels, read_matrices
from interp.alignment.outcome import Alignment
from interp.alignment.reading import read
from interp.alignment.recipes import RecipeScore, prh
from interp.alignment.records import Cell, Comparison, Family, Layer, Level
from interp.alignment.representations import (
    Representation,
    load_representations,
    pixel_representation,
)

__all__ = [
    "Alignment",
    "Ceiling",
    "Cell",
    "Choice",
    "Choices",
    "Comparison",
    "Curve",
    "CurvePoint",
    "EffectSizes",
    "Family",
    "Layer",
    "Level",
    "RecipeScore",
    "Representation",
    "caption_representations",
    "ceilings",
    "choose_and_score",
    "color_representation",
    "compare",
    "compare_layers",
    "effect_sizes",
    "half_images",
    "k_curve",
    "load_representations",
    "matched_spectrum",
    "n_curve",
    "pair_ceiling",
    "pixel_representation",
    "prh",
    "random_convolutions",
    "read",
    "read_labels",
    "read_matrices",
    "reference",
    "split_half_ceiling",
    "text_representations",
]
