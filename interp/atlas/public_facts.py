"""What is known of the public experiment, and what is wrong with it, as data for the page."""

SOURCE = "github.com/ludovicaschaerf/feature-inject (first commit 2025-10-14)"

# Blocks that its configurations name for a model: by role, as dotted paths of diffusers.
KEPT_BLOCKS: dict[str, dict[str, tuple[str, ...]]] = {
    "SD1.4": {
        "structure": ("mid_block.resnets.0", "mid_block.resnets.1", "mid_block.attentions.0")
    },
    "SD2": {
        "structure": ("down_blocks.2.resnets.1", "down_blocks.2.attentions.1"),
        "style": ("up_blocks.1.resnets.0", "up_blocks.1.resnets.1"),
    },
    "SD-Turbo": {"structure": ("down_blocks.2.resnets.1", "down_blocks.2.attentions.1")},
    "SDXL": {
        "structure": ("mid_block.attentions.0", "mid_block.resnets.0", "mid_block.resnets.1"),
        "style": ("up_blocks.0.attentions.0", "up_blocks.0.resnets.0"),
    },
    "SDXL-Turbo": {
        "structure": ("mid_block.attentions.0", "mid_block.resnets.0", "mid_block.resnets.1"),
        "style": ("up_blocks.0.attentions.0", "up_blocks.0.resnets.0"),
    },
    "Kandinsky 2.2": {"structure": ("down_blocks.2.resnets.1", "down_blocks.2.resnets.2")},
}

FLAWS: tuple[str, ...] = (
    "Donor and recipient start from the same noise, so what the noise carries cannot be told from "
    "what a layer carries; the arm with independent noise stands beside it here.",
    "Nothing measures damage: an image that the swap has broken counts as one that received "
    "little. Here every swap has its unexplained share and rows moved as far at random.",
    "Gains are cut off at 0, which lifts every mean; the mean without the cut and the share of the "
    "pairs that were cut stand beside it here.",
    "Similarity to the donor and to the recipient are not parts of one whole: both rise where the "
    "two images are alike, and an unrelated image has a transfer ratio of about one half.",
    "Scores are rescaled by rank within each model, so that no two models can be compared; nothing "
    "is rescaled here.",
    "No untrained network is scanned, although swapping one block of an untrained decoder or "
    "transformer already hands the whole image over.",
    "Both halves of classifier-free guidance are swapped together, the empty prompt's with the "
    "prompt's.",
    "The output of a block in the down half also becomes a skip connection, so that its swap is "
    "two interventions at once.",
    "Where a block returns a pair, its first element is taken, and in Flux and SD3 that is the "
    "text stream, not the image.",
    "Its lists of blocks hold containers whose hooks never fire (14 of 52 in SD1.4), which then "
    "score as blocks without effect.",
    "Its option to blend takes the first image of a batch where a block returns a plain tensor.",
    "Its prompts reuse the same words, and its intervals treat them as unrelated; pairs are "
    "disjoint here, and their words still recur.",
)
