"""One call on a machine with a GPU: gates, what the machine can do, ops, steps.

    bash benchmarks/gpu.sh                                    # see there for what it needs
    python -m benchmarks.gpu --device cpu --quick --out out   # the same program without a GPU

Correctness comes first: an op that fails its gate is not timed, and a step is timed only where all
of its ops pass. Results are written after every section, so that a run cut short leaves what it
has. The floor of a step is the product of rows and encoder, three gathers of the n k active rows,
and one pass over weights and moments (26 bytes per parameter), each at the rate measured here.
"""

import argparse
import importlib.util
import statistics
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from interp_kernels import resolve
from torch import Tensor

from benchmarks import ops, run
from benchmarks.clock import ratio
from benchmarks.dense import Dense, Shape
from benchmarks.gpu_machine import Machine, floor_ms, graph_of, machine, milliseconds
from interp.sae.synthetic import PlantedDictionary

# The first is the one with a target; then by how much they tell.
SHAPES = (
    Shape(1280, 65536, 32, 8192),
    Shape(1280, 16384, 32, 8192),
    Shape(640, 16384, 32, 8192),
    Shape(512, 8192, 32, 4096),
    Shape(1280, 5120, 20, 8192),
    Shape(1280, 8192, 160, 8192),
    Shape(3072, 65536, 64, 4096),
)
GATES = (Shape(37, 211, 5, 65), Shape(512, 4096, 32, 512), Shape(1280, 5120, 20, 256))
QUICK = (Shape(24, 96, 4, 64),)
DTYPES = (torch.bfloat16, torch.float32)
CURVE = Shape(256, 2048, 16, 2048)
# torch.compile takes half a minute a shape.
COMPILED = 2
PEERS = ("sae_lens", "dictionary_learning", "sparsify", "overcomplete")


class Session:
    """What is measured, where, until when; `result` is what gets written."""

    def __init__(self, device: str, quick: bool, seconds: float, out: Path) -> None:
        self.device, self.quick, self.out = device, quick, out
        self.ends = time.monotonic() + seconds
        place = torch.device(device)
        auto = resolve(None, device=place, n_latents=1 << 20, k=1, dtype=torch.float32)
        self.ours = auto
        self.rounds = 3 if quick else 20
        self.where = run.environment()
        self.result: dict[str, Any] = {"device": device, "backend": self.ours, "errors": {}}
        self.passed: dict[str, set[str]] = {}

    @property
    def shapes(self) -> Sequence[Shape]:
        return QUICK if self.quick else SHAPES

    def late(self) -> bool:
        """Whether the time is up; what is left is then left out."""
        return time.monotonic() > self.ends

    def section(self, name: str, work: Callable[[], Any]) -> None:
        """Do one section, keep its result or its error, write all there is."""
        start = time.monotonic()
        if self.late():
            self.result["errors"][name] = "left out: no time left"
        else:
            try:
                self.result[name] = work()
            except Exception as error:
                # A machine that is lent once: the other sections still count.
                traceback.print_exc()
                self.result["errors"][name] = f"{type(error).__name__}: {error}"[:2000]
        self.result.setdefault("seconds", {})[name] = round(time.monotonic() - start, 1)
        self.result["figures"] = figures(self.result)
        path = run.write("gpu", self.result, self.where, self.out)
        print(f"{name}: {self.result['seconds'][name]} s -> {path}", flush=True)


def gates(session: Session) -> list[dict[str, Any]]:
    """Errors of every op against float64, and whether two runs give the same bits."""
    shown = []
    for shape in QUICK if session.quick else GATES:
        for dtype in DTYPES:
            for latents in ops.LATENTS:
                drawn = ops.draw(shape, dtype=dtype, device=session.device, latents=latents)
                shown += [_gate(session, name, drawn, latents) for name in ops.OPS]
    for dtype in DTYPES:
        rows = [one for one in shown if one["dtype"] == str(dtype)]
        failed = {one["op"] for one in rows if one["failed"]}
        session.passed[str(dtype)] = set(ops.OPS) - failed
    return shown


def _gate(session: Session, name: str, drawn: ops.Data, latents: str) -> dict[str, Any]:
    about = {"op": name, "shape": drawn.shape._asdict(), "dtype": str(drawn.x.dtype)}
    about |= {"latents": latents, "failed": ""}
    try:
        about["errors"] = ops.gate(drawn, session.ours, (name,))[name]
        work = ops.OPS[name][0]
        first, second = (work(drawn.converted(torch.clone), session.ours) for _ in range(2))
        assert all(map(torch.equal, first, second)), "two runs differ"
    except Exception as error:
        # Also a kernel that does not compile here: the op is out, the others go on.
        about["failed"] = f"{type(error).__name__}: {error}"[:500]
    return about


