"""The records of a comparison: Comparison, Layer, Level, Cell and Family."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Comparison:
    """One measure between two representations of the same images.

    `None` stands where a number does not exist: a p-value within one model, an interval that was
    not asked for. Values, null means and intervals are raw: where `distance` is true, smaller is
    more alike. `z` and `p` are turned so that a positive z always says "more alike than chance".
    """

    measure: str
    value: float
    null_mean: float | None
    """Mean under permuted pairing: exact where known, else of the permutations."""
    null_sd: float | None
    z: float | None
    """(value - null_mean) / null_sd, negated for distances: a scale to compare cells on, never a
    p-value."""
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
    distance: bool = False
    """Whether smaller is more alike."""
    tau: float | None = None
    """What the value must pass to be rejected at 5 %: max-T over its family of cells."""
    corrected: float | None = None
    """(value - null_mean) / (equal - null_mean): 0 at chance, 1 for equal representations."""
    calibrated: float | None = None
    """(value - tau) / (equal - tau): 0 at the critical value. Published scores clip it at 0."""
    se: float | None = None
    """Jackknife standard error of `value`."""
    detectable: float | None = None
    """Smallest distance from `null_mean` that this sample would have found with 80 % power."""
    direction: str = ""
    """"a -> b" where the measure is not symmetric: it is `function(a, b)`."""
    reverse: float | None = None
    """Then the value in the other direction, `function(b, a)`."""


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
    leaks: tuple[str, ...] = ()
    """What the model shares with others by its making, as on its card ("labels: ...")."""

    @property
    def name(self) -> str:
        """`model/point`, with the call where there are several."""
        return f"{self.model}/{self.point}" + ("" if self.call is None else f"@{self.call}")


@dataclass(frozen=True)
class Level:
    """A reference level of one cell: what the measure gives where something simpler stands in.

    The difference is cell minus level, raw: for a distance a negative one is "more alike than the
    level".
    """

    name: str
    """"untrained twins", "spectrum", "shared noise", "pixels/rgb" ..."""
    stands_for: str
    """Which layer it replaces: "i", "j", or "both"."""
    value: float
    """Mean over `values`."""
    values: tuple[float, ...]
    """Each initialization or draw: shown, never resampled."""
    spread: float | None
    """Standard deviation over initializations or draws; None for one."""
    difference: float
    low: float | None
    """95 % jackknife interval of the difference over images, the initializations as they are."""
    high: float | None
    se: float | None
    detectable: float | None
    """Smallest difference that this sample would have found with 80 % power, two-sided 5 %."""

    @property
    def decided(self) -> bool:
        """Whether the interval of the difference leaves out 0."""
        return self.low is not None and self.high is not None and (self.low > 0 or self.high < 0)


@dataclass(frozen=True)
class Cell:
    """Layers i < j of an Alignment under one measure, beside their reference levels."""

    i: int
    j: int
    comparison: Comparison
    """From layer i to layer j, where the measure has a direction."""
    twin_value: float | None = None
    """The same measure between the untrained twins on the same images: the mean over them."""
    difference: float | None = None
    """value - twin_value, with its paired 95 % jackknife interval."""
    difference_low: float | None = None
    difference_high: float | None = None
    folds: tuple[float, ...] = ()
    """Values with one fold left out at a time, from which differences of cells are judged."""
    twin_values: tuple[float, ...] = ()
    """Each initialization of the twins."""
    levels: tuple[Level, ...] = ()
    """Every reference level of the cell, the twins among them."""
    reverse: Comparison | None = None
    """From layer j to layer i, for measures with a direction: tested in the same family."""

    def level(self, name: str, stands_for: str | None = None) -> Level | None:
        """The level of that name (and side), or None."""
        found = [one for one in self.levels if one.name == name]
        return next((one for one in found if stands_for in (None, one.stands_for)), None)


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
    critical_z: float | None = None
    """What a cell's z must pass at 5 %: of the largest z under permuted pairing."""
    p_layers_a: tuple[float, ...] = ()
    """Of each layer of model_a with any layer of model_b: max-T, stepping down over layers."""
    p_layers_b: tuple[float, ...] = ()
    """The same of model_b."""


def read_comparison(values: Mapping[str, Any]) -> Comparison:
    """A Comparison from JSON values."""
    return Comparison(**values)


def read_cell(values: Mapping[str, Any]) -> Cell:
    """A Cell from JSON values, of any format so far."""
    reverse = values.get("reverse")
    levels = tuple(read_level(one) for one in values.get("levels", ()))
    given = {
        "comparison": read_comparison(values["comparison"]),
        "reverse": None if reverse is None else read_comparison(reverse),
        "levels": levels,
        "folds": tuple(values["folds"]),
        "twin_values": tuple(values.get("twin_values", ())),
    }
    return Cell(**{**values, **given})


def read_level(values: Mapping[str, Any]) -> Level:
    """A Level from JSON values."""
    return Level(**{**values, "values": tuple(values["values"])})


def read_layer(values: Mapping[str, Any]) -> Layer:
    """A Layer from JSON values."""
    return Layer(**{**values, "leaks": tuple(values.get("leaks", ()))})


def read_family(values: Mapping[str, Any]) -> Family:
    """A Family from JSON values."""
    names = ("best", "p_layers_a", "p_layers_b")
    return Family(**{**values, **{name: tuple(values.get(name, ())) for name in names}})
