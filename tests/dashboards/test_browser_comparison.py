"""The comparison page in a real browser: hover, click, keys."""

import pytest

from tests.dashboards.pages import CHROMIUM, go
from tests.dashboards.synthetic_alignment import alignment

pytestmark = [
    pytest.mark.browser,
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed (apt install chromium)"),
]


def cell_place(page, row: int, column: int) -> tuple[float, float]:
    return page.evaluate(
        """([r, c]) => {
        const box = document.querySelector('canvas.matrix').getBoundingClientRect(),
        g = JSON.parse(document.querySelector('.matrix-box').dataset.geometry);
        return [box.x + g.left + (c + 0.5) * g.cell, box.y + g.top + (r + 0.5) * g.cell]; }""",
        [row, column],
    )


def test_hovering_a_cell_shows_value_null_interval_and_twins(visit, bundle):
    page = go(visit, bundle, "#/compare/0")
    aligned = alignment(n_blocks=4)
    page.mouse.move(*cell_place(page, 2, 10))
    page.wait_for_selector(".tip:not([hidden])")
    text = page.locator(".tip").inner_text()
    cell = aligned.cell(2, 10, "cka")
    assert f"{cell.comparison.value:.3f}" in text
    assert aligned.layers[2].point in text
    assert aligned.layers[10].point in text
    for part in ("0.010 ± 0.020", f"[{cell.comparison.low:.2f}", f"{cell.twin_value:.3f}"):
        assert part.replace("-", "\N{MINUS SIGN}") in text


def test_clicking_a_cell_opens_the_pair_and_changes_the_address(visit, bundle):
    page = go(visit, bundle, "#/compare/0")
    page.mouse.click(*cell_place(page, 2, 10))
    page.wait_for_function("location.hash.includes('cell=2%2C10')")
    cell = alignment(n_blocks=4).cell(2, 10, "cka")
    page.wait_for_selector(f"#detail .big:has-text('{cell.comparison.value:.3f}')")
    assert "mutual k-NN" in page.locator("#detail").inner_text()
    page.wait_for_selector(".compare .chart .main-svg")


def test_the_matrix_answers_to_keys(visit, bundle):
    page = go(visit, bundle, "#/compare/0")
    page.focus("canvas.matrix")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowRight")
    page.wait_for_selector(".tip:not([hidden])")
    page.keyboard.press("Enter")
    page.wait_for_function("location.hash.includes('cell=0%2C1')")


def test_the_comparison_can_be_cut_to_two_models(visit, bundle):
    page = go(visit, bundle, "#/compare/0?a=zoo%3Addpm&b=zoo%3Avit")
    assert "8 by 6 layers" in page.locator("canvas.matrix").get_attribute("aria-label")
    page.mouse.click(*cell_place(page, 1, 2))
    page.wait_for_function("location.hash.includes('cell=1%2C14')")
