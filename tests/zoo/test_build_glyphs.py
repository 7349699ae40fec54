"""The builder's rules, on a made-up copy of the packages' layout."""

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from interp.errors import InterpError
from interp.zoo import build_glyphs as b
from interp.zoo import glyph_files
from interp.zoo import glyph_rules as rules
from interp.zoo import glyph_words as words
from interp.zoo.glyph_files import canonical, read_glyphs, write_glyphs

SVG = """<svg><metadata><rdf:RDF><cc:Work><dc:title>{title}</dc:title><dc:subject><rdf:Bag>
<rdf:li></rdf:li><rdf:li>{word}</rdf:li></rdf:Bag></dc:subject></cc:Work></rdf:RDF></metadata></svg>"""

DRAWINGS = {
    "animals/birds/raven_john_doe_01": ("Raven", "bird"),
    "unsorted/raven_again": ("raven", "bird"),
    "unsorted/what_is_it": ("Thing", "stuff"),
    "shapes/stars/star_5": ("star", "star"),
    "tools/hammer_01": ("Licensed under the GPL", "tool"),
    "signs_and_symbols/bad": ("Swastika", "sign"),
    "food/fruit/red_apple_01": ("Clipart by Somebody - apple", "fruit"),
}


def _draw(path: Path, seed: int, size: tuple[int, int] = (40, 40)) -> None:
    from PIL import Image

    path.parent.mkdir(parents=True, exist_ok=True)
    blocks = np.random.default_rng(seed).integers(0, 2, (5, 5, 3), np.uint8) * 220
    Image.fromarray(blocks).resize(size, Image.Resampling.NEAREST).save(path)


@pytest.fixture
def packages(tmp_path: Path) -> dict[str, Path]:
    emoji, base = tmp_path / "emoji", tmp_path / "base"
    listed = [("1F600", "face-smiling"), ("1F436", "animal-mammal"), ("1F3FB", "skin-tone")]
    for seed, (code, _) in enumerate(listed):
        _draw(emoji / "img/google/64" / f"{code.lower()}.png", seed)
    records = [
        {"unified": c, "image": f"{c.lower()}.png", "has_img_google": True, "subcategory": s}
        for c, s in listed
    ]
    (emoji / "emoji.json").write_text(json.dumps(records))
    (base / "en").mkdir(parents=True)
    english = [{"hexcode": c, "label": f"label: {s}", "tags": ["tag"]} for c, s in listed]
    (base / "en" / "data.json").write_text(json.dumps(english))
    for seed, (name, (title, word)) in enumerate(DRAWINGS.items(), 10):
        _draw(tmp_path / f"png/usr/share/openclipart/png/{name}.png", seed)
        svg = tmp_path / f"svg/usr/share/openclipart/svg/{name}.svg"
        svg.parent.mkdir(parents=True, exist_ok=True)
        svg.write_text(SVG.format(title=title, word=word))
    return {"emoji": emoji, "emojibase": base, "png": tmp_path / "png", "svg": tmp_path / "svg"}


def _glyph(
    one: str, pixels: np.ndarray, category: str = "food", title: str = "", series: str = ""
) -> b.Glyph:
    return b.Glyph(
        id=one,
        pixels=pixels,
        category=category,
        caption=one,
        tags=(),
        source="noto",
        licence="Apache-2.0",
        title=title or one,
        series=series or one,
    )


def _noise(seed: int) -> np.ndarray:
    coarse = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), np.uint8)
    return coarse.repeat(4, axis=0).repeat(4, axis=1)


def test_the_builder_keeps_what_the_rules_allow(packages: dict[str, Path]) -> None:
    glyphs, counts = b.build(**packages)
    assert [g.id for g in glyphs] == [
        "noto:1f436",
        "noto:1f600",
        "openclipart:animals/birds/raven_john_doe_01",
        "openclipart:food/fruit/red_apple_01",
        "openclipart:unsorted/raven_again",
    ]
    assert [g.category for g in glyphs] == ["animal", "face", "animal", "food", "animal"]
    assert glyphs[3].caption == "red apple"
    assert glyphs[2].tags == ("bird", "animals", "birds")
    assert glyphs[2].cluster == glyphs[4].cluster
    assert counts["noto: bare skin-tone swatches"] == 1
    assert counts["openclipart: names the GPL"] == 1
    assert counts["openclipart: no category"] == 1
    assert counts["openclipart: unwanted subject, wordmark or plain text"] == 1
    assert counts["openclipart: series, themes, cards, patterns, wordmarks"] == 1


