"""Compare representations with one library: `python geometry_worker.py ADAPTER.py`.

Standard library, numpy and the library itself; nothing of interp. The adapter is a file with

    PACKAGES     distributions whose versions are reported
    MEASURES     name -> function of x [n, d] and y [n, e], which gives a number
    GRIDS        (optional) name -> function of lists of both, which gives a matrix [a, b]: where
                 the library has a way of its own to compare many layers
    DESCRIPTORS  (optional) name -> function of x [n, d], which gives a number
    load(x)      (optional) what MEASURES take, from an array; not timed

It is imported once, then "ready" is written; for each line on stdin, the path of a job, a fresh
process is forked, and its exit status is written when it has ended. A job is a JSON object (see
`Compared` in launch.py); its result.json has

    values          [a][b] of every pair, or [a] of every x alone
    ms_wall, ms_cpu of every call, in the order of the pairs; of a grid one, over its pairs
    pairs           how many pairs a call compares: 1, or a b of a grid
    peak_megabytes  that the calls added to the process
    versions
"""

import importlib.util
import json
import os
import resource
import sys
import time
import traceback
import types
from importlib import metadata
from pathlib import Path

import numpy as np


def load(path):
    """The adapter's module."""
    spec = importlib.util.spec_from_file_location("adapter", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def work(adapter, job):
    """Compare and measure; raises what the library raises."""
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(job.threads)
    data = np.load(job.data)
    take = getattr(adapter, "load", lambda x: x)
    layers = {i: take(np.ascontiguousarray(data[str(i)])) for i in {*job.xs, *job.ys}}
    xs, ys = ([layers[i] for i in part] for part in (job.xs, job.ys))
    grid = getattr(adapter, "GRIDS", {}).get(job.measure)
    if grid is not None:
        calls, pairs = [lambda: np.asarray(grid(xs, ys), dtype=float).ravel()], len(xs) * len(ys)
    elif ys:
        one = find(adapter, "MEASURES", job.measure)
        calls, pairs = [lambda x=x, y=y: [float(one(x, y))] for x in xs for y in ys], 1
    else:
        one = find(adapter, "DESCRIPTORS", job.measure)
        calls, pairs = [lambda x=x: [float(one(x))] for x in xs], 1
    for number in range(job.warm):
        calls[number % len(calls)]()
    before = peak_memory()
    values, wall, cpu = [], [], []
    for call in calls:
        start = time.perf_counter(), time.process_time()
        values += list(call())
        wall.append(round(1000 * (time.perf_counter() - start[0]), 3))
        cpu.append(round(1000 * (time.process_time() - start[1]), 3))
    values = [float(v) for v in values]
    return {
        "values": [values[i : i + len(ys)] for i in range(0, len(values), len(ys))]
        if ys
        else values,
        "ms_wall": wall,
        "ms_cpu": cpu,
        "pairs": pairs,
        "peak_megabytes": round(peak_memory() - before, 1),
        "versions": {name: metadata.version(name) for name in ("numpy", *adapter.PACKAGES)},
    }


def find(adapter, table, name):
    """The function of that name; KeyError that lists the names."""
    known = getattr(adapter, table, {})
    if name not in known:
        raise KeyError(f"no {name} in {table}: {', '.join(known)}")
    return known[name]


def peak_memory():
    """Largest resident size so far, in MB; Linux counts KiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6


def run_job(adapter, path):
    """Do one job and write its result.json; never returns."""
    job = types.SimpleNamespace(**json.loads(Path(path).read_text()))
    try:
        if isinstance(adapter, Exception):
            raise adapter
        result = work(adapter, job)
    except Exception as error:
        traceback.print_exc()
        result = {"error": f"{type(error).__name__}: {error}"}
    (Path(job.out) / "result.json").write_text(json.dumps(result))
    sys.stderr.flush()
    os._exit(0)


def main():
    # Progress bars and greetings go to stderr: the real stdout belongs to the protocol.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    try:
        adapter = load(sys.argv[1])
    except Exception as error:
        adapter = error
    print("ready", file=answers, flush=True)
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            run_job(adapter, line.strip())
        print(os.waitpid(child, 0)[1], file=answers, flush=True)


if __name__ == "__main__":
    main()
