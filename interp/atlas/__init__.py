"""The founding experiment on one model: what each carrier decides, layer by layer, step by step."""

from interp.atlas.config import AtlasConfig
from interp.atlas.public import public_protocol
from interp.atlas.public_prompts import PROMPTS, Prompts
from interp.atlas.public_record import PublicConfig, PublicResult
from interp.atlas.record import Atlas, load_atlas
from interp.atlas.study import atlas
from interp.atlas.texts import find_prompts, read_prompts

__all__ = [
    "PROMPTS",
    "Atlas",
    "AtlasConfig",
    "Prompts",
    "PublicConfig",
    "PublicResult",
    "atlas",
    "find_prompts",
    "load_atlas",
    "public_protocol",
    "read_prompts",
]
