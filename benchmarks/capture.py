"""Capture: from hooks to fsync against the bare forward pass, all of `zoo:ddpm`, 64 MB per call.

The bare pass runs the network on batches of the same size without hooks. The capture does
everything: the estimate, hashing the weights, noise, hooks and copies, rows with coordinates, hash
and statistics of every file, images, fsync, manifest. Rows are written by one thread beside the
network: the limit is for a machine with a core to spare for it, so the network takes one core less
than there are. With all cores both share them, and the ratio is what it is.
"""

import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import interp
from interp.store import ActivationStore
from interp.zoo import Images, load_images

CALL_BYTES = 64_000_000
BLOCK = "mid_block.resnets.0"


def gate() -> None:
    """Captured rows are those of a manual hook, bit for bit."""
    model, images = interp.load("zoo:ddpm"), load_images("glyphs", limit=8)
    with _folder() as folder, _hook(model, BLOCK) as seen:
        store = _capture(model, images, folder, 4)
        assert store.verify() == [], "a fresh store does not verify"
        # The estimate looked at a single image.
        maps = torch.cat([x for x in seen if len(x) == 4])
        expected = maps.permute(0, 2, 3, 1).flatten(0, 2)
        assert torch.equal(store.rows(BLOCK), expected), "rows differ from a manual hook's"


def run(quick: bool = False, repeats: int = 5, calls: int = 8) -> dict[str, Any]:
    """Run bare passes and captures in turn, and return the ratio of their medians."""
    repeats, calls = (1, 1) if quick else (repeats, calls)
    model = interp.load("zoo:ddpm")
    one = interp.estimate(model, "all", _recipe(1), images=load_images("glyphs", limit=1))
    per_image = one.bytes - one.image_bytes
    batch = 8 if quick else round(CALL_BYTES / per_image)
    images = load_images("glyphs", limit=batch * calls)
    cores = os.cpu_count() or 1
    spare = _compare(model, images, max(1, cores - 1), repeats, calls)
    every = _compare(model, images, cores, repeats, calls)
    ratio = "capture from hooks to fsync / bare forward pass"
    return {
        "model": "zoo:ddpm, every block output and entry",
        "points": len(one.per_point),
        "calls": calls,
        "batch": batch,
        "megabytes_per_call": round(batch * per_image / 1e6, 1),
        "repeats": repeats,
        "figures": [
            {
                "name": f"{ratio}, a core to spare",
                "value": spare["ratio"],
                "unit": "x",
                "limit": "<= 1.3",
            },
            {"name": f"{ratio}, no core to spare", "value": every["ratio"], "unit": "x"},
            {"name": "bare forward pass", "value": spare["bare"], "unit": "s/call"},
            {"name": "capture", "value": spare["captured"], "unit": "s/call"},
        ],
    }


def _compare(
    model: Any, images: Images, threads: int, repeats: int, calls: int
) -> dict[str, float]:
    """Seconds per call of both, interleaved, and the median of their ratios."""
    bare, whole = [], []
    batch = len(images) // calls
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        for _ in range(repeats + 1):
            bare.append(_seconds(lambda: _forward(model, batch, calls)))
            with _folder() as folder:
                whole.append(_seconds(lambda folder=folder: _capture(model, images, folder, batch)))
    finally:
        torch.set_num_threads(before)
    # The first round loads libraries and touches the memory.
    plain, captured = statistics.median(bare[1:]), statistics.median(whole[1:])
    ratios = [b / a for a, b in zip(bare[1:], whole[1:], strict=True)]
    return {
        "bare": round(plain / calls, 3),
        "captured": round(captured / calls, 3),
        "ratio": round(statistics.median(ratios), 3),
    }


def _recipe(batch: int) -> interp.Encoding:
    return interp.Encoding(log_snr=(0.0,), batch_size=batch)


def _capture(model: Any, images: Images, folder: Path, batch: int) -> ActivationStore:
    return interp.capture(
        model, "all", _recipe(batch), images=images, out=folder, shard_size=batch, progress=False
    )


def _forward(model: Any, batch: int, calls: int) -> None:
    network = model.root
    size = network.config.sample_size
    x = torch.zeros(batch, network.config.in_channels, size, size)
    t = torch.full((batch,), 500)
    labels = torch.zeros(batch, dtype=torch.long)
    with torch.no_grad():
        for _ in range(calls):
            network(x, t, class_labels=labels)


@contextmanager
def _hook(model: Any, path: str) -> Iterator[list[Tensor]]:
    seen: list[Tensor] = []
    module = model.root.get_submodule(path)
    handle = module.register_forward_hook(lambda module, args, y: seen.append(y.clone()))
    try:
        yield seen
    finally:
        handle.remove()


def _seconds(work: Callable[[], Any]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


@contextmanager
def _folder() -> Iterator[Path]:
    # The working folder is on a disk; the system's temporary folder may be in memory.
    folder = Path(tempfile.mkdtemp(prefix="benchmark-", dir=Path.cwd()))
    try:
        yield folder
    finally:
        shutil.rmtree(folder)
