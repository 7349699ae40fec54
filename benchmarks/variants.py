"""Quality: every variant and every library on every planted case, at equal steps and equal time.

All get the same batches, number of latents, k and steps, and one thread. Peers train with Adam at a
constant rate of 1e-3, ours with the schedule of TrainConfig: what each would do by itself. Settings
without a default that fits (penalties) were chosen on a dictionary of another seed than the judged
one. Equal time is the CPU time that our TopK needs for the case's steps; a run of its own ends
there. Time stands still while a batch is made; see peers/worker.py.
"""

import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from benchmarks import quality
from benchmarks.peers.launch import Job, Workers
from benchmarks.peers.setup import default_folder, state
from benchmarks.peers.table import PEERS, Row
from benchmarks.planted import CASES, CURVES, JUDGED, OURS, ROWS, Case
from interp.sae.synthetic import Truth

RATE = 1e-3
HELD_OUT, QUICK_HELD_OUT = 16384, 1024
# `--quick` has this share of the steps.
QUICK = 0.04
# Shares of the steps of `small` at which quality over time is measured, each a run of its own.
SHARES = (1 / 16, 1 / 8, 1 / 4, 1 / 2)
# Cases that are also run at equal time; on the others it would cost as much again and say the same.
TIMED = ("small", "zipf")
# A row that is faster than our TopK sees at most this many times the steps at equal time.
MOST = 2.0
KEPT = ("recovered", "mcc", "fvu", "dead", "l0", "f1", "uniqueness", "shrinkage", "relative_bias")
REFERENCE = "interp, topk"
# What the configuration `small` must reach (case, key, bound).
TARGETS = (("recovered", ">= 0.99"), ("fvu", "<= 0.115"), ("dead", "<= 0.005"))


def gate() -> None:
    """The judge finds a planted dictionary, and the workers' answers are those of this process."""
    case = Case(lambda steps, seed: CASES["zipf"].make(steps, seed), 256, 6, 40, "")
    with _folder() as scratch, Workers(default_folder(), scratch) as workers:
        prepared = _Prepared(case, scratch / "gate", 512, 40)
        planted = prepared.planted
        perfect = quality.Output(planted.atoms, prepared.truth.fired, prepared.truth.x)
        found = quality.grade(perfect, prepared.truth, planted.atoms)
        assert found.mcc > 0.999, f"MCC {found.mcc} of the planted atoms themselves"
        # A rare atom may be in none of the rows.
        assert found.f1 > 0.98, f"F1 {found.f1} of the planted atoms themselves"
        result = prepared.judge(workers, OURS[0], 40)
        assert "error" not in result, result["error"]
        assert result["fvu"] < 1, f"FVU {result['fvu']} after 40 steps"


def run(quick: bool = False, folder: Path | None = None) -> dict[str, Any]:
    """Train and judge every row on every case.

    Args:
        quick: few steps on the cases of `TIMED` alone: does it work, not how well.
        folder: of the environments; see benchmarks.peers.setup.

    Returns:
        cases, rows, measured (per case: row -> steps and time), curves, libraries, figures.
    """
    folder = folder or default_folder()
    measured: dict[str, dict[str, Any]] = {}
    curves: dict[str, list[dict[str, Any]]] = {}
    cases = {name: case for name, case in CASES.items() if name in TIMED or not quick}
    with _folder() as scratch, Workers(folder, scratch) as workers:
        for name, case in cases.items():
            steps = max(20, round(QUICK * case.steps)) if quick else case.steps
            prepared = _Prepared(case, scratch / name, QUICK_HELD_OUT if quick else HELD_OUT, steps)
            measured[name] = measure(workers, prepared, ROWS, timed=name in TIMED)
            if name == "small":
                curves = curve(workers, prepared, measured[name])
            shutil.rmtree(scratch / name)
    return {
        "learning_rate": RATE,
        "cases": {
            name: {"m": case.m, "k": case.k, "steps": case.steps, "says": case.says}
            for name, case in cases.items()
        },
        "rows": [{"label": r.label, "options": dict(r.options), "note": r.note} for r in ROWS],
        "measured": measured,
        "curves": curves,
        "libraries": [state(name, folder) for name in PEERS],
        "figures": figures(measured),
    }


