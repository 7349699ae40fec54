"""The record of an atlas: equal after a trip through its folder, and nothing hostile gets in."""

import dataclasses
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from interp.atlas import load_atlas
from interp.atlas.files import refuse_other_run
from interp.errors import InputError
from tests.atlas.made import make_atlas


def test_a_saved_atlas_comes_back_equal(tmp_path: Path) -> None:
    atlas = make_atlas()
    path = atlas.save(tmp_path / "out")
    back = load_atlas(tmp_path / "out")
    assert back == atlas
    assert np.array_equal(back.images, atlas.images)
    assert load_atlas(path) == atlas
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["atlas.json", "images.png"]


def test_equal_atlases_give_equal_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        make_atlas().save(tmp_path / name)
    for file in ("atlas.json", "images.png"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


def test_a_number_that_is_undefined_is_null(tmp_path: Path) -> None:
    atlas = dataclasses.replace(make_atlas(), seconds={"nothing": float("nan")})
    text = atlas.save(tmp_path).read_text()
    assert json.loads(text)["seconds"] == {"nothing": None}


def test_large_tiles_are_shrunk(tmp_path: Path) -> None:
    images = np.zeros((12, 256, 128, 3), np.uint8)
    dataclasses.replace(make_atlas(), images=images).save(tmp_path)
    assert load_atlas(tmp_path).images.shape == (12, 128, 64, 3)


def test_an_equal_run_may_replace_an_atlas_and_another_may_not(tmp_path: Path) -> None:
    wanted = {"config": {"n_pairs": 40, "steps": 8, "quick": False}, "recipe": {"guidance": 1.0}}
    refuse_other_run(tmp_path, wanted)
    make_atlas().save(tmp_path)
    refuse_other_run(tmp_path, wanted)
    wanted["config"]["steps"] = 4
    wanted["config"]["prompts"] = ("a", "b")
    wanted["model"] = {"spec": "zoo:other"}
    said = re.escape(
        "holds the atlas of another run (steps of config: 8, now 4; prompts of config: null, now "
        '["a", "b"]; spec of model: "zoo:made", now "zoo:other"); give another folder'
    )
    with pytest.raises(InputError, match=said):
        refuse_other_run(tmp_path, wanted)
    (tmp_path / "atlas.json").write_text("{}")
    with pytest.raises(InputError, match=r"not a saved atlas of format 1.*give another folder"):
        refuse_other_run(tmp_path, wanted)


def _break(change: Callable[[dict[str, Any]], Any]) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        path = folder / "atlas.json"
        values = json.loads(path.read_text())
        change(values)
        path.write_text(json.dumps(values))

    return spoil


SPOILED: dict[str, tuple[Callable[[Path], Any], str]] = {
    "cut short": (
        lambda f: (f / "atlas.json").write_text((f / "atlas.json").read_text()[:-900]),
        "not a saved atlas",
    ),
    "no file": (lambda f: (f / "atlas.json").unlink(), "not a saved atlas"),
    "nested deep": (lambda f: (f / "atlas.json").write_text("[" * 100_000), "not a saved atlas"),
    "another format": (_break(lambda v: v.update(format=99)), "of format 1"),
    "a list": (lambda f: (f / "atlas.json").write_text("[1, 2]"), "of format 1"),
    "no image sheet": (lambda f: (f / "images.png").unlink(), "images.png is missing"),
    "another sheet": (lambda f: (f / "images.png").write_bytes(b"GIF89a"), "it changed"),
    "a field too many": (_break(lambda v: v.update(hello=1)), "unknown \\['hello'\\]"),
    "a field too few": (_break(lambda v: v.pop("carriers")), "without \\['carriers'\\]"),
    "text for a number": (_break(lambda v: v.update(n_pairs="many")), "n_pairs is 'many', not int"),
    "true for a number": (_break(lambda v: v.update(n_pairs=True)), "n_pairs is True, not int"),
    "infinity": (
        _break(lambda v: v["seconds"].update(carriers=float("inf"))),
        "seconds.carriers is inf, not a number",
    ),
    "a number without a float": (
        _break(lambda v: v["carriers"][0]["effects"]["content"]["alpha"].update(value=10**400)),
        r"alpha.value is 10+\.\.\., not a number",
    ),
    "no pairs": (_break(lambda v: v.update(n_pairs=-5)), "n_pairs is -5: at least 1"),
    "no pairs in an arm": (
        _break(lambda v: v["arms"][1].update(n_pairs=0)),
        "n_pairs of shared noise is 0: at least 1",
    ),
    "a tile of nobody": (
        _break(lambda v: v["carriers"][2].update(images=[99])),
        "x_T shows tile 99, the atlas has 12",
    ),
    "a short matrix": (
        _break(lambda v: v["layers"][0]["shares"]["shapley"].pop()),
        "shapley of writes by stage is 2 x \\[3\\], not 3 x 3",
    ),
    "a short map": (_break(lambda v: v["maps"][0]["calls"].pop()), "2 calls for 3 windows"),
    "a huge sheet": (_break(lambda v: v["images"].update(height=10**9)), "are no sheet"),
}


@pytest.mark.parametrize("case", SPOILED)
def test_a_spoiled_folder_is_refused_by_name(case: str, tmp_path: Path) -> None:
    spoil, message = SPOILED[case]
    make_atlas().save(tmp_path)
    spoil(tmp_path)
    with pytest.raises(InputError, match=message):
        load_atlas(tmp_path)


def test_images_of_another_type_are_refused() -> None:
    with pytest.raises(InputError, match="not uint8"):
        dataclasses.replace(make_atlas(), images=np.zeros((12, 8, 8, 3)))
