"""The whole job, small: every stage on the models in the box, twice with equal results."""

import json
from pathlib import Path

import pytest

from interp.demo import SCOPE, DemoConfig, demo
from interp.errors import InputError

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, list[str]]:
    folders = tmp_path_factory.mktemp("one"), tmp_path_factory.mktemp("two")
    lines: list[str] = []
    for folder in folders:
        lines.clear()
        demo(DemoConfig(out=folder, quick=True, threads=1), say=lines.append)
    return *folders, lines


RESULTS = ("results.json", "alignment-glyphs.json", "alignment-samples.json")


def test_results_are_equal_from_run_to_run(runs) -> None:
    first, second, _ = runs
    for name in RESULTS:
        assert (first / name).read_bytes() == (second / name).read_bytes()


def test_a_rerun_continues_and_changes_nothing(runs) -> None:
    folder = runs[0]
    before = [(folder / name).read_bytes() for name in RESULTS]
    demo(DemoConfig(out=folder, quick=True, threads=1), say=lambda line: None)
    assert [(folder / name).read_bytes() for name in RESULTS] == before


def test_the_page_and_the_report_state_the_scope_verbatim(runs) -> None:
    folder, _, lines = runs
    assert (folder / "index.html").is_file()
    assert SCOPE in (folder / "bundle" / "data" / "meta.js").read_text()
    assert any(SCOPE in line for line in lines)
    readme = (Path(__file__).parents[1] / "README.md").read_text().replace("\n> ", " ")
    assert SCOPE in " ".join(readme.split())


def test_every_sae_is_judged_on_unseen_rows_beside_baselines(runs) -> None:
    saes = json.loads((runs[0] / "results.json").read_text())["saes"]
    assert len(saes) == 5
    for one in saes:
        assert not one["evaluation"]["trained_rows"]
        assert one["evaluation"]["baselines"]
        assert one["evaluation"]["fvu"] > 0
        assert one["substitution"]["damage"] >= 0


def test_alignments_keep_sample_sets_apart_and_carry_null_p_and_twin(runs) -> None:
    found = json.loads((runs[0] / "results.json").read_text())["alignments"]
    assert [one["sample_set"] for one in found] == ["real images", "samples of zoo:gan"]
    for row in (row for one in found for row in one["strongest"]):
        assert row["p"] is None or 1 / 201 <= row["p"] <= 1
        assert row["twin_value"] is not None
        assert row["low"] <= row["value"] <= row["high"]


def test_saes_on_the_same_images_are_matched_beside_their_null(runs) -> None:
    found = json.loads((runs[0] / "results.json").read_text())["matches"]
    assert len(found) == 4
    for one in found:
        assert one["n_pairs"] >= one["n_shared"] >= 0
        assert one["null_mean"] < one["mean"] <= 1
        assert 0 < one["threshold"] < 1
    assert len(list((runs[0] / "matches").iterdir())) == 4
    assert (runs[0] / "bundle" / "data" / "matches3.js").is_file()


def test_no_threads_is_refused() -> None:
    with pytest.raises(InputError, match="at least 1"):
        DemoConfig(threads=0)
