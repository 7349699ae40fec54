"""What other libraries say of the same features: `tests/geometry/peers.json`.

    INTERP_PEERS=DIR python -m benchmarks.peers.geometry_values \\
        --checkout platonic-rep=DIR --checkout resi=DIR ... [--only NAME]

Packages run in their environments (`python -m benchmarks.peers.setup NAME`), scikit-learn and scipy
in this one, and so do checkouts of repositories that are no packages: folders that one has cloned.
The features are drawn by seeds with additions and products of single numbers alone, so that they
are the same bytes everywhere; their digests stand beside the values. What is not at hand keeps the
values that the file has. `tests/geometry/test_peers.py` holds what each value means.
"""

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.peers.setup import clean, default_folder, python_of, reason

OUT = Path(__file__).parents[2] / "tests" / "geometry" / "peers.json"
WORKER = Path(__file__).with_name("geometry_values_worker.py")
# n, d, e: more rows than columns, widths that differ both ways, more columns than rows.
SHAPES = {"tall": (60, 8, 8), "wider": (50, 12, 5), "narrower": (50, 5, 12), "wide": (24, 40, 30)}
# n rows, r draws, columns of each side.
DRAWS = (16, 3, 6, 5)
PACKAGES = (
    "netrep",
    "ckatorch",
    "torch-cka",
    "repsim",
    "calibrated-similarity",
    "rsatoolbox",
    "dcor",
    "pot",
    "faiss",
    "scikit-dimension",
    "dadapy",
)
HERE = ("scikit-learn", "scipy")
# Repository and commit; in similarity-repository lies a copy of google-research's demo.
CHECKOUTS = {
    "platonic-rep": "minyoungg/platonic-rep dcd76ba",
    "resi": "mklabunde/resi 24ab9e5",
    "sim_metric": "js-d/sim_metric 42953fb",
    "svcca": "google/svcca 1f3fbf1",
    "representation_similarity": "nacloos/similarity-repository 035b3be",
    "anatome": "moskomule/anatome 2212a8c",
    "rtd": "IlyaTrofimov/RTD f47c99e",
}


def features(name: str) -> tuple[np.ndarray, np.ndarray]:
    """x [n, d] and y [n, e] of a data set, or x [n, r, d] and y [n, r, e] of "draws"."""
    rng = np.random.default_rng([5, *name.encode()])
    if name == "draws":
        n, r, d, e = DRAWS
        x = rng.standard_normal((n, 1, d)) + 0.7 * rng.standard_normal((n, r, d))
        return x, x[:, :1, :e] + 0.5 * rng.standard_normal((n, r, e))
    n, d, e = SHAPES[name]
    x = rng.standard_normal((n, d)) * (1 + np.arange(d) % 3) + 0.5
    columns = np.arange(e)
    y = 0.6 * x[:, columns % d] + 0.4 * x[:, (columns + 1) % d]
    return x, y + 0.8 * rng.standard_normal((n, e)) - 0.3


def digest(name: str) -> str:
    """The first 16 digits of the sha256 of both matrices."""
    data = b"".join(np.ascontiguousarray(part).tobytes() for part in features(name))
    return hashlib.sha256(data).hexdigest()[:16]


def ask(name: str, python: str, data: Path, checkout: str | None = None) -> dict[str, Any]:
    """The worker's answer about one library, or {"reason": ...}."""
    # -P: a folder of scripts is no place to import from.
    command = [python, "-P", str(WORKER), name, str(data), *([checkout] if checkout else [])]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    if done.returncode:
        return {"reason": clean(reason(done.stderr))}
    return json.loads(done.stdout.splitlines()[-1])


def collect(folder: Path, checkouts: dict[str, str], only: Sequence[str]) -> dict[str, Any]:
    """Ask every library that is at hand; the others keep their entries in the file."""
    found: dict[str, Any] = json.loads(OUT.read_text())["peers"] if OUT.exists() else {}
    with tempfile.TemporaryDirectory() as scratch:
        data = Path(scratch) / "data.npz"
        names = (*SHAPES, "draws")
        pairs = {
            f"{name}/{side}": z
            for name in names
            for side, z in zip("xy", features(name), strict=True)
        }
        np.savez(data, **pairs)
        for name in (*PACKAGES, *HERE, *CHECKOUTS):
            if only and name not in only:
                continue
            python = python_of(name, folder) if name in PACKAGES else Path(sys.executable)
            if not python.exists() or (name in CHECKOUTS and name not in checkouts):
                found.setdefault(name, {"reason": "was not at hand"})
                continue
            answer = ask(name, str(python), data, checkouts.get(name))
            found[name] = {**answer, "version": answer.get("version") or CHECKOUTS.get(name, "")}
            print(f"{name}: {answer.get('reason') or len(answer['values'])}", flush=True)
    data_sets = {name: digest(name) for name in names}
    return {"data": data_sets, "peers": dict(sorted(found.items()))}


def as_text(found: dict[str, Any]) -> str:
    """JSON with a line per value."""
    lines = ["{", f' "data": {json.dumps(found["data"])},', ' "peers": {']
    for name, peer in found["peers"].items():
        head = {key: value for key, value in peer.items() if key != "values"}
        rows = ",\n".join(f"   {json.dumps(row)}" for row in peer.get("values", []))
        values = f"[\n{rows}\n  ]" if rows else "[]"
        lines.append(f'  {json.dumps(name)}: {json.dumps(head)[:-1]}, "values": {values}}},')
    lines[-1] = lines[-1].removesuffix(",")
    return "\n".join([*lines, " }", "}"]) + "\n"


def main(arguments: Sequence[str] | None = None) -> int:
    """Ask the libraries and write the file."""
    parser = argparse.ArgumentParser(
        "python -m benchmarks.peers.geometry_values", description=__doc__
    )
    parser.add_argument("--folder", type=Path, default=default_folder())
    parser.add_argument("--checkout", action="append", default=[], metavar="NAME=DIR")
    parser.add_argument("--only", action="append", default=[], metavar="NAME")
    options = parser.parse_args(arguments)
    checkouts = dict(one.split("=", 1) for one in options.checkout)
    unknown = sorted({*checkouts, *options.only} - {*PACKAGES, *HERE, *CHECKOUTS})
    if unknown:
        parser.error(f"no library {', '.join(unknown)}")
    OUT.write_text(as_text(collect(options.folder.expanduser(), checkouts, options.only)))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
