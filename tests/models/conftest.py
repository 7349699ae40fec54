"""Shared by the tests of models: the directory's own modules, and slow imports outside the tests."""

import sys
import warnings
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture(scope="session", autouse=True)
def _libraries() -> None:
    """Import what takes seconds before any test's clock runs."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import diffusers  # noqa: F401
        import transformers  # noqa: F401
