"""Figures are functions of result files."""

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks import figures

WHERE = {
    "device": "cpu",
    "cpu": "Fast CPU",
    "threads": 1,
    "versions": {"torch": "2"},
    "commit": "abc",
    "date": "2026-01-02T03:04:05+00:00",
}
SHAPE = {"d": 8, "m": 64, "k": 2, "n": 16}


def _times(**medians: float) -> dict[str, Any]:
    return {
        name.replace("_", " "): {clock: {"median": ms} for clock in ("cpu", "wall")}
        for name, ms in medians.items()
    }


def _record(case: str, **result: Any) -> dict[str, Any]:
    return {"case": case, "environment": WHERE, "result": result}


TRAIN = _record(
    "train",
    measured=[
        {
            "shape": SHAPE,
            "clock": "cpu",
            "threads": 1,
            "rounds": 15,
            "times": _times(ours=10.0, dense=40.0, encode=6.0, decode=1.0, backward_and_Adam=2.0),
            "floor": 7.0,
            "losses": {"ours": [1.0, 0.5], "dense": [1.0, 0.5]},
        }
    ],
)
KERNELS = _record(
    "kernels",
    measured=[
        {
            "shape": {**SHAPE, "k": k},
            "dtype": "float32",
            "times": {
                f"{name}, {backend}": {"cpu": {"median": ms}}
                for name in ("step", "encode_topk")
                for backend, ms in (("dense", 8.0), ("eager", float(k)))
            },
        }
        for k in (16, 4)
    ],
)
GPU = _record(
    "gpu",
    steps=[
        {
            "shape": SHAPE,
            "dtype": "bfloat16",
            "times": {"ours": {"median": 2.0}, "dense": {"median": 9.0}},
            "floor": {"total": 1.0},
        }
    ],
)


MEMORY = _record(
    "memory",
    sizes={"d": 8, "k": 2, "n": 16},
    measured=[{"m": 64, "ours": 1.0, "dense": 3.0, "weights_and_moments": 0.5}],
)


def test_the_field_of_batches_has_a_number_where_one_was_measured() -> None:
    (field,) = figures.batches_figure(KERNELS).data
    assert (list(field.x), list(field.y)) == (["4", "16"], ["16"])
    assert [list(row) for row in field.z] == [[0.5, 2.0]]


def test_the_parts_of_a_step_add_up_to_it() -> None:
    figure = figures.train_figure(TRAIN)
    bars = {trace.name: trace.y[0] for trace in figure.data if trace.type == "bar"}
    assert bars.pop("dense step") == 40.0
    assert sum(bars.values()) == 10.0
    assert bars["other"] == 1.0
    (floor,) = (trace for trace in figure.data if trace.type == "scatter")
    assert list(floor.y) == [7.0]


def test_a_speed_up_above_one_means_that_sparse_is_faster() -> None:
    figure = figures.kernels_figure(KERNELS)
    step = next(trace for trace in figure.data if trace.name == "step, m 64, n 16, float32")
    assert list(step.x) == [4.0, 16.0]
    assert list(step.y) == [0.5, 2.0]


@pytest.mark.parametrize(
    ("draw", "record"),
    [
        (figures.train_figure, TRAIN),
        (figures.losses_figure, TRAIN),
        (figures.kernels_figure, KERNELS),
        (figures.batches_figure, KERNELS),
        (figures.memory_figure, MEMORY),
        (figures.gpu_figure, GPU),
    ],
)
def test_a_figure_names_its_axis_with_unit_and_its_origin(draw: Any, record: Any) -> None:
    layout = draw(record).layout
    assert layout.yaxis.title.text
    assert "Fast CPU, torch 2, commit abc, 2026-01-02" in layout.title.text


def test_pages_are_written_for_the_results_that_are_there(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "train-cpu.json").write_text(json.dumps(TRAIN))
    out = tmp_path / "pages"
    assert figures.main(["--results", str(tmp_path), "--out", str(out)]) == 0
    assert {path.name for path in out.iterdir()} == {"train-cpu.html", "losses-cpu.html"}
    assert "no result of the case gpu" in capsys.readouterr().out
    assert '"showSendToCloud": false' in (out / "train-cpu.html").read_text()


def test_an_unknown_figure_is_named(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    with pytest.raises(SystemExit):
        figures.main(["trian", "--out", str(tmp_path)])
    assert "no figure trian; there are train" in capsys.readouterr().err
