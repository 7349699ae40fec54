"""One cell of the calibration: a measure and a scenario -> counts. Pure functions of the config."""

import functools
import hashlib
import inspect
import json
import sys
import time
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import torch

from analyses.calibration.scenarios import SCENARIOS, WRONG, Pair, generator, layers, planted
from interp.errors import InputError
from interp.geometry import MEASURES, Measure
from interp.stats import (
    estimate_coverage,
    jackknife,
    make_folds,
    max_t,
    permutation_p,
    permutations,
    relative,
)


@dataclass(frozen=True)
class Config:
    seed: int
    alpha: float
    level: float  # simultaneous, of the band over all cells
    n_neighbors: float
    n_permutations: int
    repeats: int
    power_permutations: int
    power_repeats: int
    strengths: tuple[float, ...]
    coverage_repeats: int
    coverage_n: int
    population_n: int
    wrong_repeats: int
    costly: dict[str, float]  # measure -> share of all repeats
    no_coverage: tuple[str, ...]  # too costly for folds and a population


@dataclass(frozen=True)
class Task:
    kind: str  # null, layers, wrong, power, coverage
    measure: str
    scenario: str
    batch: int = 0


def tasks(names: list[str], config: Config, batches: int = 1) -> list[Task]:
    """Everything to run: all of the first batch of every measure before the second of any."""
    out = [task for name in names for task in _first(name, config)]
    for batch in range(1, batches):
        more = [task for task in out if task.batch == 0 and task.kind in ("null", "layers")]
        out += [replace(task, batch=batch) for task in more]
    return out


def _first(name: str, config: Config) -> list[Task]:
    out = [Task("null", name, scenario) for scenario in SCENARIOS]
    out += [Task("layers", name, "max-T, 2 x 3 layers")]
    out += [Task("wrong", name, scenario) for scenario in WRONG]
    out += [Task("power", name, f"{strength:g}") for strength in config.strengths]
    if name not in config.no_coverage:
        out += [Task("coverage", name, f"{strength:g}") for strength in config.strengths[1:]]
    return out


def key(task: Task, config: Config) -> str:
    """The cell's name: changes with the settings."""
    return _digest(json.dumps([asdict(task), asdict(config)], sort_keys=True))


def code(measure: str) -> str:
    """Changes with what is simulated and with the file of the measure."""
    functions = (planted, tasks, MEASURES[measure].function)
    return _digest(*(inspect.getsource(sys.modules[f.__module__]) for f in functions))


def _digest(*parts: str) -> str:
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


def run(task: Task, config: Config) -> dict[str, Any]:
    """The counts of one cell, or the reason why the measure is not defined there."""
    start = time.process_time()
    work = {"null": null, "layers": family, "wrong": null, "power": power, "coverage": coverage}
    try:
        found = work[task.kind](task, config)
    except InputError as error:
        found = {"refused": str(error)}
    seconds = round(time.process_time() - start, 2)
    return {**asdict(task), **found, "seconds": seconds}


def repeats(task: Task, config: Config, count: int) -> int:
    return max(10, round(count * config.costly.get(task.measure, 1.0)))


def prepare(measure: Measure, x: np.ndarray, name: str, config: Config, seed: int) -> Any:
    options = {"n_neighbors": config.n_neighbors, "seed": seed} if measure.uses_neighbors else {}
    return measure.prepare(torch.from_numpy(np.ascontiguousarray(x)), name, **options)


def both(measure: Measure, pair: Pair, config: Config, seed: int) -> list[list[Any]]:
    sides = ((pair.x, "x"), (pair.y, "y"))
    return [[prepare(measure, z, name, config, seed)] for z, name in sides]


def orders(pair: Pair, count: int, seed: int, free: bool = False) -> np.ndarray:
    """One independent permutation per model, as the one of y beside a fixed x."""
    labels = {} if free else {"strata": pair.strata, "clusters": pair.clusters}
    first, second = (
        permutations(len(pair.x), count, seed=seed, model=model, **labels) for model in "xy"
    )
    return relative(first, second)


@functools.cache
def free_orders(n: int, count: int, seed: int) -> np.ndarray:
    """Those of an unrestricted pair, the same for every measure and strength."""
    return orders(Pair(np.empty((n, 1)), np.empty((n, 1))), count, seed)


@functools.cache
def unrelated(scenario: str, repeat: int, seed: int, count: int) -> tuple[Pair, np.ndarray]:
    """The pair and the permutations of one repeat: the same for every measure."""
    pair = SCENARIOS[scenario].draw(generator(seed, scenario, repeat))
    return pair, orders(pair, count, repeat)


