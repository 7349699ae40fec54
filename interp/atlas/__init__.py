"""The founding experiment on one model: what each carrier decides, layer by layer, step by step."""

from interp.atlas.record import Atlas, load_atlas

__all__ = ["Atlas", "load_atlas"]
