"""Quality on planted cases: every variant has a row, one judge, and equal time is equal."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks import figures, planted, quality, variants, variants_report
from benchmarks.peers import launch
from benchmarks.peers.table import PEERS, Row
from interp.sae import VARIANTS, TrainConfig
from interp.sae.options import options_of
from interp.sae.synthetic import PlantedDictionary

# They read another target than their input, which planted rows do not have.
NOT_PLANTED = {"transcoder", "crosscoder"}


def test_every_variant_has_a_row_and_its_options_are_its_own() -> None:
    shown = {row.options["variant"]: row for row in planted.OURS}
    assert set(shown) == set(VARIANTS) - NOT_PLANTED
    for variant, row in shown.items():
        options_of(TrainConfig(variant=variant, options=row.options["options"]))


@pytest.mark.parametrize("row", planted.ROWS, ids=lambda row: row.label)
def test_every_row_has_a_library_and_an_adapter(row: Row) -> None:
    assert row.peer in PEERS or row.peer == ""
    assert launch.ahead_of(row) >= 0
    assert len({one.label for one in planted.ROWS}) == len(planted.ROWS)


@pytest.mark.parametrize("name", planted.CASES)
def test_a_case_plants_as_many_atoms_in_a_row_as_codes_have_latents(name: str) -> None:
    case = planted.CASES[name]
    made = case.make(2, planted.JUDGED)
    truth = made.truth(2048)
    assert len(list(made)) == 2
    if name != "synth":
        assert case.m == len(made.atoms)
        assert float(truth.fired.sum() / 2048) == pytest.approx(case.k, abs=0.5)


def test_a_perfect_code_gets_perfect_grades() -> None:
    data = PlantedDictionary(16, 32, 2, noise=0.0)
    truth = data.truth(512)
    found = quality.grade(quality.Output(2 * data.atoms, truth.fired, truth.x), truth, data.atoms)
    assert (found.recovered, found.f1, found.uniqueness, found.fvu, found.dead) == (1, 1, 1, 0, 0)
    assert (found.mcc, found.shrinkage) == (pytest.approx(1), pytest.approx(1))


def test_weights_and_a_saved_output_are_judged_alike(tmp_path: Path) -> None:
    data = PlantedDictionary(13, 8, 2, steps=1)
    truth = data.truth(100)
    generator = torch.Generator().manual_seed(0)
    weights = {
        "encoder": torch.randn(13, 8, generator=generator),
        "encoder_bias": torch.zeros(13),
        "decoder": torch.randn(13, 8, generator=generator),
        "decoder_bias": torch.ones(8),
    }
    made = quality.output(weights, truth.x, 2)
    np.savez(
        tmp_path / "output.npz",
        decoder=made.decoder.numpy(),
        fired=np.packbits(made.fired.numpy(), axis=1),
        x_hat=made.x_hat.numpy(),
    )
    again = quality.load_output(tmp_path / "output.npz")
    assert torch.equal(again.fired, made.fired)
    assert quality.grade(again, truth, data.atoms) == quality.grade(made, truth, data.atoms)
    score = quality.score(weights, truth.x, data.atoms, 2)
    grade = quality.grade(made, truth, data.atoms)
    assert (score.fvu, score.l0, score.mcc) == (grade.fvu, grade.l0, grade.mcc)


@pytest.mark.parametrize(
    ("seconds", "budget", "steps"),
    [(20.0, 10.0, 50), (10.0, 10.1, 100), (1.0, 10.0, 200), (1e9, 1.0, 20), (0.0, 1.0, 100)],
)
def test_equal_time_gives_steps_in_proportion(seconds: float, budget: float, steps: int) -> None:
    assert variants.equal_time(seconds, 100, budget) == steps


def _grade(mcc: float, steps: int = 100) -> dict[str, Any]:
    rest = dict.fromkeys(("f1", "uniqueness", "l0", "shrinkage", "relative_bias"), 0.5)
    score = {"recovered": 0.99, "mcc": mcc, "fvu": 0.1, "dead": 0.004, **rest}
    return {**score, "steps": steps, "seconds_cpu": 2.0, "ms_cpu": 20.0}


def _result() -> dict[str, Any]:
    rows = ["interp, topk", "sae-lens, topk", "sparsify, topk"]
    measured = {
        rows[0]: {"steps": _grade(0.9), "time": _grade(0.9)},
        rows[1]: {"steps": _grade(0.8), "time": _grade(0.7, 40)},
        rows[2]: {"error": "not | set up"},
    }
    curve = [{"steps": 10 * i, "seconds_cpu": i, "recovered": 0.1 * i} for i in (1, 2)]
    return {
        "cases": {"small": {"says": "512 atoms"}, "zipf": {"says": "by rank"}},
        "rows": [{"label": label, "note": "a note"} for label in rows],
        "measured": {"small": measured, "zipf": measured},
        "curves": {"interp, topk": curve},
        "libraries": [{"versions": {"torch": "2", "sae-lens": "6"}}],
    }


def test_the_figures_hold_ours_to_its_targets_and_to_the_best_peer() -> None:
    shown = {one["name"]: one for one in variants.figures(_result()["measured"])}
    assert shown["interp, topk on small after 100 steps: recovered"]["limit"] == ">= 0.99"
    name = "zipf: MCC of interp, topk less that of the best peer (sae-lens, topk)"
    assert shown[name]["value"] == pytest.approx(0.1)


def test_the_table_has_a_line_for_each_row_and_a_column_for_each_case() -> None:
    shown = variants_report.quality_table(_result()).splitlines()
    assert shown[0].startswith("|  | small | zipf | FVU, small |")
    assert shown[2] == ("| interp, topk | 0.990 / 0.900 | 0.990 / 0.900 | 0.100 | 0.4 % | 20.0 |")
    assert shown[4] == "| sparsify, topk | - | - | - | - | - |"
    at_time = variants_report.quality_table(_result(), "time")
    assert "| sae-lens, topk | 0.990 / 0.700 |" in at_time
    detail = variants_report.detail_table(_result(), "zipf")
    assert "| sparsify, topk | not / set up |" in detail


def test_the_report_says_what_was_planted_where_and_why_a_row_is_empty(
    tmp_path: Path, capsys: Any
) -> None:
    where = {"cpu": "Fast CPU", "load": 1, "versions": {"torch": "2"}, "commit": "abc"}
    record = {"result": _result(), "environment": where | {"date": "2026-01-02T03"}}
    path = tmp_path / "quality.json"
    path.write_text(json.dumps(record))
    assert variants_report.main([str(path)]) == 0
    shown = capsys.readouterr().out
    assert "- zipf: by rank" in shown
    assert "- sparsify, topk: not | set up" in shown
    assert "sae-lens 6, commit abc, 2026-01-02: `python -m benchmarks.run quality`." in shown
    assert variants_report.main([str(path), "--case", "zipf"]) == 0
    assert "atoms found | MCC | F1" in capsys.readouterr().out


def test_quality_over_time_is_one_line_for_each_library() -> None:
    where = {"cpu": "Fast CPU", "device": "cpu", "versions": {"torch": "2"}, "commit": "abc"}
    record = {"result": _result(), "environment": where | {"date": "2026-01-02T03"}}
    figure = figures.quality_figure(record)
    assert [trace.name for trace in figure.data] == ["interp, topk"]
    assert list(figure.data[0].x) == [1, 2]
    assert "CPU seconds" in figure.layout.xaxis.title.text


@pytest.mark.slow
def test_a_worker_saves_what_a_variant_makes_of_held_out_rows(tmp_path: Path) -> None:
    data = PlantedDictionary(16, 8, 2, batch_size=32, steps=24)
    batches, held_out = quality.save_batches(data, tmp_path / "data", 64)
    job = launch.Job(batches, m=16, k=2, steps=24, threads=1, held_out=held_out)
    row = next(row for row in planted.OURS if row.label == "interp, batchtopk")
    with launch.Workers(tmp_path, tmp_path / "jobs") as workers:
        result = workers.run(row, job)
        assert "error" not in result, result
        made = quality.load_output(workers.weights(row).with_name("output.npz"))
    assert made.fired.shape == (64, 16)
    assert made.decoder.shape == (16, 8)
    assert quality.grade(made, data.truth(64), data.atoms).fvu < 2
