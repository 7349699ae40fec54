"""A sweep trains every point of its grid over one pass, and its table tells how each did."""

import csv
import json
from pathlib import Path

import pytest
import torch

from interp.cli import main
from interp.errors import InterpError, SAEError
from interp.sae.config import TrainConfig
from interp.sae.many import Job, train_many
from interp.sae.sweep import expand, sweep
from tests.sae.stores import make_store

CONFIG = TrainConfig(n_latents=12, k=2, steps=6, batch_size=16, log_every=3, checkpoint_every=3)
ATOMS = torch.nn.functional.normalize(
    torch.randn(8, 6, generator=torch.Generator().manual_seed(0)), dim=1
)


class Counted:
    """Batches of sums of two atoms; counts how often it is read."""

    def __init__(self) -> None:
        self.passes = 0

    def __iter__(self):
        self.passes += 1
        g = torch.Generator().manual_seed(1)
        while True:
            yield ATOMS[torch.randint(8, (16, 2), generator=g)].sum(1)


def test_a_grid_is_every_combination_with_options_among_the_settings() -> None:
    found = expand({"k": [1, 2], "n_latents": [8, 16]}, CONFIG)
    assert list(found) == [f"k={k},n_latents={m}" for k in (1, 2) for m in (8, 16)]
    assert found["k=2,n_latents=8"].n_latents == 8
    (one,) = expand({"aux_k": [3]}, CONFIG).values()
    assert one.options == {"aux_k": 3}


@pytest.mark.parametrize(
    ("grid", "message"),
    [
        ({}, "give values to at least one setting"),
        ({"k": []}, "give values to at least one setting"),
        ({"k": [2, 2]}, "k has a value twice"),
        ({"steps": [5, 6]}, "steps is one for all runs of a pass"),
        ({"k": [99]}, "k = 99 is not in 1..12"),
    ],
)
def test_a_grid_that_makes_no_sense_is_refused(grid: dict, message: str) -> None:
    with pytest.raises(SAEError, match=message):
        expand(grid, CONFIG)


def test_an_unknown_setting_is_refused_before_anything_is_trained(tmp_path: Path) -> None:
    with pytest.raises(SAEError, match="k_latents"):
        sweep(Counted(), {"k_latents": [1]}, CONFIG, out=tmp_path, progress=False)
    assert not list(tmp_path.rglob("*.safetensors"))


def test_one_pass_trains_all_and_the_table_is_sorted_by_fvu(tmp_path: Path) -> None:
    source = Counted()
    grid = {"k": [1, 2, 3], "variant": ["topk", "relu"]}
    results = sweep(source, grid, CONFIG, out=tmp_path, atoms=ATOMS, progress=False)
    # One reading for the first batches' statistics and the training together.
    assert source.passes == 1
    assert [r.fvu for r in results] == sorted(r.fvu for r in results)
    assert {r.judged for r in results} == {"training"}
    assert all(r.recovered is not None and 0 <= r.recovered <= 1 for r in results)
    saved = json.loads((tmp_path / "sweep.json").read_text())
    assert [row["name"] for row in saved] == [r.name for r in results]
    table = list(csv.DictReader((tmp_path / "sweep.csv").read_text().splitlines()))
    assert [float(row["fvu"]) for row in table] == [r.fvu for r in results]
    assert {row["variant"] for row in table} == {"topk", "relu"}


def test_each_run_is_that_of_train_many_alone(tmp_path: Path) -> None:
    source = Counted()
    (result, _) = sweep(source, {"k": [2, 3]}, CONFIG, out=tmp_path / "a", progress=False)
    config = expand({"k": [2, 3]}, CONFIG)[result.name]
    alone = train_many(
        source, {"one": Job(config)}, out=tmp_path / "b", order_seed=0, progress=False
    )
    assert alone["one"].log[-1]["fvu"] == pytest.approx(result.fvu, abs=1e-6)


def test_a_rerun_reads_and_a_larger_grid_trains_what_is_new(tmp_path: Path) -> None:
    first = sweep(Counted(), {"k": [1, 2]}, CONFIG, out=tmp_path, progress=False)
    weights = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*.safetensors")}
    again = sweep(Counted(), {"k": [1, 2]}, CONFIG, out=tmp_path, progress=False)
    assert again == first
    more = sweep(Counted(), {"k": [1, 2, 3]}, CONFIG, out=tmp_path, progress=False)
    assert {r.name for r in more} == {"k=1", "k=2", "k=3"}
    assert all(p.stat().st_mtime_ns == time for p, time in weights.items())


def test_a_store_is_judged_on_rows_that_were_held_out_or_on_another_store(tmp_path: Path) -> None:
    store = make_store(tmp_path / "stores")
    where = {"point": "mid", "progress": False}
    results = sweep(store, {"k": [1, 2]}, CONFIG, out=tmp_path / "a", **where)
    assert {r.judged for r in results} == {"held out"}
    config = TrainConfig(**{**CONFIG.as_dict(), "held_out": 0.0})
    (one,) = sweep(store, {"k": [2]}, config, out=tmp_path / "b", **where)
    assert one.judged == "training"
    other = make_store(tmp_path / "others", first=100, seed=5)
    (two,) = sweep(store, {"k": [2]}, config, out=tmp_path / "b", judge=other, **where)
    assert two.judged == "held out"
    assert two.fvu != one.fvu


def test_the_command_prints_the_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = make_store(tmp_path / "stores")
    words = ["sweep", str(store.path), "mid", "--grid", "k=1,2", "aux_k=2,3"]
    words += ["--n-latents", "12", "--k", "2", "--steps", "4", "--batch-size", "16"]
    assert main([*words, "--out", str(tmp_path / "s")]) == 0
    head, *lines, path = capsys.readouterr().out.splitlines()
    assert head.split() == ["run", "fvu", "l0", "dead", "judged", "on"]
    assert len(lines) == 4
    assert Path(path).name == "sweep.csv"
    assert main(["sweep", str(store.path), "mid", "--grid", "k"]) == 2
    assert "must be NAME=VALUE,VALUE" in capsys.readouterr().err


def test_a_setting_twice_on_the_command_line_is_refused() -> None:
    from interp.cli.sweeping import read_grid

    with pytest.raises(InterpError, match="is there twice"):
        read_grid(("k=1", "k=2"))
    assert read_grid(("k=1,2", "dead=auxk", "tied=true")) == {
        "k": [1, 2],
        "dead": ["auxk"],
        "tied": [True],
    }
