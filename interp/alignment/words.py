"""Sentences of every reading of a comparison: what a reference level is, what no p shows."""

from collections.abc import Iterator, Sequence

# What being above a level says that stands for one of the layers.
PLACE = (
    "in place of a layer. Being above says that the two layers are more alike than one of them is "
    "like"
)
# First words of a level's name -> what it is, and what being above it says.
LEVELS = {
    "untrained": (
        "the same architectures with fresh weights, on the same images. Being above says that "
        "training, not wiring, width or pooling, made the likeness; the interval counts images, so "
        "that with few initializations another one may lie higher"
    ),
    "spectrum": (
        "Gaussian features with the variances of the layer along its own directions, drawn without "
        "looking at the images. Being above says that the spectrum alone does not make the value; "
        "it says nothing of what is shared"
    ),
    "shared noise": (
        "two networks that are shown the same noise and different images. Being above says that "
        "the likeness is of the images, not of the noise"
    ),
    "pixels": f"the images themselves, averaged to few pixels, {PLACE} a small picture",
    "colors": f"the color histogram of each image, {PLACE} its colors",
    "words": f"counts of the words of each caption, {PLACE} the vocabulary of the captions",
    "caption": f"the length of each caption, {PLACE} how much was written",
    "random": f"convolutions with random weights, {PLACE} local texture",
    "vae": f"the latents of an autoencoder, {PLACE} a code of the pixels",
}
OTHER = f"given by you, {PLACE} these features"

GENERAL = (
    "p says that some pairing exists, never how much: with enough images every pair of models "
    "that see anything in them is significant. Read the differences.",
    "No number here says that two models compute the same thing, use it, or would agree on other "
    "images. They say that images which are close (or vary) in one are close (or vary) in the "
    "other.",
    "Intervals are over images like these. Networks, training seeds and data sets are fixed: "
    "another seed may give another value.",
    "An undecided difference is not a zero: beside it stands what would have been seen.",
)


def level_words(names: Sequence[str]) -> Iterator[str]:
    """One line for each reference level: what it is, and what being above it says."""
    for name in names:
        start = next((key for key in LEVELS if name.startswith(key)), None)
        yield f"- {name}: {LEVELS[start] if start else OTHER}."
