"""One measure over all layers: blocks, the levels beside them, cells and families."""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from interp.alignment.beside import Beside
from interp.alignment.cells import (
    Block,
    Measured,
    Setting,
    block_family,
    comparison_at,
    compute_block,
    measured,
    scaling,
)
from interp.alignment.records import Cell, Comparison, Family, Level
from interp.stats import detectable_difference, jackknife, relative

if TYPE_CHECKING:
    from interp.alignment.layers import Job

Places = tuple[Sequence[int], Sequence[int]]
# Which initialization's level stands in `Cell.twin_value`.
TWINS = "untrained twins"


class Found(NamedTuple):
    """The blocks of one model pair."""

    pair: tuple[str, str]
    places: Places
    block: Block
    judged: bool
    levels: dict[str, "Draws"]


class Draws(NamedTuple):
    """A level of all cells of a block: every draw, and their mean without each fold."""

    values: np.ndarray  # [t, a, b]
    folds: np.ndarray | None  # [f, a, b]


def measure_cells(
    job: "Job",
    name: str,
    tested: set[frozenset[str]],
    progress: Callable[[str], None] | None,
) -> tuple[list[Cell], list[Family]]:
    """All cells and families of one measure."""
    used, setting = measured(name, job.setting), job.setting
    own = [setting.prepare(used.spec, one) for one in job.layers]
    orders = job.orders
    found: list[Found] = []
    for pair, places in job.blocks():
        if progress:
            progress(f"{name}: {pair[0]} x {pair[1]}, {len(places[0])} x {len(places[1])} layers")
        test = frozenset(pair) in tested
        # Within a model there is nothing to permute; an interval there has no use and a cost.
        judged = test or any(job.layers[part[0]].reference for part in places)
        moved = relative(orders[pair[0]], orders[pair[1]]) if test and orders else None
        folds = setting.folds if judged else None
        block = compute_block(used, _pick(own, places), setting, moved, folds)
        # Only p, z and tau are read again.
        found.append(Found(pair, places, _without_permuted(block), judged, {}))
    for level in job.beside:
        _add_level(job, used, own, found, level)
    references = _references(job, found, used)
    cells = [c for one in found for c in _cells(job, used, one, references)]
    families = [
        block_family(one.block, one.pair, one.places, used)
        for one in found
        if one.block.p is not None
    ]
    return cells, families


def _without_permuted(block: Block) -> Block:
    back = block.reverse
    back = None if back is None else back._replace(permuted=None)
    return block._replace(permuted=None, reverse=back)


def _pick(prepared: Sequence[Any], places: Places) -> tuple[list, list]:
    return [prepared[i] for i in places[0]], [prepared[j] for j in places[1]]


def _add_level(
    job: "Job", used: Measured, own: list[Any], found: list[Found], level: Beside
) -> None:
    """Measure a level, one draw at a time: no more than one draw of all layers is held."""
    wanted = [one for one in found if one.judged and level.n_draws(one.pair)]
    values: dict[int, list[np.ndarray]] = {id(one): [] for one in wanted}
    folds: dict[int, np.ndarray] = {}
    for t in range(max((level.n_draws(one.pair) for one in wanted), default=0)):
        now = [one for one in wanted if t < level.n_draws(one.pair)]
        needed = {i for one in now for part in one.places for i in part}
        drawn = {i: _draw(job, used, own, level, (i, t)) for i in sorted(needed)}
        for one in now:
            pair = tuple([drawn[i] for i in part] for part in one.places)
            values[id(one)].append(used.spec.values(*pair).numpy())
            if job.setting.folds is not None:
                deleted = used.spec.deleted(*pair, job.setting.folds).numpy()
                folds[id(one)] = folds.get(id(one), 0) + deleted / level.n_draws(one.pair)
    for one in wanted:
        one.levels[level.name] = Draws(np.stack(values[id(one)]), folds.get(id(one)))


def _draw(job: "Job", used: Measured, own: list[Any], level: Beside, at: tuple[int, int]) -> Any:
    i, t = at
    count = level.counts.get(job.layers[i].model, 0)
    if count == 0:
        return own[i]
    return job.setting.prepare(used.spec, level.draw(i, t % count))


class References(NamedTuple):
    """Values between layers and references: [L, L] and [f, L, L], entry [i, j] is i to j."""

    groups: dict[str, list[int]]
    value: np.ndarray
    folds: np.ndarray | None


