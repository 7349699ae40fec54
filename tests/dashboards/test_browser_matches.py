"""Matched features in a real browser: from a cell to both features on the same pictures."""

import pytest

from tests.dashboards.pages import CHROMIUM, decoded, go
from tests.dashboards.synthetic_matches import CELL, N_IMAGES, N_PAIRS, SAME_POINT
from tests.dashboards.test_browser_comparison import cell_place

pytestmark = [
    pytest.mark.browser,
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed (apt install chromium)"),
]


def test_a_click_on_a_marked_cell_shows_both_features_on_the_same_pictures(visit, bundle):
    page = go(visit, bundle, "#/compare/0")
    page.mouse.click(*cell_place(page, *CELL))
    page.wait_for_selector("#matched .match")
    assert page.locator("#matched .match").count() == 6
    first, second = (
        page.locator("#matched .match").first.locator(".tiles").nth(row).locator("img")
        for row in (0, 1)
    )
    shown = [[image.get_attribute("src") for image in row.all()] for row in (first, second)]
    assert shown[0] == shown[1]
    assert len(shown[0]) == N_IMAGES
    page.locator("#matched").scroll_into_view_if_needed()
    assert all(decoded(page, "#matched .match:first-child img"))
    painted = """c => c.getContext('2d').getImageData(0, 0, c.width, c.height).data.some(v => v)"""
    assert page.locator("#matched canvas").first.evaluate(painted)
    page.click("#matched .more")
    assert page.locator("#matched .match").count() == N_PAIRS


def test_the_reversed_cell_and_every_noise_level_open_the_same_match(visit, bundle):
    for cell in (SAME_POINT, CELL[::-1]):
        page = go(visit, bundle, f"#/compare/0?cell={cell[0]}%2C{cell[1]}")
        page.wait_for_selector("#matched .match")
        assert "All noise levels are taken together" in page.locator("#matched").inner_text()
    page = go(visit, bundle, "#/compare/0?cell=1%2C15")
    assert page.locator("#matched").count() == 0
    page = go(visit, bundle, f"#/compare/1?cell={CELL[0]}%2C{CELL[1]}")
    assert page.locator("#matched").count() == 0


def test_matches_are_reached_without_a_mouse(visit, bundle):
    page = go(visit, bundle, "#/compare/0")
    page.focus(".matched-cells a")
    page.keyboard.press("Enter")
    page.wait_for_selector("#matched .match")
    page.focus("#to-matched")
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "matched"
    page.locator("#matched .side a").first.focus()
    page.keyboard.press("Enter")
    page.wait_for_function("location.hash.startsWith('#/sae/0/feature/')")