def curves(session: Session) -> dict[str, Any]:
    """Losses of 200 steps: ours in both dtypes and `interp.train`, against the dense step."""
    shape = QUICK[0] if session.quick else CURVE
    steps = 40 if session.quick else 200
    batches = list(PlantedDictionary(shape.m, shape.d, shape.k, batch_size=shape.n, steps=steps))
    shown: dict[str, Any] = {"shape": shape._asdict(), "steps": steps}
    for dtype in DTYPES:
        dense, ours = losses(session, shape, dtype, batches)
        shown[str(dtype)] = apart = tail(ours) / tail(dense) - 1
        assert abs(apart) < 0.02, f"{dtype}: the loss after {steps} steps is {apart:+.2%} of dense"
    trained = in_training(session, shape, batches)["losses"]
    shown["interp.train"] = apart = tail(trained) / tail(dense) - 1
    assert abs(apart) < 0.02, f"interp.train: the loss after {steps} steps is {apart:+.2%} of dense"
    return shown


def tail(losses: Sequence[float]) -> float:
    """Mean of the last tenth: one batch alone is noise."""
    return statistics.fmean(losses[-max(1, len(losses) // 10) :])


def losses(
    session: Session, shape: Shape, dtype: torch.dtype, batches: Sequence[Tensor]
) -> tuple[list[float], list[float]]:
    """Loss curves of the dense step and of ours from the same weights, at a constant rate."""
    first = torch.cat([x.double() for x in batches[:16]])
    mean, scale = first.mean(dim=0).float(), float(first.var(dim=0, unbiased=False).sum().sqrt())
    autocast = None if dtype == torch.float32 else dtype
    dense = Dense(
        shape, lambda _: 1e-3, mean=mean, scale=scale, device=session.device, autocast=autocast
    )
    c = like(dense, shape, dtype)
    found: tuple[list[Tensor], list[Tensor]] = ([], [])
    for x in batches:
        x = x.to(session.device)
        found[0].append(dense(x))
        c.x.copy_((x - dense.mean) / scale)
        found[1].append(ops.step(c, session.ours))
    return [float(x) for x in found[0]], [float(x) for x in found[1]]


def like(dense: Dense, shape: Shape, dtype: torch.dtype) -> ops.Data:
    """Inputs of `ops.step` with the weights of a fresh dense step and empty moments."""
    c = ops.draw(shape, dtype=dtype, device=str(dense.bias.device))
    with torch.no_grad():
        for name in ("decoder", "encoder", "bias"):
            getattr(c, name).copy_(getattr(dense, name))
            getattr(c.weights, name).copy_(getattr(dense, name))
        c.offset.copy_(dense.offset)
    for state in (*c.moments[0], *c.moments[1], *c.offset_state):
        state.zero_()
    c.step.zero_()
    return c


class Paced:
    """Batches for `interp.train` that note when each is asked for."""

    def __init__(self, batches: Sequence[Tensor], steps: int, device: str) -> None:
        self.batches, self.steps, self.device = batches, steps, device
        self.asked: list[float] = []

    def __iter__(self) -> Iterator[Tensor]:
        for i in range(self.steps):
            if i in (self.steps // 2, self.steps - 1) and self.device != "cpu":
                torch.cuda.synchronize()
            self.asked.append(time.perf_counter())
            yield self.batches[i % len(self.batches)]

    def pace(self) -> float:
        """Milliseconds per step over the second half, the queue empty at both ends."""
        half = self.steps // 2
        return 1e3 * (self.asked[-1] - self.asked[half]) / (self.steps - 1 - half)


def in_training(session: Session, shape: Shape, batches: Sequence[Tensor]) -> dict[str, Any]:
    """`interp.train` on batches of the host or of the device: losses, and its pace."""
    from interp import TrainConfig, train

    steps = len(batches)
    config = TrainConfig(
        n_latents=shape.m, k=shape.k, batch_size=shape.n, steps=steps, checkpoint_every=0, lr=1e-3,
        warmup=0.0, decay=0.0, log_every=max(1, steps // 20), dead_window=steps + 1,
    )  # fmt: skip
    source = Paced(batches, steps, session.device)
    with tempfile.TemporaryDirectory() as folder:
        done = train(
            source, config, out=Path(folder) / "run", progress=False, device=session.device,
            backend=session.ours,
        )  # fmt: skip
    return {"losses": [line["fvu"] for line in done.log], "ms": source.pace()}


def steps_at(session: Session, shape: Shape, dtype: torch.dtype, rates: Machine) -> dict[str, Any]:
    """Milliseconds of a full step of every kind at one shape, interleaved, and shares of floors."""
    device, wide = session.device, dtype == torch.float32
    works: dict[str, Callable[[], Any]] = {}
    if device != "cpu":
        torch.cuda.reset_peak_memory_stats()
    failed = set(ops.STEP) - session.passed.get(str(dtype), set())
    rows = [torch.randn(shape.n, shape.d, device=device) * shape.d**-0.5 for _ in range(4)]
    turn = iter(range(1 << 30))
    if not failed:
        works |= ours_works(session, shape, dtype, rows, turn)
    autocast = None if wide else dtype
    zero = {"mean": torch.zeros(shape.d), "scale": 1.0, "device": device, "autocast": autocast}
    dense = Dense(shape, lambda _: 1e-4, **zero)
    works["dense"] = lambda: dense(rows[next(turn) % 4])
    if wide and device != "cpu":
        works["dense, TF32"] = lambda: tf32(lambda: dense(rows[next(turn) % 4]))
    if device != "cpu" and shape in session.shapes[:COMPILED]:
        compiled = Dense(shape, lambda _: 1e-4, **zero, compiled=True)
        works["dense, torch.compile"] = lambda: compiled(rows[next(turn) % 4])
    times = milliseconds(works, session.rounds, device)
    ours = next((name for name in ("ours, graph", "ours") if name in times), None)
    floor = floor_ms(shape, dtype, rates)
    shown = {
        "shape": shape._asdict(),
        "dtype": str(dtype).removeprefix("torch."),
        "not timed": f"gates of {', '.join(sorted(failed))} failed" if failed else "",
        "times": {name: summary(found) for name, found in times.items()},
        "floor": floor,
        "peak_gb": round(torch.cuda.max_memory_allocated() / 1e9, 2) if device != "cpu" else None,
    }
    if ours is not None:
        shown["floor_over_ours"] = round(floor["total"] / statistics.median(times[ours]), 3)
        shown["over_ours"] = {
            name: ratio(found, times[ours]) for name, found in times.items() if name != ours
        }
    return shown


def ours_works(
    session: Session, shape: Shape, dtype: torch.dtype, rows: Sequence[Tensor], turn: Iterator[int]
) -> dict[str, Callable[[], Any]]:
    """Our step, fused and not, issued op by op and (on a GPU) replayed as a graph."""
    works: dict[str, Callable[[], Any]] = {}
    for label, fused in (("ours", True), ("ours, unfused", False)):
        c = ops.draw(shape, dtype=dtype, device=session.device)

        def work(c: ops.Data = c, fused: bool = fused) -> Any:
            return ops.step(c, session.ours, fused=fused)

        def plain(c: ops.Data = c, work: Callable[[], Any] = work) -> Any:
            c.x.copy_(rows[next(turn) % 4])
            return work()

        works[label] = plain
        replay = recorded(session, f"graph of {label} {shape} {dtype}", work)
        if replay is not None:

            def replayed(c: ops.Data = c, replay: Callable[[], Any] = replay) -> Any:
                c.x.copy_(rows[next(turn) % 4])
                return replay()

            works[f"{label}, graph"] = replayed
    return works


def recorded(session: Session, name: str, work: Callable[[], Any]) -> Callable[[], Any] | None:
    """The call as a CUDA graph; None without a GPU, or where it cannot be recorded."""
    if session.device == "cpu":
        return None
    try:
        return graph_of(work)
    except Exception as error:
        # The step itself is still timed.
        session.result["errors"][name] = f"{type(error).__name__}: {error}"[:2000]
        return None


def tf32(work: Callable[[], Any]) -> Any:
    """Call with products of single precision rounded to TF32."""
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = True
    try:
        return work()
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before


def ops_at(session: Session, shape: Shape, dtype: torch.dtype) -> dict[str, Any]:
    """Milliseconds of every op that passed, with its gradients, ours and dense."""
    c = ops.draw(shape, dtype=dtype, device=session.device)
    real = ops.draw(shape, dtype=dtype, device=session.device, latents="real")
    works: dict[str, Callable[[], Any]] = {}
    for name in sorted(session.passed.get(str(dtype), set())):
        work = ops.OPS[name][0]
        works[f"{name}, ours"] = lambda work=work: work(c, session.ours)
        works[f"{name}, dense"] = lambda work=work: work(c, "dense")
        works[f"{name}, ours, real latents"] = lambda work=work: work(real, session.ours)
        if name in ops.FORWARD:
            forward = ops.FORWARD[name]
            works[f"{name}, forward, ours"] = lambda f=forward: f(c, session.ours)
            works[f"{name}, forward, dense"] = lambda f=forward: f(c, "dense")
    times = milliseconds(works, max(3, session.rounds // 2), session.device)
    return {
        "shape": shape._asdict(),
        "dtype": str(dtype).removeprefix("torch."),
        "times": {name: summary(found) for name, found in times.items()},
    }


def summary(found: Sequence[float]) -> dict[str, float]:
    """Median, least and most."""
    three = {"median": statistics.median(found), "min": min(found), "max": max(found)}
    return {name: round(value, 4) for name, value in three.items()}


def training(session: Session) -> list[dict[str, Any]]:
    """The pace of `interp.train` itself, its checks, counters and log included."""
    shown = []
    for shape in session.shapes[:COMPILED]:
        rows = [torch.randn(shape.n, shape.d, device=session.device) for _ in range(4)]
        steps = 24 if session.quick else 60
        found = in_training(session, shape, [rows[i % 4] for i in range(steps)])
        shown.append({"shape": shape._asdict(), "ms": round(found["ms"], 4)})
    return shown


def figures(result: dict[str, Any]) -> list[dict[str, Any]]:
    """The figures with targets, and what they stand on."""
    shown = []
    for one in result.get("steps", []):
        about = f"{Shape(**one['shape'])}, {one['dtype']}"
        label = "ours, graph" if "ours, graph" in one["times"] else "ours"
        if label not in one["times"]:
            continue
        value = one["times"][label]["median"]
        shown.append({"name": f"full step {about}, {label}", "value": value, "unit": "ms"})
        target = ">= 0.6" if one["dtype"] == "bfloat16" and one["shape"]["m"] >= 16384 else ""
        name = f"floor / ours {about}"
        shown.append({"name": name, "value": one["floor_over_ours"], "unit": "x", "limit": target})
        for other, found in one["over_ours"].items():
            limit = ">= 1.3" if other.startswith("ours, unfused") and label in other else ""
            name = f"{other} / {label} {about}, 95 % [{found['low']}, {found['high']}]"
            shown.append({"name": name, "value": found["median"], "unit": "x", "limit": limit})
    failed = [f"{one['op']} {one['dtype']}" for one in result.get("gates", []) if one["failed"]]
    if "gates" in result:
        shown.insert(0, {"name": "gates that failed", "value": len(failed), "limit": "<= 0"})
    return shown


def main(arguments: list[str] | None = None) -> int:
    """Everything in turn, until the time is up; 1 where a gate failed or a section broke."""
    parser = argparse.ArgumentParser(
        "python -m benchmarks.gpu", description="See benchmarks/gpu.sh."
    )
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--quick", action="store_true", help="tiny: does it work, not how fast")
    parser.add_argument("--seconds", type=float, default=480, help="start no section after this")
    parser.add_argument("--out", type=Path, default=run.RESULTS, help="folder of the result file")
    options = parser.parse_args(arguments)
    if options.device != "cpu" and not torch.cuda.is_available():
        parser.error("no GPU is visible to torch; --device cpu --quick tries the program without")
    session = Session(options.device, options.quick, options.seconds, options.out)
    result = session.result
    result["peers"] = {name: importlib.util.find_spec(name) is not None for name in PEERS}
    session.section("gates", lambda: gates(session))
    session.section("curves", lambda: curves(session))
    rates: list[Machine] = []
    session.section("machine", lambda: machine(session.device, session.quick, rates))
    pairs = [(shape, dtype) for shape in session.shapes for dtype in DTYPES]
    for key, measure in (
        ("steps", lambda shape, dtype: steps_at(session, shape, dtype, rates[0])),
        ("ops", lambda shape, dtype: ops_at(session, shape, dtype)),
    ):
        for shape, dtype in pairs:
            found = f"{key} {shape} {dtype}"
            session.section(found, lambda s=shape, t=dtype, m=measure: m(s, t))
            if found in result:
                result.setdefault(key, []).append(result.pop(found))
    session.section("training", lambda: training(session))
    print(*(f"{name}: {error}" for name, error in result["errors"].items()), sep="\n")
    wrong = any(one["failed"] for one in result.get("gates", [])) or bool(result["errors"])
    return int(wrong)


if __name__ == "__main__":
    sys.exit(main())
