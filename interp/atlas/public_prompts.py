"""Factorial prompts in the form of the public experiment, with lists of our own."""

import itertools
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from interp.errors import InputError

# The template of the public experiment (github.com/ludovicaschaerf/feature-inject, main.py). No
# object begins with a vowel, which its article would not suit.
TEMPLATE = "A high-resolution image of a {object} in the {background}, {style}"
# Orders in which disjoint pairs are looked for before they count as impossible.
_TRIES = 200


class Triple(NamedTuple):
    """What one prompt names."""

    object: str
    background: str
    style: str


@dataclass(frozen=True)
class Prompts:
    """Three lists and the sentence that joins one entry of each."""

    objects: tuple[str, ...]
    backgrounds: tuple[str, ...]
    styles: tuple[str, ...]
    template: str = TEMPLATE

    def triples(self) -> list[Triple]:
        """All combinations."""
        return [Triple(*t) for t in itertools.product(self.objects, self.backgrounds, self.styles)]

    def write(self, triple: Triple) -> str:
        """The prompt of a combination."""
        return self.template.format(**triple._asdict())


PROMPTS: dict[str, Prompts] = {
    "small": Prompts(
        ("lighthouse", "teapot", "fox"),
        ("rain", "desert at noon", "library"),
        ("watercolor", "charcoal drawing", "infrared photograph"),
    ),
    "large": Prompts(
        (
            "lighthouse",
            "teapot",
            "fox",
            "violin",
            "cactus",
            "bicycle",
            "lantern",
            "pelican",
            "chess rook",
            "sailboat",
            "typewriter",
            "pumpkin",
            "heron",
            "wheelbarrow",
        ),
        (
            "rain",
            "desert at noon",
            "library",
            "salt flat",
            "greenhouse",
            "subway station",
            "tundra",
            "rice field",
            "attic",
            "harbor at dawn",
            "quarry",
            "bamboo grove",
        ),
        (
            "watercolor",
            "charcoal drawing",
            "infrared photograph",
            "mosaic",
            "linocut print",
            "stained glass",
            "blueprint",
            "oil impasto",
            "paper cutout",
            "pixel art",
            "long exposure",
            "embroidery",
        ),
    ),
    # Words that captions of the zoo's `glyphs` use: `zoo:ldm` knows no others.
    "glyphs": Prompts(
        ("heart", "house", "fish", "car", "tree"),
        ("red", "blue", "green", "yellow", "black"),
        ("flag", "button", "sign", "face", "symbol"),
        "{object}, {background}, {style}",
    ),
}


def pair_prompts(
    prompts: Prompts, n_pairs: int, seed: int
) -> tuple[list[tuple[Triple, Triple]], list[Triple]]:
    """Pairs that differ in object, background and style, and the combinations that are left.

    No combination is in two pairs, so that pairs may be resampled as wholes; their words recur.

    Raises:
        InputError: a list has fewer than two different entries, or there are not so many pairs.
    """
    for name in ("objects", "backgrounds", "styles"):
        entries = getattr(prompts, name)
        if len(set(entries)) != len(entries) or len(entries) < 2:
            raise InputError(f"{name} {entries}: two or more different entries are needed")
    triples = prompts.triples()
    rng = np.random.default_rng([seed, n_pairs])
    for _ in range(_TRIES if 2 * n_pairs <= len(triples) else 0):
        left = [triples[i] for i in rng.permutation(len(triples))]
        pairs = _match(left, n_pairs)
        if len(pairs) == n_pairs:
            return pairs, left
    raise InputError(
        f"{n_pairs} pairs need {2 * n_pairs} combinations that differ in all three, and the lists "
        f"of {len(prompts.objects)}, {len(prompts.backgrounds)} and {len(prompts.styles)} have "
        f"{len(triples)}: take fewer pairs or longer lists"
    )


def _match(left: list[Triple], n_pairs: int) -> list[tuple[Triple, Triple]]:
    """Take pairs out of a list, each with the first partner that shares no word."""
    pairs: list[tuple[Triple, Triple]] = []
    skipped = 0
    while len(pairs) < n_pairs and skipped < len(left):
        one = left.pop(skipped)
        partner = next((t for t in left if not set(enumerate(one)) & set(enumerate(t))), None)
        if partner is None:
            left.insert(skipped, one)
            skipped += 1
            continue
        left.remove(partner)
        pairs.append((one, partner))
    return pairs
