"""Clocks, medians, and intervals of paired ratios."""

import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch

# Resamples of the rounds behind an interval.
RESAMPLES = 2000


class Time(NamedTuple):
    """Milliseconds."""

    cpu: float
    """Of all threads of this process."""
    wall: float


def now(device: str = "cpu") -> tuple[float, float]:
    """CPU and wall seconds; a GPU finishes its queue first."""
    if device != "cpu":
        torch.cuda.synchronize()
    return time.process_time(), time.perf_counter()


def since(start: tuple[float, float], device: str = "cpu") -> Time:
    """Time since `now`."""
    end = now(device)
    return Time(1e3 * (end[0] - start[0]), 1e3 * (end[1] - start[1]))


def timed(work: Callable[[], Any], device: str = "cpu") -> Time:
    """How long a call takes."""
    start = now(device)
    work()
    return since(start, device)


def interleaved(
    works: dict[str, Callable[[], Any]], rounds: int, *, warm: int = 2, device: str = "cpu"
) -> dict[str, list[Time]]:
    """Time each call once per round, in an order that turns from round to round."""
    names, found = list(works), {name: [] for name in works}
    for number in range(warm + rounds):
        turn = number % len(names)
        for name in names[turn:] + names[:turn]:
            spent = timed(works[name], device)
            if number >= warm:
                found[name].append(spent)
    return found


def summary(times: Sequence[Time]) -> dict[str, dict[str, float]]:
    """Median, least and most of both clocks, in ms."""
    return {
        clock: {
            "median": round(statistics.median(values), 3),
            "min": round(min(values), 3),
            "max": round(max(values), 3),
        }
        for clock, values in (("cpu", [t.cpu for t in times]), ("wall", [t.wall for t in times]))
    }


def ratio(above: Sequence[float], below: Sequence[float]) -> dict[str, float]:
    """Median over rounds of the ratio of two times of one round, with a bootstrap 95 % interval."""
    pairs = np.asarray(above) / np.asarray(below)
    draws = np.random.default_rng(0).integers(len(pairs), size=(RESAMPLES, len(pairs)))
    low, high = np.quantile(np.median(pairs[draws], axis=1), [0.025, 0.975])
    return {
        "median": round(float(np.median(pairs)), 3),
        "low": round(float(low), 3),
        "high": round(float(high), 3),
    }
