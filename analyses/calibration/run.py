"""Do the tests of every measure reject as often as they say, and no more?

Run from the repository root; finished cells are kept, one JSON line each, and continued:

    python -m analyses.calibration.run --out runs/calibration
    python -m analyses.calibration.run --batches 4    # four times the repeats, continued
    python -m analyses.calibration.run --measures cka mutual_knn
    python -m analyses.calibration.run --report       # the committed results as tables

Ten minutes on two cores. Writes cells.jsonl, results.json, tables.md and figure.html.
"""

import argparse
import dataclasses
import json
import multiprocessing
import platform
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from analyses.calibration.cells import Config, Task, code, key, run, tasks
from analyses.calibration.report import draw, summarize, tables
from interp.errors import InputError
from interp.geometry import MEASURES

HERE = Path(__file__).parent


def start_worker() -> None:
    torch.set_num_threads(1)


def work(job: tuple[Task, Config, str, str]) -> dict[str, Any]:
    task, config, name, digest = job
    return {"key": name, "code": digest, **run(task, config)}


def finished(path: Path) -> dict[str, dict[str, Any]]:
    """Cells of earlier runs by key; a line that was cut off is not one."""
    found = {}
    for line in path.read_text().splitlines() if path.exists() else []:
        try:
            cell = json.loads(line)
        except json.JSONDecodeError:
            continue
        found[cell["key"]] = cell
    return found


def fill(arguments: argparse.Namespace, config: Config, path: Path) -> Iterator[dict[str, Any]]:
    """Every cell, those of earlier runs first; new ones are appended to the file as they end."""
    before, jobs, names = finished(path), [], arguments.measures
    digests = {name: code(name) for name in names}
    for task in tasks(names, config, arguments.batches):
        old = before.get(key(task, config))
        if old is not None and (arguments.keep or old["code"] == digests[task.measure]):
            yield old
        else:
            jobs.append((task, config, key(task, config), digests[task.measure]))
    say(f"{len(jobs)} cells to run, {len(names)} measures")
    if not jobs:
        return
    context = multiprocessing.get_context("spawn")
    with context.Pool(arguments.workers, start_worker) as pool, path.open("a") as file:
        for done, cell in enumerate(pool.imap_unordered(work, jobs), 1):
            file.write(json.dumps(cell) + "\n")
            file.flush()
            if done % 25 == 0 or done == len(jobs):
                say(f"{done} of {len(jobs)} cells, the last of {cell['measure']}")
            yield cell


def rounded(value: Any) -> Any:
    if isinstance(value, float):
        return round(value, 5)
    if isinstance(value, dict):
        return {k: rounded(v) for k, v in value.items()}
    return [rounded(v) for v in value] if isinstance(value, list | tuple) else value


def say(line: str) -> None:
    print(f"{time.strftime('%H:%M:%S')}  {line}", flush=True)


def read_config(path: Path) -> Config:
    raw = json.loads(path.read_text())
    return Config(**{k: tuple(v) if isinstance(v, list) else v for k, v in raw.items()})


def report(results: dict[str, Any], out: Path) -> None:
    (out / "tables.md").write_text(tables(results))
    options = {"displayModeBar": False}
    draw(results).write_html(out / "figure.html", include_plotlyjs="directory", config=options)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config", type=Path, default=HERE / "config.json")
    parser.add_argument("--out", type=Path, default=Path("runs/calibration"))
    parser.add_argument("--measures", nargs="+", default=sorted(MEASURES))
    parser.add_argument("--batches", type=int, default=1, help="times the config's repeats")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--keep", action="store_true", help="cells of measures changed since, too")
    parser.add_argument("--report", action="store_true", help="show the committed results")
    return parser.parse_args()


def main() -> None:
    arguments = parse()
    out = arguments.out
    out.mkdir(parents=True, exist_ok=True)
    if arguments.report:
        results = json.loads((HERE / "results.json").read_text())
        print(tables(results))
        report(results, out)
        return
    unknown = set(arguments.measures) - set(MEASURES)
    if unknown:
        raise InputError(f"no measures {sorted(unknown)}; there are {', '.join(sorted(MEASURES))}")
    config, path = read_config(arguments.config), out / "cells.jsonl"
    cells = list(fill(arguments, config, path))
    results = {
        "config": dataclasses.asdict(config),
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "numpy": np.__version__,
        },
        **summarize(cells, config),
    }
    results = rounded(results)
    (out / "results.json").write_text(json.dumps(results, indent=1) + "\n")
    report(results, out)
    say(f"{results['verdict']}; CPU {results['seconds']:.0f} s: {out / 'results.json'}")


if __name__ == "__main__":
    main()
