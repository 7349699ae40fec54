"""Run jobs: one worker process per library that has imported it, one fresh fork of it per job."""

import json
import os
import queue
import signal
import subprocess
import sys
import threading
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import interp_kernels

import interp
from benchmarks.peers.setup import clean, python_of, state
from benchmarks.peers.table import Row

HERE = Path(__file__).parent
# Importing the largest library from a cold disk of a busy machine takes a minute.
START_LIMIT = 300.0


@dataclass(frozen=True)
class Job:
    """What a worker is asked to do; see worker.py."""

    batches: Path
    m: int
    k: int
    steps: int
    threads: int
    lr: float = 1e-3
    seed: int = 0
    timed: int = 10**9
    """Number of gaps, counted from the end, whose median is the time of a step."""
    held_out: Path | None = None


@dataclass(frozen=True)
class Compared:
    """What a library that compares representations is asked for; see geometry_worker.py."""

    data: Path
    """.npz of arrays [n, d], named "0", "1" ..."""
    measure: str
    xs: tuple[int, ...]
    ys: tuple[int, ...] = ()
    """The measure of every x with every y; none: of each x alone."""
    threads: int = 1
    warm: int = 0
    """Calls before the clock starts."""


class Workers:
    """The running workers; a context manager that ends them.

    Args:
        folder: of the environments.
        scratch: folder for jobs, results, weights and logs.
        limit: seconds after which a job is given up.
        program: what runs in the environments.
    """

    def __init__(
        self, folder: Path, scratch: Path, limit: float = 600.0, program: str = "worker.py"
    ) -> None:
        self.folder, self.scratch, self.limit, self.program = folder, scratch, limit, program
        self._running: dict[str, tuple[subprocess.Popen[str], queue.Queue[str]]] = {}

    def __enter__(self) -> "Workers":
        return self

    def __exit__(self, *_: object) -> None:
        for adapter in list(self._running):
            self._end(adapter)

    def run(self, row: Row, job: Job | Compared) -> dict[str, Any]:
        """Run a job and wait for it.

        Returns:
            The worker's result; {"error": ...} where it failed or could not start. The weights lie
            in `weights(row)` until the row's next job.
        """
        known = state(row.peer, self.folder) if row.peer else {"ok": True}
        if not known["ok"]:
            return {"error": f"{known['step']}: {known['reason']}"}
        out = self.weights(row).parent
        out.mkdir(parents=True, exist_ok=True)
        result = out / "result.json"
        result.unlink(missing_ok=True)
        path = out / "job.json"
        fields = asdict(job) | {"options": dict(row.options), "out": out}
        path.write_text(json.dumps(fields, default=str))
        try:
            status = self._ask(row, str(path))
        except TimeoutError as error:
            self._end(row.adapter)
            return {"error": str(error)}
        if not result.exists():
            return {"error": f"ended with status {status}"}
        found = json.loads(result.read_text())
        return {key: clean(value) if key == "error" else value for key, value in found.items()}

    def weights(self, row: Row) -> Path:
        """Where the row's last job left its weights."""
        return self.scratch / row.label.replace(" ", "-").replace(",", "") / "weights.npz"

    def _ask(self, row: Row, line: str) -> str:
        if row.adapter not in self._running:
            self._running[row.adapter] = self._start(row)
        process, answers = self._running[row.adapter]
        if process.stdin is not None and process.poll() is None:
            process.stdin.write(line + "\n")
            process.stdin.flush()
        try:
            return answers.get(timeout=self.limit)
        except queue.Empty:
            raise TimeoutError(f"not finished after {self.limit:g} s") from None

    def _start(self, row: Row) -> tuple[subprocess.Popen[str], "queue.Queue[str]"]:
        python = python_of(row.peer, self.folder) if row.peer else Path(sys.executable)
        # -P: the folder of worker.py is no place to import from.
        command = [python, "-P", HERE / self.program, HERE / "adapters" / row.adapter]
        self.scratch.mkdir(parents=True, exist_ok=True)
        with (self.scratch / f"{Path(row.adapter).stem}.log").open("a") as log:
            process = subprocess.Popen(
                [str(part) for part in command],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                cwd=self.scratch,
                env=_environment(row),
                start_new_session=True,
            )
        answers: queue.Queue[str] = queue.Queue()
        threading.Thread(target=_listen, args=(process, answers), daemon=True).start()
        self._running[row.adapter] = process, answers
        try:
            first = answers.get(timeout=START_LIMIT)
        except queue.Empty:
            raise TimeoutError(f"not started after {START_LIMIT:g} s") from None
        if first != "ready":
            raise TimeoutError(f"the worker did not start: {first}")
        return process, answers

    def _end(self, adapter: str) -> None:
        process, _ = self._running.pop(adapter)
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                pipe.close()


def _listen(process: subprocess.Popen[str], answers: "queue.Queue[str]") -> None:
    if process.stdout is not None:
        for line in process.stdout:
            answers.put(line.strip())
    answers.put("the worker has ended")


def ahead_of(row: Row) -> int:
    """How many batches a row's library asks for before its first step."""
    text = (HERE / "adapters" / row.adapter).read_text()
    return next(int(line.split("=")[1]) for line in text.splitlines() if line.startswith("AHEAD"))


def _environment(row: Row) -> dict[str, str]:
    environment = {**os.environ, "WANDB_MODE": "disabled", "HF_HUB_OFFLINE": "1"}
    # The job sets torch's own number of threads.
    for name in ("PYTHONPATH", "OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        environment.pop(name, None)
    if not row.peer:
        # This very interp, wherever it was imported from.
        homes = dict.fromkeys(str(Path(one.__path__[0]).parent) for one in (interp, interp_kernels))
        environment["PYTHONPATH"] = os.pathsep.join(homes)
    return environment
