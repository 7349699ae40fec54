"""Benchmarks: no timing on a red gate, and a result says where it was measured."""

import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from benchmarks import report, run

ROOT = Path(__file__).resolve().parents[2]


def _case(**members: Any) -> ModuleType:
    module = ModuleType("case")
    module.__dict__.update(members)
    return module


def test_nothing_is_timed_where_the_gate_fails() -> None:
    def gate() -> None:
        raise AssertionError("sums differ by 3")

    def timing() -> dict[str, Any]:
        pytest.fail("timed on a red gate")

    with pytest.raises(run.GateError, match="nothing was timed: sums differ by 3"):
        run.run_case(_case(gate=gate, run=timing))


def test_quick_reaches_only_a_case_that_takes_it() -> None:
    assert run.run_case(_case(run=lambda quick=False: {"quick": quick}), quick=True)["quick"]
    result = run.run_case(_case(gate=lambda: None, run=lambda: {"a": 1}), quick=True)
    assert result["gate"] == "passed"
    assert result["a"] == 1


def test_a_result_records_machine_versions_commit_and_date(tmp_path: Path) -> None:
    path = run.write("a case", {"figures": []}, run.environment(), tmp_path)
    where = json.loads(path.read_text())["environment"]
    assert path.name.startswith("a-case-")
    assert {"device", "cpu", "cores", "threads", "load", "commit", "date"} <= set(where)
    assert {"torch", "numpy"} <= set(where["versions"])


def test_the_table_shows_values_units_and_missed_targets() -> None:
    shown = report.table([_record()])
    assert "| store | write | 0.31 GB/s | >= 0.25 GB/s |" in shown
    assert "| store | overhead | 1.4 x (missed) | <= 1.3 x |" in shown
    assert shown.endswith("Measured on Fast CPU, 1 thread(s), torch 2, commit abc, 2026-01-02.")


def test_what_only_a_gpu_can_tell_is_shown_as_not_measured() -> None:
    record = _record()
    shown = report.table([record], report.unmeasured([record]))
    assert "fused_bwd_adam, the same step | not yet measured on a GPU | >= 1.3 x |" in shown
    on_cpu = {**record, "case": "gpu"}
    assert report.unmeasured([on_cpu])
    on_gpu = {**on_cpu, "environment": {**record["environment"], "device": "H200"}}
    assert not report.unmeasured([record, on_gpu])


def test_a_result_without_figures_shows_its_numbers() -> None:
    shown = report.figures({"a": {"b": 2.5}, "ok": True, "text": "no"})
    assert shown == [report.Figure("a.b", 2.5)]


@pytest.mark.parametrize(
    ("limit", "met"), [("<= 2", True), ("< 2", False), (">= 2", True), ("> 1.5", True), ("", None)]
)
def test_a_limit_is_read_with_its_sign(limit: str, met: bool | None) -> None:
    assert report.Figure("a", 2.0, "", limit).met() is met


def test_only_what_stands_between_the_markers_is_replaced() -> None:
    document = "above\n<!-- a -->\nold\n<!-- /a -->\nbelow\n"
    once = report.replace(document, "a", "new")
    assert once == "above\n<!-- a -->\nnew\n<!-- /a -->\nbelow\n"
    assert report.replace(once, "a", "new") == once
    with pytest.raises(ValueError, match="once each"):
        report.replace(once, "b", "new")


def test_the_section_of_targets_leaves_figures_without_one_out() -> None:
    one = {"name": "ratio", "value": 2.0, "unit": "x", "limit": ">= 1"}
    record = {**_record(), "result": {"figures": [one, {"name": "extra", "value": 1.0}]}}
    shown = report.sections([record])["benchmarks"]
    assert "ratio" in shown
    assert "extra" not in shown
    assert "extra" in report.table([record])


def test_an_unknown_case_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        run.main(["stroe"])
    assert "no case stroe; there are store" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("name", run.CASES)
def test_every_case_passes_its_gate_and_gives_figures(name: str, tmp_path: Path) -> None:
    # A process of its own: a browser's driver does not start beside another one's event loop.
    command = [sys.executable, "-m", "benchmarks.run", name, "--quick", "--out", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    (file,) = tmp_path.glob("*.json")
    assert report.figures(json.loads(file.read_text())["result"])


def _record() -> dict[str, Any]:
    return {
        "case": "store",
        "environment": {
            "device": "cpu",
            "cpu": "Fast CPU",
            "threads": 1,
            "versions": {"torch": "2"},
            "commit": "abc",
            "date": "2026-01-02T03:04:05+00:00",
        },
        "result": {
            "figures": [
                {"name": "write", "value": 0.31, "unit": "GB/s", "limit": ">= 0.25"},
                {"name": "overhead", "value": 1.4, "unit": "x", "limit": "<= 1.3"},
            ]
        },
    }
