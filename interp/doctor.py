"""What this machine offers and what is wrong: versions, devices, memory, disk, shipped files."""

import hashlib
import importlib.util
import json
import os
import platform
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import metadata, resources
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from packaging.requirements import Requirement

# The distribution whose dependencies and floors are checked.
DISTRIBUTION = "interp"
# GiB: a capture of one small model at every block; `estimate` tells the size of a real one.
ENOUGH_DISK = 5.0
# GiB: an SAE of 20,480 latents of width 1,280 with its gradients and Adam's moments takes 0.8, a
# reader's reservoir at most as much, torch and a small model the rest.
ENOUGH_MEMORY = 2.0
# What `backend` is asked for: latents of tiny, small and usual SAEs with 32 active ones.
SIZES = (128, 1_024, 20_480)
ACTIVE = 32
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")


@dataclass(frozen=True)
class Check:
    """One finding.

    Args:
        name: what was looked at.
        ok: False where something that the library needs is missing or damaged; what is optional and
            absent is `ok`, with a `fix`.
        detail: what was found, with versions, bytes and paths.
        fix: what to do, empty where there is nothing to do.
    """

    name: str
    ok: bool
    detail: str
    fix: str = ""


def doctor(path: str | Path = ".") -> list[Check]:
    """Look at interpreter, libraries, devices, backend, memory, disk and the shipped files.

    Nothing is changed and nothing is fetched; takes a few seconds, most of it importing torch.

    Args:
        path: the folder where runs and captures would go; its disk and its stores are measured.

    Returns:
        The findings in the order of the list above; a healthy installation has `ok` in all of them.
    """
    checks = [*_installation(), _torch(), _devices(), _triton(), _backend()]
    checks += [_hugging_face_kernels(), _memory(), _disk(Path(path)), _stores(Path(path))]
    return [*checks, _browser(), *_zoo()]


def report(checks: Sequence[Check]) -> str:
    """Write findings as aligned lines, a fix below each that has one.

    Args:
        checks: what `doctor` returned.

    Returns:
        The text, ending with how many findings are problems.
    """
    width = max((len(check.name) for check in checks), default=0)
    lines = []
    for check in checks:
        lines.append(f"{'ok ' if check.ok else 'BAD'}  {check.name:{width}}  {check.detail}")
        if check.fix:
            lines.append(f"{'':{width + 7}}-> {check.fix}")
    problems = sum(not check.ok for check in checks)
    lines.append("no problems" if problems == 0 else f"{problems} problem(s)")
    return "\n".join(lines)


def _installation() -> list[Check]:
    try:
        found = metadata.distribution(DISTRIBUTION)
    except metadata.PackageNotFoundError:
        detail = (
            f"python {platform.python_version()} imports it from a folder, without its metadata"
        )
        return [Check(DISTRIBUTION, False, detail, "pip install -e . in the checkout")]
    return [Check(DISTRIBUTION, True, found.version), _python(), *_requirements()]


def _python() -> Check:
    from packaging.specifiers import SpecifierSet

    floor = metadata.metadata(DISTRIBUTION)["Requires-Python"] or ""
    version = platform.python_version()
    ok = SpecifierSet(floor).contains(version, prereleases=True)
    detail = f"{version} on {platform.system()} {platform.machine()}, {os.cpu_count()} cores"
    return Check("python", ok, detail, "" if ok else f"install Python {floor}")


def _requirements() -> list[Check]:
    """One finding for each core dependency of the installed distribution that applies here."""
    from packaging.requirements import Requirement

    wanted = [Requirement(line) for line in metadata.requires(DISTRIBUTION) or []]
    return [
        _requirement(one.name, one)
        for one in wanted
        if one.marker is None or one.marker.evaluate({"extra": ""})
    ]


def _requirement(name: str, wanted: "Requirement") -> Check:
    fix = f"pip install '{name}{wanted.specifier}'"
    try:
        version = metadata.version(name)
    except metadata.PackageNotFoundError:
        return Check(name, False, f"not installed, needs {wanted.specifier}", fix)
    ok = wanted.specifier.contains(version, prereleases=True)
    return Check(name, ok, f"{version} (needs {wanted.specifier})", "" if ok else fix)


def _torch() -> Check:
    import torch

    # A matrix product catches a build whose libraries do not load on this machine.
    product = torch.ones(8, 8) @ torch.ones(8, 8)
    ok = bool((product == 8).all())
    detail = (
        f"{torch.__version__}, {torch.get_num_threads()} threads, CUDA build {torch.version.cuda}"
    )
    return Check(
        "torch works", ok, detail, "" if ok else "reinstall torch: 8x8 ones do not multiply"
    )


def _devices() -> Check:
    import torch

    found = [_gpu(index) for index in range(torch.cuda.device_count())]
    if torch.backends.mps.is_available():
        found.append("mps")
    fix = (
        "" if found else "only the CPU is used; a CUDA GPU needs a CUDA build of torch and a driver"
    )
    return Check("devices", True, ", ".join([*found, "cpu"]), fix)


def _gpu(index: int) -> str:
    import torch

    properties = torch.cuda.get_device_properties(index)
    capability = f"{properties.major}.{properties.minor}"
    return (
        f"cuda:{index} {properties.name} {properties.total_memory / 2**30:.0f} GiB sm {capability}"
    )


