"""The whole job, small: every stage on the models in the box."""

import json
from pathlib import Path

import pytest

from interp.demo import SCOPE, DemoConfig, demo
from interp.errors import InputError

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    folder = tmp_path_factory.mktemp("demo")
    lines: list[str] = []
    demo(DemoConfig(out=folder, quick=True, threads=1), say=lines.append)
    return folder, lines


def test_the_page_and_the_report_state_the_scope_verbatim(run) -> None:
    folder, lines = run
    assert (folder / "index.html").is_file()
    assert SCOPE in (folder / "bundle" / "data" / "meta.js").read_text()
    assert any(SCOPE in line for line in lines)
    readme = (Path(__file__).parents[1] / "README.md").read_text().replace("\n> ", " ")
    assert SCOPE in " ".join(readme.split())


def test_every_sae_is_judged_on_unseen_rows_beside_baselines(run) -> None:
    saes = json.loads((run[0] / "results.json").read_text())["saes"]
    assert len(saes) == 4
    for one in saes:
        assert not one["evaluation"]["trained_rows"]
        assert one["evaluation"]["baselines"]
        assert one["evaluation"]["fvu"] > 0
        assert one["substitution"]["damage"] >= 0


def test_alignments_keep_sample_sets_apart_and_carry_null_p_and_twin(run) -> None:
    found = json.loads((run[0] / "results.json").read_text())["alignments"]
    assert [one["sample_set"] for one in found] == ["real images", "samples of zoo:gan"]
    for row in (row for one in found for row in one["strongest"]):
        assert row["p"] is None or 1 / 201 <= row["p"] <= 1
        assert row["twin_value"] is not None
        assert row["low"] <= row["value"] <= row["high"]


def test_no_threads_is_refused() -> None:
    with pytest.raises(InputError, match="at least 1"):
        DemoConfig(threads=0)