class _Prepared:
    """A case with its batches and held-out rows on disk."""

    def __init__(self, case: Case, folder: Path, held_out: int, steps: int) -> None:
        self.case, self.steps = case, steps
        self.planted = case.make(steps, JUDGED)
        self.batches, self.held_out = quality.save_batches(self.planted, folder, held_out)
        self.truth: Truth = self.planted.truth(held_out)

    def judge(self, workers: Workers, row: Row, steps: int) -> dict[str, Any]:
        """Train one row for some steps, and grade what it makes of the held-out rows."""
        case = self.case
        job = Job(self.batches, case.m, case.k, steps, 1, lr=RATE, held_out=self.held_out)
        weights = workers.weights(row)
        for old in (weights, weights.with_name("output.npz")):
            old.unlink(missing_ok=True)
        result = workers.run(row, job)
        if "error" in result:
            return {"error": result["error"]}
        if weights.exists():
            found = quality.output(quality.load_weights(weights), self.truth.x, case.k)
        else:
            found = quality.load_output(weights.with_name("output.npz"))
        if not bool(torch.isfinite(found.x_hat).all() and torch.isfinite(found.decoder).all()):
            return {"error": "its reconstruction or its decoder is not finite"}
        grade = quality.grade(found, self.truth, self.planted.atoms)._asdict()
        times = {key: result[key] for key in ("steps", "seconds_cpu", "ms_cpu")}
        return {key: round(grade[key], 4) for key in KEPT} | times


def measure(
    workers: Workers, prepared: _Prepared, rows: Sequence[Row], *, timed: bool
) -> dict[str, Any]:
    """Every row at equal steps and, if `timed`, at the CPU time that our TopK needed for them.

    Returns:
        label -> {"steps": grade, "time": grade}, or {"error": why}.
    """
    found: dict[str, Any] = {}
    budget = 0.0
    for row in rows:
        first = prepared.judge(workers, row, prepared.steps)
        if "error" in first:
            found[row.label] = first
            continue
        if row.label == REFERENCE:
            budget = first["seconds_cpu"]
        found[row.label] = {"steps": first}
        if timed:
            steps = equal_time(first["seconds_cpu"], prepared.steps, budget)
            same = steps == prepared.steps
            found[row.label]["time"] = first if same else prepared.judge(workers, row, steps)
    return found


def equal_time(seconds: float, steps: int, budget: float) -> int:
    """Steps that fit into `budget` seconds where `steps` took `seconds`.

    At least 20, at most twice as many; the same number where they differ by less than 3 %.
    """
    if seconds <= 0 or budget <= 0 or abs(budget / seconds - 1) < 0.03:
        return steps
    return max(20, int(steps * min(MOST, budget / seconds)))


def curve(
    workers: Workers, prepared: _Prepared, whole: dict[str, Any]
) -> dict[str, list[dict[str, Any]]]:
    """Quality over CPU time of a few rows: runs of growing length, the last one measured before."""
    found: dict[str, list[dict[str, Any]]] = {}
    for row in ROWS:
        if row.label not in CURVES or "error" in whole[row.label]:
            continue
        runs = [prepared.judge(workers, row, max(20, int(s * prepared.steps))) for s in SHARES]
        keys = ("steps", "seconds_cpu", "recovered", "mcc", "fvu")
        found[row.label] = [
            {key: one[key] for key in keys}
            for one in [*runs, whole[row.label]["steps"]]
            if "error" not in one
        ]
    return found


def figures(measured: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    """Ours against its targets, and on each case against the best other library."""
    ours = measured["small"].get(REFERENCE, {}).get("steps")
    shown = []
    for key, limit in TARGETS if ours else ():
        name = f"interp, topk on small after {ours['steps']} steps: {key}"
        shown.append({"name": name, "value": ours[key], "limit": limit})
    for name, rows in measured.items():
        scores = {label: row["steps"]["mcc"] for label, row in rows.items() if "steps" in row}
        peers = {label: mcc for label, mcc in scores.items() if not label.startswith("interp")}
        if not peers or REFERENCE not in scores:
            continue
        best = max(peers, key=lambda label: peers[label])
        difference = round(scores[REFERENCE] - peers[best], 4)
        text = f"{name}: MCC of interp, topk less that of the best peer ({best})"
        shown.append({"name": text, "value": difference, "limit": ">= 0"})
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
