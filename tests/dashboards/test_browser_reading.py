"""What keeps a reader of the pages from being misled: levels, scales, floors, words."""

import pytest

from tests.dashboards.pages import CHROMIUM, FEW_ROWS, Visit, go, shown

pytestmark = [
    pytest.mark.browser,
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed (apt install chromium)"),
]

PAINTED = """n => { const copy = document.createElement('canvas');
  [copy.width, copy.height] = [n.width, n.height];
  const context = copy.getContext('2d', { willReadFrequently: true });
  context.drawImage(n, 0, 0);
  return Math.max(...context.getImageData(0, 0, n.width, n.height).data
    .filter((v, i) => i % 4 == 3)); }"""


@pytest.fixture
def sized(browser, bundle):
    """Open a view in a window of a given width."""
    contexts = []

    def open_(width: int, hash_: str):
        contexts.append(browser.new_context(viewport={"width": width, "height": 850}))
        return go(Visit(contexts[-1].new_page(), [], []), bundle, hash_)

    yield open_
    for context in contexts:
        context.close()


def test_the_p_shown_is_adjusted_and_its_floor_is_named(visit, bundle):
    page = go(visit, bundle)
    panel = page.locator("section.panel:has(h2:text('Largest z over the null'))").first
    assert "p (max-T, Holm)" in panel.locator("thead").inner_text()
    assert "0.030" in panel.locator("tbody tr").first.inner_text()
    note = panel.locator(".note").inner_text()
    assert "1/(1+K) = 0.005" in note
    assert "Holm over 6 pairs of models and measures lifts that floor to 0.030" in note
    detail = go(visit, bundle, "#/compare/0?cell=2%2C10").locator("#detail").inner_text()
    assert "p of this cell (max-T)" in detail
    assert "p (max-T, Holm)\n0.030" in detail


def test_rows_that_are_not_above_untrained_twins_are_marked(visit, bundle):
    page = go(visit, bundle)
    row = """([low, high]) => { const cell = INTERP.meta().alignments[0].strongest[0];
      const row = INTERP.overview.strongestRow({ ...cell, twin_value: 0.6, difference: 0.02,
        difference_low: low, difference_high: high }, 0);
      return [row.className, row.textContent]; }"""
    name, text = page.evaluate(row, [-0.01, 0.05])
    assert name == "dim"
    assert "not above untrained twins" in text
    assert "0.600" in text
    assert "+0.020 [\N{MINUS SIGN}0.01, 0.05]" in text
    name, text = page.evaluate(row, [0.01, 0.05])
    assert name == ""
    assert "not above" not in text


def test_a_logarithmic_axis_has_at_least_two_labels(visit, bundle):
    page = go(visit, bundle)
    ticks = """() => { const out = [];
      for (let low = -7; low < 3; low += 0.037) for (const width of [0.4, 0.5, 0.9, 2, 4, 10])
        out.push([low, low + width, INTERP.charts.logTicks(low, low + width).tickvals]);
      return out; }"""
    for low, high, values in page.evaluate(ticks):
        assert 2 <= len(values) <= 12, (low, high)
        assert all(10**low * 0.999 <= v <= 10**high * 1.001 for v in values)
    go(visit, bundle, f"#/sae/0/feature/{FEW_ROWS}")
    shown(page, 0, FEW_ROWS)
    page.wait_for_selector('[data-key="Activations"] .xtick text')
    assert page.locator('[data-key="Activations"] .xtick text').count() >= 2


@pytest.mark.parametrize("width", [1000, 1280, 1440])
def test_no_column_of_the_latents_is_cut(sized, width):
    page = sized(width, "#/sae/0")
    edge = page.evaluate("document.querySelector('.list').getBoundingClientRect().right")
    for place in (".row.head", ".space .row"):
        cells = f"{place} >> nth=0 >> .cell:visible"
        ends = page.locator(cells).evaluate_all("n => n.map(c => c.getBoundingClientRect().right)")
        assert len(ends) >= 6
        assert max(ends) <= edge


def test_a_table_wider_than_the_phone_shows_that_it_goes_on(sized):
    page = sized(400, "#/")
    box = page.locator(".table-box").first
    page.wait_for_selector(".table-box.more")
    assert "FVU" in box.locator("th:visible").all_inner_texts()
    box.locator(".table-scroll").evaluate("n => { n.scrollLeft = n.scrollWidth; }")
    page.wait_for_function("!document.querySelector('.table-box').classList.contains('more')")


def test_an_sae_stands_beside_its_best_baseline(visit, bundle):
    page = go(visit, bundle)
    row = page.locator("section.panel >> nth=0").locator("tbody tr").first.inner_text()
    assert "0.180 k-sparse PCA" in row
    assert "not below k-sparse PCA" in row
    go(visit, bundle, "#/sae/0")
    assert "0.180 k-sparse PCA" in page.locator(".lead .stats").inner_text()
    panel = page.locator(".quality-panel")
    assert "FVU 0.210 beside 0.180 of k-sparse PCA" in panel.locator("summary").inner_text()
    for text in ("the judged rows", "training rows", "0.210 for the SAE there, 0.200 on all"):
        assert text in panel.inner_text()


def test_why_a_noise_levels_fvu_may_exceed_the_total_is_said(visit, bundle):
    page = go(visit, bundle, "#/sae/0")
    text = page.locator(".quality-panel").inner_text()
    assert "Each noise level is centered by itself" in text
    assert "above the total FVU of 0.200" in text