def p_values(
    measure: Measure, pair: Pair, moved: np.ndarray, config: Config, seed: int
) -> tuple[float, float]:
    """p as the library gives it, ties against us; and with ties broken by a coin, exactly uniform.

    Source of the second: Dwass 1957.
    """
    sides = both(measure, pair, config, seed)
    sign = -1.0 if measure.distance else 1.0
    value = sign * measure.values(*sides).numpy()[0, 0]
    permuted = sign * measure.permuted(*sides, moved).numpy()[:, 0, 0]
    k = len(permuted)
    p = float(permutation_p(value, permuted))
    reached = round(p * (k + 1)) - 1
    above = k - (round(float(permutation_p(-value, -permuted)) * (k + 1)) - 1)
    coin = np.random.default_rng([seed, 1]).random()
    return p, (above + coin * (reached - above + 1)) / (k + 1)


def null(task: Task, config: Config) -> dict[str, Any]:
    """Rejections where nothing is shared beyond what the scheme holds fixed."""
    wrong = task.kind == "wrong"
    count = repeats(task, config, config.wrong_repeats if wrong else config.repeats)
    found = []
    for r in range(task.batch * count, (task.batch + 1) * count):
        pair, moved = unrelated(task.scenario, r, config.seed, config.n_permutations)
        if wrong:
            moved = orders(pair, config.n_permutations, r, free=True)
        found.append(p_values(MEASURES[task.measure], pair, moved, config, r))
    rejected = (np.array(found) <= config.alpha * (1 + 1e-9)).sum(0).tolist()
    return {"repeats": count, "count": rejected[0], "randomized": rejected[1]}


def family(task: Task, config: Config) -> dict[str, Any]:
    """Families of six cells in which any cell is rejected after max-T."""
    measure = MEASURES[task.measure]
    count, rejected = repeats(task, config, config.repeats), 0
    sign = -1.0 if measure.distance else 1.0
    for r in range(task.batch * count, (task.batch + 1) * count):
        models = layers(generator(config.seed, task.scenario, r))
        sides = [
            [prepare(measure, x, name, config, r) for x in some]
            for some, name in zip(models, "xy", strict=True)
        ]
        moved = free_orders(len(models[0][0]), config.n_permutations, r)
        value = sign * measure.values(*sides).numpy().ravel()
        permuted = sign * measure.permuted(*sides, moved).numpy().reshape(len(moved), -1)
        mean = sd = None
        if measure.moments is not None:
            mean, sd = (m.numpy().ravel() for m in measure.moments(*sides))
            mean = sign * mean
        rejected += bool(max_t(value, permuted, mean, sd).min() <= config.alpha * (1 + 1e-9))
    return {"repeats": count, "count": rejected}


def power(task: Task, config: Config) -> dict[str, Any]:
    count, rejected = repeats(task, config, config.power_repeats), 0
    for r in range(count):
        pair = planted(generator(config.seed, "power", r), 32, float(task.scenario))
        moved = free_orders(len(pair.x), config.power_permutations, r)
        p, _ = p_values(MEASURES[task.measure], pair, moved, config, r)
        rejected += p <= config.alpha * (1 + 1e-9)
    return {"repeats": count, "count": int(rejected)}


def coverage(task: Task, config: Config) -> dict[str, Any]:
    """How often the jackknife interval holds the mean over samples, and the population's value."""
    measure = MEASURES[task.measure]
    count = repeats(task, config, config.coverage_repeats)
    values, low, high = [], [], []
    for r in range(count):
        rng = generator(config.seed, "coverage", r)
        pair = planted(rng, config.coverage_n, float(task.scenario))
        sides = both(measure, pair, config, r)
        folds = make_folds(range(config.coverage_n), seed=r)
        values.append(float(measure.values(*sides)[0, 0]))
        interval = jackknife(values[-1], measure.deleted(*sides, folds).numpy()[:, 0, 0])
        low.append(float(interval.low))
        high.append(float(interval.high))
    ends = np.array(low), np.array(high)
    return {
        "repeats": count,
        "mean": float(np.mean(values)),
        "sd": float(np.std(values, ddof=1)),
        "half_width": float(np.mean(ends[1] - ends[0]) / 2),
        "covers_mean": estimate_coverage(*ends, float(np.mean(values))).count,
        "population": (truth := population(task, config)),
        "covers_population": estimate_coverage(*ends, truth).count,
    }


def population(task: Task, config: Config) -> float:
    """The value in one large sample.

    Its own error, sqrt(80 / 600) of that of a sample, lowers a coverage of 95 % to 93 %.
    """
    rng = generator(config.seed, "population", 0)
    big = planted(rng, config.population_n, float(task.scenario))
    measure = MEASURES[task.measure]
    sides = both(measure, big, config, 0)
    return float(measure.values(*sides)[0, 0])