def test_the_builder_gives_the_same_twice(packages: dict[str, Path]) -> None:
    first, second = b.build(**packages)[0], b.build(**packages)[0]
    assert canonical(b.metadata(first)) == canonical(b.metadata(second))
    assert all(np.array_equal(x.pixels, y.pixels) for x, y in zip(first, second, strict=True))


def test_the_command_writes_files_that_decode_exactly(
    packages: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    arguments = ["--emoji", packages["emoji"], "--emojibase", packages["emojibase"]]
    arguments += ["--openclipart-png", packages["png"], "--openclipart-svg", packages["svg"]]
    b.main([str(a) for a in [*arguments, "--out", out]])
    pixels, text = read_glyphs(out)
    glyphs, _ = b.build(**packages)
    assert np.array_equal(pixels, np.stack([g.pixels for g in glyphs]))
    assert text == canonical(b.metadata(glyphs))
    assert '"n": 5' in capsys.readouterr().out
    assert (out / "glyphs.contact.png").is_file()


def test_a_wrong_folder_is_named(packages: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(InterpError, match=r"emoji\.json is missing"):
        b.build(**{**packages, "emoji": tmp_path})
    with pytest.raises(InterpError, match="no usr/share/openclipart/png"):
        b.build(**{**packages, "png": tmp_path / "emoji"})


def test_sheets_hold_more_than_one_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(glyph_files, "SHEET", 2)
    pixels = np.stack([_noise(i) for i in range(9)])
    write_glyphs(tmp_path, pixels, {"ids": list(range(9))})
    assert len(list(tmp_path.glob("glyphs.*.webp"))) == 3
    assert np.array_equal(read_glyphs(tmp_path)[0], pixels)


def test_blank_and_elongated_pictures_are_dropped(tmp_path: Path) -> None:
    from PIL import Image

    Image.new("RGBA", (20, 20), (255, 0, 0, 0)).save(tmp_path / "blank.png")
    _draw(tmp_path / "long.png", 0, (90, 20))
    _draw(tmp_path / "good.png", 0, (60, 25))
    assert b.compose(tmp_path / "blank.png") is None
    assert b.compose(tmp_path / "long.png") is None
    good = b.compose(tmp_path / "good.png")
    assert good is not None
    assert good.shape == (32, 32, 3)
    assert int(good[:6].min()) == 255
    assert b.readable(good)


@pytest.mark.parametrize("value", [255, 250, 0])
def test_a_flat_picture_is_not_readable(value: int) -> None:
    assert not b.readable(np.full((32, 32, 3), value, np.uint8))


def test_pictures_that_look_the_same_are_dropped() -> None:
    counts: Counter = Counter()
    base = _noise(0).clip(0, 250)
    glyphs = [_glyph("a", base), _glyph("b", base + np.uint8(3)), _glyph("c", _noise(1))]
    assert [g.id for g in b.drop_duplicates(glyphs, counts)] == ["a", "c"]
    assert counts["exact or invisible duplicates"] == 1


def test_a_series_is_capped() -> None:
    glyphs = [_glyph(f"n{i}", _noise(i), series="s") for i in range(30)]
    kept = b.cap_series(glyphs, Counter())
    assert len(kept) == b.SERIES_CAP
    assert kept == b.cap_series(glyphs[::-1], Counter())[::-1]


def test_title_series_and_near_duplicates_make_clusters() -> None:
    near = _noise(0).astype(np.int64) + np.random.default_rng(9).integers(-20, 20, (32, 32, 3))
    glyphs = [
        _glyph("a", _noise(0), title="fox"),
        _glyph("b", near.clip(0, 255).astype(np.uint8)),
        _glyph("c", _noise(2), title="fox", series="row"),
        _glyph("d", _noise(3), series="row"),
        *[_glyph(f"e{i}", _noise(i)) for i in range(4, 12)],
    ]
    groups = b.clusters(glyphs)
    assert groups[0] == [0, 1, 2, 3]
    assert groups[1:] == [[i] for i in range(4, 12)]


def test_a_chain_of_near_duplicates_is_cut() -> None:
    rows = list(range(b.CLUSTER_CAP + 20))
    edges = [(i, i + 1, 0.94 + 0.01 * (i % 2)) for i in rows[:-1]]
    groups = b._linked(rows, b._Sets(len(rows)), edges, b.NEAR)
    assert sorted(row for group in groups for row in group) == rows
    assert max(len(group) for group in groups) <= b.CLUSTER_CAP


def test_the_split_takes_a_quarter_of_each_category_in_whole_clusters() -> None:
    names = [rules.CATEGORIES[i % 3] for i in range(240)]
    glyphs = [_glyph(f"g{i}", _noise(0), category=c) for i, c in enumerate(names)]
    groups = [[i, i + 3] if i % 6 < 3 else [] for i in range(240)]
    groups = [group for group in groups if group]
    held = b.split_clusters(glyphs, groups)
    inside = Counter(names[i] for group, h in zip(groups, held, strict=True) if h for i in group)
    assert all(18 <= inside[c] <= 20 for c in rules.CATEGORIES[:3])


@pytest.mark.parametrize(
    ("title", "stem", "folder", "caption"),
    [
        ("MagnetField &amp; more", "x", "science", "magnet field & more"),
        ("HASH(0x8a41038)", "old_house_01", "buildings", "old house"),
        ("AIGA_Symbol_Signs", "aiga_no_dogs_", "transportation/aiga-symbols", "no dogs"),
        ("somalia", "somalia", "signs_and_symbols/flags/africa", "flag of somalia"),
        ("SVG Road Signs", "no_cycles", "transportation/roadsigns", "no cycles road sign"),
        ("#1", "01", "animals/birds", "bird"),
        ("LÃ©zard", "lezard", "animals", "lézard"),
    ],
)
def test_captions_come_from_titles_or_else_from_file_words(
    title: str, stem: str, folder: str, caption: str
) -> None:
    assert words.openclipart_caption(title, stem, folder) == caption


@pytest.mark.parametrize(
    ("caption", "shipped"),
    [
        ("leone", "lion"),
        ("apple b and w", "apple, black and white"),
        ("hill rpg map elements", "hill"),
        ("architetto francesco rollandin", "animal"),
        ("flag of Congo - Kinshasa", "flag of Congo Kinshasa"),
    ],
)
def test_shipped_captions_are_english_and_name_no_author(caption: str, shipped: str) -> None:
    assert words.shipped_caption(caption, "animal") == shipped


def test_shipped_tags_hold_no_filler() -> None:
    assert words.shipped_tags(("fox", "0x8a0", "hash", "unsorted", "<3")) == ["fox"]


def test_same_titles_give_one_key_across_sources() -> None:
    assert words.title_key("flag of Egypt") == words.title_key("egypt flag")
    assert words.title_key("Dogs") == words.title_key("dog")
    assert words.series_key("arrow-up-red 2") == words.series_key("arrow-left-blue 11")
    assert words.noto_template("man running", "person-activity") == words.noto_template(
        "woman running", "person-activity"
    )


@pytest.mark.parametrize(
    ("folder", "stem", "told", "category"),
    [
        ("animals/fish", "shark", "shark", "animal"),
        ("people", "hat_01", "red hat", "clothing"),
        ("people", "bob", "bob", "person"),
        ("unsorted", "it", "it", None),
        ("food/beverages", "aiga_bar_", "bar", "sign"),
        ("signs_and_symbols/flags/europe", "murcia", "murcia map spain", None),
        ("signs_and_symbols/flags/europe", "spain", "spain flag", "flag"),
    ],
)
def test_folders_and_keywords_give_the_category(
    folder: str, stem: str, told: str, category: str | None
) -> None:
    assert rules.openclipart_category(folder, stem, told) == category


def test_every_category_of_the_tables_is_a_category() -> None:
    named = {*rules.NOTO.values(), *(c for c, _ in rules.OPENCLIPART.values() if c)}
    named |= {c for _, c in rules.NOTO_LABEL} | {c for _, c in rules.KEYWORDS}
    assert named == set(rules.CATEGORIES)
