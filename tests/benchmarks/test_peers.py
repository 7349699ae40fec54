"""Peers: one protocol for every library, one judge, and what fails is recorded, not skipped."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks import quality
from benchmarks.peers import case, launch, report, setup
from benchmarks.peers.table import OURS, PEERS, ROWS, Peer, Row
from interp.sae.synthetic import PlantedDictionary

ADAPTERS = Path(launch.__file__).parent / "adapters"


# The worker


@pytest.fixture(scope="module")
def planted() -> PlantedDictionary:
    return PlantedDictionary(16, 8, 2, batch_size=32, steps=24)


@pytest.fixture(scope="module")
def data(planted: PlantedDictionary, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return quality.save_batches(planted, tmp_path_factory.mktemp("data"), 64)


def _job(data: tuple[Path, Path], steps: int = 24) -> launch.Job:
    return launch.Job(data[0], m=16, k=2, steps=steps, threads=1, timed=4, held_out=data[1])


@pytest.mark.slow
def test_a_worker_trains_ours_and_saves_the_weights_of_its_forward_pass(
    planted: PlantedDictionary, data: tuple[Path, Path], tmp_path: Path
) -> None:
    row = next(row for row in ROWS if row.label == OURS)
    with launch.Workers(tmp_path, tmp_path / "jobs") as workers:
        # One worker, two jobs, two processes: the second knows nothing of the first.
        results = [workers.run(row, _job(data)) for _ in range(2)]
    assert all("error" not in result for result in results), results
    first, second = results
    assert first["own_fvu"] == second["own_fvu"]
    assert first["steps"] == 24
    assert first["timed"] == 4
    assert first["ms_wall"] > 0
    assert first["versions"]["torch"] == torch.__version__
    found = case.judge(workers.weights(row), planted, 64, k=2)
    assert found.fvu == pytest.approx(first["own_fvu"], abs=1e-5)


@pytest.mark.slow
def test_a_library_that_cannot_run_a_job_is_an_error_with_its_words(
    data: tuple[Path, Path], tmp_path: Path
) -> None:
    row = next(row for row in ROWS if row.label == OURS)
    job = launch.Job(data[0], m=16, k=17, steps=20, threads=1)
    with launch.Workers(tmp_path, tmp_path / "jobs") as workers:
        assert "k = 17 is not in 1..16" in workers.run(row, job)["error"]
        # The worker goes on.
        assert "error" not in workers.run(row, _job(data, steps=20))


def test_a_library_that_is_not_set_up_says_how_to(data: tuple[Path, Path], tmp_path: Path) -> None:
    row = Row("sparsify", "sparsify", "sparsify_topk.py")
    with launch.Workers(tmp_path, tmp_path / "jobs") as workers:
        error = workers.run(row, _job(data))["error"]
    assert error == "setup: not set up: python -m benchmarks.peers.setup sparsify"


def test_the_clock_stands_still_while_a_batch_is_made(data: tuple[Path, Path]) -> None:
    worker = _worker()
    ticks = iter([(float(i), 0.0) for i in (0, 5, 6, 16, 18, 19)])
    worker.clock = lambda: next(ticks)
    rows = worker.Rows(data[0], 2)
    # Asked at 0, 6 and 18; handed over at 5 and 16; steps of 1 and 2 seconds.
    assert len(list(rows)) == 2
    assert [wall for wall, _ in rows.gaps()] == [1.0, 2.0]


def test_batches_repeat_where_the_steps_outlast_them(data: tuple[Path, Path]) -> None:
    batches = list(_worker().Rows(data[0], 26))
    assert len(batches) == 26
    assert torch.equal(batches[24], batches[0])
    assert torch.equal(batches[1], torch.from_numpy(np.load(data[0])[1]))


def _worker() -> Any:
    import importlib.util

    path = ADAPTERS.parent / "worker.py"
    spec = importlib.util.spec_from_file_location("worker", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_worker_and_the_peers_adapters_know_nothing_of_interp() -> None:
    files = [ADAPTERS.parent / "worker.py", *ADAPTERS.glob("*.py")]
    peers = [path for path in files if path.name != "interp_topk.py"]
    assert not [path for path in peers if "import interp" in path.read_text()]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.label)
def test_every_row_has_a_library_and_an_adapter(row: Row) -> None:
    assert row.peer in PEERS or row.peer == ""
    assert launch.ahead_of(row) >= 0


# The setup


class _Tools:
    """Stands for the programs that setup runs; `failing` names the one that fails."""

    def __init__(self, failing: str = "", output: str = "") -> None:
        self.failing, self.output, self.calls = failing, output, []

    def __call__(self, command: list[str]) -> subprocess.CompletedProcess[str]:
        self.calls.append(command)
        failed = bool(self.failing) and self.failing in command
        return subprocess.CompletedProcess(
            command, int(failed), '{"torch": "2.13.0"}\n', self.output if failed else ""
        )


PEER = Peer(("thing==1.0",), remove=("other",))


def test_a_failing_install_is_recorded_with_its_reason_and_no_address(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = "WARNING: no\nERROR: no thing==1.0 at https://host.example/simple/thing\n"
    tools = _Tools("thing==1.0", said)
    monkeypatch.setattr(setup, "run_command", tools)
    record = setup.setup_peer("saev", PEER, tmp_path)
    assert not record["ok"]
    assert record["step"] == "install"
    assert record["reason"] == "ERROR: no thing==1.0 at <address>"
    assert setup.state("saev", tmp_path) == record
    assert "uninstall" not in tools.calls[-1]


def test_torch_comes_first_and_stays_at_its_version(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tools = _Tools()
    monkeypatch.setattr(setup, "run_command", tools)
    record = setup.setup_peer("saev", PEER, tmp_path)
    assert record["ok"]
    assert record["versions"] == {"torch": "2.13.0"}
    installs = [call for call in tools.calls if "install" in call]
    assert installs[0][-1] == "torch==2.13.0"
    assert installs[1][-2:] == ["torch==2.13.0", "thing==1.0"]
    assert tools.calls[3][-3:] == ["--quiet", "--yes", "other"]
    assert tools.calls[0] == [sys.executable, "-m", "venv", str(tmp_path / "saev")]


def test_the_program_sets_up_what_does_not_work_yet_and_goes_on_after_a_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    done = []

    def fake(name: str, peer: Peer, folder: Path, sources: Any) -> dict[str, Any]:
        done.append(name)
        return {"name": name, "ok": False, "step": "import", "reason": "ImportError: x"}

    monkeypatch.setattr(setup, "setup_peer", fake)
    works = {"ok": True, "requirements": [*PEERS["saev"].requirements], "versions": {}}
    (tmp_path / "saev.json").write_text(json.dumps(works))
    names = ["saev", "sae-lens", "sparsify"]
    assert setup.main([*names, "--folder", str(tmp_path)]) == 1
    assert done == ["sae-lens", "sparsify"]
    assert "sparsify: failed, import: ImportError: x" in capsys.readouterr().out


def test_an_unknown_library_names_the_known_ones(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        setup.main(["nothing"])
    assert "no library nothing; there are sae-lens" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("no file /home/someone/cache/x.py", "no file x.py"),
        ("see https://host.example/a b", "see <address> b"),
        ("and/or 3/4", "and/or 3/4"),
    ],
)
def test_messages_lose_addresses_and_folders(text: str, shown: str) -> None:
    assert setup.clean(text) == shown


# The judge


def test_the_planted_dictionary_itself_scores_1() -> None:
    planted = PlantedDictionary(16, 32, 2, noise=0.0, steps=1)
    weights = {
        "encoder": torch.linalg.pinv(planted.atoms).T,
        "encoder_bias": torch.zeros(16),
        "decoder": planted.atoms,
        "decoder_bias": torch.zeros(32),
    }
    found = quality.score(weights, planted.held_out(128), planted.atoms, k=2)
    assert found.fvu < 1e-9
    assert found.mcc == pytest.approx(1)
    assert found.recovered == 1
    assert found.dead == 0
    assert 1 < found.l0 <= 2


@pytest.mark.parametrize(
    ("seconds", "budget", "steps"),
    [(20.0, 10.0, 50), (1.0, 10.0, 500), (10.0, 10.0, 100), (1e9, 1.0, 1), (0.0, 1.0, 100)],
)
def test_equal_time_gives_steps_in_proportion(seconds: float, budget: float, steps: int) -> None:
    assert case.equal_time_steps(seconds, 100, budget) == steps


# The report


def _timed(label: str, cpu: float, wall: float) -> dict[str, Any]:
    clocks = {"ms_cpu": {"median": cpu}, "ms_wall": {"median": wall}}
    return {"label": label, "note": "", "threads": {"1": clocks, "2": clocks}, "peak_megabytes": 9}


def _scored(label: str, note: str = "") -> dict[str, Any]:
    score = {"fvu": 0.1234, "mcc": 0.9, "recovered": 0.99, "dead": 0.0}
    run = {**score, "steps": 100, "seconds_cpu": 1.0}
    return {"label": label, "note": note, "steps": run, "time": {**run, "steps": 50}}


def test_the_tables_show_ratios_against_ours_and_reasons() -> None:
    speed = [_timed(OURS, 20.0, 10.0), _timed("x", 50.0, 15.0), {"label": "y", "error": "no | k"}]
    shown = report.speed_table(speed).splitlines()
    assert shown[2] == "| interp | 20.0 | 1.00x | 10.0 | 1.00x | 9 |"
    assert shown[3] == "| x | 50.0 | 2.50x | 15.0 | 1.50x | 9 |"
    assert shown[4].startswith("| y | no / k |")
    judged = report.quality_table([_scored("x"), {"label": "y", "error": "no"}]).splitlines()
    assert judged[2] == "| x | 0.123 | 0.900 | 0.990 | 0.000 | 10.0 | 50 | 0.123 | 0.900 | 0.990 |"
    assert {line.count("|") for line in [*judged]} == {11}


def test_the_figures_compare_with_the_fastest_library_not_with_the_reference() -> None:
    speed = [_timed(OURS, 20.0, 10.0), _timed("x", 50.0, 15.0), _timed("slow", 90.0, 80.0)]
    speed.append(_timed(case.REFERENCE, 30.0, 12.0))
    shown = {one["name"]: one["value"] for one in case.figures(speed, [_scored(OURS)], case.QUICK)}
    assert shown["fastest peer (x) / interp, CPU time, 1 thread(s)"] == 2.5
    assert shown["fastest peer (x) / interp, wall time, 2 thread(s)"] == 1.5
    assert shown["planted atoms found after 100 steps"] == 0.99


def test_the_report_names_versions_notes_and_command(tmp_path: Path, capsys: Any) -> None:
    result = {
        "sizes": {**vars(case.QUICK)},
        "speed": [_timed(OURS, 1.0, 1.0) | {"notes": ["a stub"]}],
        "quality": [_scored(OURS, "a note")],
        "libraries": [{"versions": {"torch": "2", "sae-lens": "6"}}],
    }
    where = {"cpu": "Fast CPU", "load": 1, "versions": {"torch": "2"}, "commit": "abc"}
    record = {"result": result, "environment": where | {"date": "2026-01-02T03"}}
    path = tmp_path / "result.json"
    path.write_text(json.dumps(record))
    assert report.main([str(path)]) == 0
    shown = capsys.readouterr().out
    assert "- interp: a note" in shown
    assert "- interp: a stub" in shown
    assert "sae-lens 6, commit abc, 2026-01-02: `python -m benchmarks.run peers`." in shown
