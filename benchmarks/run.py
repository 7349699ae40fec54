"""Run cases: the gate, then the timing, then a result file that says where it was measured."""

import argparse
import importlib
import importlib.util
import inspect
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import time
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from types import ModuleType
from typing import Any

# Name -> module; each module has `run(...) -> dict` and, where the result can be wrong, `gate()`.
CASES = {
    "store": "benchmarks.store",
    "capture": "benchmarks.capture",
    "dashboard": "benchmarks.dashboard",
    "peers": "benchmarks.peers.case",
    "kernels": "benchmarks.kernels",
    "train": "benchmarks.train",
    "memory": "benchmarks.memory",
    "geometry": "benchmarks.geometry",
    "quality": "benchmarks.variants",
}
# What needs other libraries, in environments of their own; `--peers` adds them.
WITH_PEERS = ("peers", "quality")
RESULTS = Path(__file__).parent / "results"
LIBRARIES = ("interp", "torch", "numpy", "safetensors", "pyarrow", "diffusers", "plotly", "triton")


class GateError(Exception):
    """A case's result is wrong, so its speed means nothing."""


def run_case(module: ModuleType, *, quick: bool = False, device: str = "cpu") -> dict[str, Any]:
    """Pass the module's gate, then measure.

    Args:
        module: a case: `run(...) -> dict`, and optionally `gate()`.
        quick: small sizes, given to a `run` or `gate` that takes `quick`.
        device: of the arithmetic, given to a `run` or `gate` that takes `device`.

    Returns:
        What `run` returned, with `gate` ("passed" or "none") and `seconds` added.

    Raises:
        GateError: the gate failed and nothing was timed, or the measured result is wrong.
    """
    gate = getattr(module, "gate", None)
    if gate is not None:
        try:
            _call(gate, quick, device)
        except AssertionError as error:
            raise GateError(
                f"{module.__name__}: the gate failed, nothing was timed: {error}"
            ) from error
    start = time.perf_counter()
    try:
        measured = _call(module.run, quick, device)
    except AssertionError as error:
        raise GateError(f"{module.__name__}: its result is wrong, no figures: {error}") from error
    seconds = round(time.perf_counter() - start, 1)
    return {"gate": "none" if gate is None else "passed", "seconds": seconds, **measured}


def _call(function: Any, quick: bool, device: str) -> Any:
    offered = {"quick": quick, "device": device}
    takes = inspect.signature(function).parameters
    return function(**{name: value for name, value in offered.items() if name in takes})


def check_origins(interp: Path, kernels: Path) -> None:
    """Refuse to measure two halves of different origin.

    Args:
        interp: file of the package `interp`.
        kernels: file of the package `interp_kernels`.

    Raises:
        GateError: one is of a checkout and the other is not, or of another one.
    """
    root = interp.resolve().parents[1]
    together = (root / "interp_kernels", root / "kernels" / "interp_kernels")
    if kernels.resolve().parent not in together:
        raise GateError(
            f"interp is {interp.parent} and interp_kernels {kernels.parent}: two origins in one "
            "measurement; install the checkout with pip install -e ., or run outside of it"
        )


def _check_installed() -> None:
    found = [importlib.util.find_spec(name) for name in ("interp", "interp_kernels")]
    check_origins(*(Path(str(spec.origin)) for spec in found if spec is not None))


def environment() -> dict[str, Any]:
    """Where and when: device, CPU, threads, load, versions, commit, date (UTC)."""
    import torch

    cuda = torch.cuda.is_available()
    return {
        "device": torch.cuda.get_device_name() if cuda else "cpu",
        "cpu": cpu_model(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        # Processes waiting for a core in the last minute: figures of a busy machine are no figures.
        "load": round(os.getloadavg()[0], 2),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "versions": _versions(),
        "commit": _commit(),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def cpu_model() -> str:
    """The processor's own name where the system tells it."""
    file = Path("/proc/cpuinfo")
    text = file.read_text() if file.exists() else ""
    found = re.search(r"^model name\s*: (.+)$", text, re.MULTILINE)
    return found[1].strip() if found else platform.processor() or platform.machine()


def _versions() -> dict[str, str]:
    known = {one.metadata["Name"].lower() for one in metadata.distributions()}
    return {name: metadata.version(name) for name in LIBRARIES if name in known}


def _commit() -> str:
    """The checkout's commit, with `-dirty` where tracked files differ from it.

    A copy without its history is told by the variable COMMIT.
    """
    if shutil.which("git") is None:
        return os.environ.get("COMMIT", "unknown")
    command = ["git", "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
    done = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True)
    return done.stdout.strip() or os.environ.get("COMMIT", "unknown")


def slug(text: str) -> str:
    """A file name's part: lower case, dashes for what is neither letter nor digit."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")


def write(name: str, result: dict[str, Any], where: dict[str, Any], out: Path) -> Path:
    """Write one result as JSON.

    Args:
        name: the case.
        result: what `run_case` returned.
        where: what `environment` returned.
        out: folder of the results.

    Returns:
        The file, `<case>-<device>.json`; an older one of that name is replaced.
    """
    out.mkdir(parents=True, exist_ok=True)
    path = out / f"{slug(name)}-{slug(where['device'])}.json"
    record = {"case": name, "environment": where, "result": result}
    path.write_text(json.dumps(record, indent=1, allow_nan=False) + "\n")
    return path


def main(arguments: list[str] | None = None) -> int:
    """Run the named cases, or all; returns 1 where a gate failed."""
    from benchmarks.report import table

    parser = argparse.ArgumentParser("python -m benchmarks.run", description=__doc__)
    parser.add_argument(
        "cases", nargs="*", metavar="CASE", help=f"of {', '.join(CASES)}; all if none"
    )
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the result files")
    parser.add_argument(
        "--quick", action="store_true", help="small sizes: does it work, not how fast"
    )
    parser.add_argument("--device", default="cpu", help="of the arithmetic: cpu or cuda")
    parser.add_argument(
        "--peers", action="store_true", help=f"the named cases and {', '.join(WITH_PEERS)}"
    )
    options = parser.parse_args(arguments)
    unknown = sorted(set(options.cases) - set(CASES))
    if unknown:
        parser.error(f"no case {', '.join(unknown)}; there are {', '.join(CASES)}")
    _check_installed()
    failed = 0
    for name in dict.fromkeys([*(options.cases or CASES), *(WITH_PEERS if options.peers else ())]):
        where = environment()
        try:
            module = importlib.import_module(CASES[name])
            result = run_case(module, quick=options.quick, device=options.device)
        except GateError as error:
            failed = 1
            print(error, file=sys.stderr)
            continue
        path = write(name, result, where, options.out)
        print(f"{path}\n{table([json.loads(path.read_text())])}")
    return failed


if __name__ == "__main__":
    raise SystemExit(main())
