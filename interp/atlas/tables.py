"""Results of the engine as rows of the record."""

from collections.abc import Mapping, Sequence

import numpy as np

from interp.atlas.record import Cell, Interval, ShareTable, StepMap
from interp.interventions import (
    AttributeEffect,
    Bound,
    Carrier,
    Effect,
    Excess,
    LayerShares,
    Specialization,
)


def number(value: float | np.floating | None) -> float | None:
    """A finite number, else None."""
    return None if value is None or not np.isfinite(value) else float(value)


def cell(effect: AttributeEffect) -> Cell:
    """One attribute of an effect."""
    values = [number(value) for value in effect]
    return Cell(Interval(*values[:3]), Interval(*values[3:6]), Interval(*values[6:]))


def cells(effect: Effect) -> dict[str, Cell]:
    """All attributes of an effect."""
    return {name: cell(one) for name, one in effect.attributes.items()}


def bound(value: Bound) -> Interval:
    """A value between one-sided bounds."""
    return Interval(*(number(x) for x in value))


def matrix(values: np.ndarray) -> tuple[tuple[float | None, ...], ...]:
    """A matrix as rows."""
    return tuple(tuple(number(x) for x in row) for row in values.tolist())


def share_table(shares: LayerShares) -> ShareTable:
    """Shares of layers as plain data."""
    names = ("first_in", "last_in", "shapley", "shapley_low", "shapley_high", "shapley_se")
    matrices = {name: matrix(getattr(shares, name)) for name in (*names, "gap_low", "gap_high")}
    redundancy = (shares.redundancy, shares.redundancy_low, shares.redundancy_high)
    together = shares.interactions
    return ShareTable(
        layers=shares.layers,
        attributes=shares.attributes,
        role=shares.role,
        total=tuple(number(x) for x in shares.total.tolist()),
        redundancy=tuple(
            Interval(*map(number, triple)) for triple in zip(*redundancy, strict=True)
        ),
        interactions=None if together is None else tuple(matrix(one) for one in together),
        kinds=shares.kinds,
        n_pairs=shares.n_pairs,
        **matrices,
    )


def specialization_interval(found: Specialization) -> Interval:
    """Specialization with its bootstrap interval."""
    return Interval(found.value, found.low, found.high)


def excess_interval(found: Excess) -> Interval:
    """Excess over twins with its 99 % interval."""
    return Interval(found.value, found.low, found.high)


def step_map(
    name: str,
    effects: Mapping[str, Effect],
    windows: Sequence[tuple[str, range, Sequence[Carrier]]],
    layers: Sequence[Carrier],
    noise: Mapping[int, float | None],
) -> StepMap:
    """Donor share and damage of each layer in each window, each swapped alone.

    effects: by label of the carriers of the windows. noise: call -> log-SNR.
    """
    found = [[effects[one.label] for one in players] for _, _, players in windows]
    first = found[0][0]
    values = [
        {
            attribute: tuple(
                tuple(getattr(cell(one.attributes[attribute]), part) for one in row)
                for row in found
            )
            for attribute in first.attributes
        }
        for part in ("alpha", "damage")
    ]
    return StepMap(
        name=name,
        role=first.role,
        windows=tuple(window for window, _, _ in windows),
        calls=tuple((calls[0], calls[-1]) for _, calls, _ in windows),
        noise=tuple(
            (number(noise.get(calls[0])), number(noise.get(calls[-1]))) for _, calls, _ in windows
        ),
        layers=tuple(layer.label for layer in layers),
        alpha=values[0],
        damage=values[1],
    )
