"""Ahead-of-time compilation: the gate sees what is wrong, and the table is of these sources."""

import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton")

from benchmarks import aot

ROOT = Path(__file__).resolve().parents[2]
GOOD = aot.Row("3.9.0", "sm_90", "op", 320, 64, 128, 0, 0, 0, 1024, 4, 0, False, "code")


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"spills": 2}, "local memory: 2 spills"),
        ({"stack": 16}, "16 bytes of stack"),
        ({"local": 8}, "8 of local memory"),
        ({"registers": 129}, "needs 129 registers, its budget is 128"),
        ({"needs_tensor": True}, "no matrix instruction"),
    ],
)
def test_the_gate_names_kernel_width_and_number(change: dict[str, int], fault: str) -> None:
    assert aot.faults(GOOD) == []
    (found,) = aot.faults(GOOD._replace(**change))
    assert found.startswith("op at d = 320 on sm_90")
    assert fault in found


def test_a_budget_is_of_nvidia_registers() -> None:
    assert not aot.faults(GOOD._replace(arch="gfx942", registers=200))


def test_comments_docstrings_and_layout_do_not_change_the_digest() -> None:
    plain = "def f(a,\n      b):\n    return a + b\n"
    documented = '@jit\ndef f(a, b):\n    """Sum."""\n    # Why.\n    return a + b\n'
    assert aot._code(plain) == aot._code(documented)
    assert aot._code(plain) != aot._code("def f(a, b):\n    return a - b\n")


def test_every_width_of_every_kernel_is_a_case() -> None:
    found = aot.cases()
    per_width = {d: [(m, i) for m, width, i in found if width == d] for d in aot.WIDTHS}
    assert all(per_width[d] == per_width[320] for d in aot.WIDTHS)
    assert len(per_width[320]) >= 8


def test_a_table_of_other_sources_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "aot.json"
    assert "missing" in aot.check(file)
    aot.write([GOOD], file)
    assert aot.check(file) == ""
    file.write_text(file.read_text().replace(aot.digest(), "0" * 16))
    assert "renew it with: python -m benchmarks.aot" in aot.check(file)


def test_only_kernels_that_changed_are_compiled_again(tmp_path: Path) -> None:
    file = tmp_path / "aot.json"
    case = aot.cases([320])[0]
    same = GOOD._replace(code=aot.case_digest(*case))
    aot.write([GOOD, same], file)
    assert aot.kept(file) == [same]
    assert aot.kept(tmp_path / "none.json") == []


def test_the_committed_table_is_of_these_sources() -> None:
    assert aot.check() == "", aot.check()


@pytest.mark.slow
def test_every_kernel_compiles_for_hopper_without_spills_and_within_its_budget() -> None:
    # A process of its own: this one may run Triton's interpreter.
    command = [sys.executable, "-m", "benchmarks.aot", "--arch", "sm_90"]
    command += ["--widths", "320", "1280", "4096", "--jobs", "1"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=360)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "0 faults" in done.stdout
