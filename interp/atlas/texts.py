"""Texts for models that take them: of the user, captions of the zoo's data, or factorial ones."""

from collections.abc import Sequence
from pathlib import Path

from interp.atlas.pairing import takes_prompts
from interp.atlas.public_prompts import PROMPTS
from interp.errors import InputError
from interp.models import Model

# Of the public experiment's lists, in our words.
FACTORIAL = "large"


def find_prompts(model: Model, given: Sequence[str] = ()) -> tuple[str, ...]:
    """Return the texts that donors and recipients are drawn from; none for models without texts.

    A network of the zoo gets captions of held-out glyphs, a pipeline the public experiment's
    factorial texts.
    """
    if given or not takes_prompts(model):
        return tuple(given)
    if model.name.startswith("zoo:"):
        from interp.zoo import load_images

        captions = load_images("glyphs", split="heldout").captions
        return tuple(dict.fromkeys(captions))
    prompts = PROMPTS[FACTORIAL]
    return tuple(prompts.write(triple) for triple in prompts.triples())


def read_prompts(path: str | Path) -> tuple[str, ...]:
    """Return the lines of a file, empty ones left out.

    Raises InputError for a file that cannot be read or has fewer than two different lines.
    """
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} cannot be read as lines of text: {error}") from error
    found = tuple(line.strip() for line in lines if line.strip())
    if len(set(found)) < 2:
        raise InputError(f"{path} has {len(set(found))} different lines: two or more are needed")
    return found
