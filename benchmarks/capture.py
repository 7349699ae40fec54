"""Capture: from hooks to fsync against the bare forward pass, all of `zoo:ddpm`, 64 MB per call.

The bare pass runs the network on batches of the same size without hooks. The capture does
everything: the estimate, hashing the weights, noise, hooks and copies, rows with coordinates, hash
and statistics of every file, images, fsync, manifest.
"""

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
    bare, whole = [], []
    for _ in range(repeats + 1):
        bare.append(_seconds(lambda: _forward(model, batch, calls)))
        with _folder() as folder:
            whole.append(_seconds(lambda folder=folder: _capture(model, images, folder, batch)))
    # The first round loads libraries and touches the memory.
    plain, captured = statistics.median(bare[1:]), statistics.median(whole[1:])
    ratios = [b / a for a, b in zip(bare[1:], whole[1:], strict=True)]
    return {
        "model": "zoo:ddpm, every block output and entry",
        "points": len(one.per_point),
        "calls": calls,
        "batch": batch,
        "megabytes_per_call": round(batch * per_image / 1e6, 1),
        "repeats": repeats,
        "figures": [
            {
                "name": "capture from hooks to fsync / bare forward pass",
                "value": round(statistics.median(ratios), 3),
                "unit": "x",
                "limit": "<= 1.3",
            },
            {"name": "bare forward pass", "value": round(plain / calls, 3), "unit": "s/call"},
            {"name": "capture", "value": round(captured / calls, 3), "unit": "s/call"},
        ],
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
