"""What is installed is what is in the tree, and it lives beside Hugging Face's `kernels`."""

import importlib.util
import os
import subprocess
import sys
import tarfile
import venv
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

PACKAGES = {"interp": "interp", "interp_kernels": "kernels/interp_kernels"}

BESIDE = """
import sys
import interp, interp_kernels
import diffusers, transformers
from diffusers import UNet2DConditionModel
from transformers import CLIPTextModel
from kernels import get_kernel
import kernels
assert callable(get_kernel)
print(interp.__file__)
print(interp_kernels.__file__)
print(kernels.__file__)
"""


def _call(*command: str | Path, cwd: Path | None = None) -> str:
    done = subprocess.run(
        [str(part) for part in command], cwd=cwd, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def export(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The last commit's files, as somebody else would get them."""
    folder = tmp_path_factory.mktemp("export")
    _call("git", "archive", "-o", folder / "tree.tar", "HEAD", cwd=root)
    with tarfile.open(folder / "tree.tar") as archive:
        archive.extractall(folder / "interp", filter="data")
    return folder / "interp"


@pytest.fixture(scope="module")
def wheel(export: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    # A copy, since building leaves `build/` and an egg-info behind.
    copy = tmp_path_factory.mktemp("source") / "interp"
    _call("cp", "-r", export, copy)
    out = tmp_path_factory.mktemp("wheel")
    pip = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation"]
    _call(*pip, "--quiet", "-w", out, copy)
    (built,) = out.glob("interp-*.whl")
    return built


@pytest.fixture(scope="module")
def wheel_files(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        return {name for name in archive.namelist() if not name.endswith("/")}


def _tree(export: Path) -> set[str]:
    """The packages' files under the names that they have once installed."""
    return {
        f"{package}/{path.relative_to(export / folder).as_posix()}"
        for package, folder in PACKAGES.items()
        for path in (export / folder).rglob("*")
        if path.is_file()
    }


def test_the_wheels_files_equal_the_trees_packages(export: Path, wheel_files: set[str]) -> None:
    packaged = {name for name in wheel_files if ".dist-info/" not in name}
    missing, extra = _tree(export) - packaged, packaged - _tree(export)
    assert not missing, f"not in the wheel (see package-data in pyproject.toml): {sorted(missing)}"
    assert not extra, f"in the wheel, not in the tree: {sorted(extra)}"


def test_the_wheels_bytes_equal_the_trees(export: Path, wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        for name in sorted(_tree(export)):
            package, _, inner = name.partition("/")
            assert archive.read(name) == (export / PACKAGES[package] / inner).read_bytes(), name


def test_the_wheel_has_two_top_level_packages_and_no_kernels(wheel_files: set[str]) -> None:
    tops = {name.split("/")[0] for name in wheel_files}
    assert {top for top in tops if not top.endswith(".dist-info")} == set(PACKAGES)


def test_the_wheel_carries_license_notice_and_types(wheel_files: set[str]) -> None:
    ends = ("licenses/LICENSE", "licenses/NOTICE", "entry_points.txt")
    assert all(any(name.endswith(end) for name in wheel_files) for end in ends)
    assert {"interp/py.typed", "interp_kernels/py.typed"} <= wheel_files


def _environment(folder: Path) -> Path:
    """A fresh environment over this one's libraries, without this one's own `interp`."""
    venv.create(folder, with_pip=False, symlinks=True)
    (site,) = folder.glob("lib/python*/site-packages")
    spec = importlib.util.find_spec("torch")
    assert spec is not None
    assert spec.origin is not None
    # A line of a .pth file adds a folder, but does not read the .pth files in it: an editable
    # `interp` of the outer environment stays outside.
    (site / "outer.pth").write_text(f"{Path(spec.origin).parents[1]}\n")
    return folder / "bin" / "python"


def _install(python: Path, *what: str | Path) -> None:
    # pip's own --python keeps the fresh environment free of a pip of its own.
    options = ["install", "--quiet", "--no-deps", "--no-build-isolation", "--force-reinstall"]
    _call(sys.executable, "-m", "pip", "--python", python, *options, *what)


@pytest.fixture(scope="module", params=["wheel", "editable"])
def installed(
    request: pytest.FixtureRequest, export: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Path]:
    """The interpreter of an environment with `interp`, and the folder its files must come from."""
    python = _environment(tmp_path_factory.mktemp(request.param))
    if request.param == "editable":
        _install(python, "-e", export)
        return python, export
    _install(python, request.getfixturevalue("wheel"))
    return python, python.parents[1]


@pytest.mark.parametrize("inside", [True, False], ids=["inside", "outside"])
def test_it_imports_beside_diffusers_transformers_and_kernels(
    installed: tuple[Path, Path],
    inside: bool,
    export: Path,
    tmp_path: Path,
    python: Callable[..., str],
) -> None:
    executable, home = installed
    cwd = export if inside else tmp_path
    lines = python(BESIDE, cwd=cwd, executable=str(executable), PYTHONPATH="").splitlines()
    interp_file, kernels_file, hugging_face = (Path(line).resolve() for line in lines[-3:])
    # Inside the checkout the current folder comes first on the path.
    expected = export if inside else home
    assert interp_file.is_relative_to(expected.resolve())
    assert kernels_file.is_relative_to(home.resolve())
    assert not hugging_face.is_relative_to(export.resolve())
    assert hugging_face.name == "__init__.py"


def test_the_command_is_installed(installed: tuple[Path, Path], tmp_path: Path) -> None:
    command = installed[0].parent / "interp"
    assert command.is_file()
    assert os.access(command, os.X_OK)
    assert "capture" in _call(command, "--help", cwd=tmp_path)
