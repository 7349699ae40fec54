"""The run that guards the main branch: its reading of reports, and what the tests stand on."""

import importlib.util
import os
from pathlib import Path
from types import ModuleType

import pytest
import torch

REPORT = """<testsuites><testsuite>
<testcase classname="a" name="passes" time="0.1"/>
<testcase classname="a" name="drags" time="4"/>
<testcase classname="a" name="marked" time="5">
<properties><property name="slow" value="yes"/></properties></testcase>
<testcase classname="a" name="skips" time="0">
<skipped type="pytest.skip" message="needs a GPU"/></testcase>
{more}</testsuite></testsuites>"""
BROWSER = '<testcase classname="b" name="x"><skipped message="no chromium"/></testcase>'


@pytest.fixture(scope="module")
def checker(root: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("check_skips", root / ".ci" / "check_skips.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _main(checker: ModuleType, folder: Path, report: str, allowed: str) -> int:
    (folder / "junit.xml").write_text(report)
    (folder / "allowed.txt").write_text(allowed)
    return checker.main(str(folder / "junit.xml"), str(folder / "allowed.txt"))


def test_a_listed_skip_passes_and_unmarked_slow_tests_are_named(
    checker: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _main(checker, tmp_path, REPORT.format(more=""), "# why\nneeds a GPU\n") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "skipped  a::skips: needs a GPU"
    assert "drags" in lines[1]
    assert lines[-1] == "3 passed, 0 failed, 1 skipped"


def test_a_skip_outside_the_list_fails(
    checker: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _main(checker, tmp_path, REPORT.format(more=BROWSER), "needs a GPU\n") == 1
    assert "not in the list: b::x: no chromium" in capsys.readouterr().out


def test_a_run_without_tests_fails(checker: ModuleType, tmp_path: Path) -> None:
    assert _main(checker, tmp_path, "<testsuites/>", "") == 1
    assert checker.main(str(tmp_path / "absent.xml"), str(tmp_path / "allowed.txt")) == 1


def test_the_committed_list_has_at_most_ten_lines(checker: ModuleType, root: Path) -> None:
    assert len(checker.read_allowed(root / ".ci" / "allowed_skips.txt")) <= 10


def test_the_run_is_executable_and_tests_with_the_readmes_command(root: Path) -> None:
    assert os.access(root / ".ci" / "run", os.X_OK)
    assert "python -m pytest" in (root / ".ci" / "run").read_text()


def test_tests_stand_on_poisoned_memory_one_thread_and_no_network(poisoned: None) -> None:
    assert torch.empty(3).isnan().all()
    assert torch.zeros(2, 3).new_empty(4).isnan().all()
    assert torch.empty(2, dtype=torch.int64).eq(torch.iinfo(torch.int64).max).all()
    assert torch.get_num_threads() == 1
    assert os.environ["HF_HUB_OFFLINE"] == "1"
