"""Kernels: every op, dense against eager, over m / k; where they cross is what "auto" goes by.

The gate compares every op and its gradients with its twin in float64, on even latents, on skewed
ones and on those of real codes. The table `CROSSOVER` of interp_kernels has the crossover of the
whole step (all ops together, as a training step takes them): a sparse backend from there on.
"""

import math
import statistics
from collections.abc import Callable
from typing import Any

import torch
from interp_kernels import resolve

from benchmarks import ops
from benchmarks.clock import interleaved, summary
from benchmarks.dense import Shape

# Two sizes of dictionary; m / k from dense (4) to sparse (512).
SHAPES = tuple(
    Shape(512, m, m // ratio, 1024)
    for m, ratios in {2048: (4, 8, 16, 32, 64, 128, 256), 8192: (16, 64, 256, 512)}.items()
    for ratio in ratios
)
# Smaller and larger batches, in single precision.
BATCHES = tuple(Shape(512, 2048, 2048 // ratio, n) for n in (256, 4096) for ratio in (8, 32, 128))
QUICK = (Shape(24, 64, 8, 32), Shape(24, 64, 1, 32))
# Small and odd.
GATE = Shape(37, 211, 5, 65)
BACKENDS = ("dense", "eager")


def gate(device: str = "cpu") -> None:
    """Outputs and gradients of every op equal those in float64 up to rounding."""
    for dtype in (torch.float32, torch.bfloat16):
        for latents in ops.LATENTS:
            drawn = ops.draw(GATE, dtype=dtype, device=device, latents=latents)
            for backend in BACKENDS:
                ops.gate(drawn, backend)


def run(quick: bool = False, device: str = "cpu") -> dict[str, Any]:
    """Time every op and the step at each shape, in single precision and, at one m, in bf16."""
    rounds = 2 if quick else 5
    shapes = QUICK if quick else SHAPES
    more = () if quick else BATCHES
    measured = [measure(shape, torch.float32, rounds, device) for shape in (*shapes, *more)]
    # Few: where a CPU has no bf16 product, a dense step takes six times as long as in fp32.
    few = [shape for shape in shapes if shape.m // shape.k in (4, 16, 128)][:3]
    measured += [measure(shape, torch.bfloat16, 2, device) for shape in few]
    return {
        "threads": torch.get_num_threads(),
        "rounds": rounds,
        "measured": measured,
        "figures": figures(measured, device),
    }


def measure(shape: Shape, dtype: torch.dtype, rounds: int, device: str) -> dict[str, Any]:
    """Milliseconds of every op with its gradients, and of a step, on each backend, in turn."""
    drawn = ops.draw(shape, dtype=dtype, device=device)
    works = {f"{name}, {backend}": _work(name, drawn, backend) for name in ops.STEP
             for backend in BACKENDS}  # fmt: skip
    works |= {f"step, {backend}": _step(drawn, backend) for backend in BACKENDS}
    times = interleaved(works, rounds, warm=1, device=device)
    name = resolve(None, device=torch.device(device), n_latents=shape.m, k=shape.k, dtype=dtype)
    return {
        "shape": shape._asdict(),
        "dtype": str(dtype).removeprefix("torch."),
        "auto": name,
        "times": {label: summary(values) for label, values in times.items()},
    }


def _work(name: str, drawn: ops.Data, backend: str) -> Callable[[], Any]:
    return lambda: ops.OPS[name][0](drawn, backend)


def _step(drawn: ops.Data, backend: str) -> Callable[[], Any]:
    return lambda: ops.step(drawn, backend)


def figures(measured: list[dict[str, Any]], device: str) -> list[dict[str, Any]]:
    """Crossovers of the step, and how far "auto" is from the best fixed choice."""
    clock = "cpu" if device == "cpu" else "wall"
    shown, worst = [], 0.0
    for dtype in sorted({one["dtype"] for one in measured}, reverse=True):
        rows = [one for one in measured if one["dtype"] == dtype]
        points = []
        for one in rows:
            times = {b: one["times"][f"step, {b}"][clock]["median"] for b in BACKENDS}
            points.append((one["shape"]["m"] / one["shape"]["k"], times["dense"] / times["eager"]))
            chosen = times.get(one["auto"], min(times.values()))
            worst = max(worst, chosen / min(times.values()) - 1)
        value = crossover(points)
        shown.append(
            {"name": f"m / k from which the sparse step is faster, {dtype}", "value": value}
        )
    name = '"auto" slower than the best fixed backend, at most'
    shown.append({"name": name, "value": round(100 * worst, 1), "unit": "%", "limit": "<= 5"})
    return shown


def crossover(points: list[tuple[float, float]]) -> float:
    """The m / k at which the speed-up (dense over sparse) passes 1, between measured points.

    Interpolated in logarithms; the median over sizes where several share an m / k.
    """
    speed = {
        at: statistics.median(s for a, s in points if a == at)
        for at in sorted({a for a, _ in points})
    }
    below = [at for at, s in speed.items() if s < 1]
    above = [at for at, s in speed.items() if s >= 1 and at > max(below, default=0)]
    if not below or not above:
        return float(min(speed) if not below else max(speed))
    low, high = max(below), min(above)
    share = -math.log(speed[low]) / (math.log(speed[high]) - math.log(speed[low]))
    return round(math.exp(math.log(low) + share * (math.log(high) - math.log(low))), 1)
