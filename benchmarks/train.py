"""Train: a full step of `interp.train` against the dense step and against the floor.

Both train on the same batches from the same weights. A step of ours is the gap between two requests
of `interp.train` for a batch, so its checks, counters and log count; while it waits for a batch,
the dense step and the parts are run and timed. One thread is judged by CPU time, which a busy
machine disturbs least, two threads by wall time. No latent counts as dead: AuxK is never run.

The floor is what no step can leave out: the product of rows and encoder, and the selection of k of
m, each as fast as this machine does it in the same run.
"""

import statistics
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from interp_kernels import (
    Weights,
    csc_from_indices,
    decode_loss,
    encode_topk,
    fused_bwd_adam,
    resolve,
    select_topk,
)
from torch import Tensor

from benchmarks.clock import Time, now, ratio, since, summary, timed
from benchmarks.dense import Dense, Shape
from interp import TrainConfig, train
from interp.sae.synthetic import PlantedDictionary

SHAPES = (Shape(512, 4096, 32, 2048), Shape(512, 8192, 32, 2048))
QUICK = (Shape(32, 256, 4, 128),)
# `train` fits its centering on this many batches before the first step.
FIT = 16
# Steps of the compared loss curves: FIT that nothing is timed in, WARM, the rounds, and the last
# step, after which nothing asks for a batch.
STEPS = 50
WARM = 3
# Rounds on two threads.
FEWER = 15
# Where products are rounded differently, a near tie is decided differently, and the curves part.
TOLERANCE = 0.01


class Alternating:
    """Batches for `train`; between two of them, everything else has its turn.

    Args:
        batches: handed out in order.
        others: name -> work on the next batch, timed.
        untimed: work on the batches that are handed out before the first round, in order.
    """

    def __init__(
        self,
        batches: Sequence[Tensor],
        others: dict[str, Callable[[Tensor], Any]],
        untimed: Callable[[Tensor], Any],
        device: str,
    ) -> None:
        self.batches, self.others, self.untimed = batches, others, untimed
        self.device = device
        self.times: dict[str, list[Time]] = {name: [] for name in (*others, "ours")}

    def __iter__(self) -> Iterator[Tensor]:
        yield from self.batches[:FIT]
        for x in self.batches[:FIT]:
            self.untimed(x)
        for number, x in enumerate(self.batches[FIT:]):
            for name in self._order(number):
                spent = timed(lambda name=name, x=x: self.others[name](x), self.device)
                self.times[name].append(spent)
            start = now(self.device)
            yield x
            # Back here: `train` has taken its step and asks for the next batch.
            self.times["ours"].append(since(start, self.device))

    def _order(self, number: int) -> list[str]:
        names, turn = list(self.others), number % len(self.others)
        return names[turn:] + names[:turn]


class Parts:
    """The pieces of a step, each by itself on one batch, through the public kernels."""

    def __init__(self, dense: Dense, shape: Shape, x: Tensor) -> None:
        self.z = (x - dense.mean) / dense.scale
        self.k = shape.k
        with torch.no_grad():
            self.weights = Weights(*(t.clone() for t in (dense.decoder, dense.encoder, dense.bias)))
            self.offset = dense.offset.clone()
        first, second = (Weights(*(torch.zeros_like(w) for w in self.weights)) for _ in range(2))
        self.moments = (first, second)
        self.pre = self.z @ self.weights.encoder.T
        self.code = encode_topk(self.z, self.weights.encoder, self.weights.bias, self.k)
        self.grad = decode_loss(*self.code, self.weights.decoder, self.offset, self.z)[1] * -2
        self.rate, self.count = self.z.new_zeros(()), self.z.new_ones(())
        self.block = torch.ones(1 << 26, device=self.z.device)

    def works(self) -> dict[str, Callable[[Tensor], Any]]:
        """Name -> work; the batch that comes along is not used."""
        bias, encoder = self.weights.bias, self.weights.encoder
        return {
            "product": lambda _: torch.addmm(bias, self.z, encoder.T, out=self.pre),
            "torch.topk": lambda _: self.pre.topk(self.k, dim=1),
            "select_topk": lambda _: select_topk(self.pre, self.k),
            "encode": lambda _: encode_topk(self.z, encoder, bias, self.k),
            "decode": lambda _: decode_loss(*self.code, self.weights.decoder, self.offset, self.z),
            "backward and Adam": lambda _: self._backward(),
            "copy": lambda _: self.block[: 1 << 25].copy_(self.block[1 << 25 :]),
        }

    def _backward(self) -> None:
        values, indices = self.code
        fused_bwd_adam(
            self.grad, values, indices, self.z, self.weights, self.moments, self.offset,
            self.rate, self.count, order=csc_from_indices(indices, len(self.weights.bias)),
        )  # fmt: skip


def gate() -> None:
    """Ours and the dense step have the same loss at every step, and so the same rates and start."""
    shape = Shape(24, 96, 5, 64)
    with TemporaryDirectory() as folder:
        _, ours, dense = _run(shape, Path(folder), STEPS, "cpu", parts=False)
    assert len(ours) == len(dense) == STEPS, f"{len(ours)} and {len(dense)} of {STEPS} steps"
    apart = disagreement(ours, dense)
    assert apart < TOLERANCE, f"losses of ours and the dense step differ by {apart:.2%}"
    assert ours[-1] < 0.9 * ours[0], f"the loss went from {ours[0]} to {ours[-1]}"


