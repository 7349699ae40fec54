"""Geometry: 12 x 12 layers against bare products, permutations against recomputing, and the peers.

Products, ours, and what the released code of a paper does ("as published, written anew" in
published.py) run in turn in one process; libraries run in their own (peers/geometry_worker.py),
visited in turn. First the gate: values agree with the published definitions, relabeled permutations
with recomputed ones. All on as many threads as torch takes.
"""

import ctypes
import gc
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks import published
from benchmarks.clock import interleaved, ratio
from benchmarks.peers.launch import Compared, Workers
from benchmarks.peers.setup import default_folder, state
from benchmarks.peers.table import GEOMETRY_ROWS
from interp.geometry import MEASURES, both_cka, cost, gemm_rate
from interp.stats import max_t, permutations


@dataclass(frozen=True)
class Sizes:
    """What is measured; the defaults are those of the published table."""

    n: int = 2048
    d: int = 768
    layers: int = 12
    rounds: int = 3
    n_permutations: int = 200
    large_n: int = 50_000
    large_d: int = 1024
    large_layers: int = 2
    peer_layers: int = 2
    peer_rounds: int = 2


QUICK = Sizes(160, 24, 3, 1, 20, 700, 32, 2, 2, 1)
PERMUTED = ("cka", "cka_biased", "mutual_knn")
# The observed grid and two permutations of it (adapters/geometry_calibrated_similarity.py).
CALIBRATED = "p of cka_biased"
EVALUATIONS = 3
# Library, measure, whether it compares a whole grid in a way of its own.
PEER_CALLS = (
    ("netrep", "cka_biased", False),
    ("netrep", "procrustes", False),
    ("ckatorch", "cka_biased", False),
    ("ckatorch", "cka", False),
    ("ckatorch", "cka_minibatch", False),
    ("torch-cka", "cka", True),
    ("torch-cka", "cka_minibatch", True),
    ("rsatoolbox", "cka_biased", True),
    ("rsatoolbox", "rsa_spearman", True),
    ("calibrated-similarity", CALIBRATED, True),
    ("faiss", "mutual_knn", True),
)
PUBLISHED = {
    "cka_biased": published.cka,
    "cka": published.unbiased_cka,
    "mutual_knn": published.mutual_knn,
}


