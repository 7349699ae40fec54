"""The page of an atlas as text: what it says, what it escapes, what it does without parts."""

import dataclasses
import html
import re
from html.parser import HTMLParser

import numpy as np
import pytest

from interp.atlas.record import Atlas, Interval
from interp.dashboards import build_atlas_page
from interp.dashboards.atlas import atlas_html
from interp.dashboards.atlas_grid import make_scale, make_sheet, pairs_shown
from interp.dashboards.atlas_html import bounds, interval, number, tag
from interp.errors import InputError
from tests.atlas.made import make_atlas
from tests.dashboards.synthetic import HOSTILE

VOID = {"meta", "br", "img", "input", "link", "hr", "col"}


@pytest.fixture(scope="module")
def page() -> str:
    return atlas_html(make_atlas())


def make_short() -> Atlas:
    """An atlas without charts, whose page takes no time."""
    return dataclasses.replace(make_atlas(), maps=(), layers=(), compactness=(), kinds=())


def without_scripts(page: str) -> str:
    return re.sub(r"<(script|style)\b.*?</\1>", "", page, flags=re.S)


def text_of(page: str) -> str:
    bare = re.sub(r"<[^>]+>", " ", without_scripts(page))
    return " ".join(html.unescape(bare).split())


class Nesting(HTMLParser):
    """Follows opening and closing tags, and remembers what does not fit."""

    def __init__(self) -> None:
        super().__init__()
        self.stack: list[str] = []
        self.wrong: list[str] = []
        self.names: list[str] = []

    def handle_starttag(self, name, attributes) -> None:
        self.names.append(name)
        if name not in VOID:
            self.stack.append(name)

    def handle_endtag(self, name) -> None:
        if not self.stack or self.stack.pop() != name:
            self.wrong.append(name)


def nesting(page: str) -> Nesting:
    parser = Nesting()
    parser.feed(page)
    return parser


def test_tags_close_in_order(page):
    parser = nesting(page)
    assert parser.wrong == []
    assert parser.stack == []


def test_both_verdicts_stand_in_words_with_what_would_decide_them(page):
    text = text_of(page)
    assert "compact: undecided" in text
    assert "specialized: undecided" in text
    assert "Smallest value that 40 pairs could have shown: 0.070" in text
    assert "Pairs that would decide it if the values stayed: 96" in text
    assert "No number of pairs would decide it" in text
    assert "puts the model in none of the four" in text


def test_the_rule_stands_with_its_hash_and_the_controls_with_their_number(page):
    text = text_of(page)
    assert "f" * 64 in text
    assert '{"version": 1}' in text
    assert "Planted controls (P1): 2 of 2 checks passed" in text


def test_a_failed_control_is_named_and_no_verdict_is_printed():
    made = make_short()
    failed = dataclasses.replace(made.controls[0], found=0.5, passed=False)
    told = dataclasses.replace(
        made, controls=(failed, made.controls[1]), verdict=None, warnings=("P1 failed",)
    )
    text = text_of(atlas_html(told))
    assert "No verdict is printed" in text
    assert "P1 failed" in text
    assert "1 of 2 checks passed" in text
    assert "FAILED" in text
    assert "compact: " not in text


def test_decided_answers_mark_their_corner():
    made = make_short()
    assert made.verdict is not None
    yes, no = (dataclasses.replace(made.verdict.compact, answer=a) for a in ("yes", "no"))
    verdict = dataclasses.replace(made.verdict, compact=yes, specialized=no, corner="strict")
    page = atlas_html(dataclasses.replace(made, verdict=verdict))
    (cell,) = re.findall(r'<td class="here">(.*?)</td>', page)
    assert "strict" in cell
    assert "this model" in cell
    assert "none of the four" not in page


