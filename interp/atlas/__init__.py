"""The founding experiment on one model: what each carrier decides, layer by layer, step by step."""

from interp.atlas.config import AtlasConfig
from interp.atlas.record import Atlas, load_atlas
from interp.atlas.study import atlas

__all__ = ["Atlas", "AtlasConfig", "atlas", "load_atlas"]