def draw_layers(sizes: Sizes, first_seed: int) -> list[Tensor]:
    """Layers [n, d] float32 that share a latent of d / 4 dimensions; rows of norm 1."""
    latent = _draw((sizes.n, max(2, sizes.d // 4)), 0)
    layers = []
    for seed in range(first_seed, first_seed + sizes.layers):
        x = latent @ _draw((latent.shape[1], sizes.d), 1000 + seed)
        x = x / latent.shape[1] ** 0.5 + _draw((sizes.n, sizes.d), seed)
        # Under which Euclidean neighbors, ours, are those by cosine, the published ones.
        layers.append(x / x.norm(dim=1, keepdim=True))
    return layers


def _draw(shape: tuple[int, ...], seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def gate() -> None:
    """Values are those of the published definitions, and permuted values those recomputed."""
    sizes = Sizes(n=300, d=40, layers=2)
    xs, ys = draw_layers(sizes, 1), draw_layers(sizes, 11)
    both = both_cka(xs, ys)
    for name, slow in PUBLISHED.items():
        measure = MEASURES[name]
        first, second = _prepared(name, xs), _prepared(name, ys)
        fast = measure.values(first, second)
        expected = [[float(slow(x, y)) for y in ys] for x in xs]
        found = torch.tensor(expected, dtype=torch.float64)
        assert torch.allclose(fast, found, rtol=0, atol=1e-4), f"{name}: {fast} and {found}"
        orders = np.stack([np.random.default_rng(s).permutation(sizes.n) for s in range(3)])
        again = [measure.values(first, _prepared(name, [y[o] for y in ys])) for o in orders]
        moved = measure.permuted(first, second, orders)
        assert torch.allclose(moved, torch.stack(again), rtol=0, atol=2e-6), f"{name}: permuted"
    assert torch.equal(both.debiased, _values("cka", xs, ys)), "both CKAs are not the measures"


def _prepared(name: str, layers: Sequence[Tensor]) -> list[Any]:
    return [MEASURES[name].prepare(x, f"layer {i}") for i, x in enumerate(layers)]


def _values(name: str, xs: Sequence[Tensor], ys: Sequence[Tensor]) -> Tensor:
    return MEASURES[name].values(_prepared(name, xs), _prepared(name, ys))


def run(quick: bool = False, folder: Path | None = None) -> dict[str, Any]:
    """Measure the grid, permutations, many rows, and the libraries that are set up.

    Args:
        quick: tiny sizes: does it work, not how fast.
        folder: of the environments; see benchmarks.peers.setup.
    """
    sizes = QUICK if quick else Sizes()
    folder = folder or default_folder()
    xs, ys = draw_layers(sizes, 1), draw_layers(sizes, 101)
    grid = measure_grid(xs, ys, sizes)
    permuted = measure_permutations(xs, ys, sizes, grid)
    peers = measure_peers(xs, ys, sizes, folder)
    del xs, ys
    large = measure_large(sizes)
    return {
        "sizes": asdict(sizes),
        "grid": grid,
        "permutations": permuted,
        "peers": peers,
        "large": large,
        "libraries": [state(name, folder) for name in dict.fromkeys(c[0] for c in PEER_CALLS)],
        "figures": figures(grid, permuted, peers, large, sizes),
    }


def measure_grid(xs: Sequence[Tensor], ys: Sequence[Tensor], sizes: Sizes) -> dict[str, Any]:
    """Products, ours and the published way, in turn: wall ms per grid, ratios round by round."""
    layers = [*xs, *ys]
    k = max(1, round(0.01 * sizes.n))
    works: dict[str, Callable[[], Any]] = {
        "sgemm, gram": lambda: [x @ x.T for x in layers],
        "sgemm, feature": lambda: [x.T @ y for x in xs for y in ys],
        "sgemm, then topk": lambda: [(x @ x.T).topk(k) for x in layers],
        "both": lambda: both_cka(xs, ys),
    }
    for name in ("cka", "cka_biased", "cka_minibatch", "mutual_knn"):
        works[name] = lambda name=name: MEASURES[name].values(
            _prepared(name, xs), _prepared(name, ys)
        )
    for name, slow in PUBLISHED.items():
        works[f"published {name}"] = lambda slow=slow: slow(xs[0], ys[0])
    found = interleaved(works, sizes.rounds, warm=1)
    wall = {name: [time.wall for time in times] for name, times in found.items()}
    cheaper = min(("sgemm, gram", "sgemm, feature"), key=lambda name: statistics.median(wall[name]))
    floors = {"both": cheaper, "cka": cheaper, "cka_biased": cheaper}
    floors |= {"mutual_knn": "sgemm, then topk"}
    return {
        "floor": cheaper,
        "ms": {name: round(statistics.median(times), 2) for name, times in wall.items()},
        "ratios": {name: ratio(wall[name], wall[floor]) for name, floor in floors.items()},
        "cost": {name: cost(sizes.n, *_widths(sizes), name)._asdict() for name in PERMUTED},
    }


def _widths(sizes: Sizes) -> tuple[list[int], list[int]]:
    return [sizes.d] * sizes.layers, [sizes.d] * sizes.layers


def measure_permutations(
    xs: Sequence[Tensor], ys: Sequence[Tensor], sizes: Sizes, grid: dict[str, Any]
) -> list[dict[str, Any]]:
    """Seconds of all permutations with max-T, beside what recomputing every one would take."""
    orders = permutations(sizes.n, sizes.n_permutations, seed=0, model="b")
    pairs, shown = len(xs) * len(ys), []
    for name in PERMUTED:
        measure = MEASURES[name]
        first, second = _prepared(name, xs), _prepared(name, ys)
        value = measure.values(first, second)
        start = time.perf_counter()
        permuted = measure.permuted(first, second, orders)
        p = max_t(value.numpy().ravel(), permuted.numpy().reshape(len(orders), -1))
        spent = time.perf_counter() - start
        once = grid["ms"][f"published {name}"] / 1e3
        shown.append(
            {
                "measure": name,
                "seconds": round(spent, 3),
                "smallest_p": float(np.min(p)),
                "published_seconds": round(once * pairs * sizes.n_permutations, 1),
                "ours_again_seconds": round(grid["ms"][name] / 1e3 * sizes.n_permutations, 1),
            }
        )
        del first, second, permuted
        gc.collect()
    return shown


def measure_peers(
    xs: Sequence[Tensor], ys: Sequence[Tensor], sizes: Sizes, folder: Path
) -> list[dict[str, Any]]:
    """Wall ms per pair of every library, visited in turn, each visit a fresh fork of its worker."""
    rows = {row.peer: row for row in GEOMETRY_ROWS}
    visits: dict[tuple[str, str], list[dict[str, Any]]] = {}
    with tempfile.TemporaryDirectory(prefix="benchmark-", dir=Path.cwd()) as scratch:
        data = Path(scratch).absolute() / "layers.npz"
        arrays: dict[str, Any] = {str(i): x.numpy() for i, x in enumerate([*xs, *ys])}
        np.savez(data, **arrays)
        with Workers(folder, data.parent, 300.0, "geometry_worker.py") as workers:
            for _ in range(sizes.peer_rounds):
                for peer, measure, grid in PEER_CALLS:
                    # faiss searches each layer once: a small grid would not show it.
                    many = sizes.layers if peer == "faiss" else sizes.peer_layers
                    first = tuple(range(many))
                    second = tuple(range(sizes.layers, sizes.layers + many))
                    job = Compared(
                        data, measure, first, second, torch.get_num_threads(), 0 if grid else 1
                    )
                    seen = visits.setdefault((peer, measure), [])
                    if not any("error" in visit for visit in seen):
                        seen.append(workers.run(rows[peer], job))
    return [_peer_row(*key, seen) for key, seen in visits.items()]


def _peer_row(peer: str, measure: str, visits: Sequence[dict[str, Any]]) -> dict[str, Any]:
    shown = {"library": peer, "measure": measure}
    failed = [visit["error"] for visit in visits if "error" in visit]
    if failed:
        return shown | {"error": failed[0]}
    times = [ms / visit["pairs"] for visit in visits for ms in visit["ms_wall"]]
    return shown | {
        "ms": round(statistics.median(times), 2),
        "pairs": visits[0]["pairs"] * len(visits[0]["ms_wall"]),
        "value": visits[0]["values"][0][0],
        "peak_megabytes": visits[0]["peak_megabytes"],
    }


def measure_large(sizes: Sizes) -> dict[str, Any]:
    """A subset of 40 x 40 layers of many rows: what was predicted, what it took, its memory."""
    rate = gemm_rate()
    n, d, some = sizes.large_n, sizes.large_d, sizes.large_layers
    layers = [_draw((n, d), seed).half() for seed in range(2 * some)]
    predicted = cost(n, [d] * some, [d] * some, item_bytes=2, rate=rate)
    whole = {
        name: cost(n, [d] * 40, [d] * 40, name, item_bytes=2, rate=rate)._asdict()
        for name in ("cka", "mutual_knn")
    }
    spent, peak = _measured(lambda: both_cka(layers[:some], layers[some:]))
    one = cost(n, [d], [d], "mutual_knn", item_bytes=2, rate=rate)
    knn_spent, knn_peak = _measured(lambda: MEASURES["mutual_knn"].prepare(layers[0]))
    return {
        "rate": rate,
        "subset": predicted._asdict(),
        "seconds": spent,
        "workspace_megabytes": peak,
        "knn": {
            "predicted_seconds": None if one.seconds is None else round(one.seconds / 2, 3),
            "seconds": knn_spent,
            "workspace_megabytes": knn_peak,
        },
        "whole": whole,
    }


def _measured(work: Callable[[], Any]) -> tuple[float, float | None]:
    """Seconds, and how far the resident memory rose above where it stood (MB; None off Linux)."""
    gc.collect()
    # Free memory that the allocator holds would hide what the work takes.
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
    before = _reset_peak()
    start = time.perf_counter()
    work()
    spent = round(time.perf_counter() - start, 3)
    return spent, None if before is None else round((_status("VmHWM") - before) / 1e6, 1)


def _status(field: str) -> int:
    """Bytes of a field of this process's status; Linux."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line for line in lines if line.startswith(field)).split()[1])


def _reset_peak() -> int | None:
    """Set the peak of resident memory to what it is now, and return it; None off Linux."""
    file = Path("/proc/self/clear_refs")
    if not file.exists():
        return None
    file.write_text("5")
    return _status("VmRSS")


def figures(
    grid: dict[str, Any],
    permuted: Sequence[dict[str, Any]],
    peers: Sequence[dict[str, Any]],
    large: dict[str, Any],
    sizes: Sizes,
) -> list[dict[str, Any]]:
    """The numbers that have a target, and the fastest library beside each measure."""
    shape = f"{sizes.layers} x {sizes.layers} layers, n {sizes.n}, d {sizes.d}"
    names = {"both": "both CKAs", "cka": "cka", "cka_biased": "cka_biased"}
    shown = []
    for key, label in names.items():
        name = f"{label} ({shape}) / {grid['floor']}, the cheaper products"
        shown.append(_figure(name, grid["ratios"][key]["median"], "x", "<= 2"))
    name = f"mutual_knn ({shape}) / similarity products and torch.topk"
    shown.append(_figure(name, grid["ratios"]["mutual_knn"]["median"], "x", "<= 2"))
    library = [row["ms"] for row in peers if row["measure"] == CALIBRATED and "ms" in row]
    for row in permuted:
        what = f"{sizes.n_permutations} permutations of {row['measure']} with max-T"
        shown.append(_figure(what, row["seconds"], "s", "<= 60"))
        gain = round(row["published_seconds"] / row["seconds"], 1)
        name = f"recomputing as published / relabeling, {row['measure']}"
        shown.append(_figure(name, gain, "x", ">= 100"))
    for row in permuted if library else ():
        if row["measure"] == "cka_biased":
            seconds = library[0] / 1e3 / EVALUATIONS * (sizes.n_permutations + 1)
            gain = round(seconds * sizes.layers**2 / row["seconds"], 1)
            name = (
                f"calibrated-similarity / interp, {sizes.n_permutations} permutations, cka_biased"
            )
            shown.append(_figure(name, gain, "x"))
    if large["workspace_megabytes"] is not None:
        what = f"workspace of both CKAs, n {sizes.large_n}, d {sizes.large_d}"
        shown.append(_figure(what, large["workspace_megabytes"], "MB", "< 2000"))
        what = f"workspace of neighbors of a layer, n {sizes.large_n}, d {sizes.large_d}"
        shown.append(_figure(what, large["knn"]["workspace_megabytes"], "MB", "< 2000"))
    what = f"took / predicted, n {sizes.large_n}"
    gone = large["seconds"] / large["subset"]["seconds"]
    shown.append(_figure(what, round(gone, 3), "x"))
    pairs = sizes.layers**2
    for name in ("cka_biased", "cka", "cka_minibatch", "mutual_knn"):
        times = {
            row["library"]: row["ms"] for row in peers if row["measure"] == name and "ms" in row
        }
        if times:
            fastest = min(times, key=lambda peer: times[peer])
            gain = round(times[fastest] / (grid["ms"][name] / pairs), 1)
            shown.append(
                _figure(f"fastest library ({fastest}) / interp, {name}, a pair", gain, "x")
            )
    return shown


def _figure(name: str, value: float, unit: str, limit: str = "") -> dict[str, Any]:
    shown = {"name": name, "value": value, "unit": unit}
    return shown | {"limit": limit} if limit else shown
