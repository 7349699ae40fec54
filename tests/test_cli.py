"""The command line: every command explains itself, bad input is one line, runs can be repeated."""

import json
import shutil
from collections.abc import Iterator
from importlib import resources
from pathlib import Path

import numpy as np
import pytest
import torch

from interp.cli import COMMANDS, main
from interp.cli.show import print_evaluation
from interp.store import open_store, write_store


def _paths() -> list[tuple[str, ...]]:
    found = []
    for name, entry in COMMANDS.items():
        inner = entry[1] if isinstance(entry, tuple) else {}
        found += [(name,), *((name, sub) for sub in inner)]
    return found


@pytest.mark.parametrize("path", _paths(), ids=" ".join)
def test_every_command_explains_itself(
    path: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as done:
        main([*path, "--help"])
    text = capsys.readouterr().out
    assert done.value.code == 0
    assert f"usage: interp {' '.join(path)}" in text
    # Every option says what it is.
    assert "--" in text or len(path) == 1


@pytest.fixture
def store(tmp_path: Path):
    rng = torch.Generator().manual_seed(0)
    rows = torch.randn(40, 1, 4, 6, generator=rng)
    ids = [f"image{i}" for i in range(40)]
    images = np.zeros((40, 4, 4, 3), np.uint8)
    return write_store(
        tmp_path / "stores",
        {"mid": rows},
        generations={"image_id": ids, "split": ["train"] * 30 + ["heldout"] * 10},
        images=torch.from_numpy(images),
    )


def test_bad_input_is_one_line_and_status_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["store", "info", str(tmp_path)]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith("interp: ")
    assert "is not an activation store" in said.err
    assert said.err.count("\n") == 1


def test_info_and_verify_read_a_store(store, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["store", "info", str(store.path)]) == 0
    assert json.loads(capsys.readouterr().out)["points"]["mid"]["rows"] == 160
    assert main(["store", "verify", str(store.path)]) == 0
    assert capsys.readouterr().out == "sound\n"


def test_verify_reports_a_flipped_bit_with_status_1(
    store, capsys: pytest.CaptureFixture[str]
) -> None:
    file = next(store.path.glob("points/**/*.safetensors"))
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    assert main(["store", "verify", str(store.path)]) == 1
    assert "1 problems" in capsys.readouterr().out


def test_train_repeats_a_run_from_its_config(store, tmp_path: Path) -> None:
    first, second = tmp_path / "a", tmp_path / "b"
    options = ["--n-latents", "12", "--k", "2", "--steps", "5", "--batch-size", "16"]
    assert main(["train", str(store.path), "mid", "--out", str(first), *options]) == 0
    again = ["train", str(store.path), "--config", str(first), "--out", str(second)]
    assert main(again) == 0
    name = "sae/sae.safetensors"
    assert (first / name).read_bytes() == (second / name).read_bytes()


def test_config_of_neither_store_nor_run_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", "--config", str(tmp_path)]) == 2
    assert "neither a store nor a training run" in capsys.readouterr().err


def test_rm_deletes_stores_alone(store, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = tmp_path / "photos"
    other.mkdir()
    (other / "one.png").write_bytes(b"x")
    assert main(["store", "rm", str(other)]) == 2
    assert (other / "one.png").exists()
    assert main(["store", "rm", str(store.path)]) == 0
    assert not store.path.exists()


@pytest.mark.slow
def test_capture_repeats_a_store_from_its_own_manifest(tmp_path: Path) -> None:
    first, second = tmp_path / "a", tmp_path / "b"
    make = ["capture", "generate", "zoo:gan", "--n", "3", "--points", "w", "layers.0"]
    assert main([*make, "--out", str(first)]) == 0
    (path,) = first.iterdir()
    again = ["capture", "generate", "zoo:gan", "--config", str(path), "--out", str(second)]
    assert main(again) == 0
    (copy,) = second.iterdir()
    assert copy.name == path.name
    one, two = open_store(path), open_store(copy)
    assert all(torch.equal(one.rows(p), two.rows(p)) for p in one.points)


@pytest.mark.slow
def test_points_lists_names_widths_and_grids(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["points", "zoo:gan"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["name", "stream", "kind", "width", "grid", "depth"]
    assert any(line.split()[:5] == ["layers.0", "image", "resid", "128", "4x4"] for line in lines)


@pytest.mark.slow
def test_zoo_evaluate_measures_and_writes_the_users_card(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shipped = Path(str(resources.files("interp.zoo"))) / "weights"
    for suffix in ("json", "safetensors"):
        shutil.copy(shipped / f"vit.{suffix}", tmp_path)
    path = tmp_path / "vit.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"quality": None, "verdict": None}))
    assert main(["zoo", "evaluate", "vit", "--folder", str(tmp_path), "--n", "16"]) == 0
    assert '"accuracy"' in capsys.readouterr().out
    assert json.loads(path.read_text())["quality"]["n"] == 16


def test_ls_lists_the_stores_of_a_folder_and_the_error_names_them(
    store, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["store", "ls", str(store.path.parent)]) == 0
    head, line = capsys.readouterr().out.splitlines()
    assert head.split()[0] == "store"
    assert line.split()[0] == store.path.name
    assert main(["store", "verify", str(store.path.parent)]) == 2
    assert f"stores in it: {store.path.name}" in capsys.readouterr().err


@pytest.mark.slow
def test_an_encoder_says_that_it_cannot_generate(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["capture", "generate", "zoo:vit", "--n", "2", "--out", str(tmp_path)]) == 2
    assert "zoo:vit cannot generate; it can encode" in capsys.readouterr().err


@pytest.mark.slow
def test_a_folder_of_mixed_sizes_is_fitted_to_the_model(tmp_path: Path) -> None:
    from PIL import Image

    for i, size in enumerate([(40, 20), (16, 16), (64, 64)]):
        Image.new("RGB", size, (50 * i, 9, 9)).save(tmp_path / f"{i}.png")
    words = ["--images", str(tmp_path), "--points", "blocks.0", "--out", str(tmp_path / "stores")]
    assert main(["capture", "encode", "zoo:vit", *words]) == 0
    (path,) = (tmp_path / "stores").iterdir()
    assert open_store(path).images([0, 1, 2]).shape == (3, 32, 32, 3)


def test_every_example_of_a_command_stands_on_a_line_of_its_own() -> None:
    def walk(tree: dict) -> Iterator[type]:
        for entry in tree.values():
            yield from walk(entry[1]) if isinstance(entry, tuple) else (entry,)

    for command in walk(COMMANDS):
        text = command.__doc__ or ""
        # The help joins lines that no empty line parts.
        assert text.count("\n    Example: ") == text.count("\n\n    Example: "), command


def test_both_fvus_of_an_evaluation_say_which_rows_they_are_over(
    capsys: pytest.CaptureFixture[str],
) -> None:
    code = {"name": "sae", "k": 4, "fvu": 0.25, "labels": None, "fitted_on": "training rows"}
    record = {"point": "mid", "variant": "topk", "n_rows": 5000, "n_generations": 50}
    record |= {"trained_rows": False, "l0": 4.0, "dead": 0.0, "fvu": 0.236, "baselines": [code]}
    print_evaluation(record)
    said = capsys.readouterr().out
    assert "FVU 0.236" in said
    assert "on one random sample of at most 2048 of the rows; the FVU above" in said
    assert "is over all 5000" in said