def test_every_cell_has_pictures_share_damage_and_levels(page):
    (row,) = re.findall(r'<tr><th scope="row"><b>mid_block</b>.*?</tr>', page, flags=re.S)
    cells = re.findall(r"<td .*?</td>", row, flags=re.S)
    assert len(cells) == 3
    for cell in cells:
        assert cell.count('class="tile"') == 6
        for words in ("donor, pair", "recipient, pair", "mid_block swapped, pair"):
            assert words in cell
        for kind in ("lane alpha", "lane damage", "lane tau", "tick random", 'class="unrelated"'):
            assert kind in cell
        assert "random" in text_of(cell)


def test_terms_of_the_verdict_are_explained(page):
    text = text_of(page)
    assert "S, sufficiency the smallest" in text
    assert "Band twins: stages that only deal out" in text
    assert '<a href="#specialization">' in page
    assert "sources and writes)" in text


def test_settings_stand_with_what_was_used():
    config = {"n_pairs": 0, "fit": 1024, "steps": 8, "quick": True}
    made = dataclasses.replace(make_atlas(), config=config, recipe={"steps": 4})
    text = text_of(atlas_html(made))
    assert "n_pairs: 0 (used: 40); fit: 1024 (used: 256); steps: 8 (used: 4); quick: True" in text


def test_a_source_that_is_all_that_differs_is_one_by_construction():
    made = make_short()
    said = "class is all that differs in this arm: its donor share is 1 by construction."
    assert said not in text_of(atlas_html(made))
    row = next(row for row in made.carriers if row.role == "source")
    row = dataclasses.replace(row, name="class", arm="shared noise", fields=("class",))
    assert said in text_of(atlas_html(dataclasses.replace(made, carriers=(*made.carriers, row))))


def test_what_decides_nothing_is_set_apart(page):
    groups = re.findall(r'<tbody class="role-(\w+)">', page)
    assert groups == ["source", "descendant", "reference", "write"]
    assert "reported, decide nothing" in text_of(page)


def test_limits_scope_and_warnings_are_the_records_own(page):
    text = text_of(page)
    for words in ("Numbers made by hand.", "Nothing here was measured.", "20 pairs are few."):
        assert words in text
    made = dataclasses.replace(
        make_short(), protocol={"name": "published", "flaws": ["one seed for A and B"]}
    )
    text = text_of(atlas_html(made))
    assert "published protocol that was followed" in text
    assert "one seed for A and B" in text


def test_a_protocols_own_measures_stand_beside_ours():
    gain = {"mean": 0.12, "unclipped": -0.04}
    likeness = {"to_donor": 0.4, "to_recipient": 0.6, "between": 0.3, "donor_gain": gain}
    share = {"alpha": 0.2, "alpha_low": 0.1, "alpha_high": 0.3}
    cell = {
        "block": "mid_block<b>",
        "window": [1000, 0],
        "noise": "shared",
        "likeness": {"ssim": likeness, "clip": None},
        "effect": {"attributes": {"content": share}},
        "tau": {"content": 0.55},
    }
    bare = {"block": "up", "effect": None, "likeness": None}
    protocol = {"singles": [cell, bare, None], "sets": [], "config": {"n_pairs": 12}}
    page = atlas_html(dataclasses.replace(make_short(), protocol=protocol))
    text = text_of(page)
    assert nesting(page).wrong == []
    minus = "\N{MINUS SIGN}"
    for words in ("0.40 | 0.60 | 0.30", f"0.12 | {minus}0.04", "0.20 [0.10, 0.30]", "0.55"):
        assert words in text
    assert "mid_block<b>" in text
    assert "n_pairs: 12" in text


def test_nothing_is_asked_of_anyone_and_only_the_pages_own_scripts_may_run(page):
    (policy,) = re.findall(r'Content-Security-Policy" content="([^"]+)"', page)
    rules = html.unescape(policy)
    assert rules.startswith("default-src 'none'; script-src 'sha256-")
    assert "unsafe-eval" not in rules
    assert "unsafe-inline" not in rules.split("style-src")[0]
    bare = without_scripts(page)
    assert not re.findall(r'\b(?:src|href)="(?!#)', bare)
    assert "http" not in bare.replace("http-equiv", "")
    assert re.findall(r"url\((\w+):", page.split("</head>")[0]) == ["data"]


