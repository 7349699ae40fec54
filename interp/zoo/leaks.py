"""What the zoo's networks share by their making, read off their recipes.

Two networks that have an entry in common may be alike because of it, and not because the world is
one: the same training images, labels or captions, or one network inside the other. None of these
recipes uses a perceptual loss or distills another network.
"""

IMAGES = "training images: glyphs"
LABELS = "labels: glyphs categories"
CAPTIONS = "captions: glyphs"

# Network -> entries; an entry that two networks share is a leak between them.
LEAKS: dict[str, tuple[str, ...]] = {
    "vae": (IMAGES,),
    "vae-global": (IMAGES,),
    "gan": (IMAGES,),
    "ssl": (IMAGES,),
    # Trained to name the categories.
    "vit": (IMAGES, LABELS),
    # Conditioned on the categories.
    "ddpm": (IMAGES, LABELS),
    "dit": (IMAGES, LABELS),
    # Of the images it knows captions and tags alone.
    "text": (CAPTIONS,),
    # Denoises codes of `vae`, conditioned on captions through the stream of `text`.
    "ldm": (IMAGES, CAPTIONS, "network: zoo:vae", "network: zoo:text"),
}


def known_leaks(name: str) -> tuple[str, ...]:
    """The entries of a network of the zoo, by its name ("ldm", "zoo:ldm", "zoo:ldm/1")."""
    return LEAKS.get(name.removeprefix("zoo:").partition("/")[0], ())
