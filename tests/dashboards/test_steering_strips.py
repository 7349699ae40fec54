"""What steering did, on its feature's page and as a figure."""

import json
from typing import Any

import pytest

from interp.cli.main import main
from interp.dashboards import build_dashboard, steering_figure
from interp.errors import InputError
from tests.dashboards.pages import CHROMIUM, Visit, go, shown
from tests.dashboards.synthetic import HOSTILE, SyntheticStore, features
from tests.dashboards.synthetic_steering import ATTRIBUTES, STRENGTHS, dose

browsed = [
    pytest.mark.browser,
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed (apt install chromium)"),
]


@pytest.fixture(scope="module")
def store() -> SyntheticStore:
    return SyntheticStore(n=32, size=16)


@pytest.fixture(scope="module")
def page(store, tmp_path_factory):
    made = features(64, store=store)
    few = dose(feature=5, n_scanned=400, label=HOSTILE, point=HOSTILE)
    out = tmp_path_factory.mktemp("steered")
    dose().save(out / "dose")
    return build_dashboard(out / "page", [made], [store], steering=[out / "dose", few])


def test_a_record_stands_with_the_feature_that_it_steers(page):
    folder = page.parent / "bundle"
    text = (folder / "data" / "meta.js").read_text()
    meta = json.loads(text.removeprefix('INTERP.receive("meta",').removesuffix(");\n"))
    places = [(one["sae"], one["latent"], one["index"]) for one in meta["steering"]]
    assert places == [(0, 3, 0), (0, 5, 1)]
    assert (folder / "data" / "steering0.js").exists()
    assert (folder / "steering" / "1.webp").exists()


def test_the_same_records_give_the_same_bytes(page, store, tmp_path):
    again = build_dashboard(tmp_path, [features(64, store=store)], [store], steering=[dose()])
    for name in ("data/steering0.js", "steering/0.webp"):
        first, second = (one.parent / "bundle" / name for one in (page, again))
        assert first.read_bytes() == second.read_bytes()


@pytest.mark.parametrize(
    ("record", "said"),
    [
        (dose(feature=None), "no feature of an SAE"),
        (dose(sae="unknown"), "steers an SAE 'unknown'; the features given are of sae000000000"),
        (dose(feature=64), "latents 0 to 63"),
    ],
)
def test_steering_of_something_else_is_refused(store, tmp_path, record, said):
    with pytest.raises(InputError, match=said):
        build_dashboard(tmp_path, [features(64, store=store)], [store], steering=[record])
    assert not (tmp_path / "index.html").exists()


def test_a_folder_without_a_record_is_refused(store, tmp_path, capsys):
    with pytest.raises(InputError, match="holds no dose-response"):
        build_dashboard(tmp_path, [features(64, store=store)], [store], steering=[tmp_path])
    arguments = ["dashboard", "build", "--steering", str(tmp_path), "--out", str(tmp_path / "o")]
    assert main(arguments) == 2
    assert "nothing to show: give --features DIR" in capsys.readouterr().err


def test_the_page_says_where_images_change_more_than_by_random_directions(page):
    text = (page.parent / "bundle" / "data" / "steering0.js").read_text()
    said = "beyond the random directions (largest of 16; 16 drawn of each kind) at strengths: "
    assert json.dumps(said)[1:-1] + "surface" in text


def test_a_response_is_beyond_random_where_its_whole_interval_is():
    one = dose()
    found = one.beyond_random()
    assert found["content"] == ()
    for name, doses in found.items():
        for s, row, control in zip(
            STRENGTHS, one.responses[name], one.isotropic[name], strict=True
        ):
            assert (s in doses) == (row.size_low > control.size)
    none = dose(responses=dict.fromkeys(ATTRIBUTES, one.responses["content"]))
    assert none.conclude().startswith("not beyond the random directions (largest of 16")
    assert "no random directions" in dose(n_random=0, isotropic={}, matched={}).conclude()
    assert "(their mean; 16 drawn of each kind)" in dose(n_scanned=1).conclude()


def draw(record: Any) -> Any:
    """Return the figure, whose layout type checkers do not know."""
    return steering_figure(record)


