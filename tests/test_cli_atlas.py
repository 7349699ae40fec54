"""`interp atlas`: what is refused before a model runs, and whole runs on small models."""

import html
import json
from pathlib import Path

import pytest

from interp.atlas import Atlas, AtlasConfig, Prompts, PublicConfig, atlas, load_atlas
from interp.atlas.config import choose_sizes
from interp.atlas.job import Clock
from interp.atlas.words import image_sentence
from interp.cli import main
from interp.cli.atlas import LEGEND, MakeAtlas, table_rows
from interp.dashboards import build_atlas_page
from tests.atlas.made import make_atlas

BAD = {
    "no such model": (["zoo:gann"], "no model 'zoo:gann'"),
    "no images": (
        ["zoo:vit"],
        "zoo:vit cannot generate; it can encode; models that make images: zoo:gan, zoo:vae",
    ),
    "few pairs": (["zoo:vae", "--n-pairs", "3"], "3 pairs"),
    "no attribute": (["zoo:vae", "--attributes", "content", "mood"], "attribute 'mood' is not one"),
    "no encoder": (["zoo:vae", "--encoder", "zoo:gan"], "interp: --encoder zoo:gan: it cannot"),
    "no file": (["zoo:ldm", "--prompts-file", "nowhere.txt"], "nowhere.txt cannot be read"),
    "texts for noise": (["zoo:vae", "--prompts", "a", "b"], "takes no prompts"),
    "no texts": (["zoo:vae", "--public", "small"], "the public protocol is about them"),
    "no such lists": (["zoo:ldm", "--public", "tiny"], "prompts 'tiny': one of"),
    "one text": (["zoo:ldm", "--prompts", "a"], "at least two are needed"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_refused_before_any_image_is_made(
    case: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words, message = BAD[case]
    assert main(["atlas", *words, "--out", str(tmp_path / "out")]) == 2
    said = capsys.readouterr().err
    assert message in said
    assert "planted controls" not in said
    assert not (tmp_path / "out").exists()


def test_a_folder_with_the_atlas_of_another_run_is_refused_before_any_image_is_made(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_atlas().save(tmp_path)
    before = (tmp_path / "atlas.json").read_bytes()
    assert main(["atlas", "zoo:vae", "--seed", "1", "--out", str(tmp_path)]) == 2
    said = capsys.readouterr().err
    assert 'spec of model: "zoo:made", now "zoo:vae"' in said
    assert "give another folder" in said
    assert "planted controls" not in said
    assert (tmp_path / "atlas.json").read_bytes() == before


def test_fit_is_what_was_asked_for_and_its_default_is_cut_by_quick() -> None:
    quick = choose_sizes(AtlasConfig(quick=True), 1)
    assert (quick.n_fit, quick.n_latents, quick.n_pairs) == (512, 512, 24)
    asked = choose_sizes(AtlasConfig(quick=True, fit=2000), 1)
    assert (asked.n_fit, asked.n_latents) == (2000, 2000)
    assert choose_sizes(AtlasConfig(), 8).n_fit == 256
    assert choose_sizes(AtlasConfig(fit=300), 8).n_fit == 300
    assert choose_sizes(AtlasConfig(quick=True, fit=48), 8).n_fit == 48


def test_the_command_line_names_what_differs_from_the_defaults() -> None:
    made = MakeAtlas("zoo:gan", config=AtlasConfig(n_pairs=20, quick=True, prompts=("a b", "c")))
    assert made.command_line() == "interp atlas zoo:gan --n-pairs 20 --prompts 'a b' c --quick"
    made = MakeAtlas("zoo:ldm", public="small", config=AtlasConfig(n_pairs=20))
    assert made.command_line() == "interp atlas zoo:ldm --public small --n-pairs 20"
    public = made.public_config()
    assert (public.prompts, public.n_pairs, public.steps) == ("small", 20, 50)


def test_the_table_has_a_row_for_every_carrier_and_no_negative_zero() -> None:
    rows = table_rows(make_atlas())
    assert len(rows) == 6
    assert rows[0][3] == "content: alpha, damage"
    assert not any("-0.00" in cell for row in rows for cell in row)


def test_a_d_img_that_is_not_reached_says_what_would_tell() -> None:
    said = image_sentence(511, 512, quick=True, more=True)
    assert said == (
        "d_img is not reached with 511 directions of 512 held-out images: more images (--fit, or "
        "without --quick) would tell."
    )
    assert "(--fit) would" in image_sentence(511, 512, quick=False, more=True)
    assert "all there are" in image_sentence(9, 10, quick=False, more=False)


def test_a_stage_is_named_as_it_starts_and_timed_as_it_ends() -> None:
    said: list[str] = []
    clock = Clock(said.append, starting=lambda label: said.append(f"{label} starts"))
    with clock.stage("swaps"):
        assert said == ["swaps starts"]
    assert said[1].endswith(" s  swaps")
    # The line of the running stage is as long as the one that takes its place.
    assert said[1].index("swaps") == len("      ...  ")


def test_the_legend_names_what_the_verdicts_speak_of() -> None:
    for word in ("alpha:", "damage:", "S:", "d*:", "d_img:", "band twins:"):
        assert word in LEGEND


def _check(folder: Path, said: str) -> None:
    found = load_atlas(folder)
    assert "decision rule sha256" in said or "no verdict" in said
    assert LEGEND in said
    assert said.rstrip().endswith("index.html")
    assert (folder / "index.html").is_file()
    values = json.loads((folder / "atlas.json").read_text())
    assert values["made_by"].startswith("interp atlas ")
    assert {row.name for row in found.carriers} >= {"no edit", "unrelated image"}


@pytest.mark.slow
def test_the_atlas_of_a_gan(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["atlas", "zoo:gan", "--quick", "--out", str(tmp_path)]) == 0
    _check(tmp_path, capsys.readouterr().out)
    rows = {row.name: row for row in load_atlas(tmp_path).carriers}
    for cell in rows["z"].effects.values():
        assert cell.alpha.value == pytest.approx(1, abs=0.05)


@pytest.mark.slow
# What diffusers and transformers say about their own calls.
@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
def test_the_atlas_of_a_pipeline_of_random_weights(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from tests.interventions.networks import builders

    builders("tiny_pipes").sd_pipe().save_pretrained(tmp_path / "pipe")
    words = ["--quick", "--steps", "3", "--twins", "2", "--gradients", "16", "--fit", "48"]
    # The tiny tokenizer knows letters, and cuts a text at 16 of them.
    texts = [f"{chr(97 + i)} {chr(97 + i * 7 % 26)}{chr(122 - i)}" for i in range(26)]
    (tmp_path / "texts.txt").write_text("\n".join(texts))
    words += ["--prompts-file", str(tmp_path / "texts.txt")]
    out = tmp_path / "out"
    assert main(["atlas", f"diffusers:{tmp_path / 'pipe'}", *words, "--out", str(out)]) == 0
    _check(out, capsys.readouterr().out)
    found = load_atlas(out)
    assert [arm.name for arm in found.arms] == ["independent", "shared noise"]
    assert found.maps
    assert "no statement about an architecture" in found.scope
    _check_protocol(tmp_path / "pipe", found, out)


def _check_protocol(pipe: Path, found: Atlas, out: Path) -> None:
    """The finished parts are read again, and the public experiment's protocol runs beside them."""
    lists = (("ax", "be", "cu"), ("da", "et", "fo"), ("go", "hi", "ju"))
    public = PublicConfig(
        prompts=Prompts(*lists, "{object} {background} {style}"),
        n_pairs=10,
        n_sets=0,
        windows=((1000.0, 0.0),),
        noise=("shared",),
        steps=2,
        guidance=1.0,
        blocks=("mid_block.attentions.0",),
        batch_size=10,
    )
    prompts = tuple((pipe.parent / "texts.txt").read_text().splitlines())
    small = AtlasConfig(quick=True, steps=3, twins=2, gradients=16, fit=48, prompts=prompts)
    again = atlas(f"diffusers:{pipe}", small, out, public=public)
    assert load_atlas(out).carriers == found.carriers
    (cell,) = again.protocol["singles"]
    assert cell["block"] == "mid_block.attentions.0"
    page = build_atlas_page(out).read_text()
    assert all(html.escape(flaw, quote=False) in page for flaw in again.protocol["flaws"][:2])
