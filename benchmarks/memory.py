"""Memory: peak of a training step over the number of latents, ours beside the dense step.

Each visit is a process of its own: it takes tiny steps, which import what steps import, notes its
size, takes a few steps, and reports by how much its largest size exceeded that (Linux only). What
no step can do without is shown beside it: encoder and decoder with both moments of Adam, 24 m d
bytes in single precision.
"""

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from benchmarks.dense import Dense, Shape
from benchmarks.train import FIT
from interp import TrainConfig, train

MEGABYTE = 1e6
KINDS = ("ours", "dense")


@dataclass(frozen=True)
class Sizes:
    """What is measured; the defaults are those of the published figure."""

    d: int = 512
    k: int = 32
    n: int = 2048
    latents: tuple[int, ...] = (4096, 16384, 65536)
    steps: int = 3


QUICK = Sizes(32, 4, 64, (256, 1024), 2)


def run(quick: bool = False) -> dict[str, Any]:
    """Measure both kinds of step at each number of latents, in megabytes."""
    sizes = QUICK if quick else Sizes()
    measured = [
        {"m": m, "weights_and_moments": 24 * m * sizes.d / MEGABYTE}
        | {kind: _visit(kind, Shape(sizes.d, m, sizes.k, sizes.n), sizes.steps) for kind in KINDS}
        for m in sizes.latents
    ]
    return {"sizes": asdict(sizes), "measured": measured, "figures": figures(measured, sizes)}


def figures(measured: list[dict[str, Any]], sizes: Sizes) -> list[dict[str, Any]]:
    """Peaks of ours and how many times as much the dense step takes."""
    shown = []
    for one in measured:
        shape = Shape(sizes.d, one["m"], sizes.k, sizes.n)
        share = round(one["dense"] / one["ours"], 2)
        shown += [
            {"name": f"peak of a step {shape}", "value": round(one["ours"]), "unit": "MB"},
            {
                "name": f"dense step / ours {shape}, peak memory",
                "value": share,
                "unit": "x",
            },
        ]
    return shown


def _visit(kind: str, shape: Shape, steps: int) -> float:
    command = [sys.executable, "-m", "benchmarks.memory", kind, *map(str, shape), str(steps)]
    root = Path(__file__).resolve().parents[1]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True)
    assert done.returncode == 0, f"{kind} {shape}: {done.stderr[-2000:]}"
    return json.loads(done.stdout)["megabytes"]


def peak(kind: str, shape: Shape, steps: int) -> float:
    """Megabytes by which this process grew in `steps` steps of a kind, "ours" or "dense"."""
    draws = torch.Generator().manual_seed(0)
    x = torch.randn(shape.n, shape.d, generator=draws)
    before = _restart()
    if kind == "dense":
        mean, scale = torch.zeros(shape.d), shape.d**0.5
        step = Dense(shape, lambda _: 1e-3, mean=mean, scale=scale)
        for _ in range(steps):
            step(x)
        return _status("VmHWM") - before
    source = _Noting(x, steps)
    config = TrainConfig(
        n_latents=shape.m, k=shape.k, batch_size=shape.n, steps=FIT + steps + 1, checkpoint_every=0
    )
    with TemporaryDirectory() as folder:
        train(source, config, out=Path(folder) / "run", progress=False)
    return source.largest - before


class _Noting:
    """Batches of which the last, a small one, is asked for when all large ones are done.

    So are the first, from which `train` fits centering and scale: what a user's store has without
    them, and the finished file, are no part of a step.
    """

    def __init__(self, x: torch.Tensor, steps: int) -> None:
        self.x, self.steps, self.largest = x, steps, 0.0

    def __iter__(self) -> Iterator[torch.Tensor]:
        few = self.x[: max(2, len(self.x) // 64)]
        for _ in range(FIT):
            yield few
        for _ in range(self.steps):
            yield self.x
        self.largest = _status("VmHWM")
        yield few


def _restart() -> float:
    """Forget the largest size so far, that of the imports; the size now, in megabytes."""
    Path("/proc/self/clear_refs").write_text("5")
    return _status("VmRSS")


def _status(key: str) -> float:
    """VmRSS, the size now, or VmHWM, the largest, of this process, in megabytes (Linux)."""
    found = re.search(rf"^{key}:\s+(\d+) kB", Path("/proc/self/status").read_text(), re.MULTILINE)
    assert found is not None, f"/proc/self/status has no {key}"
    return int(found[1]) * 1024 / MEGABYTE


if __name__ == "__main__":
    arguments = [int(text) for text in sys.argv[2:]]
    peak(sys.argv[1], Shape(8, 64, 2, 128), 1)
    found = peak(sys.argv[1], Shape(*arguments[:4]), arguments[4])
    sys.stdout.write(json.dumps({"megabytes": found}))
