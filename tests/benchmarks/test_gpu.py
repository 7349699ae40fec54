"""The program for a GPU, tried without one: it runs on a bare machine, no red gate is timed."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks import gpu, ops
from benchmarks.dense import Shape
from benchmarks.gpu_machine import Machine, floor_ms

ROOT = Path(__file__).resolve().parents[2]
# What a machine with a GPU need not have.
ABSENT = (
    "diffusers transformers plotly tyro sklearn scipy umap pyarrow pandas PIL transformer_lens "
    "datasets numba packaging"
)
BARE = f"import sys\nsys.modules.update(dict.fromkeys({ABSENT!r}.split()))\n"


@pytest.fixture
def session(tmp_path: Path) -> gpu.Session:
    return gpu.Session("cpu", True, 60, tmp_path)


@pytest.mark.slow
def test_the_whole_program_runs_where_only_torch_and_numpy_are(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(BARE)
    environment = {
        **os.environ,
        "PYTHON": sys.executable,
        "PYTHONPATH": str(tmp_path),
        "OUT": str(tmp_path),
    }
    command = ["bash", "benchmarks/gpu.sh", "--device", "cpu", "--quick"]
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stdout + done.stderr
    result = json.loads((tmp_path / "gpu-cpu.json").read_text())["result"]
    assert result["errors"] == {}
    assert {"gates", "curves", "machine", "steps", "ops", "training"} <= set(result)
    assert not any(one["failed"] for one in result["gates"])
    assert {one["dtype"] for one in result["steps"]} == {"bfloat16", "float32"}


def test_an_op_with_a_red_gate_is_not_timed(
    session: gpu.Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    def wrong(c: ops.Data, backend: str | None) -> list[torch.Tensor]:
        return [2 * part for part in decode(c, backend)]

    decode, reference, names = ops.OPS["sparse_decode_bwd"]
    table = {
        "sparse_decode_bwd": (wrong, reference, names),
        "sparse_decode": ops.OPS["sparse_decode"],
    }
    monkeypatch.setattr(ops, "OPS", table)
    monkeypatch.setattr(ops, "STEP", tuple(table))
    session.section("gates", lambda: gpu.gates(session))
    assert session.passed["torch.float32"] == {"sparse_decode"}
    shape, rates = gpu.QUICK[0], Machine(1e9, {"torch.float32": 1e9})
    timed = gpu.ops_at(session, shape, torch.float32)["times"]
    assert {name.split(",")[0] for name in timed} == {"sparse_decode"}
    steps = gpu.steps_at(session, shape, torch.float32, rates)
    assert set(steps["times"]) == {"dense"}
    assert steps["not timed"] == "gates of sparse_decode_bwd failed"
    failed = next(f for f in session.result["figures"] if f["name"] == "gates that failed")
    assert failed["value"] > 0


def test_an_op_whose_two_runs_differ_is_red(
    session: gpu.Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    decode, reference, names = ops.OPS["sparse_decode_bwd"]
    calls: list[int] = []

    def restless(c: ops.Data, backend: str | None) -> list[torch.Tensor]:
        calls.append(1)
        return [part * (1 + 1e-6 * (len(calls) % 2)) for part in decode(c, backend)]

    monkeypatch.setattr(ops, "OPS", {"sparse_decode_bwd": (restless, reference, names)})
    # In bf16 the difference is rounded away.
    exact = [one for one in gpu.gates(session) if one["dtype"] == "torch.float32"]
    assert {one["failed"] for one in exact} == {"AssertionError: two runs differ"}


def test_a_section_that_breaks_leaves_the_others(session: gpu.Session) -> None:
    session.section("first", lambda: 1 / 0)
    session.section("second", lambda: {"fine": True})
    session.ends = 0
    session.section("third", lambda: {})
    (file,) = session.out.glob("gpu-*.json")
    result: dict[str, Any] = json.loads(file.read_text())["result"]
    assert result["second"] == {"fine": True}
    assert "ZeroDivisionError" in result["errors"]["first"]
    assert result["errors"]["third"] == "left out: no time left"


def test_the_floor_is_the_sum_of_its_three_parts() -> None:
    rates = Machine(4.3e12, {"torch.bfloat16": 790e12})
    floor = floor_ms(Shape(1280, 65536, 32, 8192), torch.bfloat16, rates)
    assert floor["product"] == pytest.approx(1.74, abs=0.01)
    assert floor["gathers"] == pytest.approx(3 * 0.156, abs=0.01)
    assert floor["update"] == pytest.approx(1.01, abs=0.01)
    assert floor["total"] == pytest.approx(3.22, abs=0.01)


def test_without_a_gpu_the_default_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    with pytest.raises(SystemExit):
        gpu.main([])
    assert "--device cpu --quick tries the program without" in capsys.readouterr().err
