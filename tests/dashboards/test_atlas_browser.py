"""The page of an atlas in a browser: it draws, asks for nothing, and is read without a mouse."""

import itertools

import pytest

from interp.dashboards import build_atlas_page
from tests.atlas.made import make_atlas
from tests.dashboards.pages import CHROMIUM, DRIVER, WAIT
from tests.dashboards.test_atlas import hostile_atlas

pytestmark = [
    pytest.mark.browser,
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed (apt install chromium)"),
]

DRAWN = "document.querySelectorAll('.chart:not([data-drawn])').length === 0"


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return build_atlas_page(make_atlas(), tmp_path_factory.mktemp("atlas"))


@pytest.fixture
def visit(browser):
    """Open a page at a width; nothing may be said on the console or asked of another place."""
    contexts, said = [], []

    def open_(path, width: int = 1400):
        contexts.append(browser.new_context(viewport={"width": width, "height": 900}))
        page = contexts[-1].new_page()
        page.set_default_timeout(WAIT)
        page.on("console", lambda m: None if DRIVER.search(m.text) else said.append(m.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on(
            "request",
            lambda r: None if r.url.startswith((path.as_uri(), "data:")) else said.append(r.url),
        )
        page.goto(path.as_uri())
        return page

    yield open_
    for context in contexts:
        context.close()
    assert said == []


def draw_all(page) -> None:
    for chart in page.query_selector_all(".chart"):
        chart.scroll_into_view_if_needed()
    page.wait_for_function(DRAWN)


def test_every_chart_is_drawn_with_titles_on_its_axes(visit, path):
    page = visit(path)
    draw_all(page)
    assert page.locator(".chart .main-svg").count() >= 15
    bare = """() => [...document.querySelectorAll('.chart')].filter((node) =>
      !node.querySelector('.xtitle') || !node.querySelector('.ytitle')).length"""
    assert page.evaluate(bare) == 0
    clipped = """() => [...document.querySelectorAll('.chart')].flatMap((node) => {
      const box = node.getBoundingClientRect();
      return [...node.querySelectorAll('.xtitle, .ytitle, .xtick text, .ytick text')]
        .filter((text) => { const r = text.getBoundingClientRect();
          return r.left < box.left - 2 || r.right > box.right + 2 || r.bottom > box.bottom + 2; })
        .map((text) => text.textContent); })"""
    assert page.evaluate(clipped) == []


def test_no_button_uploads_a_chart(visit, path):
    page = visit(path)
    draw_all(page)
    assert page.locator("[data-title*='hare']").count() == 0


@pytest.mark.parametrize("width", [390, 760, 1000, 1400])
def test_the_page_is_no_wider_than_the_window(visit, path, width):
    page = visit(path, width)
    draw_all(page)
    assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_tiles_have_pixels(visit, path):
    page = visit(path)
    sizes = page.locator(".grid .tile").evaluate_all(
        "nodes => nodes.map((n) => [n.clientWidth, n.clientHeight])"
    )
    assert sizes
    assert all(w > 30 and h > 30 for w, h in sizes)
    image = """() => new Promise((done) => { const image = new Image();
      const style = getComputedStyle(document.querySelector('.tile')).backgroundImage;
      image.onload = () => done([image.naturalWidth, image.naturalHeight]);
      image.onerror = () => done(null); image.src = style.slice(5, -2); })"""
    assert page.evaluate(image) == [128, 8]


def test_the_bar_leads_to_every_section(visit, path):
    page = visit(path)
    targets = page.locator("#bar nav a").evaluate_all("a => a.map((n) => n.getAttribute('href'))")
    assert len(targets) == 9
    for target in targets:
        assert page.locator(target).count() == 1, target


def test_keys_reach_links_folds_and_tables(visit, path):
    page = visit(path)
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    seen = set()
    for _ in range(24):
        page.keyboard.press("Tab")
        seen.add(page.evaluate("document.activeElement.tagName"))
    assert {"A", "SUMMARY", "DIV"} <= seen
    rule = page.locator("summary:has-text('The decision rule')")
    rule.focus()
    page.keyboard.press("Enter")
    assert page.locator(".rule pre").is_visible()


def test_pictures_charts_and_regions_have_names(visit, path):
    page = visit(path)
    bare = """() => [...document.querySelectorAll('[role=img], [role=region], nav, section')]
      .filter((n) => !n.getAttribute('aria-label') && !n.getAttribute('aria-labelledby')).length"""
    assert page.evaluate(bare) == 0
    levels = page.locator("h1, h2, h3").evaluate_all("n => n.map((h) => Number(h.tagName[1]))")
    assert levels.count(1) == 1
    assert all(b - a <= 1 for a, b in itertools.pairwise(levels) if a > 1)


def test_names_that_are_markup_do_nothing(visit, tmp_path):
    page = visit(build_atlas_page(hostile_atlas(), tmp_path))
    draw_all(page)
    assert page.evaluate("window.hacked") is None
    assert page.locator("b:text-is('bold')").count() == 0
