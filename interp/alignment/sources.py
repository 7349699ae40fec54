"""What compare_layers is given, as Representations: stores, twins, reference levels by name."""

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from interp.alignment.levels import (
    caption_representations,
    color_representation,
    random_convolutions,
)
from interp.alignment.representations import (
    Representation,
    load_representations,
    pixel_representation,
)
from interp.errors import InputError
from interp.store import ActivationStore

# (store,), (store, points) or (store, points, calls), or a store for all its points.
Source = ActivationStore | tuple | Sequence[Representation]
# Several initializations are a list of sources.
Several = Source | Sequence[Source]

SPECTRUM = "spectrum"


def _captions(place: int) -> Callable[..., list[Representation]]:
    return lambda store, **options: [caption_representations(store, **options)[place]]


# Name of a level -> (store, pooling, strata) -> Representations.
NAMED: dict[str, Callable[..., list[Representation]]] = {
    "pixels": lambda store, **options: [pixel_representation(store, **options)],
    "colors": lambda store, **options: [color_representation(store, **options)],
    "random convolutions": random_convolutions,
    "words": _captions(0),
    "tfidf": _captions(1),
    "caption length": _captions(2),
}


def load_source(model: str, source: Source, options: Mapping[str, str]) -> list[Representation]:
    """The Representations of one source. Raises InputError where it is none."""
    parts: Sequence[Any] = (source,) if isinstance(source, ActivationStore) else source
    if parts and isinstance(parts[0], ActivationStore) and len(parts) <= 3:
        points = parts[1] if len(parts) > 1 else ("*",)
        calls = parts[2] if len(parts) > 2 else None
        points = (points,) if isinstance(points, str) else points
        return load_representations(parts[0], points, model=model, calls=calls, **options)  # pyright: ignore[reportGeneralTypeIssues]
    wrong = [one for one in parts if not isinstance(one, Representation) or one.model != model]
    if wrong or not parts:
        raise InputError(
            f"{model!r} is given as {type(source).__name__}: a store, (store, points), (store, "
            f"points, calls) or a list of Representations with model={model!r} is needed"
        )
    return list(parts)


def load_several(
    model: str, source: Several, options: Mapping[str, str]
) -> list[list[Representation]]:
    """The Representations of each of several sources in a list, or of one."""
    given: Any = source
    if isinstance(given, list) and given and all(map(_is_source, given)):
        return [load_source(model, one, options) for one in given]
    return [load_source(model, given, options)]


def _is_source(one: Any) -> bool:
    if isinstance(one, tuple | list):
        return bool(one) and isinstance(one[0], ActivationStore | Representation)
    return isinstance(one, ActivationStore)


def load_levels(
    models: Mapping[str, Source],
    pixels: bool | Representation,
    levels: Iterable[str | Representation],
    options: Mapping[str, str],
) -> list[Representation]:
    """The reference levels that stand for a layer, marked as such; "spectrum" is not one of them.

    Raises InputError for an unknown name, and where no model comes from a store.
    """
    wanted: list[str | Representation] = [one for one in levels if one != SPECTRUM]
    if isinstance(pixels, Representation):
        wanted.insert(0, pixels)
    elif pixels and "pixels" not in wanted:
        wanted.insert(0, "pixels")
    out: list[Representation] = []
    for one in wanted:
        out += [one] if isinstance(one, Representation) else _named(one, models, options)
    return [dataclasses.replace(one, reference=True) for one in out]


def _named(
    name: str, models: Mapping[str, Source], options: Mapping[str, str]
) -> list[Representation]:
    if name not in NAMED:
        raise InputError(f"no level {name!r}; there are {', '.join([*NAMED, SPECTRUM])}")
    for source in models.values():
        store = source[0] if isinstance(source, tuple | list) and source else source
        if isinstance(store, ActivationStore):
            return NAMED[name](store, **options)
    missing = "pixels=False" if name == "pixels" else f"leave {name!r} out"
    raise InputError(f"no store to take {name} from: pass a Representation, or {missing}")
