"""What a user adds to a file that does not say everything, and how a format is described."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from interp.errors import SAEError
from interp.sae.base import SAE
from interp.sae.formats.imported import Imported


@dataclass(frozen=True)
class Hints:
    """Facts that some files lack; a fact that a file states itself cannot be changed by these."""

    k: int = 0
    """Active latents per row, of overcomplete's bare weights."""
    threshold: float | None = None
    """Threshold of a BatchTopK SAE whose file lost it (overcomplete)."""
    activation: str = ""
    """relu, of overcomplete's bare weights without k."""
    input_scale: float | None = None
    """Factor that activations are multiplied by first (SAELens' expected_average_only_in)."""
    inexact: bool = False
    """Take the nearest function where there is no equal one; the error says what differs."""


class Format(NamedTuple):
    """One library's layout."""

    library: str
    """As people call it."""
    detect: Callable[[Path], bool]
    """Whether a file or folder looks like one; never raises."""
    read: Callable[[Path, Hints], SAE]
    """Read it, or raise SAEError."""
    write: Callable[[Imported, Path, Hints], Path] | None
    """Write it; returns the path, or raises SAEError with what the layout cannot say."""


def refuse(part: Imported, library: str, *known: str) -> SAEError:
    """The error for an SAE whose activation a format has no word for."""
    rows = "" if part.rows == "none" else f" on rows normalized by {part.rows}"
    return SAEError(
        f"{library} has no {part.activation} SAE{rows}; it can hold {', '.join(known)}. Formats "
        "that can: `interp sae formats`"
    )


def refuse_strict(part: Imported, library: str, hints: Hints) -> None:
    """Refuse to drop negative values of a top-k SAE unless the user allows it.

    Raises:
        SAEError: `part` is strict and `hints.inexact` is not set.
    """
    if part.strict and not hints.inexact:
        raise SAEError(
            f"this SAE keeps negative values among its k largest, {library} drops them: rows with "
            "fewer than k positive latents differ; allow it by inexact=True (--inexact)"
        )
