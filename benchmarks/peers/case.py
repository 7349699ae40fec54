"""Peers: milliseconds per training step, and quality at equal steps and at equal time.

Every library gets the same batches, k, number of latents and steps, and (but for the notes of
table.py) the same constant learning rate; everything else is its own default. Speed is measured in
rounds that visit the libraries in turn, each visit a fresh process. Time stands still while a
batch is made; see worker.py.
"""

import shutil
import statistics
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from benchmarks import quality
from benchmarks.peers.launch import Job, Workers, ahead_of
from benchmarks.peers.setup import default_folder, state
from benchmarks.peers.table import OURS, PEERS, REFERENCE, ROWS, Row
from interp.sae.synthetic import PlantedDictionary

# Clock that counts for a number of threads: CPU time suffers least where a machine is shared.
CLOCKS = {1: "ms_cpu", 2: "ms_wall"}
# A library that is faster than ours sees at most this many times the steps at equal time.
MOST_STEPS = 5
RATE = 1e-3


@dataclass(frozen=True)
class Sizes:
    """What is measured; the defaults are those of the published table."""

    d: int = 512
    m: int = 4096
    k: int = 32
    n: int = 2048
    rounds: int = 3
    warm: int = 3
    timed: int = 6
    quality_steps: int = 1500
    quality_rows: int = 16384
    quality_batch: int = 1024


QUICK = Sizes(32, 64, 4, 64, 1, 1, 3, quality_steps=60, quality_rows=512, quality_batch=64)


def gate() -> None:
    """The judged weights are the trained ones, and ours and the reference find planted atoms."""
    planted = PlantedDictionary(32, 16, 3, batch_size=256, steps=400)
    with _folder() as scratch, Workers(default_folder(), scratch) as workers:
        batches, held_out = quality.save_batches(planted, scratch / "data", 1024)
        job = Job(batches, 48, 3, len(planted), 1, lr=5e-3, held_out=held_out)
        for row in ROWS:
            if row.label not in (OURS, REFERENCE):
                continue
            result = workers.run(row, job)
            assert "error" not in result, f"{row.label}: {result['error']}"
            found = judge(workers.weights(row), planted, 1024, job.k)
            difference = abs(found.fvu - result["own_fvu"])
            assert difference < 1e-4, f"{row.label}: FVU {found.fvu} and {result['own_fvu']}"
            assert found.recovered > 0.8, f"{row.label}: {found.recovered} of the atoms"


def run(quick: bool = False, folder: Path | None = None) -> dict[str, Any]:
    """Measure speed and quality of every library that is set up.

    Args:
        quick: tiny sizes: does it work, not how fast.
        folder: of the environments; see benchmarks.peers.setup.

    Returns:
        sizes, speed, quality, libraries (what the setup recorded), figures.
    """
    sizes = QUICK if quick else Sizes()
    folder = folder or default_folder()
    with _folder() as scratch, Workers(folder, scratch) as workers:
        speed = measure_speed(workers, ROWS, sizes, scratch)
        quality_rows = measure_quality(workers, ROWS, sizes, scratch)
    return {
        "sizes": asdict(sizes),
        "learning_rate": RATE,
        "speed": speed,
        "quality": quality_rows,
        "libraries": [{**state(name, folder)} for name in PEERS],
        "figures": figures(speed, quality_rows, sizes),
    }


def measure_speed(
    workers: Workers, rows: Sequence[Row], sizes: Sizes, scratch: Path
) -> list[dict[str, Any]]:
    """Milliseconds per step of every row, in interleaved rounds, on one and on two threads.

    Returns:
        One dict per row: label, note, and error or else `threads`: number of threads -> median and
        all rounds' medians of wall and CPU milliseconds; peak_megabytes, versions, notes.
    """
    planted = PlantedDictionary(sizes.m, sizes.d, sizes.k, batch_size=sizes.n, steps=8)
    batches, _ = quality.save_batches(planted, scratch / "speed", 1)
    job = Job(batches, sizes.m, sizes.k, 0, 0, lr=RATE, timed=sizes.timed)
    visits: dict[str, list[dict[str, Any]]] = {row.label: [] for row in rows if row.timed}
    for _ in range(sizes.rounds):
        for threads in CLOCKS:
            for row in rows:
                if row.timed and not _failed(visits[row.label]):
                    steps = ahead_of(row) + sizes.warm + sizes.timed
                    result = workers.run(row, replace(job, steps=steps, threads=threads))
                    visits[row.label].append({"threads": threads, **result})
    return [_speed_row(row, visits[row.label]) for row in rows if row.timed]


def _failed(visits: Sequence[dict[str, Any]]) -> bool:
    return any("error" in visit for visit in visits)


