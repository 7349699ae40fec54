"""What a GPU can do, whatever the program: copies, products, selections, gathers, launches."""

import statistics
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from benchmarks.dense import Shape

# Rows and latents of the measured selections.
SELECTIONS = (
    (4096, 8192, 32),
    (8192, 5120, 20),
    (8192, 8192, 160),
    (8192, 16384, 32),
    (4096, 65536, 32),
    (8192, 65536, 32),
    (4096, 131072, 64),
    (2048, 131072, 160),
)
# Rows of 1280 numbers: 10 MB, which a cache of 50 MB holds, and 2.7 GB, which none does.
TABLES = {"in L2": 4096, "out of L2": 1 << 20}

# Weights and two moments read and written in single precision, a bf16 working copy written.
BYTES_PER_PARAMETER = 26


class Machine(NamedTuple):
    """Rates that floors are made of."""

    copy: float
    """Bytes per second, read and written."""
    flops: dict[str, float]
    """Operations per second of products, by dtype."""


def floor_ms(shape: Shape, dtype: torch.dtype, rates: Machine) -> dict[str, float]:
    """Milliseconds that a step cannot go below: product, three gathers, one pass of the weights."""
    d, m, k, n = shape
    product = 2 * n * m * d / rates.flops[str(dtype)]
    gather = n * k * d * dtype.itemsize / rates.copy
    update = (BYTES_PER_PARAMETER - (2 if dtype == torch.float32 else 0)) * 2 * m * d / rates.copy
    parts = {"product": product, "gathers": 3 * gather, "update": update}
    shown = {name: round(1e3 * value, 4) for name, value in parts.items()}
    return shown | {"total": round(1e3 * sum(parts.values()), 4)}


def milliseconds(
    works: dict[str, Callable[[], Any]], rounds: int, device: str, warm: int = 3
) -> dict[str, list[float]]:
    """Time each call once per round, in an order that turns; by the device's own clock."""
    names: list[str] = list(works)
    found: dict[str, list[float]] = {name: [] for name in names}
    for number in range(warm + rounds):
        turn = number % max(1, len(names))
        for name in names[turn:] + names[:turn]:
            spent = _once(works[name], device)
            if number >= warm:
                found[name].append(spent)
    return found


def _once(work: Callable[[], Any], device: str) -> float:
    if device == "cpu":
        start = time.perf_counter()
        work()
        return 1e3 * (time.perf_counter() - start)
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize()
    start.record()
    work()
    end.record()
    torch.cuda.synchronize()
    return start.elapsed_time(end)


def graph_of(work: Callable[[], Any]) -> Callable[[], Any]:
    """Record a call once; the result replays it without the host."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            work()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        work()
    return graph.replay


def machine(device: str, quick: bool, rates: list[Machine]) -> dict[str, Any]:
    """Measure; the rates that floors need are also appended to `rates`."""
    copy = _copy(device, quick)
    products = _products(device, quick)
    rates.append(Machine(copy, {name: rate for name, rate in products.items() if "torch" in name}))
    return {
        "copy_gbs": round(copy / 1e9, 1),
        "product_tflops": {name: round(rate / 1e12, 3) for name, rate in products.items()},
        "topk_ms": _selections(device, quick),
        "gather_gbs": _gathers(device, quick),
        "launch_us": _launches(device),
    }


def _median(work: Callable[[], Any], device: str, rounds: int = 10) -> float:
    """Seconds."""
    return statistics.median(milliseconds({"": work}, rounds, device)[""]) / 1e3


def _copy(device: str, quick: bool) -> float:
    source = torch.ones(1 << (20 if quick else 29), device=device)
    target = torch.empty_like(source)
    return 2 * source.nbytes / _median(lambda: target.copy_(source), device)


def _products(device: str, quick: bool) -> dict[str, float]:
    n, m, d = (64, 96, 24) if quick else (8192, 16384, 1280)
    found = {}
    for dtype in (torch.bfloat16, torch.float32):
        x, w = (torch.randn(rows, d, device=device).to(dtype) for rows in (n, m))
        found[str(dtype)] = 2 * n * m * d / _median(lambda x=x, w=w: x @ w.T, device)
    if device != "cpu":
        x, w = (torch.randn(rows, d, device=device) for rows in (n, m))
        before = torch.backends.cuda.matmul.allow_tf32
        torch.backends.cuda.matmul.allow_tf32 = True
        found["TF32"] = 2 * n * m * d / _median(lambda: x @ w.T, device)
        torch.backends.cuda.matmul.allow_tf32 = before
    return found


def _selections(device: str, quick: bool) -> dict[str, float]:
    found = {}
    for n, m, k in ((64, 96, 4),) if quick else SELECTIONS:
        for dtype in (torch.bfloat16, torch.float32):
            pre = torch.randn(n, m, device=device).to(dtype)
            seconds = _median(lambda pre=pre, k=k: pre.topk(k, dim=1), device, 5)
            found[f"[{n}, {m}] k {k} {dtype}"] = round(1e3 * seconds, 4)
            del pre
    return found


def _gathers(device: str, quick: bool) -> dict[str, float]:
    """Random rows read, GB/s; each row is read and added up, nothing large is written."""
    found, d = {}, 24 if quick else 1280
    for name, rows in TABLES.items():
        rows = 64 if quick else rows
        table: Tensor = torch.randn(rows, d, device=device).to(torch.bfloat16)
        slots = (64, 4) if quick else (8192, 32)
        indices = torch.randint(rows, slots, device=device)
        seconds = _median(
            lambda i=indices, t=table: torch.nn.functional.embedding_bag(i, t, mode="sum"), device
        )
        found[name] = round(indices.numel() * d * 2 / seconds / 1e9, 3)
    return found


def _launches(device: str, count: int = 200) -> dict[str, float]:
    """Microseconds per small kernel: issued one by one, and replayed as a graph."""
    x = torch.zeros(32, device=device)

    def many() -> None:
        for _ in range(count):
            x.add_(1)

    found = {"issued": round(1e6 * _median(many, device) / count, 3)}
    if device != "cpu":
        found["graph"] = round(1e6 * _median(graph_of(many), device) / count, 3)
    return found
