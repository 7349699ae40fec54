"""The records of a comparison: Comparison, Layer, Cell, Family, Alignment; JSON in and out."""

import dataclasses
import json
import math
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from interp.errors import InputError
from interp.stats import Interval, jackknife

FORMAT = 1
# Digits kept in JSON: beyond float32 and the resolution of any interval, and stable to read.
DIGITS = 9


@dataclass(frozen=True)
class Comparison:
    """One measure between two representations of the same images.

    `None` stands where a number does not exist: a p-value within one model, an interval that was
    not asked for.
    """

    measure: str
    value: float
    null_mean: float | None
    """Mean under permuted pairing: exact where known, else of the permutations."""
    null_sd: float | None
    z: float | None
    """(value - null_mean) / null_sd: a scale to compare cells on, never a p-value."""
    p: float | None
    """(1 + b) / (1 + K); within an Alignment, max-T adjusted over its family of cells."""
    low: float | None
    """95 % jackknife interval of `value` over folds of whole clusters."""
    high: float | None
    n: int
    """Images."""
    k: int | None
    """Neighbors, for measures that count them."""
    n_permutations: int
    seed: int
    preprocessing: str


@dataclass(frozen=True)
class Layer:
    """One row of an Alignment: a point of a model at one call."""

    model: str
    point: str
    call: int | None
    t: float | None
    log_snr: float | None
    depth: float | None
    """Place in the order of execution, 0..1."""
    width: int
    twin: bool
    """Whether an untrained twin stands beside it."""
    reference: bool
    """Not a model (pixels): a reference level, in no family of tests."""

    @property
    def name(self) -> str:
        """`model/point`, with the call where there are several."""
        return f"{self.model}/{self.point}" + ("" if self.call is None else f"@{self.call}")


@dataclass(frozen=True)
class Cell:
    """Layers i < j of an Alignment under one measure, beside their untrained twins."""

    i: int
    j: int
    comparison: Comparison
    twin_value: float | None = None
    """The same measure between the untrained twins on the same images."""
    difference: float | None = None
    """value - twin_value, with its paired 95 % jackknife interval."""
    difference_low: float | None = None
    difference_high: float | None = None
    folds: tuple[float, ...] = ()
    """Values with one fold left out at a time, from which differences of cells are judged."""


@dataclass(frozen=True)
class Family:
    """All cells of one model pair and measure: one hypothesis for Holm."""

    model_a: str
    model_b: str
    measure: str
    n_cells: int
    best: tuple[int, int]
    """Layers of the cell with the smallest p, the largest z among equals."""
    p: float
    """Smallest max-T p of the family: is any pairing of its layers aligned?"""
    p_holm: float
    """The same after Holm over all families of the Alignment."""


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

    @cached_property
    def _places(self) -> dict[tuple[int, int, str], Cell]:
        return {(c.i, c.j, c.comparison.measure): c for c in self.cells}

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
        """[layers, layers] of `Comparison` or `Cell` field, symmetric, NaN where there is none."""
        measure = self._measure(measure)
        out = np.full((len(self.layers), len(self.layers)), np.nan)
        for c in self.cells:
            if c.comparison.measure == measure:
                owner = c.comparison if hasattr(c.comparison, field) else c
                value = getattr(owner, field)
                out[c.i, c.j] = out[c.j, c.i] = np.nan if value is None else value
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

    def table(self, measure: str | None = None) -> list[dict[str, Any]]:
        """One flat row per cell between different models or references, strongest z first."""
        measure = self._measure(measure)
        cells = [c for c in self.cells if c.comparison.measure == measure]
        cells = [c for c in cells if self.layers[c.i].model != self.layers[c.j].model]
        cells.sort(key=lambda c: (-(c.comparison.z or 0), -c.comparison.value, c.i, c.j))
        return [self._row(c) for c in cells]

    def _row(self, c: Cell) -> dict[str, Any]:
        one = {k: v for k, v in dataclasses.asdict(c).items() if k not in ("comparison", "folds")}
        names = {"a": self.layers[c.i].name, "b": self.layers[c.j].name}
        return names | dataclasses.asdict(c.comparison) | one

    def _measure(self, measure: str | None) -> str:
        measure = measure or self.measures[0]
        if measure not in self.measures:
            raise InputError(f"no measure {measure!r} here; there are {', '.join(self.measures)}")
        return measure

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON values, floats rounded to 9 digits."""
        return {"format": FORMAT, **_plain(dataclasses.asdict(self))}

    def save(self, path: str | os.PathLike) -> Path:
        """Write JSON with a fixed order of keys; equal results give equal bytes."""
        path = Path(path)
        text = json.dumps(self.as_dict(), indent=None, separators=(",", ":"), allow_nan=False)
        partial = path.with_name(path.name + ".partial")
        partial.write_text(text + "\n")
        partial.replace(path)
        return path

    @classmethod
    def load(cls, path: str | os.PathLike) -> "Alignment":
        """Read what `save` wrote. Raises InputError for another file or format."""
        path = Path(path)
        try:
            values = json.loads(path.read_text())
            if values.pop("format") != FORMAT:
                raise InputError(f"{path} has another format than {FORMAT}")
            return cls._build(values)
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise InputError(f"{path} is not a saved Alignment: {error!r}") from error

    @classmethod
    def _build(cls, values: Mapping[str, Any]) -> "Alignment":
        cells = tuple(
            Cell(**{**c, "comparison": Comparison(**c["comparison"]), "folds": tuple(c["folds"])})
            for c in values["cells"]
        )
        families = tuple(Family(**{**f, "best": tuple(f["best"])}) for f in values["families"])
        layers = tuple(Layer(**one) for one in values["layers"])
        tuples = {name: tuple(values[name]) for name in ("models", "measures")}
        return cls(**{**values, **tuples, "cells": cells, "families": families, "layers": layers})


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {k: _plain(v) for k, v in value.items()}
    if isinstance(value, float):
        return round(value, DIGITS) if math.isfinite(value) else None
    if isinstance(value, str | int) or value is None:
        return value
    if isinstance(value, Iterable):
        return [_plain(v) for v in value]
    raise TypeError(f"{type(value)} has no JSON form")
