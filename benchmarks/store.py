"""Store: writing with hash and statistics, and shuffled reading, at d = 1280 in fp16.

Gigabytes of rows per second of CPU time of the whole process, which a busy machine disturbs least;
wall time beside it.
"""

import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from interp.store import ActivationStore, write_store

WIDTH = 1280
POSITIONS = 256
BATCH = 4096


def gate() -> None:
    """Rows come back bit for bit, an epoch visits each once, hashes and statistics hold."""
    x = _rows(12)
    with _folder() as folder:
        store = write_store(folder, {"x": x}, shard_size=5)
        flat = x.reshape(-1, WIDTH)
        assert store.verify() == [], "a fresh store does not verify"
        assert torch.equal(store.rows("x"), flat), "rows differ"
        ids, rows = map(list, zip(*store.read("x", 500, seed=1, reservoir=1200), strict=True))
        order = np.concatenate(ids)
        assert sorted(order.tolist()) == list(range(len(flat))), "an epoch missed or repeated rows"
        assert torch.equal(torch.cat(rows), flat[order].float()), "shuffled rows differ"
        found, expected = store.statistics("x"), flat.double()
        torch.testing.assert_close(found.mean, expected.mean(0))
        torch.testing.assert_close(found.var, expected.var(0, unbiased=False))


def run(quick: bool = False, repeats: int = 5) -> dict[str, Any]:
    """Write and read a store in turn, and return the medians."""
    generations, repeats = (64, 2) if quick else (1024, repeats)
    x = _rows(generations)
    size = x.nbytes / 1e9
    # In turn, so that a busy moment disturbs both; the first round touches the memory.
    writes, reads = [], []
    for _ in range(repeats + 1):
        with _folder() as folder:
            writes.append(_measure(lambda folder=folder: _write(folder, x), size))
            store = _write(folder, x)
            reads.append(_measure(lambda store=store: _read(store), size))
    write, read = (_median(rates[1:]) for rates in (writes, reads))
    return {
        "rows": generations * POSITIONS,
        "width": WIDTH,
        "dtype": "float16",
        "gigabytes": round(size, 3),
        "batch": BATCH,
        "repeats": repeats,
        "figures": [
            _figure("store write with hash and statistics", write[0], "GB/CPU-s", ">= 0.25"),
            _figure("shuffled read", read[0], "GB/CPU-s", ">= 0.4"),
            _figure("store write to fsync, wall", write[1], "GB/s"),
            _figure("shuffled read, wall", read[1], "GB/s"),
        ],
    }


def _rows(generations: int) -> Tensor:
    draw = torch.Generator().manual_seed(0)
    return torch.randn(generations, 1, POSITIONS, WIDTH, generator=draw).half()


def _write(folder: Path, x: Tensor) -> ActivationStore:
    return write_store(folder, {"x": x}, recipe={"made": "benchmark"}, shard_size=256)


def _read(store: ActivationStore) -> None:
    for batch in store.read("x", BATCH):
        assert batch.x.shape[1] == WIDTH


def _measure(work: Callable[[], Any], size: float) -> tuple[float, float]:
    cpu, wall = time.process_time(), time.perf_counter()
    work()
    return size / (time.process_time() - cpu), size / (time.perf_counter() - wall)


def _median(rates: list[tuple[float, float]]) -> tuple[float, float]:
    return statistics.median(r[0] for r in rates), statistics.median(r[1] for r in rates)


def _figure(name: str, value: float, unit: str, limit: str = "") -> dict[str, Any]:
    figure = {"name": name, "value": round(value, 3), "unit": unit}
    return figure | ({"limit": limit} if limit else {})


@contextmanager
def _folder() -> Iterator[Path]:
    # The working folder is on a disk; the system's temporary folder may be in memory.
    folder = Path(tempfile.mkdtemp(prefix="benchmark-", dir=Path.cwd()))
    try:
        yield folder
    finally:
        shutil.rmtree(folder)
