"""Edits put into a running model: what happens to its images."""

from interp.interventions.substitute import (
    Substitution,
    low_pass_distance,
    rms_distance,
    substitute,
)

__all__ = ["Substitution", "low_pass_distance", "rms_distance", "substitute"]
