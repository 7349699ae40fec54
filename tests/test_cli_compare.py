"""`interp compare` and `interp measures`: what is printed, written, and refused in which words."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch

from interp.alignment import Alignment
from interp.cli import main
from interp.cli.comparing import Compare, in_cli_terms, read_models
from interp.errors import InterpError
from interp.geometry import MEASURES
from interp.store import write_store

N = 60
FAST = ["--measures", "cka", "--permutations", "200", "--folds", "10", "--recipe"]


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def features(seed: int) -> torch.Tensor:
    return draw(N, 3, seed=9) @ draw(3, 8, seed=seed) + 0.5 * draw(N, 8, seed=seed + 50)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for seed, name in enumerate("xy"):
        np.save(tmp_path / f"{name}.npy", features(seed).numpy())
        (tmp_path / f"{name}.txt").write_text("".join(f"image{i}\n" for i in range(N)))
    np.save(tmp_path / "short.npy", features(0).numpy()[:9])
    (tmp_path / "pairs.txt").write_text("".join(f"cluster{i // 2}\n" for i in range(N)))
    return tmp_path


def stores(folder: Path) -> dict[str, str]:
    ids = [f"image{i}" for i in range(N)]
    out = {}
    for seed, label in enumerate(("a", "b", "twin")):
        rows = features(seed) if label != "twin" else draw(N, 8, seed=77)
        images = torch.from_numpy(np.random.default_rng(0).integers(0, 255, (N, 4, 4, 3), np.uint8))
        store = write_store(
            folder / label,
            {"mid": rows[:, None, None, :]},
            generations={"image_id": ids},
            images=images,
        )
        out[label] = str(store.path)
    return out


def test_two_files_give_verdict_table_and_folder(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["compare", "x.npy", "y.npy", "--out", "out", *FAST]) == 0
    said = capsys.readouterr()
    assert said.out.startswith("x and y: beyond chance and spectrum")
    assert "x/features ~ y/features" in said.out
    assert said.out.endswith("out/reading.md\nout/index.html\n")
    names = {path.name for path in (here / "out").iterdir()}
    assert {"alignment.json", "table.csv", "reading.md", "index.html", "figure-cka.html"} <= names
    command = "interp compare x.npy y.npy --measures cka --recipe --permutations 200"
    assert command in (here / "out" / "reading.md").read_text()


def test_labels_of_rows_come_from_files(here: Path) -> None:
    labels = ["--ids", "x=x.txt", "y=y.txt", "--clusters", "pairs.txt", "--strata", "pairs.txt"]
    with pytest.raises(SystemExit):
        main(["compare", "--nonsense"])
    words = ["compare", "x=x.npy", "y=y.npy", "--ids", "x.txt", "--clusters", "pairs.txt"]
    assert main([*words, "--out", "out", *FAST]) == 0
    assert Alignment.load("out/alignment.json").strata == "whole clusters"
    assert main([*words[:3], *labels, "--out", "two", *FAST]) == 0
    assert Alignment.load("two/alignment.json").strata == "within group, whole clusters"


def test_stores_with_labels_and_twins_are_compared_as_before(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = stores(here)
    words = ["compare", f"a={path['a']}", f"b={path['b']}"]
    words += ["--twins", f"a={path['twin']}", f"a={path['twin']}", "--points", "m*"]
    assert main([*words, "--out", "alignment.json", *FAST]) == 0
    assert capsys.readouterr().out.endswith("\nalignment.json\n")
    # That file alone.
    assert {one.name for one in here.iterdir() if one.is_dir()} == {"a", "b", "twin"}
    alignment = Alignment.load("alignment.json")
    cell = alignment.cell("a/mid", "b/mid")
    assert len(cell.twin_values) == 2
    assert {"untrained twins", "pixels/rgb"} <= {level.name for level in cell.levels}
    assert main(["dashboard", "build", "--alignments", "alignment.json", "--out", "page"]) == 0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["x.npy"], "1 model to compare"),
        (
            ["x.npy", "short.npy"],
            "short/features has 9 rows and x/features has 60 rows: row i must be the same image in "
            "both; drop the rows that the other lacks, or name the rows by --ids",
        ),
        (["x.npy", "b=y.npy"], "'x.npy' has no label: give LABEL=MODEL for all, or for none"),
        (["b=x.npy", "b=y.npy"], "two models have the label 'b'"),
        (["x.npy", "y.npy", "--folds", "61"], "2 <= --folds <= number of clusters"),
        (["x.npy", "y.npy", "--permutations", "50"], "--permutations 200"),
        (["x.npy", "y.npy", "--neighbors", "1.5", "--measures", "mutual_knn"], "--neighbors = 1.5"),
        (["x.npy", "y.npy", "--measures", "ckaa"], "no measure 'ckaa'; there are"),
        (["x.npy", "y.npy", "--recipe", "huh"], "no recipe 'huh'; there are prh"),
        (["x.npy", "y.npy", "--levels", "pixels"], "no store to take pixels from"),
        (["x.npy", "y.npy", "--twins", "x.npy"], "--twins 'x.npy': LABEL=PATH is needed"),
        (["x.npy", "y.npy", "--pairs", "x"], "--pairs 'x': LABEL,LABEL is needed"),
        (["x.npy", "y.npy", "--pairs", "x,z"], "two different models each, of x, y"),
        (["x.npy", "y.npy", "--ids", "absent"], "absent: there is no such file of ids"),
        (["x.npy", "y.npy", "--points", "z=*"], "'z' is not among the models x, y"),
        (["x.npy", "y.npy", "--clip", "2"], "a quantile with 0 < clip <= 1"),
        (["zoo:vit", "zoo:ddpm", "--images", "absent"], "no images 'absent': give one of"),
        (["zoo:vit", "zoo:vitt"], "no model 'zoo:vitt'"),
        (["zoo:vit", "absent"], "'absent' is no model, store or matrix"),
    ],
)
def test_bad_input_is_one_line_in_terms_of_options(
    here: Path, capsys: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    defaults = ["--measures", "cka", "--permutations", "200", "--limit", "8"]
    names = {word for word in words if word.startswith("--")}
    for option, value in zip(defaults[::2], defaults[1::2], strict=True):
        words = words if option in names else [*words, option, value]
    assert main(["compare", *words, "--out", "out"]) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert message in error
    assert not re.search(r"n_(folds|permutations|neighbors)|\bpixels=", error)


def test_errors_name_options_and_not_arguments() -> None:
    told = in_cli_terms("use n_permutations=200, or fewer; 2 <= n_folds; pixels=False.")
    assert told == "use --permutations 200, or fewer; 2 <= --folds; --levels without pixels."
    assert in_cli_terms('leave it out, or pooling="mean"') == "leave it out, or --pooling mean"
    assert in_cli_terms("n_neighbors = 1.5 of n = 60") == "--neighbors = 1.5 of n = 60"


def test_a_command_line_repeats_itself() -> None:
    one = Compare(("a=x y.npy", "b=y.npy"), measures=("cka",), halves=False, log_snr=(-1.0, 2.0))
    line = one.command_line()
    assert line == (
        "interp compare 'a=x y.npy' b=y.npy --log-snr -1.0 2.0 --measures cka --no-halves"
    )
    assert Compare(("x.npy", "y.npy")).command_line() == "interp compare x.npy y.npy"


def test_specs_paths_and_labels_are_told_apart() -> None:
    assert read_models(["zoo:vit", "/a/b=c/x.npy"]) == ["zoo:vit", "/a/b=c/x.npy"]
    assert read_models(["v=zoo:vit", "x=/a/b=c/x.npy"]) == {"v": "zoo:vit", "x": "/a/b=c/x.npy"}
    with pytest.raises(InterpError, match="has no label"):
        read_models(["zoo:vit", "x=y.npy"])


def test_measures_are_listed_and_explained(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["measures"]) == 0
    listed = capsys.readouterr().out
    assert all(f"\n{name} " in listed for name in MEASURES)
    assert main(["measures", "cka", "mutual_knn"]) == 0
    assert capsys.readouterr().out.count("Left as it is by") == 2
    assert main(["measures", "ckaa"]) == 2
    assert "no measure 'ckaa'" in capsys.readouterr().err
    assert main(["measures", "--markdown"]) == 0
    assert capsys.readouterr().out.startswith("# Measures\n")


@pytest.mark.slow
def test_zoo_models_are_captured_with_their_twins_and_stores_are_used_again(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["compare", "zoo:vit", "zoo:vae", "--limit", "48", "--layers", "2", "--untrained", "2"]
    words += [*FAST, "prh", "--out", "out"]
    assert main(words) == 0
    said = capsys.readouterr()
    assert said.err.count("capture zoo:") == 6
    before = {path: path.stat().st_mtime_ns for path in Path("out/activations").rglob("*.safe*")}
    assert len({path.relative_to("out/activations").parts[0] for path in before}) == 6
    cells = Alignment.load("out/alignment.json").cells
    crossing = [cell for cell in cells if cell.twin_value is not None and cell.comparison.p]
    assert crossing
    assert all(len(cell.twin_values) == 2 for cell in crossing)
    assert json.loads(Path("out/scores.json").read_text())[0]["twin_value"] > 0
    reading = Path("out/reading.md").read_text()
    assert "- training images: glyphs: vit and vae. Their likeness may come from that." in reading
    assert main(words) == 0
    after = {path: path.stat().st_mtime_ns for path in Path("out/activations").rglob("*.safe*")}
    assert after == before
