"""A user of another library opens their SAE in our dashboard in two lines."""

import json

import pytest
import torch

from interp.cli import main
from interp.sae import load_sae, save_sae
from interp.store import write_store
from tests.sae.formats.made import imported, trained

MADE = {
    "saelens": lambda: trained("jumprelu"),
    "dictionary_learning": lambda: trained("batchtopk"),
    "sparsify": lambda: imported("groupmax"),
    "saeuron": lambda: imported("topk", "layer"),
    "openai": lambda: imported("topk", "layer"),
    "sdxl-unbox": lambda: trained("topk"),
    "saev": lambda: trained("relu"),
    "overcomplete": lambda: trained("jumprelu"),
}


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    g = torch.Generator().manual_seed(0)
    return write_store(
        tmp_path_factory.mktemp("stores"),
        {"mid": 2 * torch.randn(20, 1, 4, 6, generator=g) + 1},
        generations={"image_id": [f"image{i}" for i in range(20)]},
        images=torch.zeros(20, 4, 4, 3, dtype=torch.uint8),
    )


def _write(tmp_path, layout):
    name = "sae.pt" if layout in ("openai", "saev") else "sae"
    return save_sae(MADE[layout](), tmp_path / name, layout)


@pytest.mark.slow
@pytest.mark.parametrize("layout", sorted(MADE))
def test_two_lines_open_any_librarys_sae_in_the_dashboard(tmp_path, store, layout, capsys):
    path, features, page = _write(tmp_path, layout), tmp_path / "features", tmp_path / "page"
    words = ["describe", str(path), str(store.path), "--point", "mid", "--out", str(features)]
    assert main(words) == 0
    words = ["dashboard", "build", "--features", str(features), "--stores", str(store.path)]
    assert main([*words, "--out", str(page)]) == 0
    shown = capsys.readouterr().out
    assert str(page) in shown
    assert list(page.rglob("*.html"))
    record = json.loads((features / "features.json").read_text())
    assert record["sae"]["digest"] == load_sae(path).digest


def test_without_a_point_the_command_names_those_that_fit(tmp_path, store, capsys):
    path = _write(tmp_path, "saelens")
    assert main(["describe", str(path), str(store.path)]) == 2
    said = capsys.readouterr().err
    assert "give --point; of this store's points have its width 6: mid" in said


def test_show_says_what_a_file_is(tmp_path, capsys):
    path = _write(tmp_path, "sdxl-unbox")
    assert main(["sae", "show", str(path)]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert (shown["format"], shown["variant"], shown["d"], shown["m"], shown["k"]) == (
        "sdxl-unbox",
        "topk",
        6,
        24,
        3,
    )
    assert shown["digest"] == load_sae(path).digest


def test_convert_goes_from_library_to_library(tmp_path, capsys):
    path, out = _write(tmp_path, "sdxl-unbox"), tmp_path / "out"
    assert main(["sae", "convert", str(path), str(out), "--format", "saelens"]) == 0
    assert capsys.readouterr().out.strip() == str(out)
    assert load_sae(out).digest == load_sae(path).digest
    assert main(["sae", "convert", str(out), str(tmp_path / "own"), "--point", "mid"]) == 0
    own = load_sae(tmp_path / "own")
    assert own.point == {"name": "mid"}
    assert own.digest == load_sae(path).digest
    assert main(["sae", "convert", str(out), str(tmp_path / "x"), "--format", "saev"]) == 2
    assert "allow it by inexact=True (--inexact)" in capsys.readouterr().err


def test_formats_lists_every_layout(capsys):
    assert main(["sae", "formats"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 12
    assert lines[0].split() == ["format", "library", "read", "written"]


def test_evaluate_judges_a_foreign_sae_and_leaves_its_folder_alone(tmp_path, store, capsys):
    path = _write(tmp_path, "openai")
    words = ["evaluate", str(path), str(store.path), "--point", "mid"]
    assert main(words) == 2
    assert "no record of its training images" in capsys.readouterr().err
    assert main([*words, "--allow-train", "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert record["sae"] == load_sae(path).digest
    assert record["trained_rows"] is None
    assert list(tmp_path.iterdir()) == [path]