def _speed_row(row: Row, visits: Sequence[dict[str, Any]]) -> dict[str, Any]:
    shown: dict[str, Any] = {"label": row.label, "note": row.note}
    if _failed(visits):
        return shown | {"error": next(v["error"] for v in visits if "error" in v)}
    shown["threads"] = {}
    for threads in CLOCKS:
        here = [visit for visit in visits if visit["threads"] == threads]
        shown["threads"][str(threads)] = {
            clock: {
                "median": round(statistics.median(visit[clock] for visit in here), 2),
                "rounds": [visit[clock] for visit in here],
            }
            for clock in ("ms_cpu", "ms_wall")
        }
    last = visits[-1]
    peak = max(visit["peak_megabytes"] for visit in visits)
    return shown | {
        "peak_megabytes": peak,
        "versions": last["versions"],
        "notes": last["notes"],
    }


def measure_quality(
    workers: Workers, rows: Sequence[Row], sizes: Sizes, scratch: Path
) -> list[dict[str, Any]]:
    """Quality of every row at equal steps, and at the CPU seconds that ours needed for them.

    A library that needs s times our CPU time per step gets 1/s of the steps at equal time, as a
    run of its own, so that a schedule that knows its length ends where the run ends.

    Returns:
        One dict per row: label, note, and error or else `steps` and `time`, each with the Score,
        steps, seconds_cpu, own_fvu.
    """
    planted = PlantedDictionary(batch_size=sizes.quality_batch, steps=sizes.quality_steps)
    batches, held_out = quality.save_batches(planted, scratch / "quality", sizes.quality_rows)
    job = Job(batches, 512, 8, sizes.quality_steps, 1, lr=RATE, held_out=held_out)
    measured, budget = [], 0.0
    for row in rows:
        shown: dict[str, Any] = {"label": row.label, "note": row.note}
        first = _judged(workers, row, job, planted, sizes)
        if row.label == OURS:
            budget = first.get("seconds_cpu", 0.0)
        if "error" in first:
            measured.append(shown | first)
            continue
        steps = equal_time_steps(first["seconds_cpu"], job.steps, budget)
        same = row.label == OURS
        second = first if same else _judged(workers, row, replace(job, steps=steps), planted, sizes)
        measured.append(shown | {"steps": first, "time": second})
    return measured


def equal_time_steps(seconds: float, steps: int, budget: float) -> int:
    """Steps that fit into `budget` seconds where `steps` took `seconds`; at least 1."""
    if seconds <= 0 or budget <= 0:
        return steps
    return max(1, min(MOST_STEPS * steps, int(steps * budget / seconds)))


def _judged(
    workers: Workers, row: Row, job: Job, planted: PlantedDictionary, sizes: Sizes
) -> dict[str, Any]:
    result = workers.run(row, job)
    if "error" in result:
        return {"error": result["error"]}
    found = judge(workers.weights(row), planted, sizes.quality_rows, job.k)
    if not abs(found.fvu - result["own_fvu"]) < 1e-3:
        pair = f"{found.fvu:.5f} and {result['own_fvu']:.5f}"
        return {"error": f"FVU of the saved weights and of its own forward pass differ: {pair}"}
    rounded = {name: round(value, 5) for name, value in found._asdict().items()}
    kept = {key: result[key] for key in ("steps", "seconds_cpu", "ms_cpu", "own_fvu")}
    return rounded | kept


def judge(weights: Path, planted: PlantedDictionary, rows: int, k: int) -> quality.Score:
    """Score of saved weights on rows that no batch holds."""
    x = planted.held_out(rows)
    return quality.score(quality.load_weights(weights), x, planted.atoms, k)


def figures(
    speed: Sequence[dict[str, Any]], judged: Sequence[dict[str, Any]], sizes: Sizes
) -> list[dict[str, Any]]:
    """The few numbers that carry the comparison: our step, the fastest peer, our recovery."""
    shape = f"(d {sizes.d}, m {sizes.m}, k {sizes.k}, n {sizes.n})"
    shown = []
    working = {row["label"]: row["threads"] for row in speed if "threads" in row}
    for threads, clock in CLOCKS.items() if OURS in working else ():
        what = f"{'CPU' if clock == 'ms_cpu' else 'wall'} time, {threads} thread(s)"
        times = {name: found[str(threads)][clock]["median"] for name, found in working.items()}
        ours = times.pop(OURS)
        shown.append({"name": f"training step {shape}, {what}", "value": ours, "unit": "ms"})
        times.pop(REFERENCE, None)
        if times:
            fastest = min(times, key=lambda name: times[name])
            ratio = round(times[fastest] / ours, 3)
            name = f"fastest peer ({fastest}) / interp, {what}"
            shown.append({"name": name, "value": ratio, "unit": "x", "limit": ">= 1.5"})
    for row in judged:
        if row["label"] == OURS and "steps" in row:
            names = {"recovered": "planted atoms found", "fvu": "FVU"}
            steps = f"{row['steps']['steps']} steps"
            shown += [
                {"name": f"{name} after {steps}", "value": row["steps"][key]}
                for key, name in names.items()
            ]
    return shown


@contextmanager
def _folder() -> Iterator[Path]:
    # The working folder is on a disk; the system's temporary folder may be in memory.
    folder = Path(tempfile.mkdtemp(prefix="benchmark-", dir=Path.cwd())).absolute()
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        yield folder
    finally:
        torch.set_num_threads(threads)
        shutil.rmtree(folder, ignore_errors=True)