def hostile_atlas() -> Atlas:
    """Every name and text of an atlas is markup that would act."""
    made = make_atlas()
    rows = tuple(
        dataclasses.replace(row, name=HOSTILE, window=HOSTILE, points=(HOSTILE,))
        for row in made.carriers
    )
    return dataclasses.replace(
        made,
        model=dataclasses.replace(made.model, spec=HOSTILE, family=HOSTILE, class_name=HOSTILE),
        carriers=rows,
        arms=tuple(dataclasses.replace(arm, what=HOSTILE) for arm in made.arms),
        maps=tuple(dataclasses.replace(m, name=HOSTILE, windows=(HOSTILE,) * 3) for m in made.maps),
        layers=tuple(
            dataclasses.replace(
                one, name=HOSTILE, what=HOSTILE, notes=(HOSTILE,), wiring={HOSTILE: Interval(0.1)}
            )
            for one in made.layers
        ),
        compactness=tuple(dataclasses.replace(c, source=HOSTILE) for c in made.compactness),
        kinds=tuple(dataclasses.replace(kind, name=HOSTILE) for kind in made.kinds),
        config={HOSTILE: HOSTILE},
        protocol={"name": HOSTILE, "flaws": HOSTILE},
        scope=HOSTILE,
        not_measured=(HOSTILE,),
        warnings=(HOSTILE,),
        made_by=HOSTILE,
    )


def test_names_that_are_markup_stay_text():
    page = atlas_html(hostile_atlas())
    plain = nesting(atlas_html(make_atlas()))
    parser = nesting(page)
    assert parser.wrong == []
    assert parser.names.count("script") == plain.names.count("script")
    assert "img" not in parser.names
    assert "onerror=" not in without_scripts(page).replace(html.escape(HOSTILE), "")
    (data,) = re.findall(r'<script type="application/json"[^>]*>(.*?)</script>', page, flags=re.S)
    assert "<" not in data


def _emptied() -> Atlas:
    """All that a run may lack is absent."""
    made = make_atlas()
    gone = Interval(None)
    cells = {"content": dataclasses.replace(made.carriers[2].effects["content"], alpha=gone)}
    row = dataclasses.replace(
        made.carriers[2],
        effects=cells,
        sufficiency=gone,
        tau={"content": None},
        p={"content": None},
        images=(),
    )
    return dataclasses.replace(
        made,
        carriers=(row,),
        arms=tuple(dataclasses.replace(arm, donors=(), recipients=()) for arm in made.arms),
        maps=(),
        layers=(),
        compactness=(),
        image_curve=None,
        kinds=(),
        controls=(),
        verdict=None,
        not_measured=(),
        scope="",
        images=np.zeros((0, 8, 8, 3), np.uint8),
    )


def test_what_a_run_lacks_is_said_with_its_reason():
    page = atlas_html(_emptied())
    text = text_of(page)
    assert nesting(page).wrong == []
    for words in (
        "Planted controls were not run",
        "this model makes its images in one call",
        "No layers were played",
        "Directions of sources were not counted",
        "Kinds of module were not swapped",
        "kept no pictures",
        "No carrier was swapped in the arm 'shared noise'",
        "not measured",
        "The record names nothing",
    ):
        assert words in text, words
    # Without charts there is nothing to draw, and nothing may run.
    assert "script-src &#x27;none&#x27;" in page
    assert "NaN" not in text
    assert "None" not in text


def test_a_study_without_pairs_of_layers_or_twins_says_so():
    made = make_atlas()
    nothing = ((None,) * 3,) * 3
    shares = dataclasses.replace(
        made.layers[0].shares,
        interactions=None,
        shapley=nothing,
        shapley_low=nothing,
        first_in=nothing,
    )
    study = dataclasses.replace(
        made.layers[0], shares=shares, specialization=Interval(None), twins=(), excess=None
    )
    page = atlas_html(dataclasses.replace(made, layers=(study,)))
    assert "Pairs of layers were not run" in text_of(page)
    assert nesting(page).wrong == []