def test_the_figure_draws_responses_bands_distances_and_pictures():
    one = dose()
    figure = draw(one)
    along = [[row.along for row in one.responses[name]] for name in ATTRIBUTES]
    drawn = [list(trace.y) for trace in figure.data]
    for values in along:
        assert values in drawn
    edge = [row.along for row in one.isotropic["surface"]]
    assert drawn.count(edge) == 4
    assert [-value for value in edge] in drawn
    assert [1.2, 1.1, 1.0, 1.1, 1.2] in [[round(v, 6) for v in y] for y in drawn]
    assert len(figure.layout.images) == 2 * (len(STRENGTHS) + 1)
    caption = figure.layout.annotations[-1].text
    assert "n = 12 seeds, seed 7" in caption
    assert "the largest of 16 shown" in caption


def test_the_figure_says_when_too_few_directions_were_drawn_or_none():
    few = draw(dose(n_scanned=400))
    assert "the bands are too low" in few.layout.annotations[-1].text
    none = draw(dose(isotropic={}, matched={}, n_random=0, off_distribution={}))
    assert "no random directions were drawn" in none.layout.annotations[-1].text
    assert len(none.data) == 2 * len(ATTRIBUTES)


@pytest.fixture
def visit(browser):
    contexts, said = [], []

    def open_(path, place: str, width: int = 1400):
        contexts.append(browser.new_context(viewport={"width": width, "height": 900}))
        tab = contexts[-1].new_page()
        tab.on("pageerror", lambda error: said.append(str(error)))
        return go(Visit(tab, [], []), path, place)

    yield open_
    for context in contexts:
        context.close()
    assert said == []


def drawn(tab, latent: int) -> None:
    shown(tab, 0, latent)
    complete = """() => { const charts = [...document.querySelectorAll('.steering .chart')];
      return charts.length && charts.every((n) => n.data && n.querySelector('.ytitle')); }"""
    tab.wait_for_function(complete, timeout=60_000)


class TestInABrowser:
    """The strips as a reader sees them."""

    pytestmark = browsed

    def test_pictures_stand_over_their_strength(self, visit, page):
        tab = visit(page, "#/sae/0/feature/3")
        drawn(tab, 3)
        heads = tab.locator(".dose-strip thead th").all_inner_texts()
        minus = "\N{MINUS SIGN}"
        names = ["unedited", f"{minus}1", f"{minus}0.5", "0 (no edit)", "0.5", "1"]
        assert heads == ["strength", *names]
        assert tab.locator(".dose-strip tbody tr").count() == 2
        places = tab.locator(".dose-strip tbody tr >> nth=1 >> .frame").evaluate_all(
            "nodes => nodes.map((n) => n.style.backgroundPosition)"
        )
        assert places == [f"100% {20 * i}%" for i in range(6)]
        assert tab.locator(".steering .caution").count() == 0

    def test_curves_stand_beside_random_directions_and_clean_rows(self, visit, page):
        tab = visit(page, "#/sae/0/feature/3")
        drawn(tab, 3)
        titles = tab.locator(".steering figure h3").all_inner_texts()
        assert titles == [*ATTRIBUTES, "off distribution"]
        counts = tab.locator(".steering .chart").evaluate_all("n => n.map((c) => c.data.length)")
        assert counts == [6, 6, 2]
        bare = """() => [...document.querySelectorAll('.steering .chart')].filter((node) =>
          !node.querySelector('.xtitle') || !node.querySelector('.ytitle')).length"""
        assert tab.evaluate(bare) == 0
        text = tab.locator(".steering").inner_text()
        assert "n = 12 seeds" in text
        assert "largest of 16" in text

    def test_too_few_random_directions_are_said_and_names_stay_text(self, visit, page):
        tab = visit(page, "#/sae/0/feature/5")
        drawn(tab, 5)
        assert "Only 16 random directions" in tab.locator(".steering .caution").inner_text()
        assert HOSTILE.split("\u2028")[0].strip() in tab.locator(".steering h2").inner_text()
        assert tab.evaluate("window.hacked") is None

    def test_a_latent_that_was_not_steered_has_no_strip(self, visit, page):
        tab = visit(page, "#/sae/0/feature/4")
        shown(tab, 0, 4)
        assert tab.locator(".steering").count() == 0

    def test_the_strip_fits_a_phone(self, visit, page):
        tab = visit(page, "#/sae/0/feature/3", 390)
        drawn(tab, 3)
        assert tab.evaluate("document.documentElement.scrollWidth") <= 390
