"""Small stores to break."""

import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from interp.store import ActivationStore, write_store

with warnings.catch_warnings():
    # pyarrow's import of an optional dependency may warn; the tests that use it must not.
    warnings.simplefilter("ignore")
    import pyarrow.parquet  # noqa: F401


@pytest.fixture(autouse=True)
def _no_waiting_for_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """What fsync adds only a power cut can show; the tests that kill a process are another one."""
    monkeypatch.setattr("os.fsync", lambda fd: None)


def make_values(g: int = 10, seed: int = 0) -> dict[str, torch.Tensor]:
    """Three points: a map in fp16, a vector in bf16, tokens in fp32."""
    draw = torch.Generator().manual_seed(seed)
    return {
        "half": torch.randn(g, 3, 16, 8, generator=draw).half(),
        "brain": torch.randn(g, 3, 1, 5, generator=draw).bfloat16(),
        "single": torch.randn(g, 3, 7, 4, generator=draw),
    }


@pytest.fixture
def values() -> dict[str, torch.Tensor]:
    return make_values()


@pytest.fixture
def images() -> torch.Tensor:
    draw = torch.Generator().manual_seed(1)
    return torch.randint(0, 256, (10, 4, 6, 3), generator=draw).to(torch.uint8)


@pytest.fixture
def make(tmp_path: Path, images: torch.Tensor) -> Callable[..., ActivationStore]:
    def make(folder: str = "a", seed: int = 0, **options: object) -> ActivationStore:
        options = {"images": images, "t": (900, 500, 100), "shard_size": 4} | options
        return write_store(tmp_path / folder, make_values(seed=seed), **options)  # type: ignore[arg-type]

    return make


@pytest.fixture
def store(make: Callable[..., ActivationStore]) -> ActivationStore:
    return make()


def tree(path: Path) -> dict[str, bytes]:
    """Return every file below `path` with its bytes."""
    return {str(f.relative_to(path)): f.read_bytes() for f in path.rglob("*") if f.is_file()}


@pytest.fixture
def tree_of() -> Callable[[Path], dict[str, bytes]]:
    return tree