def test_the_page_is_one_file_with_the_same_bytes_each_time(tmp_path):
    made = make_short()
    made.save(tmp_path / "run")
    first = build_atlas_page(tmp_path / "run")
    assert first == tmp_path / "run" / "index.html"
    before = first.read_bytes()
    assert build_atlas_page(made, tmp_path / "other.html").read_bytes() == before
    assert build_atlas_page(tmp_path / "run" / "atlas.json").read_bytes() == before
    assert sorted(p.name for p in (tmp_path / "run").iterdir()) == [
        "atlas.json",
        "images.png",
        "index.html",
    ]


def test_a_page_needs_a_record_and_a_place_of_its_own(tmp_path):
    made = make_short()
    with pytest.raises(InputError, match="give `out`"):
        build_atlas_page(made)
    with pytest.raises(InputError, match="not a saved atlas"):
        build_atlas_page(tmp_path / "nothing")
    (tmp_path / "index.html").write_text("<h1>mine</h1>")
    with pytest.raises(InputError, match="not the page of an atlas"):
        build_atlas_page(made, tmp_path)
    assert (tmp_path / "index.html").read_text() == "<h1>mine</h1>"
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="needs a folder"):
        build_atlas_page(made, tmp_path / "file")


def test_cells_of_a_row_show_different_pairs_in_order():
    made = make_atlas()
    row = dataclasses.replace(made.carriers[2], images=(0, 1, 2, 3, 4))
    arm = dataclasses.replace(made.arms[0], donors=tuple(range(5)), recipients=tuple(range(5)))
    seen = [[pair for pair, _ in pairs_shown(row, arm, k)] for k in range(3)]
    assert seen == [[0, 1], [2, 3], [4, 0]]
    one = dataclasses.replace(row, images=(7,))
    assert pairs_shown(one, arm, 1) == [(0, (0, 0, 7))]


def test_the_axis_holds_0_and_1_and_ends_at_its_limits():
    made = make_atlas()
    plain = make_scale(made.carriers)
    assert plain.low <= 0 < 1 <= plain.high
    cell = made.carriers[0].effects["content"]
    far = dataclasses.replace(cell, alpha=Interval(9.0, -8.0, 12.0))
    row = dataclasses.replace(made.carriers[0], effects={"content": far}, random=None)
    wide = make_scale([row])
    assert (wide.low, wide.high) == (-0.5, 1.5)
    assert wide.at(9.0) == 100
    assert wide.at(-8.0) == 0


def test_tiles_come_back_from_their_sheet_to_the_byte():
    import io

    from PIL import Image

    images = np.random.default_rng(0).integers(0, 256, (19, 8, 8, 3), dtype=np.uint8)
    sheet = make_sheet(images)
    with Image.open(io.BytesIO(sheet.data)) as image:
        pixels = np.asarray(image.convert("RGB"))
    row, column = divmod(18, sheet.columns)
    found = pixels[8 * row : 8 * row + 8, 8 * column : 8 * column + 8]
    np.testing.assert_array_equal(found, images[18])


def test_numbers_that_are_not_there_are_dashes():
    assert number(None) == number(float("nan")) == number(float("inf")) == "\N{EN DASH}"
    assert number(-0.001) == "0.00"
    assert number(-0.1) == "\N{MINUS SIGN}0.10"
    assert interval(Interval(0.5)) == "0.50"
    assert bounds(Interval(0.5, 0.25, 0.75)) == "[0.25, 0.75]"
    assert interval(None) == "\N{EN DASH}"


def test_text_is_escaped_and_markup_is_not():
    inner = tag("b", "<i>", title='"')
    assert inner == '<b title="&quot;">&lt;i&gt;</b>'
    assert tag("p", inner, [None, "&"], hidden=True) == f"<p hidden>{inner}&amp;</p>"
