"""Train the whole zoo: `python -m interp.zoo.train_all --minutes 9 --device cuda --out DIR`.

One process per network, as small networks are bound by launches and not by arithmetic; time-boxed;
a second call continues. Needs torch, diffusers (and tqdm), numpy, pillow, safetensors, jaxtyping.
Results lie in `DIR/zoo.tar`: weights, cards and logs.
"""

import argparse
import subprocess
import sys
import tarfile
from pathlib import Path

from interp.errors import InterpError
from interp.zoo.nets import NAMES, file_stem

TAR_BYTES = 16 * 2**20
# A GPU takes a batch of this size in the time of a small one.
GPU_BATCH = {
    "vae": 128,
    "ddpm": 256,
    "vit": 256,
    "gan": 64,
    "dit": 256,
    "ssl": 256,
    "text": 256,
    "vae-global": 256,
    "ldm": 512,
}
# Networks that look through others, which are trained before them.
NEEDS = {"ldm": ("vae", "text")}


def train_all(
    out: Path, *, minutes: float, device: str, seed: int = 0, names: tuple[str, ...] = NAMES
) -> Path:
    """Train the networks in parallel processes, and return the tar of weights, cards and logs.

    Networks of `NEEDS` follow in a second round, on the seed-0 networks that they need.

    Args:
        out: folder of checkpoints, logs and results; what is there is continued.
        minutes: training time of each network, over all calls.
        device: cpu (one thread per process) or cuda.
        seed: training seed of all.
        names: which networks.

    Raises:
        InterpError: a training failed; the message names its log.
    """
    out.mkdir(parents=True, exist_ok=True)
    first = tuple(name for name in names if name not in NEEDS)
    for wave in (first, tuple(name for name in names if name in NEEDS)):
        running = {name: _start(name, out, minutes, device, seed) for name in wave}
        failed = [name for name, process in running.items() if process.wait() != 0]
        if failed:
            logs = ", ".join(str(out / f"{name}.log") for name in failed)
            raise InterpError(f"training failed: {logs}")
    return pack(out, [file_stem(name, seed) for name in names])


def _start(name: str, out: Path, minutes: float, device: str, seed: int) -> subprocess.Popen:
    words = ["--only", name, "--out", out, "--minutes", minutes, "--device", device, "--seed", seed]
    command = [sys.executable, "-m", "interp.zoo.train_all", *map(str, words)]
    with (out / f"{name}.log").open("ab") as log:
        return subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)


def pack(out: Path, stems: list[str]) -> Path:
    """Write `zoo.tar` of the weights, cards and logs, and return its path.

    Raises:
        InterpError: it would be larger than 16 MiB.
    """
    path = out / "zoo.tar"
    with tarfile.open(path, "w") as tar:
        for stem in stems:
            for file in (
                out / f"{stem}.safetensors",
                out / f"{stem}.json",
                out / stem / "log.jsonl",
            ):
                tar.add(file, arcname=str(file.relative_to(out)))
    if path.stat().st_size > TAR_BYTES:
        raise InterpError(f"{path} has {path.stat().st_size:,} bytes, more than {TAR_BYTES:,}")
    return path


def main(words: list[str] | None = None) -> None:
    """Read the command line and train."""
    parser = argparse.ArgumentParser(description="Train every network of the zoo in parallel.")
    parser.add_argument("--out", type=Path, required=True, help="folder of checkpoints and results")
    parser.add_argument("--minutes", type=float, default=9.0, help="training time of each network")
    parser.add_argument("--device", default="cuda", help="cuda or cpu")
    parser.add_argument("--seed", type=int, default=0, help="training seed")
    parser.add_argument("--only", choices=NAMES, help="train this network in this process")
    options = parser.parse_args(words)
    if options.only is None:
        train_all(options.out, minutes=options.minutes, device=options.device, seed=options.seed)
        return
    from interp.zoo.recipes import train_zoo

    train_zoo(
        options.only,
        out=options.out,
        minutes=options.minutes,
        seed=options.seed,
        device=options.device,
        threads=1,
        batch_size=GPU_BATCH[options.only] if options.device != "cpu" else None,
        progress=False,
    )


if __name__ == "__main__":
    main()
