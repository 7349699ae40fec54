"""What stands beside the layers of a study, and which layers cannot stand at all."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from interp.alignment import Representation
from interp.alignment.sources import SPECTRUM, load_levels
from interp.errors import InputError, InterpError
from interp.geometry.features import CONSTANT
from interp.studies.options import Judging
from interp.studies.sides import SHARED_NOISE, Finding, Side, find_side

# What a language model is compared beside: which words, and how many.
TEXT_LEVELS = ("words", "caption length")

Level = str | Representation


def prepared(sides: Sequence[Side], judging: Judging) -> list[Side]:
    """The sides after the preprocessing that was asked for."""
    return [
        dataclasses.replace(
            side,
            layers=[_prepare(one, judging) for one in side.layers],
            twins=[[_prepare(one, judging) for one in some] for some in side.twins],
            noisy=[_prepare(one, judging) for one in side.noisy],
        )
        for side in sides
    ]


def _prepare(one: Representation, judging: Judging) -> Representation:
    steps = judging.preprocessing
    if not str(steps):
        return one
    how = f"{one.preprocessing}, {steps}"
    return dataclasses.replace(one, x=steps.apply(one.x, one.name), preprocessing=how)


def without_constant(sides: Sequence[Side]) -> tuple[list[Side], list[str]]:
    """The sides without layers that are the same for every image, and a sentence for each of them.

    A layer that is constant in a twin goes too, for it has nothing to stand beside.
    Raises InputError for a model of which nothing is left.
    """
    out, problems = [], []
    for side in sides:
        everyone = [side.layers, *side.twins, side.noisy]
        dead = {_place(one) for some in everyone for one in some if is_constant(one)}
        left = [[one for one in some if _place(one) not in dead] for some in everyone]
        if not left[0]:
            raise InputError(
                f"every layer of {side.label} (or of its twin) is the same for every image: it "
                "has no geometry; name other points"
            )
        gone = [one.name for one in side.layers if _place(one) in dead]
        problems += [f"{name}, which is the same for every image" for name in gone]
        out.append(dataclasses.replace(side, layers=left[0], twins=left[1:-1], noisy=left[-1]))
    return out, problems


def _place(one: Representation) -> tuple[str, int | None]:
    return one.point, one.call


def is_constant(one: Representation) -> bool:
    """Whether all rows are equal but for rounding; NaN is not, and is refused later by name."""
    x = one.x.double()
    whole = torch.linalg.vector_norm(x)
    if not bool(whole.isfinite()):
        return False
    spread = torch.linalg.vector_norm(x - x.mean(0))
    return bool(spread <= CONSTANT * whole)


def reference_levels(
    sides: Sequence[Side], references: Mapping[str, Any], how: Finding
) -> tuple[list[Level], list[str]]:
    """Reference levels as Representations, "spectrum" by its name, and what could not be had.

    Levels that nobody asked for by name may be missing; those that were asked for may not.
    Raises InputError for an unknown level, and for one that these models cannot have.
    """
    stores = [side.store for side in sides if side.store is not None]
    wanted = how.judging.levels
    options = {"pooling": how.judging.pooling, "strata": how.column}
    source: dict[str, Any] = {"": stores[0]} if stores else {}
    named = wanted
    if named is None:
        named = ("pixels", "colors") if stores else (SPECTRUM,)
        named += TEXT_LEVELS if any(side.reads_text for side in sides) else ()
    if SHARED_NOISE in named and not any(side.noisy for side in sides):
        raise InputError("the level shared noise needs diffusion models that are named by spec")
    found: list[Representation] = []
    problems = []
    for name in named:
        if name in (SPECTRUM, SHARED_NOISE):
            continue
        try:
            found += [_varying(one) for one in load_levels(source, False, [name], options)]
        except InterpError as error:
            if wanted is not None:
                raise
            problems.append(f"the reference level {name}: {error}")
    for label, given in references.items():
        layers = find_side(label, given, how).layers
        found += [dataclasses.replace(one, reference=True) for one in layers]
    levels: list[Level] = [_prepare(one, how.judging) for one in found]
    return [*levels, *([SPECTRUM] if SPECTRUM in named else [])], problems


def _varying(one: Representation) -> Representation:
    if is_constant(one):
        raise InputError(f"{one.name} is the same for every image")
    return one
