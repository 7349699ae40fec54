"""Attributes: what an interchange may carry, each a Euclidean embedding of images.

A new one is a function of images and a line of `ATTRIBUTES`:

    @on_images
    def saturation(x: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n 1"]: ...

    ATTRIBUTES["saturation"] = join(saturation)
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from interp.errors import InputError
from interp.interventions.attributes_content import make_encoder
from interp.interventions.attributes_layout import edge_layout, luminance_layout
from interp.interventions.attributes_pixels import Attribute
from interp.interventions.attributes_surface import color_histogram, frequency_bands, gram, lbp
from interp.models import Model

# The three that the founding claim names.
MAIN = ("content", "composition", "surface")


def join(*parts: Attribute) -> Callable[..., Attribute]:
    """Say that an attribute is made of these parts, side by side.

    Returns a function of (reference, encoder=None) that scales every part on the reference images
    to a mean squared centered length of 1, so that none counts more for its units or its width.
    """

    def build(reference: Tensor, encoder: Model | Attribute | None = None) -> Attribute:
        scales = [_measure_scale(part, reference) for part in parts]

        def attribute(images: Tensor) -> Tensor:
            # Gradients are of images: no graph of an encoder's weights is kept.
            with torch.set_grad_enabled(torch.is_grad_enabled() and images.requires_grad):
                found = [torch.as_tensor(part(images)) for part in parts]
                return torch.cat([x / scale for x, scale in zip(found, scales, strict=True)], 1)

        return attribute

    return build


def _measure_scale(part: Attribute, reference: Tensor) -> float:
    """Root mean squared centered length of a part on the reference images."""
    with torch.no_grad():
        rows = torch.as_tensor(part(reference)).double()
    name = getattr(part, "__name__", "an attribute")
    if rows.ndim != 2 or len(rows) != len(reference) or not bool(rows.isfinite().all()):
        raise InputError(
            f"{name} gave {tuple(rows.shape)} for {len(reference)} images: finite values [n, d] "
            "are needed"
        )
    scale = float((rows - rows.mean(0)).square().sum(1).mean().sqrt())
    if scale == 0:
        raise InputError(
            f"{name} is the same for all {len(reference)} reference images: give at least two that "
            "differ in it"
        )
    return scale


def _make_content(reference: Tensor, encoder: Model | Attribute | None = None) -> Attribute:
    if encoder is None:
        raise InputError(
            "content needs an encoder: give encoder=load('zoo:vit'), another vision encoder, or a "
            "function of images [n, h, w, 3] that returns [n, d]; or leave content out of `names`"
        )
    features = make_encoder(encoder) if isinstance(encoder, Model) else encoder
    return join(features)(reference)


# Each: (reference images, encoder=None) -> attribute.
ATTRIBUTES: dict[str, Callable[..., Attribute]] = {
    "content": _make_content,
    "composition": join(luminance_layout, edge_layout),
    "surface": join(color_histogram, lbp, gram, frequency_bands),
    "luminance_layout": join(luminance_layout),
    "edge_layout": join(edge_layout),
    "color_histogram": join(color_histogram),
    "lbp": join(lbp),
    "gram": join(gram),
    "frequency_bands": join(frequency_bands),
}


def make_attributes(
    reference: Tensor,
    names: Sequence[str] = MAIN,
    *,
    encoder: Model | Attribute | None = None,
) -> dict[str, Attribute]:
    """Build attributes: name -> function of images that gives [n, d_k].

    content: pooled features of an encoder. composition: 8 x 8 averages of L* and the orientation of
    coarse edges. surface: square-root Lab histogram, local binary patterns, Gram matrix of a filter
    bank, radial frequency bands. Each of these parts is an attribute of its own too. All take
    images uint8 [n, h, w, 3] or float in [0, 1], h and w at least 16, and are differentiable almost
    everywhere in floats; images that are rendered in parts give the same rows up to rounding.

    They are not the same thing: over pairs of 300 held-out glyphs, distances by content (zoo:vit)
    correlate .25 with composition and .35 with surface, composition and surface .39. They are not
    independent either: content and color_histogram correlate .55, since glyphs have colors of their
    own (tests/interventions/test_attributes.py computes these).

    Args:
        reference: images on which the parts of each attribute are scaled to equal mean squared
            centered length; others than those of the pairs, such as those given to `make_pairs`.
        names: of `ATTRIBUTES`.
        encoder: for content: a vision encoder (the mean over positions of its last block; see
            `make_encoder` for other points) or any function of images.

    Raises:
        InputError: an unknown or repeated name, no encoder where content is asked for, images that
            do not fit, or reference images that do not differ.
    """
    unknown = [name for name in names if name not in ATTRIBUTES]
    if unknown or not names or len(set(names)) != len(names):
        raise InputError(f"names {list(names)}: one or more of {', '.join(ATTRIBUTES)}, each once")
    return {name: ATTRIBUTES[name](reference, encoder=encoder) for name in names}