def _triton() -> Check:
    import torch

    if importlib.util.find_spec("triton") is None:
        return Check("triton kernels", True, "triton is not installed: eager code is used")
    if not torch.cuda.is_available():
        return Check("triton kernels", True, "not usable without a GPU: eager code is used")
    return Check("triton kernels", True, f"usable, triton {metadata.version('triton')}")


def _backend() -> Check:
    """Which code `auto` takes for an SAE's products, on each device and at two sizes."""
    import torch
    from interp_kernels import resolve

    devices = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
    parts = []
    for device in devices:
        options = {"device": torch.device(device), "k": ACTIVE, "dtype": torch.float32}
        taken = [f"{resolve(None, n_latents=m, **options)} at {m:,}" for m in SIZES]
        parts.append(f"{device}: {', '.join(taken)}")
    return Check("backend", True, f"{'; '.join(parts)} latents with {ACTIVE} active, float32")


def _hugging_face_kernels() -> Check:
    """diffusers and transformers import `kernels`; another package of that name breaks them."""
    name = "import kernels"
    spec = importlib.util.find_spec("kernels")
    # A folder without __init__.py, such as the one of a checkout, shadows nothing.
    if spec is None or spec.origin is None:
        return Check(name, True, "Hugging Face's kernels is not installed (optional)")
    origin = Path(spec.origin)
    has_loader = "get_kernel" in origin.read_text()
    fix = f"remove {origin.parent} from the path: it hides Hugging Face's kernels"
    return Check(name, has_loader, str(origin.parent), "" if has_loader else fix)


def _memory() -> Check:
    import torch

    free = _free_memory()
    if free is None:
        return Check("memory", True, "unknown on this platform")
    detail = f"{free:.1f} GiB free"
    for index in range(torch.cuda.device_count()):
        left, total = (x / 2**30 for x in torch.cuda.mem_get_info(index))
        detail += f", cuda:{index} {left:.1f} of {total:.1f} GiB free"
    ok = free >= ENOUGH_MEMORY
    fix = f"{ENOUGH_MEMORY:.0f} GiB are wanted: end other programs, or train with a smaller batch"
    return Check("memory", ok, detail, "" if ok else fix)


def _free_memory() -> float | None:
    """Return what new allocations may take, in GiB; None where the system does not say."""
    listed = Path("/proc/meminfo")
    if not listed.is_file():
        return None
    found = next(s for s in listed.read_text().splitlines() if s.startswith("MemAvailable:"))
    free = int(found.split()[1]) * 2**10
    # A container's own limit may be lower than what the machine has.
    limit, used = (Path(f"/sys/fs/cgroup/memory.{name}") for name in ("max", "current"))
    if limit.is_file() and (text := limit.read_text().strip()).isdecimal():
        free = min(free, int(text) - int(used.read_text()))
    return free / 2**30


def _stores(path: Path) -> Check:
    from interp.store import find_stores

    stores = find_stores(path) if path.is_dir() else []
    if not stores:
        return Check("stores", True, f"none in {path.resolve()}")
    used = sum(file.stat().st_size for one in stores for file in one.rglob("*") if file.is_file())
    return Check("stores", True, f"{len(stores)} with {used / 2**30:.2f} GiB in {path.resolve()}")


def _disk(path: Path) -> Check:
    existing = next(one for one in (path.resolve(), *path.resolve().parents) if one.exists())
    free = shutil.disk_usage(existing).free / 2**30
    writable = os.access(existing, os.W_OK)
    ok = free >= ENOUGH_DISK and writable
    detail = f"{free:.1f} GiB free at {existing}{'' if writable else ', not writable'}"
    fix = f"choose a writable folder with at least {ENOUGH_DISK:.0f} GiB for captures"
    return Check("disk", ok, detail, "" if ok else fix)


def _browser() -> Check:
    found = next((where for name in BROWSERS if (where := shutil.which(name))), None)
    if found:
        return Check("browser for tests", True, found)
    fix = "only the browser tests and the screenshot script need one: install chromium"
    return Check("browser for tests", True, "no chromium found (optional)", fix)


def _zoo() -> list[Check]:
    """Whether each shipped file of weights is the one that its card describes."""
    folder = Path(str(resources.files("interp.zoo"))) / "weights"
    cards = sorted(folder.glob("*.json"))
    if not cards:
        fix = "reinstall interp from a wheel or a full checkout"
        return [Check("zoo", False, f"no cards in {folder}", fix)]
    return [_weights(card) for card in cards]


def _weights(card: Path) -> Check:
    name, weights = f"zoo:{card.stem}", card.with_suffix(".safetensors")
    fix = "reinstall interp: the weights are not those of the card"
    wanted = json.loads(card.read_text()).get("weights", {}).get("sha256", "")
    if not weights.exists():
        return Check(name, False, f"{weights} is missing", fix)
    found = hashlib.sha256(weights.read_bytes()).hexdigest()
    detail = f"{weights.stat().st_size / 1e6:.2f} MB, sha256 {found[:12]}"
    if found == wanted:
        return Check(name, True, detail)
    return Check(name, False, f"{detail}, but the card says {wanted[:12] or 'nothing'}", fix)
