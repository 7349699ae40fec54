"""Edits put into a running model: what happens to its images."""

from interp.interventions.substitute import Substitution, rms_distance, substitute

__all__ = ["Substitution", "rms_distance", "substitute"]
