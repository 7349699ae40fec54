"""What an atlas says in words beside its numbers."""

from collections.abc import Sequence

# The same sentence as the demo's: a test holds them equal.
ZOO_SCOPE = (
    "Results from the zoo hold for these small networks on 32-pixel glyphs. They show that the "
    "instrument tells known answers apart; they neither confirm nor refute Schaerf (2025) or the "
    "Platonic Representation Hypothesis. Networks here share training images, and some share "
    "labels or captions, so alignment among them may come from that."
)
_SCOPE = (
    "Results hold for this network with this recipe on these pairs of images; they are no "
    "statement about an architecture or a family."
)
NOT_MEASURED = (
    "The models of Schaerf (2025) were not run here. For a pipeline of diffusers, `interp atlas "
    "diffusers:<id or folder>` runs the same measurement; it is tested on pipelines of random "
    "weights.",
    "Two sentences of that paper are made measurable: that one compact latent decides an image "
    "(compact), and that layers divide content, composition and surface among them (specialized). "
    "Its argument from media theory is not measured.",
    "A transfer ratio of .5 is what an image gets that has nothing to do with donor or recipient; "
    "it is shown for comparison with earlier work, and no answer here rests on it.",
    "Swaps of descendants and graph cuts (block outputs, skips) show how a network is wired; they "
    "are in the table and enter no verdict.",
)

ATTRIBUTES = {
    "content": "what the encoder sees: mean features of its last block",
    "composition": "low-pass luminance and the layout of edge orientations",
    "surface": "colors (square-root Lab histogram), texture (LBP, Gram) and radial frequency bands",
    "luminance_layout": "8 x 8 averages of lightness",
    "edge_layout": "orientation of coarse edges by place",
    "color_histogram": "square-root Lab histogram",
    "lbp": "local binary patterns",
    "gram": "Gram matrix of a filter bank",
    "frequency_bands": "radial frequency bands",
}


def scope_of(spec: str) -> str:
    """What the numbers hold for."""
    return ZOO_SCOPE if spec.startswith("zoo:") else _SCOPE


def seed_sentence(specs: Sequence[str]) -> str:
    """What one training run can and cannot say."""
    if len(specs) < 2:
        return (
            "This network exists with one training seed. A statement about the architecture needs "
            "an atlas of each of several; intervals here are over pairs of images alone."
        )
    return (
        f"This is one of {len(specs)} training seeds ({', '.join(specs)}): make an atlas of each. "
        "They are shown one by one and never averaged; intervals here are over pairs of images."
    )


def step_sentence(steps: int, calls: int, sampler: str) -> str:
    """How few steps the images had."""
    return (
        f"Images are made in {steps} steps of {sampler or 'the own sampler'} ({calls} calls of the "
        "network), fewer than for looks: every call is swapped."
    )


def image_sentence(rank: int, n_images: int, *, quick: bool, more: bool) -> str:
    """That d_img is larger than what was counted, and whether more images would tell.

    rank: directions counted. n_images: held-out images behind them. more: further ones can be made.
    """
    said = f"d_img is not reached with {rank} directions of {n_images} held-out images"
    if not more:
        return f"{said}, which are all there are."
    return f"{said}: more images (--fit{', or without --quick' if quick else ''}) would tell."
