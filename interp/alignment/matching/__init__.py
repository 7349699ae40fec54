"""Features of two SAEs over shared images: which go together, how well, and how much is chance."""

from interp.alignment.matching.latents import Latents, as_latents, read_latents
from interp.alignment.matching.match import match_features
from interp.alignment.matching.records import (
    FeatureMatches,
    MatchExamples,
    MatchLevel,
    MatchSide,
)

__all__ = [
    "FeatureMatches",
    "Latents",
    "MatchExamples",
    "MatchLevel",
    "MatchSide",
    "as_latents",
    "match_features",
    "read_latents",
]
