"""What the user named, as layers of one model each: specs, stores, files, arrays."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from interp.alignment import Representation, load_representations
from interp.alignment.matrices import (
    ONLY,
    as_features,
    is_matrix_file,
    matrix_representations,
    read_matrices,
)
from interp.alignment.representations import match_points
from interp.errors import InputError, PointError
from interp.loading import SCHEMES
from interp.models import Model, Rows
from interp.store import ActivationStore, open_store
from interp.studies.captures import capture_model
from interp.studies.options import Judging, Showing

# The level that needs captures of its own.
SHARED_NOISE = "shared noise"


@dataclass(frozen=True)
class Side:
    """One model of a study."""

    label: str
    layers: list[Representation]
    twins: list[list[Representation]] = field(default_factory=list)
    noisy: list[Representation] = field(default_factory=list)
    """The layers under noise that all models share, on other images."""
    store: ActivationStore | None = None
    reads_text: bool = False


@dataclass(frozen=True)
class Labels:
    """Of the rows of matrices; empty: row i of each is image i, each its own cluster."""

    ids: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """By label of the model."""
    clusters: tuple[str, ...] = ()
    """In the order of the first matrix's rows, as the strata."""
    strata: tuple[str, ...] = ()


@dataclass(frozen=True)
class Finding:
    """What it takes to make a side of what the user named."""

    showing: Showing
    judging: Judging
    labels: Labels
    points: Mapping[str, Sequence[str]]
    """Label -> names or patterns; "" for all models."""
    column: str
    """Column of a store's generations within which images are permuted."""
    activations: Path
    say: Callable[[str], None]


def name_models(models: Mapping[str, Any] | Sequence[Any]) -> dict[str, Any]:
    """Labels for what has none: the last word of a spec, the stem of a file, x, y, z for arrays.

    Raises InputError for fewer than two models, and for a label that a table cannot hold.
    """
    if isinstance(models, str) or not isinstance(models, Mapping | Iterable):
        raise InputError(
            f"models are {type(models).__name__}: a list of two or more, or label -> model"
        )
    if isinstance(models, Mapping):
        named = {str(label): given for label, given in models.items()}
    else:
        named = {}
        for place, given in enumerate(models):
            label = base = _label(given, place)
            number = 1
            while label in named:
                number += 1
                label = f"{base}-{number}"
            named[label] = given
    if len(named) < 2:
        raise InputError(f"{len(named)} model to compare: two or more are needed")
    if odd := [label for label in named if not label.isprintable() or set(label) & set("|<>`")]:
        raise InputError(
            f"label {odd[0]!r} of a model has control characters or one of | < > `, which tables "
            "and pages cannot hold: give models as label -> model"
        )
    return named


def _label(given: Any, place: int) -> str:
    if isinstance(given, Model):
        return given.name.rpartition(":")[2]
    if isinstance(given, str | Path):
        text = str(given).rstrip("/")
        scheme, _, rest = text.partition(":")
        if scheme in SCHEMES and rest:
            return rest.rstrip("/").rpartition("/")[2] if scheme != "zoo" else rest
        return Path(text).stem if is_matrix_file(text) else Path(text).name
    return "xyz"[place] if place < 3 else f"x{place + 1}"


def find_side(label: str, given: Any, how: Finding) -> Side:
    """The layers of one model, its twins where they can be made, and its store.

    Raises InputError for what is none of: spec, loaded model, store or its folder, matrix file,
    array, several arrays, Representations.
    """
    if isinstance(given, str | Path):
        given = _named(given)
    if isinstance(given, str | Model):
        return _captured(label, given, how)
    if isinstance(given, ActivationStore):
        return _stored(label, given, how)
    if isinstance(given, tuple) and given and isinstance(given[0], ActivationStore):
        return _stored(label, given[0], how, *given[1:])
    if isinstance(given, list | tuple) and given and isinstance(given[0], Representation):
        return Side(label, list(given))
    return Side(label, _from_arrays(label, given, how))


def _named(given: str | Path) -> Any:
    """A spec as it is; a store opened; the arrays of a file."""
    text = str(given)
    if (Path(text) / "manifest.json").is_file():
        return open_store(text)
    if is_matrix_file(text):
        return read_matrices(text)
    scheme, _, rest = text.partition(":")
    if scheme in SCHEMES and rest:
        return text
    raise InputError(
        f"{text!r} is no model, store or matrix: give zoo:NAME, diffusers:..., transformers:..., "
        "lens:... (`interp zoo list`), the folder of a store (`interp store ls`), or a .npy, .npz "
        "or .safetensors file"
    )


def _captured(label: str, given: str | Model, how: Finding) -> Side:
    rows = Rows(positions="all" if how.judging.pooling == "tokens" else "mean")
    points = how.points.get(label, how.points.get("", ()))
    more: dict[str, Any] = {"rows": rows, "seed": how.judging.seed, "out": how.activations}
    more |= {"say": how.say, "shared_noise": SHARED_NOISE in (how.judging.levels or ())}
    found = capture_model(given, points, how.showing, **more)
    side = _stored(label, found.store, how, tuple(found.store.points))
    twins = [_stored(label, twin, how, tuple(twin.points)).layers for twin in found.twins]
    noisy = []
    if found.shared is not None:
        noisy = _stored(label, found.shared, how, tuple(found.shared.points)).layers
    return Side(label, side.layers, twins, noisy, side.store, side.reads_text)


def _stored(
    label: str,
    store: ActivationStore,
    how: Finding,
    points: str | Sequence[str] | None = None,
    calls: Sequence[int] | None = None,
) -> Side:
    chosen = [points] if isinstance(points, str) else points
    if chosen is None:
        chosen = how.points.get(label) or _present(store, how.points.get("", ()))
    options: dict[str, Any] = {"pooling": how.judging.pooling, "strata": how.column}
    layers = load_representations(store, chosen, model=label, calls=calls, **options)
    return Side(label, layers, store=store, reads_text=store.model.get("family") == "bridge")


def _present(store: ActivationStore, patterns: Sequence[str]) -> Sequence[str]:
    """The patterns that match some point of this store: those for all models need not match in all.

    Raises InputError where none does.
    """
    if not patterns:
        return ("*",)
    found = []
    for pattern in patterns:
        try:
            match_points(store, [pattern])
        except (InputError, PointError):
            continue
        found.append(pattern)
    if not found:
        match_points(store, patterns)
    return found


def _from_arrays(label: str, given: Any, how: Finding) -> list[Representation]:
    if isinstance(given, Mapping):
        layers = {str(k): as_features(x, f"{label}/{k}") for k, x in given.items()}
    elif isinstance(given, list | tuple) and given and hasattr(given[0], "shape"):
        layers = {str(i): as_features(x, f"{label}/{i}") for i, x in enumerate(given)}
    elif isinstance(given, np.ndarray | Tensor):
        layers = {ONLY: as_features(given, label)}
    else:
        raise InputError(
            f"{label} is a {type(given).__name__}: a spec, a store, a file, an array, several "
            "arrays or Representations are needed"
        )
    odd = {name: tuple(x.shape) for name, x in layers.items() if x.ndim not in (2, 3)}
    if odd or not layers:
        raise InputError(f"{label} has layers {odd}: [n, d] or [n, positions, d] is needed")
    labels, first = how.labels, not how.labels.ids or next(iter(how.labels.ids)) == label
    return matrix_representations(
        label,
        layers,
        ids=labels.ids.get(label, ()),
        clusters=labels.clusters if first else (),
        strata=labels.strata if first else (),
    )
