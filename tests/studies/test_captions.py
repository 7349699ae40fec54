"""Captions from files: which forms are read, and that every image needs exactly one."""

import dataclasses
from pathlib import Path

import pytest

from interp.errors import InputError
from interp.studies.captions import read_captions, with_captions
from interp.zoo import load_images

EXPECTED = {"a/one.png": "a cat, asleep", "two": "a dog"}


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("c.csv", 'file,caption\na/one.png,"a cat, asleep"\ntwo,a dog\n'),
        ("c.tsv", "caption\tid\na cat, asleep\ta/one.png\na dog\ttwo\n"),
        ("c.json", '{"a/one.png": "a cat, asleep", "two": " a dog "}'),
        ("bom.csv", '\ufeffimage,caption\na/one.png,"a cat, asleep"\ntwo,a dog\n'),
    ],
)
def test_tables_and_json_are_read(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text, encoding="utf-8")
    assert read_captions(tmp_path / name) == EXPECTED


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("c.txt", "a cat", "captions are read from .csv, .tsv or .json"),
        ("c.csv", "name,caption\na,b\n", "has the columns name, caption: caption and one of"),
        ("c.csv", "id,caption\na,b\na,c\n", "a has two captions"),
        ("c.json", '{"a": "b", "a": "c"}', "a has two captions"),
        ("c.csv", "id,caption\na,\n", "the caption of a is empty"),
        ("c.csv", "id,caption\na\n", "the caption of a is empty"),
        ("c.json", "[1, 2]", "one object {id: caption} is needed"),
        ("c.json", '{"a": 3}', "one object {id: caption} is needed"),
        ("c.json", "{", "is no sound file of captions"),
    ],
)
def test_other_forms_are_refused(tmp_path: Path, name: str, text: str, message: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(InputError, match=message):
        read_captions(tmp_path / name)


def test_a_file_that_is_absent_or_no_text_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="there is no such file of captions"):
        read_captions(tmp_path / "absent.csv")
    (tmp_path / "c.csv").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match="is no sound file of captions"):
        read_captions(tmp_path / "c.csv")


def test_captions_find_their_image_by_id_or_file() -> None:
    images = load_images("glyphs", split="heldout", limit=3)
    first, second, third = images.ids
    captions = {f"{first}.png": "one", second: "two", third: "three", "another": "four"}
    assert with_captions(images, captions).captions == ("one", "two", "three")
    missing = f"1 of 3 images have no caption: {third}"
    with pytest.raises(InputError, match=missing):
        with_captions(images, {first: "one", second: "two"})
    assert dataclasses.replace(images, captions=()).ids == images.ids
