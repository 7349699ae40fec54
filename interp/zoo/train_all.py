"""Train the whole zoo: `python -m interp.zoo.train_all --minutes 9 --device cuda --out DIR`.

One process per network, as small networks are bound by launches and not by arithmetic; time-boxed;
a second call continues. Needs torch, diffusers, transformers (and tqdm), numpy, pillow,
safetensors, jaxtyping.
Results lie in `DIR/zoo.tar` (and `zoo-2.tar` ...): weights, cards and logs. `--seeds 0 1 2` adds
two more seeds of gan, vae, ddpm, ldm and dit. Not yet measured on a GPU.
"""

import argparse
import subprocess
import sys
import tarfile
from pathlib import Path

from interp.errors import InterpError
from interp.zoo.nets import NAMES, file_stem

# Small enough to be sent; more networks make more files.
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
# Those whose further seeds show how much a finding depends on the seed.
SEEDED = ("gan", "vae", "ddpm", "ldm", "dit")


def train_all(
    out: Path,
    *,
    minutes: float,
    device: str,
    seeds: tuple[int, ...] = (0,),
    names: tuple[str, ...] = NAMES,
) -> list[Path]:
    """Train the networks in parallel processes, and return the tars of weights, cards and logs.

    Networks of `NEEDS` follow in a second round, on the seed-0 networks that they need. Seeds other
    than 0 are trained of the networks in `SEEDED` alone.

    Args:
        out: folder of checkpoints, logs and results; what is there is continued.
        minutes: training time of each network, over all calls.
        device: cpu (one thread per process) or cuda.
        seeds: training seeds.
        names: which networks.

    Raises:
        InterpError: a training failed; the message names its log.
    """
    out.mkdir(parents=True, exist_ok=True)
    chosen = list_trainings(names, seeds)
    for late in (False, True):
        running = {
            (name, seed): _start(name, out, minutes, device, seed)
            for name, seed in chosen
            if (name in NEEDS) == late
        }
        failed = [which for which, process in running.items() if process.wait() != 0]
        if failed:
            logs = ", ".join(str(_log(out, *which)) for which in failed)
            raise InterpError(f"training failed: {logs}")
    return pack(out, [file_stem(name, seed) for name, seed in chosen])


def list_trainings(names: tuple[str, ...], seeds: tuple[int, ...]) -> list[tuple[str, int]]:
    """Return network and seed of each training, in order of the seeds."""
    return [(name, seed) for seed in seeds for name in names if seed == 0 or name in SEEDED]


def _log(out: Path, name: str, seed: int) -> Path:
    return out / f"{file_stem(name, seed)}.log"


def _start(name: str, out: Path, minutes: float, device: str, seed: int) -> subprocess.Popen:
    words = ["--only", name, "--out", out, "--minutes", minutes, "--device", device]
    words += ["--seeds", seed]
    command = [sys.executable, "-m", "interp.zoo.train_all", *map(str, words)]
    with _log(out, name, seed).open("ab") as log:
        return subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)


def pack(out: Path, stems: list[str]) -> list[Path]:
    """Write `zoo.tar`, `zoo-2.tar` ... of the weights, cards and logs, and return their paths.

    Raises:
        InterpError: the files of one network alone are larger than 16 MiB.
    """
    parts: list[list[Path]] = [[]]
    for stem in stems:
        files = [out / f"{stem}.safetensors", out / f"{stem}.json", out / stem / "log.jsonl"]
        if _tar_bytes(files) > TAR_BYTES:
            raise InterpError(f"{stem} has {_tar_bytes(files):,} bytes, more than {TAR_BYTES:,}")
        if _tar_bytes([*parts[-1], *files]) > TAR_BYTES:
            parts.append([])
        parts[-1] += files
    paths = []
    for number, files in enumerate(parts, 1):
        paths.append(out / ("zoo.tar" if number == 1 else f"zoo-{number}.tar"))
        # In this format a file has one header, as `_tar_bytes` counts.
        with tarfile.open(paths[-1], "w", format=tarfile.GNU_FORMAT) as tar:
            for file in files:
                tar.add(file, arcname=str(file.relative_to(out)))
    return paths


def _tar_bytes(files: list[Path]) -> int:
    """Return the size of a tar: a header and whole blocks of 512 per file, records of 10,240."""
    blocks = sum(512 + -(-file.stat().st_size // 512) * 512 for file in files)
    return -(-(blocks + 1024) // tarfile.RECORDSIZE) * tarfile.RECORDSIZE


def main(words: list[str] | None = None) -> None:
    """Read the command line and train."""
    parser = argparse.ArgumentParser(description="Train every network of the zoo in parallel.")
    parser.add_argument("--out", type=Path, required=True, help="folder of checkpoints and results")
    parser.add_argument("--minutes", type=float, default=9.0, help="training time of each network")
    parser.add_argument("--device", default="cuda", help="cuda or cpu")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0], help="0 1 2: see SEEDED")
    parser.add_argument("--only", choices=NAMES, help="train this network in this process")
    options = parser.parse_args(words)
    if options.only is None:
        seeds = tuple(options.seeds)
        train_all(options.out, minutes=options.minutes, device=options.device, seeds=seeds)
        return
    from interp.zoo.recipes import train_zoo

    train_zoo(
        options.only,
        out=options.out,
        minutes=options.minutes,
        seed=options.seeds[0],
        device=options.device,
        threads=1,
        batch_size=GPU_BATCH[options.only] if options.device != "cpu" else None,
        progress=False,
    )


if __name__ == "__main__":
    main()
