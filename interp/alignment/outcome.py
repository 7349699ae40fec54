"""Alignment: every layer against every layer on one sample set, read by name, table or matrix."""

import dataclasses
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from interp.alignment.records import (
    Cell,
    Family,
    Layer,
    Level,
    read_cell,
    read_family,
    read_layer,
)
from interp.alignment.saving import plain, read_json, write_json
from interp.errors import InputError
from interp.stats import Interval, jackknife

# 2 added reference levels, effect sizes, directions and leaks; files of 1 are read without them.
FORMAT = 2


@dataclass(frozen=True)
class Alignment:
    """Every layer against every layer on one sample set."""

    sample_set: str
    """"real images" or "samples of <model>"."""
    sample_hash: str
    """Of the image ids, sorted."""
    models: tuple[str, ...]
    layers: tuple[Layer, ...]
    measures: tuple[str, ...]
    cells: tuple[Cell, ...]
    families: tuple[Family, ...]
    n: int
    n_permutations: int
    n_folds: int
    seed: int
    strata: str
    """What the permutations kept: images moved only within these."""
    preprocessing: str
    note: str
    distances: tuple[str, ...] = ()
    """Measures of which smaller values are more alike."""

    @cached_property
    def _places(self) -> dict[tuple[int, int, str], Cell]:
        return {(c.i, c.j, c.comparison.measure): c for c in self.cells}

    @property
    def shared_leaks(self) -> tuple[tuple[str, tuple[str, ...]], ...]:
        """What two or more models share by their making: (leak, models), in order of models."""
        return shared_leaks(self.layers)

    def index(self, layer: int | str) -> int:
        """Number of a layer, given by number or by `Layer.name`. Raises InputError if unknown."""
        names = [one.name for one in self.layers]
        if isinstance(layer, str):
            if layer not in names:
                raise InputError(f"no layer {layer!r}; there are {', '.join(names)}")
            return names.index(layer)
        if not 0 <= layer < len(names):
            raise InputError(f"layer {layer} is out of range: there are {len(names)}")
        return layer

    def cell(self, i: int | str, j: int | str, measure: str | None = None) -> Cell:
        """The cell of two different layers, in either order; measure None: the first one.

        Raises InputError for an unknown layer or measure, and for i = j.
        """
        low, high = sorted((self.index(i), self.index(j)))
        measure = self._measure(measure)
        if (low, high, measure) not in self._places:
            raise InputError(
                f"no cell ({low}, {high}) for {measure}: a layer is not compared to itself"
            )
        return self._places[low, high, measure]

    def matrix(self, measure: str | None = None, field: str = "value") -> np.ndarray:
        """[layers, layers] of `Comparison` or `Cell` field, NaN where there is none.

        Symmetric, but for a measure with a direction: entry [i, j] then is layer i to layer j.
        """
        measure = self._measure(measure)
        out = np.full((len(self.layers), len(self.layers)), np.nan)
        for c in self.cells:
            if c.comparison.measure != measure:
                continue
            back = c.comparison if c.reverse is None else c.reverse
            for one, at in ((back, (c.j, c.i)), (c.comparison, (c.i, c.j))):
                value = getattr(one if hasattr(one, field) else c, field)
                out[at] = np.nan if value is None else value
        return out

    def strongest(self, n: int = 10, measure: str | None = None) -> list[Cell]:
        """The n cells between different models with the largest z, ties by layer number.

        Being the largest they overstate themselves: their intervals are not corrected for that.
        """
        measure = self._measure(measure)
        cells = [c for c in self.cells if c.comparison.measure == measure and self._crosses(c)]
        return sorted(cells, key=lambda c: (-(c.comparison.z or 0), c.i, c.j))[:n]

    def _crosses(self, c: Cell) -> bool:
        a, b = self.layers[c.i], self.layers[c.j]
        return a.model != b.model and not a.reference and not b.reference

    def difference(
        self,
        first: tuple[int | str, int | str],
        second: tuple[int | str, int | str],
        measure: str | None = None,
    ) -> tuple[float, Interval]:
        """value(first) - value(second) and its paired 95 % jackknife interval.

        Both cells are fixed beforehand: for the winner of a search the interval is too short.
        Raises InputError where a cell has no fold values (within one model, or no interval asked).
        """
        a, b = self.cell(*first, measure), self.cell(*second, measure)
        if not a.folds or not b.folds:
            raise InputError("one of the cells has no fold values: only cells between models have")
        value = a.comparison.value - b.comparison.value
        folds = np.asarray(a.folds) - np.asarray(b.folds)
        return value, jackknife(value, folds)

    def level_names(self) -> tuple[str, ...]:
        """Names of the reference levels, in the order in which the cells have them."""
        return tuple(dict.fromkeys(one.name for c in self.cells for one in c.levels))

    def table(self, measure: str | None = None) -> list[dict[str, Any]]:
        """One flat row per cell between different models or references, strongest z first.

        Of every level: its value, the cell's difference to it, the interval of that, and the
        smallest difference that would have been found, as "<level> [i] difference" and so on.
        """
        measure = self._measure(measure)
        sign = -1 if measure in self.distances else 1
        cells = [c for c in self.cells if c.comparison.measure == measure]
        cells = [c for c in cells if self.layers[c.i].model != self.layers[c.j].model]
        cells.sort(key=lambda c: (-(c.comparison.z or 0), -sign * c.comparison.value, c.i, c.j))
        return [self._row(c) for c in cells]

    def _row(self, c: Cell) -> dict[str, Any]:
        left_out = ("comparison", "folds", "levels", "reverse")
        one = {k: v for k, v in dataclasses.asdict(c).items() if k not in left_out}
        a, b = self.layers[c.i], self.layers[c.j]
        names = {"a": a.name, "b": b.name}
        leaks = {"leaks": tuple(leak for leak in a.leaks if leak in b.leaks)}
        levels = {
            f"{name} {what}": value
            for level in c.levels
            for name, what, value in _level_columns(level)
        }
        return names | dataclasses.asdict(c.comparison) | one | leaks | levels

    def _measure(self, measure: str | None) -> str:
        measure = measure or self.measures[0]
        if measure not in self.measures:
            raise InputError(f"no measure {measure!r} here; there are {', '.join(self.measures)}")
        return measure

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON values, floats rounded to 9 digits."""
        return {"format": FORMAT, **plain(dataclasses.asdict(self))}

    def save(self, path: str | os.PathLike) -> Path:
        """Write JSON with a fixed order of keys; equal results give equal bytes."""
        return write_json(path, self.as_dict())

    @classmethod
    def load(cls, path: str | os.PathLike) -> "Alignment":
        """Read what `save` wrote, of this format or an older one.

        Raises InputError for another file and for a newer format.
        """
        values = read_json(path, "Alignment", FORMAT)
        try:
            return cls._build(values)
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise InputError(f"{path} is not a saved Alignment: {error!r}") from error

    @classmethod
    def _build(cls, values: Mapping[str, Any]) -> "Alignment":
        read = {"cells": read_cell, "families": read_family, "layers": read_layer}
        records = {name: tuple(map(build, values[name])) for name, build in read.items()}
        names = ("models", "measures", "distances")
        tuples = {name: tuple(values.get(name, ())) for name in names}
        return cls(**{**values, **tuples, **records})


def _level_columns(level: Level) -> Iterator[tuple[str, str, Any]]:
    name = f"{level.name} [{level.stands_for}]"
    for what in ("value", "spread", "difference", "low", "high", "detectable"):
        yield name, what, getattr(level, what)


def shared_leaks(layers: Sequence[Layer]) -> tuple[tuple[str, tuple[str, ...]], ...]:
    """Each leak that two or more models have, with those models."""
    found: dict[str, dict[str, None]] = {}
    for one in layers:
        for leak in one.leaks:
            found.setdefault(leak, {})[one.model] = None
    return tuple((leak, tuple(models)) for leak, models in found.items() if len(models) > 1)
