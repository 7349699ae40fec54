"""ViT-Prisma: a pickled config beside the weights, which cannot be read without running it."""

from pathlib import Path

from interp.errors import SAEError
from interp.sae.base import SAE
from interp.sae.formats.hints import Hints


def detect(path: Path) -> bool:
    """Never: its files are pickles like any other; `format="prisma"` says what to do."""
    return False


def read(path: Path, hints: Hints) -> SAE:
    """Refused, with the way to convert.

    Raises:
        SAEError: always.
    """
    raise SAEError(
        f"{path}: ViT-Prisma pickles its config, and unpickling runs whatever a file says. In an "
        "environment of ViT-Prisma, turn it into the layout of SAELens, which has the same names: "
        "README.md of interp.sae.formats has the lines"
    )
