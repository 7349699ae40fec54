"""The recipes of RECIPES.md are run as they stand, with settings that suit a test."""

import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import interp
from interp.cli import main

ROOT = Path(__file__).resolve().parents[1]
TEXT = (ROOT / "RECIPES.md").read_text()
BLOCK = re.compile(
    r"^<!-- (?P<kind>settings|code|command): (?P<name>\w+) -->\n```\w+\n(?P<text>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)
BLOCKS = {(m["kind"], m["name"]): m["text"] for m in BLOCK.finditer(TEXT)}

SMALL = {
    "images": {
        "IMAGES": "photos",
        "MODEL": "zoo:vit",
        "POINT": "blocks.2",
        "LATENTS": 32,
        "ACTIVE": 4,
        "STEPS": 20,
        "BATCH": 64,
        "DEVICE": "cpu",
    },
    "sdxl": {
        "MODEL": "diffusers:turbo",
        "POINT": "down_blocks.1.attentions.0:delta",
        "PROMPTS": ("a cat", "dog"),
        "IMAGES": 6,
        "FRESH": 4,
        "STEPS": 2,
        "POSITIONS": 8,
        "LATENTS": 24,
        "ACTIVE": 3,
        "TRAIN_STEPS": 10,
        "BATCH": 16,
        "DEVICE": "cpu",
        "DTYPE": "float32",
    },
}


def _run(name: str) -> dict[str, Any]:
    """Run a recipe's code with the test's settings, which set what the page's own set."""
    given: dict[str, Any] = {}
    exec(BLOCKS["settings", name], given)
    assert set(SMALL[name]) == {key for key in given if not key.startswith("__")}
    scope = dict(SMALL[name])
    exec(compile(BLOCKS["code", name], f"RECIPES.md: {name}", "exec"), scope)
    return scope


def _make_photos(folder: Path) -> None:
    from PIL import Image

    folder.mkdir()
    rng = np.random.default_rng(0)
    for i in range(24):
        pixels = rng.integers(0, 256, (20 + i, 32, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{i}.png")


def test_every_block_of_python_belongs_to_a_recipe_that_is_run() -> None:
    python = re.findall(r"^```python\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)
    assert sorted(python) == sorted(text for (kind, _), text in BLOCKS.items() if kind != "command")
    assert {name for _, name in BLOCKS} == set(SMALL)
    fences = len(re.findall(r"^```\w+$", TEXT, re.MULTILINE))
    assert fences == len(BLOCKS)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_an_sae_is_trained_on_a_folder_of_images(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    _make_photos(tmp_path / "photos")
    scope = _run("images")
    assert scope["quality"].n_generations > 0
    assert (tmp_path / "dashboard" / "index.html").is_file()
    assert "FVU" in capsys.readouterr().out
    # The command below the recipe, on the store that the recipe made.
    words = BLOCKS["command", "images"].split()[1:]
    words = [str(next(Path("activations").iterdir())) if "*" in w else w for w in words]
    small = {"encoder.layer.8": "blocks.2", "5000": "10", "k=8,16,32": "k=2,4"}
    small["n_latents=2048,8192"] = "n_latents=16,32"
    assert set(small) <= set(words)
    assert main([small.get(w, w) for w in words] + ["--k", "2", "--batch-size", "64"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 6


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_an_sae_is_trained_on_a_pipeline_of_the_class_of_sdxl_turbo(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "tests" / "models"))
    from tiny_pipes import sdxl_pipe  # pyright: ignore

    monkeypatch.chdir(tmp_path)
    sdxl_pipe().save_pretrained(tmp_path / "turbo")
    assert "tiny_pipes" in sys.modules
    scope = _run("sdxl")
    assert type(scope["model"].host.pipe).__name__ == "StableDiffusionXLPipeline"
    assert scope["quality"].n_generations == SMALL["sdxl"]["FRESH"]
    assert (tmp_path / "dashboard" / "index.html").is_file()
    assert "damage" in capsys.readouterr().out


def test_the_recipes_use_public_names_only() -> None:
    for (kind, _), text in BLOCKS.items():
        for name in re.findall(r"\binterp\.(\w+)", text) if kind == "code" else ():
            assert name in interp.__all__
