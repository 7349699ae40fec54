"""The annotations of shapes are true in the quick tests of this folder."""

from pathlib import Path

import pytest

from tests.checking.runs import check_annotations


@pytest.mark.slow
def test_annotations_hold_in_the_quick_tests(root: Path) -> None:
    check_annotations("sae", root)
