"""`interp steer`: its table, its files, what it refuses, on the GAN in the box."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch

from interp import load
from interp.cli import main
from interp.interventions import DoseResponse
from interp.models import Generation, find_origin, reading, to_rows
from interp.sae import TopK, load_sae
from interp.sae.split import unit_hash

FEW = ["--n", "10", "--attributes", "composition", "surface", "--random", "1"]


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """An SAE of w, centered on its rows, never trained."""
    gan = load("zoo:gan")
    with reading(gan, ["w"]) as reader:
        gan.generate(Generation(n=40).batch(0, 40))
    rows = to_rows(reader.calls[0].value, gan.points["w"]).flatten(0, 1)
    sae = TopK(rows.shape[1], 32, 4)
    sae.fit(rows.double().mean(0), rows.double().var(0))
    sae.provenance = {"point": gan.points["w"].as_dict()}
    return sae.save(tmp_path_factory.mktemp("sae") / "w")


def test_steering_by_a_feature_prints_a_table_and_writes_the_record(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "strip"
    words = ["--feature", "3", "--strengths", "-0.5", "0", "0.5", "--out", str(out)]
    assert main(["steer", "zoo:gan", "--sae", str(run), *words, *FEW]) == 0
    said = capsys.readouterr()
    # 64 clean; 10 seeds: unedited, identity, three strengths, two directions at two strengths.
    assert said.err.startswith(f"{64 + 10 * (2 + 3 + 4)} images, about ")
    assert "mean of 1 random: isotropic" in said.out
    assert re.search(r"beyond the random directions \(their mean; 1 drawn of each kind\)", said.out)
    assert "along: mean change on the attribute's own axis" in said.out
    assert "off surface: share" in said.out or "off composition: share" in said.out
    assert "root mean squared deviations of clean rows" in said.out
    assert said.out.endswith(f"{out}\n")
    found = DoseResponse.load(out)
    assert (found.feature, found.point, found.n_seeds) == (3, "w", 10)
    assert found.strengths == (-0.5, 0, 0.5)
    assert set(found.attributes) == {"composition", "surface"}
    assert found.settings["source"]["seed"] == 1_000_000
    assert found.settings["reference"]["seed"] == 1_000_010


def test_a_direction_comes_from_a_file_and_acts_in_a_window(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    np.save(tmp_path / "up.npy", np.ones(128))
    words = ["--direction", str(tmp_path / "up.npy"), "--point", "w", "--window", "0", "1"]
    words += ["--strengths", "1", "--target", "surface", "--out", str(tmp_path / "strip")]
    assert main(["steer", "zoo:gan", *words, *FEW]) == 0
    found = DoseResponse.load(tmp_path / "strip")
    assert found.label.startswith("direction ")
    assert found.settings["calls"] == [0]
    assert "off surface" in capsys.readouterr().out


def test_a_scan_prints_winners_beside_random_directions(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--reference", "40", "--scan", "--limit", "3", "--top", "2", "--out", str(tmp_path)]
    assert main(["steer", "zoo:gan", "--sae", str(run), *words, *FEW]) == 0
    said = capsys.readouterr()
    text = said.out
    # 40 clean; 3 runs and 3 features and 2 directions on 10 seeds; 2 + 2 + 2 on 10 others.
    assert said.err.startswith(f"{40 + 10 * (3 + 3 + 2) + 10 * (2 + 2 + 2)} images")
    assert "3 of 32 latents scanned" in text
    assert "reported on 10 others" in text
    assert "matched direction 0" in text
    assert "a low control" in text
    record = json.loads((tmp_path / "scan.json").read_text())
    assert len(record["reported"]) == 2


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "give --sae RUN with --feature, or --direction"),
        (["--sae", "RUN"], "--sae needs --feature NUMBER, or --scan"),
        (["--sae", "RUN", "--scan", "--feature", "1"], "--scan takes --sae and no --feature"),
        (["--sae", "RUN", "--scan", "--strengths", "1", "2"], "--scan takes one strength, not 2"),
        (["--sae", "RUN", "--feature", "32"], "feature 32 does not exist: the SAE has 32 latents"),
        (["--sae", "RUN", "--feature", "1", "--mode", "suppress", "--strengths", "2"], "at most 1"),
        (["--direction", "none.npy"], "which hook point? give --point"),
        (["--direction", "none.npy", "--point", "w"], "none.npy is no .npy file"),
        (["--sae", "RUN", "--feature", "1", "--cfg", "uncond"], "there is no guidance"),
        (["--sae", "RUN", "--feature", "1", "--reference", "20"], "10 and 10 clean rows of w"),
        (["--sae", "RUN", "--feature", "1", "--target", "mood"], "--target mood is not one of"),
        (["--sae", "RUN", "--scan", "--target", "mood"], "--target mood is not one of"),
    ],
)
def test_bad_input_is_one_line_and_status_2(
    words: list[str], said: str, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [str(run) if word == "RUN" else word for word in words]
    assert main(["steer", "zoo:gan", *words, *FEW]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("interp: ")
    assert said in error


@pytest.fixture(scope="module")
def trained(run: Path, tmp_path_factory) -> Path:
    """The SAE as if it had been trained on the image of seed 3."""
    sae, recipe = load_sae(run), Generation(n=1, seed=3)
    gan = load("zoo:gan")
    (image,) = find_origin(recipe, gan, gan.identity()).image_ids(recipe.batch(0, 1))
    sae.trained_units = torch.tensor([unit_hash("image", image)])
    return sae.save(tmp_path_factory.mktemp("sae") / "trained")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--feature", "32"], "feature 32 does not exist"),
        (["--feature", "1", "--n", "4"], "4 seeds: a dose-response needs 10"),
        (["--feature", "1", "--seed", "0"], "give the recipe another seed, or pass --allow-train"),
        (["--scan", "--seed", "0"], "give the recipe another seed, or pass --allow-train"),
        (["--feature", "1", "--attributes", "content", "surface", "--encoder", "zoo:gan"],
         "--encoder zoo:gan cannot encode images"),
    ],
)  # fmt: skip
def test_a_run_that_is_refused_is_told_no_cost(
    words: list[str], said: str, trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["steer", "zoo:gan", "--sae", str(trained), *FEW, *words]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert "allow_train" not in error
    assert " images, about " not in error


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (np.array([{}], dtype=object), "no .npy file with numbers"),
        (np.ones((2, 2)), "one vector"),
        (np.array(["a"]), "one vector"),
        (np.full(128, np.nan), "NaN or infinite"),
    ],
)
def test_a_file_with_anything_but_a_vector_is_refused(
    value: np.ndarray, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    np.save(tmp_path / "x.npy", value, allow_pickle=True)
    words = ["steer", "zoo:gan", "--direction", str(tmp_path / "x.npy"), "--point", "w", *FEW]
    assert main(words) == 2
    assert said in capsys.readouterr().err
