"""The founding experiment on one model: what each carrier decides, layer by layer, step by step."""

from interp.atlas.config import AtlasConfig
from interp.atlas.record import Atlas, load_atlas
from interp.atlas.study import atlas
from interp.atlas.texts import find_prompts, read_prompts

__all__ = ["Atlas", "AtlasConfig", "atlas", "find_prompts", "load_atlas", "read_prompts"]