def disagreement(ours: Sequence[float], dense: Sequence[float]) -> float:
    """Largest relative difference of two loss curves."""
    return max(abs(a - b) / b for a, b in zip(ours, dense, strict=True))


def run(quick: bool = False, device: str = "cpu") -> dict[str, Any]:
    """Measure every shape on one and on two threads, steps in turn."""
    measured = []
    for shape in QUICK if quick else SHAPES:
        for threads, clock in {1: "cpu", 2: "wall"}.items():
            rounds = 3 if quick else (STEPS - FIT - WARM - 1 if threads == 1 else FEWER)
            with TemporaryDirectory() as folder, _threads(threads):
                measured.append(measure(shape, Path(folder), rounds, clock, device))
    return {"measured": measured, "figures": [f for one in measured for f in figures(one)]}


def measure(
    shape: Shape, folder: Path, rounds: int, clock: str, device: str = "cpu"
) -> dict[str, Any]:
    """Times of ours, of the dense step and of the parts at one shape, in ms.

    Args:
        shape: sizes.
        folder: for the run directory.
        rounds: that count.
        clock: "cpu" or "wall".
        device: of the arithmetic.

    Returns:
        shape, threads, clock, rounds, times of each, ratios with intervals, rates of the machine,
        both loss curves.

    Raises:
        AssertionError: the losses of ours and of the dense step differ.
    """
    times, ours, dense = _run(shape, folder, FIT + WARM + rounds + 1, device)
    apart = disagreement(ours, dense)
    assert apart < TOLERANCE, f"{shape}: the loss curves differ by {apart:.2%}"
    kept = {name: [getattr(t, clock) for t in times[name][WARM:]] for name in times}
    middle = {name: statistics.median(values) for name, values in kept.items()}
    chosen = min(("torch.topk", "select_topk"), key=lambda name: middle[name])
    floor = [a + b for a, b in zip(kept["product"], kept[chosen], strict=True)]
    operations = 2 * shape.n * shape.m * shape.d
    place = torch.device(device)
    return {
        "shape": shape._asdict(),
        "threads": torch.get_num_threads(),
        "device": device,
        "clock": clock,
        "rounds": rounds,
        "backend": resolve(None, device=place, n_latents=shape.m, k=shape.k, dtype=torch.float32),
        "times": {name: summary(values[WARM:]) for name, values in times.items()},
        "selection": chosen,
        "floor": round(statistics.median(floor), 3),
        "dense_over_ours": ratio(kept["dense"], kept["ours"]),
        "floor_over_ours": ratio(floor, kept["ours"]),
        "gflops": round(operations / middle["product"] / 1e6, 1),
        "copy_gbs": round(2 * 4 * (1 << 25) / middle["copy"] / 1e6, 2),
        "losses": {"ours": ours, "dense": [round(loss, 6) for loss in dense], "apart": apart},
    }


def _run(
    shape: Shape, folder: Path, steps: int, device: str, *, parts: bool = True
) -> tuple[dict[str, list[Time]], list[float], list[float]]:
    """Train ours and the dense twin on the same batches; times, both loss curves."""
    planted = PlantedDictionary(shape.m, shape.d, shape.k, batch_size=shape.n, steps=steps)
    batches = list(planted)
    config = TrainConfig(
        n_latents=shape.m, k=shape.k, batch_size=shape.n, steps=steps, checkpoint_every=0,
        log_every=1, dead_window=steps + 1,
    )  # fmt: skip
    first = torch.cat(batches[:FIT]).double()
    scale = float(first.var(dim=0, unbiased=False).sum().sqrt())
    dense = Dense(shape, config.lr_at, mean=first.mean(dim=0).float(), scale=scale, device=device)
    losses: list[float] = []
    works = Parts(dense, shape, batches[0].to(device)).works() if parts else {}

    def step(x: Tensor) -> None:
        losses.append(float(dense(x.to(device))))

    source = Alternating(batches, {"dense": step, **works}, step, device)
    done = train(source, config, out=folder / "run", progress=False, device=device)
    # The last batch is asked for, and nothing after it: its step ends with the run.
    rounds = len(source.times["ours"])
    times = {name: values[:rounds] for name, values in source.times.items()}
    return times, [line["fvu"] for line in done.log], losses


def figures(one: dict[str, Any]) -> list[dict[str, Any]]:
    """The figures of one shape and number of threads."""
    shape = Shape(**one["shape"])
    where = f"{'CPU' if one['clock'] == 'cpu' else 'wall'} time, {one['threads']} thread(s)"
    ours = one["times"]["ours"][one["clock"]]["median"]

    def shown(key: str, name: str, limit: str) -> dict[str, Any]:
        found = one[key]
        between = f"[{found['low']}, {found['high']}]"
        text = f"{name} {shape}, {where}, 95 % {between}"
        return {"name": text, "value": found["median"], "unit": "x", "limit": limit}

    return [
        {"name": f"full step {shape}, {where}", "value": ours, "unit": "ms"},
        shown("dense_over_ours", "dense autograd step / ours", ">= 3.8"),
        shown("floor_over_ours", "floor (encoder product + selection) / ours", ">= 0.75"),
        {"name": f"encoder product {shape}, {where}", "value": one["gflops"], "unit": "GFLOP/s"},
        {"name": f"copy, {where}", "value": one["copy_gbs"], "unit": "GB/s"},
    ]


@contextmanager
def _threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(count)
        yield
    finally:
        torch.set_num_threads(before)
