"""What every test stands on: no network, one thread, poisoned allocations."""

import os

# Before torch or a Hugging Face library is imported: both read these once.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["HF_HUB_OFFLINE"] = "1"

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

ROOT = Path(__file__).resolve().parents[1]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Write the slow mark into the JUnit report, where `.ci/check_skips.py` looks for it."""
    for item in items:
        if item.get_closest_marker("slow"):
            item.user_properties.append(("slow", "yes"))


@pytest.fixture(scope="session", autouse=True)
def _single_thread() -> None:
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))


@pytest.fixture(scope="session", autouse=True)
def _poisoned_allocations() -> Iterator[None]:
    """Fill what `torch.empty` returns with NaN (the largest integer), so that a missed write shows.

    PyTorch does this only in deterministic mode, which on a GPU forbids operations: there, tests of
    kernels ask for `poisoned` by themselves.
    """
    if torch.cuda.is_available():
        yield
        return
    with _poison():
        yield


class _poison:
    def __enter__(self) -> None:
        self.before = torch.are_deterministic_algorithms_enabled()
        torch.use_deterministic_algorithms(True, warn_only=False)
        torch.utils.deterministic.fill_uninitialized_memory = True  # pyright: ignore

    def __exit__(self, *_: object) -> None:
        torch.use_deterministic_algorithms(self.before)


@pytest.fixture
def poisoned() -> Iterator[None]:
    """Poisoned allocations inside one test, on a GPU too."""
    with _poison():
        yield


@pytest.fixture(autouse=True)
def _global_rng_untouched() -> Iterator[None]:
    """What a test draws from or seeds in the global generators is undone after it."""
    numpy_state, torch_state = np.random.get_state(), torch.get_rng_state()  # noqa: NPY002
    yield
    np.random.set_state(numpy_state)  # noqa: NPY002
    torch.set_rng_state(torch_state)


@pytest.fixture
def generator() -> torch.Generator:
    """A seeded generator of the test's own."""
    return torch.Generator().manual_seed(0)


@pytest.fixture(scope="session")
def root() -> Path:
    """The repository's root."""
    return ROOT


@pytest.fixture(scope="session")
def tracked(root: Path) -> list[Path]:
    """Every file that git tracks and that exists, relative to the root."""
    names = subprocess.run(
        ["git", "ls-files", "-z"], cwd=root, check=True, capture_output=True, text=True
    ).stdout.split("\0")
    return [Path(name) for name in names if name and (root / name).is_file()]


@pytest.fixture(scope="session")
def python() -> Callable[..., str]:
    """Run code in a fresh interpreter and return what it prints; fails with its stderr."""

    def run(
        code: str, *, cwd: Path | None = None, executable: str = sys.executable, **env: str
    ) -> str:
        done = subprocess.run(
            [executable, "-c", code],
            cwd=cwd,
            env={**os.environ, **env},
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
        return done.stdout.strip()

    return run