def test_colors_mean_the_same_in_all_pictures_of_a_latent(visit, bundle):
    page = go(visit, bundle, "#/sae/0/feature/3?interp=nearest")
    shown(page, 0, 3)
    canvas = page.locator(".gallery canvas")
    alphas = [canvas.nth(i).evaluate(PAINTED) for i in range(canvas.count())]
    values = [float(v) for v in page.locator(".card b").all_inner_texts()]
    # The synthetic maps peak at the example's own activation.
    strong, weak = values.index(max(values)), values.index(min(values))
    assert alphas[weak] < 0.5 * alphas[strong]
    assert "largest activation of this latent" in page.locator("#overlay-legend").inner_text()
    page.select_option('select[name="scale"]', "image")
    page.wait_for_function("location.hash.includes('scale=image')")
    assert canvas.nth(weak).evaluate(PAINTED) == canvas.nth(strong).evaluate(PAINTED)
    assert "peak of each image" in page.locator("#overlay-legend").inner_text()
    page.select_option('select[name="scale"]', "latent")


def test_the_position_of_the_number_is_framed_and_its_noise_level_printed(visit, bundle):
    page = go(visit, bundle, "#/sae/0/feature/3")
    shown(page, 0, 3)
    place = page.evaluate(
        """() => { const key = 'sae0/shard00000';
        return INTERP.load(key).then((s) => [s.y[3 * 24], s.x[3 * 24], s.call[3 * 24]]); }"""
    )
    style = page.locator(".spot").first.evaluate("n => [n.style.top, n.style.left, n.style.width]")
    assert [float(v[:-1]) for v in style] == [place[0] * 12.5, place[1] * 12.5, 12.5]
    level = f"log-SNR {-4 + 1.6 * place[2]:.1f}".replace("-4", "\N{MINUS SIGN}4")
    shown_level = page.locator(".card .level").first.inner_text()
    assert shown_level == level.replace("SNR -", "SNR \N{MINUS SIGN}")


def test_a_latent_with_few_rows_says_so_and_shows_each_once(visit, bundle):
    page = go(visit, bundle, f"#/sae/0/feature/{FEW_ROWS}")
    shown(page, 0, FEW_ROWS)
    rows = page.locator(".gallery .card").evaluate_all("n => n.map((c) => c.dataset.row)")
    assert sorted(rows, key=int) == [str(i) for i in range(11)]
    assert "Active on only 11 of 100,000 rows" in page.locator(".caution").inner_text()
    assert "few" in page.locator("h1").inner_text()
    assert page.locator("h3:has-text('Quantile'), h3:has-text('Random')").count() == 0


def test_the_logarithm_of_the_density_bars_is_said(visit, bundle):
    page = go(visit, bundle, "#/sae/0")
    head = page.locator(".row.head .cell.density")
    assert "log bar" in head.inner_text()
    assert "logarithmic" in head.locator("button").get_attribute("title")


def test_the_help_explains_every_word_of_the_pages(visit, bundle):
    page = go(visit, bundle)
    page.keyboard.press("?")
    terms = page.locator("dialog .glossary dt").all_inner_texts()
    page.keyboard.press("Escape")
    for word in ("entropy", "dense", "Jaccard", "z", "@ \N{MINUS SIGN}2", "row", "damage"):
        assert word in terms
    for word in ("FVU", "L0", "twin", "null", "debiased CKA", "mutual k-NN"):
        assert word in terms
    titles = page.locator("th").evaluate_all("n => n.map((h) => [h.textContent, h.title])")
    bare = {text for text, title in titles if not title}
    assert bare <= {"Model", "Layers", "Measure"}


def test_a_color_scale_that_is_cut_says_so(visit, bundle):
    page = go(visit, bundle, "#/compare/0?measure=mutual_knn")
    assert "\N{GREATER-THAN OR EQUAL TO}" in page.locator("div.legend").inner_text()
    page = go(visit, bundle, "#/compare/0?a=zoo%3Addpm&b=zoo%3Avit")
    assert "\N{GREATER-THAN OR EQUAL TO}" not in page.locator("div.legend").inner_text()


def test_measures_have_names_that_people_say(visit, bundle):
    page = go(visit, bundle)
    text = page.locator("main").inner_text()
    assert "debiased CKA" in text
    assert "mutual k-NN" in text
    assert "mutual_knn" not in text


def test_no_caption_of_a_few_words_is_cut(visit, bundle):
    page = go(visit, bundle, "#/sae/0/feature/3?size=72")
    shown(page, 0, 3)
    cut = "n => n.filter((c) => c.scrollHeight > c.clientHeight + 1).length"
    assert page.locator(".card .caption").evaluate_all(cut) == 0


def test_pointing_at_a_latent_reads_its_shard_ahead(visit, bundle):
    page = go(visit, bundle, "#/sae/0?sort=id&desc=1")
    page.evaluate("location.reload()")
    page.wait_for_selector(".space .row[data-id='198']")
    assert not page.evaluate("INTERP.has('sae0/shard00003')")
    page.hover(".space .row[data-id='198']")
    page.wait_for_function("INTERP.has('sae0/shard00003')")


def test_cards_are_of_one_height_and_say_what_their_picture_shows(visit, bundle):
    page = go(visit, bundle)
    heights = page.locator(".model-card").evaluate_all("n => n.map((c) => c.clientHeight)")
    assert len(heights) == 2
    assert heights[0] == heights[1]
    assert "Dark tiles are inverted." in page.locator(".model-card").first.inner_text()
