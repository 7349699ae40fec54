"""The case `geometry` on tiny sizes: its gate, its result, its tables; the worker of libraries."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks import geometry, geometry_report, published, report
from benchmarks.peers.launch import Compared, Workers
from benchmarks.peers.setup import adapter_of, name_of
from benchmarks.peers.table import ENVIRONMENTS, GEOMETRY_PEERS, GEOMETRY_ROWS, Row
from benchmarks.run import CASES
from interp.errors import InputError
from interp.geometry import biased_cka, cost, debiased_cka, gemm_rate

TINY = geometry.Sizes(60, 8, 2, 1, 4, 90, 8, 1, 1, 1)


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_the_published_ways_give_the_values_of_the_definitions() -> None:
    x, y = draw(120, 6), draw(120, 9, seed=1)
    assert float(published.cka(x, y)) == pytest.approx(biased_cka(x, y), abs=1e-4)
    assert float(published.unbiased_cka(x, y)) == pytest.approx(debiased_cka(x, y), abs=1e-4)
    assert float(published.mutual_knn(x, x)) == 1


def test_the_gate_fails_where_a_value_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = {**geometry.PUBLISHED, "cka": published.cka}
    monkeypatch.setattr(geometry, "PUBLISHED", wrong)
    with pytest.raises(AssertionError, match="cka: "):
        geometry.gate()


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(geometry, "QUICK", TINY)
        return geometry.run(quick=True, folder=tmp_path_factory.mktemp("none"))


def test_the_case_is_one_of_the_runner() -> None:
    assert CASES["geometry"] == "benchmarks.geometry"


def test_a_run_has_every_figure_that_has_a_target(result: dict[str, Any]) -> None:
    limits = [one["limit"] for one in result["figures"] if "limit" in one]
    assert limits.count("<= 2") == 4
    assert limits.count("<= 60") == 3
    assert limits.count(">= 100") == 3
    assert "< 2000" in limits
    assert result["permutations"][0]["smallest_p"] >= 1 / 5
    json.dumps(result, allow_nan=False)


def test_a_library_that_is_not_set_up_has_its_reason(result: dict[str, Any]) -> None:
    reasons = {row["library"]: row["error"] for row in result["peers"]}
    assert set(reasons) == {call[0] for call in geometry.PEER_CALLS}
    assert reasons["netrep"] == "setup: not set up: python -m benchmarks.peers.setup netrep"


def _record(result: dict[str, Any]) -> dict[str, Any]:
    timed = {"library": "ckatorch", "measure": "cka", "ms": 250.0, "pairs": 4}
    changed = {**result, "peers": [*result["peers"][1:], timed]}
    where = {"cpu": "Fast CPU", "threads": 2, "load": 0.1, "versions": {"torch": "2"}}
    where |= {"device": "cpu", "commit": "abc", "date": "2026-01-02T03"}
    return {"case": "geometry", "environment": where, "result": changed}


def test_the_tables_show_ours_the_published_way_and_the_libraries(result: dict[str, Any]) -> None:
    shown = geometry_report.tables(_record(result))
    assert "| measure | interp | as published | ckatorch |" in shown
    line = next(line for line in shown.splitlines() if line.startswith("| `cka` |"))
    assert "250 (" in line
    assert "4 permutations of all pairs with max-T" in shown
    assert "Of 40 x 40 layers `cost` predicts" in shown
    assert "- ckatorch, cka_biased: setup: not set up" in shown
    assert "commit abc, 2026-01-02: `python -m benchmarks.run geometry`." in shown


def test_the_section_stands_between_its_markers(result: dict[str, Any]) -> None:
    sections = report.sections([_record(result)])
    document = "<!-- geometry -->\nold\n<!-- /geometry -->"
    assert "Milliseconds per pair" in report.replace(document, "geometry", sections["geometry"])


# The worker of libraries


@pytest.fixture
def data(tmp_path: Path) -> Path:
    path = tmp_path / "layers.npz"
    arrays: dict[str, Any] = {str(i): draw(12, 3 + i, seed=i).numpy() for i in range(3)}
    np.savez(path, **arrays)
    return path


ADAPTER = """
PACKAGES = ("numpy",)
MEASURES = {"gap": lambda x, y: x.shape[1] - y.shape[1]}
GRIDS = {"table": lambda xs, ys: [[x.shape[1] * y.shape[1] for y in ys] for x in xs]}
DESCRIPTORS = {"rows": len}
"""


def test_the_worker_gives_pairs_grids_and_descriptors(data: Path, tmp_path: Path) -> None:
    adapter = tmp_path / "adapter.py"
    adapter.write_text(ADAPTER)
    row = Row("mine", "", str(adapter))
    with Workers(tmp_path, tmp_path, program="geometry_worker.py") as workers:
        pairs = workers.run(row, Compared(data, "gap", (0,), (1, 2), warm=1))
        assert pairs["values"] == [[-1.0, -2.0]]
        assert len(pairs["ms_wall"]) == 2
        assert pairs["pairs"] == 1
        table = workers.run(row, Compared(data, "table", (0, 1), (2,)))
        assert table["values"] == [[15.0], [20.0]]
        assert table["pairs"] == 2
        assert len(table["ms_wall"]) == 1
        assert workers.run(row, Compared(data, "rows", (2,)))["values"] == [12.0]
        assert (
            "no other in MEASURES: gap"
            in workers.run(row, Compared(data, "other", (0,), (1,)))["error"]
        )


@pytest.mark.parametrize("name", GEOMETRY_PEERS)
def test_every_library_has_an_adapter_of_its_own(name: str) -> None:
    assert name in ENVIRONMENTS
    assert adapter_of(name).exists()
    assert next(row for row in GEOMETRY_ROWS if row.peer == name).adapter == adapter_of(name).name


def test_a_requirement_is_known_by_its_name() -> None:
    assert name_of("ckatorch==1.0.3") == "ckatorch"
    assert name_of("netrep @ git+https://host.example/a/netrep@0186b8a") == "netrep"


# What it will cost


def test_cost_counts_the_products_of_the_cheaper_route() -> None:
    found = cost(2048, [768] * 12, [768] * 12)
    assert found.route == "gram"
    assert found.seconds is None
    # Half of every Gram matrix, the products of tiles, half of X'X of each layer.
    pairs = 2048**2 * (24 * 768 + 2 * 144) + 24 * 2048 * 768**2
    assert found.flops == pytest.approx(pairs)
    more = cost(2048, [768] * 12, [768] * 12, n_permutations=200, rate=1e9)
    assert more.flops > found.flops + 200 * 2048**2 * 144
    assert more.seconds == pytest.approx(more.flops / 1e9)


def test_cost_of_many_rows_stays_within_two_gigabytes() -> None:
    for measure in ("cka", "mutual_knn"):
        found = cost(50_000, [1024] * 40, [1024] * 40, measure)
        assert found.workspace_bytes < 2e9
        assert found.flops > 1.7e14
    assert cost(50_000, [1024] * 40, [1024] * 40).route == "feature"
    assert cost(50_000, [1024] * 40, [1024] * 40).kept_bytes == 0


def test_cost_refuses_what_it_does_not_know() -> None:
    with pytest.raises(InputError, match="no cost of 'rtd'; there are cka, cka_biased, mutual_knn"):
        cost(100, [3], [3], "rtd")
    with pytest.raises(InputError, match="n = 3 rows"):
        cost(3, [3], [3])
    assert gemm_rate() > 1e6
