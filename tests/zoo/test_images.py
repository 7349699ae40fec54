"""The images in the box keep their promises, and the loader refuses broken folders by name."""

import csv
import hashlib
import re
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from interp.errors import InterpError
from interp.zoo.images import DATA, GLYPHS_SHA256, Images, load_images


@pytest.fixture(scope="module")
def glyphs() -> Images:
    return load_images("glyphs")


def _picture(path: Path, colour: tuple[int, int, int], size: tuple[int, int] = (8, 8)) -> None:
    from PIL import Image

    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).save(path)


def _folder(folder: Path, rows: list[dict[str, str]], size: tuple[int, int] = (8, 8)) -> Path:
    for number, row in enumerate(rows):
        _picture(folder / row["file"], (10 * number, 255 - 10 * number, 99), size)
    with (folder / "images.csv").open("w", newline="", encoding="utf-8") as opened:
        writer = csv.DictWriter(opened, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return folder


def test_the_decoded_pixels_and_the_json_have_the_committed_sha256(glyphs: Images) -> None:
    assert hashlib.sha256(glyphs.pixels.numpy().tobytes()).hexdigest() == GLYPHS_SHA256["pixels"]
    text = (DATA / "glyphs.json").read_bytes()
    assert hashlib.sha256(text).hexdigest() == GLYPHS_SHA256["json"]
    assert glyphs.sha256 == GLYPHS_SHA256["pixels"]


def test_verify_names_the_damaged_part(monkeypatch: pytest.MonkeyPatch) -> None:
    load_images(limit=1, verify=True)
    monkeypatch.setitem(GLYPHS_SHA256, "pixels", "0" * 64)
    with pytest.raises(InterpError, match="sha256 of the pixels of glyphs"):
        load_images(verify=True)


def test_the_shipped_files_stay_below_six_megabytes() -> None:
    assert sum(path.stat().st_size for path in DATA.glob("glyphs*")) <= 6_000_000
    assert (DATA / "glyphs.contact.png").stat().st_size < 300_000


def test_every_field_has_one_entry_per_image(glyphs: Images) -> None:
    n = len(glyphs)
    assert 4000 <= n <= 8000
    assert glyphs.pixels.shape == (n, 32, 32, 3)
    assert glyphs.pixels.dtype is torch.uint8
    assert glyphs.labels.shape == (n,)
    assert len(glyphs.clusters) == n
    for field in ("ids", "captions", "tags", "sources", "licences", "split"):
        assert len(getattr(glyphs, field)) == n
    assert int(glyphs.labels.min()) == 0
    assert int(glyphs.labels.max()) == len(glyphs.categories) - 1
    assert set(glyphs.licences) == {"Apache-2.0", "public domain"}


def test_no_cluster_stands_on_both_sides_of_the_split(glyphs: Images) -> None:
    sides = dict(zip(glyphs.clusters, glyphs.split, strict=True))
    assert all(sides[c] == s for c, s in zip(glyphs.clusters, glyphs.split, strict=True))
    assert set(glyphs.split) == {"train", "heldout"}


def test_a_quarter_is_held_out_in_every_category(glyphs: Images) -> None:
    held = torch.tensor([side == "heldout" for side in glyphs.split])
    assert 0.24 <= float(held.float().mean()) <= 0.26
    for label in range(len(glyphs.categories)):
        assert 0.23 <= float(held[glyphs.labels == label].float().mean()) <= 0.27


def test_every_category_has_at_least_eighty_images(glyphs: Images) -> None:
    assert min(Counter(glyphs.labels.tolist()).values()) >= 80


def test_ids_are_unique_and_name_their_source(glyphs: Images) -> None:
    assert len(set(glyphs.ids)) == len(glyphs)
    pairs = zip(glyphs.ids, glyphs.sources, strict=True)
    assert all(one.startswith(f"{source}:") for one, source in pairs)


def test_no_two_images_have_the_same_pixels(glyphs: Images) -> None:
    assert len({image.tobytes() for image in glyphs.pixels.numpy()}) == len(glyphs)


def test_every_caption_is_words_and_not_a_file_name(glyphs: Images) -> None:
    dirty = re.compile(r"[_<>{}\[\]\\|@]|\.(svg|png)\b|0x[0-9a-f]{3}|clip ?art|&\w+;|http|\s\s|Ã")
    assert not [c for c in glyphs.captions if dirty.search(c) or c != c.strip()]
    assert all(sum(letter.isalnum() for letter in c) >= 2 for c in glyphs.captions)


def test_every_picture_has_ink_and_a_white_rim(glyphs: Images) -> None:
    ink = (glyphs.pixels.amin(dim=3) < 200).float().mean(dim=(1, 2))
    assert float(ink.min()) > 0.03
    rim = torch.cat([glyphs.pixels[:, 0], glyphs.pixels[:, :, 0]], dim=1)
    assert int(rim.min()) == 255


def test_floats_are_channels_first_in_minus_one_to_one(glyphs: Images) -> None:
    few = glyphs.select(slice(0, 5))
    x = few.floats()
    assert x.shape == (5, 3, 32, 32)
    assert x.dtype is torch.float32
    assert float(x.min()) >= -1
    assert float(x.max()) == 1
    assert torch.equal(((x + 1) * 127.5).round().to(torch.uint8).permute(0, 2, 3, 1), few.pixels)


def test_the_two_sides_of_the_split_make_the_whole(glyphs: Images) -> None:
    sides = [load_images(split=side) for side in ("train", "heldout")]
    assert set(sides[0].ids) | set(sides[1].ids) == set(glyphs.ids)
    assert sum(len(side) for side in sides) == len(glyphs)
    assert set(sides[0].split) == {"train"}


def test_select_takes_masks_integers_and_slices(glyphs: Images) -> None:
    mask = np.zeros(len(glyphs), bool)
    mask[[3, 7]] = True
    by_mask = glyphs.select(mask)
    assert by_mask.ids == glyphs.select([3, 7]).ids == glyphs.select(torch.tensor([3, 7])).ids
    assert glyphs.select(slice(3, 8, 4)).ids == by_mask.ids
    assert glyphs.select([-1]).ids == glyphs.ids[-1:]
    assert len(glyphs.select([])) == 0
    assert by_mask.sha256 == hashlib.sha256(by_mask.pixels.numpy().tobytes()).hexdigest()


@pytest.mark.parametrize(
    ("index", "match"),
    [
        ([10**6], "leaves the"),
        (np.ones(3, bool), "mask of shape"),
        ([0.5], "index has dtype"),
    ],
)
def test_select_refuses_what_is_no_index(glyphs: Images, index: Any, match: str) -> None:
    with pytest.raises(InterpError, match=match):
        glyphs.select(index)


def test_a_limit_is_seeded_and_takes_whole_clusters_but_the_last(glyphs: Images) -> None:
    few = load_images(limit=300, seed=1)
    assert few.ids == load_images(limit=300, seed=1).ids
    assert few.ids != load_images(limit=300, seed=2).ids
    assert len(few) == 300
    whole, taken = Counter(glyphs.clusters), Counter(few.clusters)
    assert sum(taken[c] < whole[c] for c in taken) <= 1
    assert list(few.ids) == [one for one in glyphs.ids if one in set(few.ids)]


@pytest.mark.parametrize("limit", [0, 10**6])
def test_a_limit_outside_the_set_is_refused(limit: int) -> None:
    with pytest.raises(InterpError, match=f"limit is {limit}, but there are"):
        load_images(limit=limit)


def test_an_unknown_split_is_refused() -> None:
    with pytest.raises(InterpError, match="unknown split 'test'"):
        load_images(split="test")  # pyright: ignore[reportArgumentType]


def test_a_folder_gets_the_documented_defaults(tmp_path: Path) -> None:
    rows = [{"file": f"sub/red_fox-{i}.png"} for i in range(8)]
    images = load_images(_folder(tmp_path / "mine", rows))
    assert images.name == "mine"
    assert images.ids[1] == "sub/red_fox-1"
    assert images.captions[1] == "red fox 1"
    assert images.categories == ("image",)
    assert images.clusters == images.ids
    assert images.tags == ((),) * 8
    assert Counter(images.split) == {"train": 6, "heldout": 2}
    assert set(images.sources) == {"mine"}
    assert images.pixels[3, 0, 0].tolist() == [30, 225, 99]


def test_a_folder_keeps_what_its_csv_says(tmp_path: Path) -> None:
    rows = [
        {"file": "a.png", "id": "x", "category": "fox", "caption": "A fox", "tags": "red; small"},
        {"file": "b.png", "id": "y", "category": "ant", "caption": "An ant", "tags": ""},
    ]
    for row in rows:
        row.update(cluster="one", split="heldout", source="me", licence="CC0")
    images = load_images(_folder(tmp_path, rows), size=4)
    assert images.pixels.shape == (2, 4, 4, 3)
    assert images.ids == ("x", "y")
    assert [images.categories[i] for i in images.labels] == ["fox", "ant"]
    assert images.tags == (("red", "small"), ())
    assert images.clusters == ("one", "one")
    assert images.split == ("heldout", "heldout")
    assert images.licences == ("CC0", "CC0")


def test_a_folders_split_keeps_clusters_whole_and_follows_the_seed(tmp_path: Path) -> None:
    rows = [{"file": f"{i}.png", "cluster": f"c{i // 2}"} for i in range(16)]
    folder = _folder(tmp_path, rows)
    splits = [load_images(folder, seed=seed).split for seed in range(4)]
    for split in splits:
        assert split[::2] == split[1::2]
        assert Counter(split) == {"train": 12, "heldout": 4}
    assert len(set(splits)) > 1
    assert load_images(folder, seed=0).split == splits[0]


def test_transparency_becomes_white(tmp_path: Path) -> None:
    from PIL import Image

    folder = _folder(tmp_path, [{"file": "a.png"}])
    Image.new("RGBA", (8, 8), (0, 0, 0, 0)).save(folder / "a.png")
    assert int(load_images(folder).pixels.min()) == 255


def test_a_missing_folder_or_csv_is_named(tmp_path: Path) -> None:
    with pytest.raises(InterpError, match=r"no folder .*nowhere"):
        load_images(tmp_path / "nowhere")
    with pytest.raises(InterpError, match=r"neither an images\.csv .* nor a file ending in \.png"):
        load_images(tmp_path)


def test_a_folder_without_csv_lists_its_images_by_folder(tmp_path: Path) -> None:
    for name in ("cats/b.png", "cats/a.PNG", "dogs/c.png", "d.png"):
        _picture(tmp_path / name, (9, 9, 9))
    (tmp_path / "notes.txt").write_text("not an image")
    images = load_images(tmp_path)
    assert list(images.ids) == ["cats/a", "cats/b", "d", "dogs/c"]
    named = [images.categories[label] for label in images.labels.tolist()]
    assert named == ["cats", "cats", "image", "dogs"]


def test_a_csv_without_files_is_refused(tmp_path: Path) -> None:
    (tmp_path / "images.csv").write_text("name\na.png\n")
    with pytest.raises(InterpError, match="but no `file`"):
        load_images(tmp_path)
    (tmp_path / "images.csv").write_text("file\n")
    with pytest.raises(InterpError, match="lists no image"):
        load_images(tmp_path)


def test_a_missing_or_undecodable_file_is_named(tmp_path: Path) -> None:
    folder = _folder(tmp_path, [{"file": "a.png"}, {"file": "b.png"}])
    (folder / "b.png").write_bytes(b"\x89PNG\r\n\x1a\n broken")
    with pytest.raises(InterpError, match=r"b\.png does not decode"):
        load_images(folder)
    (folder / "b.png").unlink()
    with pytest.raises(InterpError, match=r"b\.png is listed .* not there"):
        load_images(folder)


def test_mixed_sizes_need_a_size(tmp_path: Path) -> None:
    folder = _folder(tmp_path, [{"file": "a.png"}, {"file": "b.png"}])
    _picture(folder / "b.png", (0, 0, 0), (6, 12))
    with pytest.raises(InterpError, match=r"2 image sizes .*give size="):
        load_images(folder)
    assert load_images(folder, size=8).pixels.shape == (2, 8, 8, 3)
    assert load_images(folder, fit=5).pixels.shape == (2, 5, 5, 3)
    with pytest.raises(InterpError, match="size is 0"):
        load_images(folder, size=0)


@pytest.mark.parametrize(
    ("column", "values", "match"),
    [
        ("split", ("train", "valid"), "unknown split 'valid'"),
        ("id", ("x", "x"), "id 'x' stands twice"),
    ],
)
def test_a_contradiction_in_the_csv_is_named(
    tmp_path: Path, column: str, values: tuple[str, str], match: str
) -> None:
    rows = [{"file": f"{i}.png", column: value} for i, value in enumerate(values)]
    with pytest.raises(InterpError, match=match):
        load_images(_folder(tmp_path, rows))


def test_a_cluster_on_both_sides_is_refused(tmp_path: Path) -> None:
    rows = [{"file": f"{s}.png", "cluster": "c", "split": s} for s in ("train", "heldout")]
    with pytest.raises(InterpError, match="cluster 'c' stands on both sides"):
        load_images(_folder(tmp_path, rows))


def test_glyphs_can_be_resized() -> None:
    assert load_images(size=16, limit=3).pixels.shape == (3, 16, 16, 3)
