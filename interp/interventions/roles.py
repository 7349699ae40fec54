"""Which carriers may enter a decision: sources and writes; descendants are reported only."""

import re

from interp.models import HookPoint

# Independent inputs of a generation: latents, initial noise, VAE codes, noise maps of a GAN.
_SOURCES = re.compile(r"z|x_T|code|noise\.\d+")
# What one layer is told: per-layer styles, and text context at one cross-attention.
_CONDITIONING = re.compile(r"w_plus\.\d+|s\.\d+|s_rgb\.\d+")


def find_role(point: HookPoint) -> str:
    """Role of one hook point in the graph of a generation.

    "source": z, x_T, a VAE's code, a GAN's noise maps. "write": the conditioning input of one layer
    (w_plus.l, s.l, the context of one cross-attention) and what a block or branch adds (":delta",
    contrib). "descendant": everything else, such as w, x_t, block outputs and skips: a function of
    the sources whose swap may cut the graph, so that it shows wiring, not labor.
    """
    if point.kind == "entry" and _SOURCES.fullmatch(point.name):
        return "source"
    conditioning = point.stream == "context" or _CONDITIONING.fullmatch(point.name) is not None
    if point.kind in ("delta", "contrib") or (point.kind == "entry" and conditioning):
        return "write"
    return "descendant"