def _references(job: "Job", found: list[Found], used: Measured) -> References:
    groups: dict[str, list[int]] = {}
    for i, one in enumerate(job.layers):
        if one.reference:
            # Calls of a reference are its draws.
            groups.setdefault(f"{one.model}/{one.point}", []).append(i)
    size = len(job.layers)
    value = np.full((size, size), np.nan)
    setting = job.setting
    folds = None if setting.folds is None else np.full((setting.n_folds, size, size), np.nan)
    for one in found:
        if not one.judged:
            continue
        back = one.block.reverse or one.block
        rows, columns = np.ix_(*one.places)
        value[rows, columns] = one.block.value
        value[columns, rows] = back.value
        if folds is not None:
            folds[:, rows, columns] = one.block.folds
            folds[:, columns, rows] = back.folds
    return References(groups, value, folds)


def _cells(job: "Job", used: Measured, one: Found, references: References) -> Iterator[Cell]:
    """Cells of a block, i < j only, each with its levels."""
    layers = job.layers
    for a, i in enumerate(one.places[0]):
        for b, j in enumerate(one.places[1]):
            if i >= j:
                continue
            levels = [
                _level(
                    job, (name, "both"), one.block, (a, b), draws.values[:, a, b], _at(draws, a, b)
                )
                for name, draws in one.levels.items()
            ]
            if one.judged and not layers[i].reference and not layers[j].reference:
                levels += _reference_levels(job, one.block, (a, b), (i, j), references)
            cell = Cell(i, j, _comparison(job, used, one.block, (a, b), (i, j)))
            yield _with_levels(job, used, cell, one.block, (a, b), levels)


def _at(draws: Draws, a: int, b: int) -> np.ndarray | None:
    return None if draws.folds is None else draws.folds[:, a, b]


def _comparison(
    job: "Job", used: Measured, block: Block, at: tuple[int, int], ends: tuple[int, int]
) -> Comparison:
    one, other = (job.layers[i] for i in ends)
    how = f"{one.preprocessing} | {other.preprocessing}; {scaling(used.spec)}"
    return comparison_at(block, at, used, job.setting, how, names=(one.name, other.name))


def _with_levels(
    job: "Job",
    used: Measured,
    cell: Cell,
    block: Block,
    at: tuple[int, int],
    levels: list[Level],
) -> Cell:
    more: dict[str, Any] = {"levels": tuple(levels)}
    if block.folds is not None:
        more["folds"] = tuple(block.folds[:, at[0], at[1]].tolist())
    twin = next((one for one in levels if one.name == TWINS), None)
    if twin is not None:
        more |= {"twin_value": twin.value, "twin_values": twin.values}
        more |= {"difference": twin.difference}
        more |= {"difference_low": twin.low, "difference_high": twin.high}
    if block.reverse is not None:
        back = block.reverse._replace(reverse=block)
        more["reverse"] = _comparison(job, used, back, at, (cell.j, cell.i))
    return dataclasses.replace(cell, **more)


def _reference_levels(
    job: "Job",
    block: Block,
    at: tuple[int, int],
    ends: tuple[int, int],
    references: References,
) -> Iterator[Level]:
    i, j = ends
    for name, draws in references.groups.items():
        for side, places in (("i", (draws, j)), ("j", (i, draws))):
            values = references.value[places]
            folds = None
            if references.folds is not None:
                folds = references.folds[:, places[0], places[1]].mean(1)
            yield _level(job, (name, side), block, at, values, folds)


def _level(
    job: "Job",
    name: tuple[str, str],
    block: Block,
    at: tuple[int, int],
    values: np.ndarray,
    folds: np.ndarray | None,
) -> Level:
    """One level of one cell; folds: [f] of the mean over its draws."""
    value = float(values.mean())
    difference = float(block.value[at]) - value
    low = high = se = None
    if folds is not None and block.folds is not None:
        own = block.folds[:, at[0], at[1]]
        low, high, se = (float(part) for part in jackknife(difference, own - folds))
    return Level(
        name=name[0],
        stands_for=name[1],
        value=value,
        values=tuple(values.tolist()),
        spread=float(values.std(ddof=1)) if len(values) > 1 else None,
        difference=difference,
        low=low,
        high=high,
        se=se,
        detectable=_detectable(se, job.setting),
    )


def _detectable(se: float | None, setting: Setting) -> float | None:
    return None if se is None else float(detectable_difference(se, setting.n_folds - 1))
