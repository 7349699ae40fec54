"""The pages in a real browser: pictures, clicks, keys, links, hostile text, no other host."""

import shutil
import threading

import pytest

from interp.dashboards import make_server
from tests.dashboards.pages import CHROMIUM, ISOLATED, Visit, decoded, go, map_ready, shown

pytestmark = [
    pytest.mark.browser,
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed (apt install chromium)"),
]


def test_the_overview_states_notes_scores_and_warnings(visit, bundle):
    page = go(visit, bundle)
    assert page.locator(".notes p").all_inner_texts() == ["One note, <b>verbatim</b>."]
    rows = page.locator("section.panel >> nth=0").locator("tbody tr")
    assert rows.count() == 3
    assert "0.200" in rows.nth(0).inner_text()
    assert "UNDERTRAINED" in rows.nth(1).inner_text()
    assert "far off" in page.locator(".model-card").first.inner_text()
    assert all(decoded(page, ".highlight img"))


def test_every_picture_of_a_latent_is_decoded_and_has_text(visit, bundle):
    page = go(visit, bundle, "#/sae/0/feature/3")
    shown(page, 0, 3)
    assert decoded(page, ".gallery img") == [True] * 24
    alts = page.eval_on_selector_all("img", "nodes => nodes.map((n) => n.alt)")
    assert all(alts)
    assert "activation" in page.locator(".gallery img").first.get_attribute("alt")


def test_maps_are_painted_where_the_latent_is_active(visit, bundle):
    page = go(visit, bundle, "#/sae/0/feature/3?interp=nearest")
    shown(page, 0, 3)
    count = """n => { const copy = document.createElement('canvas');
      const context = copy.getContext('2d', { willReadFrequently: true });
      context.drawImage(n, 0, 0);
      const data = context.getImageData(0, 0, 8, 8).data;
      return [n.width, n.height, data.filter((v, i) => i % 4 == 3 && v).length]; }"""
    width, height, painted = page.locator(".gallery canvas").first.evaluate(count)
    assert (width, height) == (8, 8)
    assert 0 < painted < 64
    page.locator('input[name="threshold"]').fill("0.9")
    assert page.locator(".gallery canvas").first.evaluate(count)[2] < painted
    assert "threshold=0.9" in page.url


def test_vector_points_show_pictures_without_maps(visit, bundle):
    page = go(visit, bundle, "#/sae/1/feature/3")
    shown(page, 1, 3)
    assert all(decoded(page, ".gallery img"))
    assert page.locator(".gallery canvas").count() == 0
    assert "no map" in page.locator(".toolbar").inner_text()


def test_a_click_in_the_table_opens_that_latent(visit, bundle):
    page = go(visit, bundle, "#/sae/0?sort=id&desc=0")
    row = page.locator(".space .row").nth(4)
    latent = int(row.get_attribute("data-id"))
    assert latent == 4
    row.locator(".cell.max").click()
    shown(page, 0, latent)
    assert page.locator("h1").inner_text().startswith("Latent 4")


def test_a_click_on_the_map_opens_that_latent(visit, bundle):
    page = go(visit, bundle, "#/sae/0")
    map_ready(page)
    place = page.evaluate(
        """() => { const chart = document.querySelector('.chart.map'), full = chart._fullLayout,
        box = chart.getBoundingClientRect();
        return [box.x + full.xaxis._offset + full.xaxis.d2p(40),
                box.y + full.yaxis._offset + full.yaxis.d2p(40)]; }"""
    )
    page.mouse.move(place[0] - 3, place[1] - 3)
    page.mouse.move(*place)
    page.wait_for_function("document.querySelector('.chart.map')._hoverdata?.length > 0")
    page.mouse.down()
    page.mouse.up()
    shown(page, 0, ISOLATED)


def test_dragging_on_the_map_filters_the_table(visit, bundle):
    page = go(visit, bundle, "#/sae/0?box=39,41,39,41")
    assert page.locator(".space .row").count() == 1
    assert page.locator(".space .row").first.get_attribute("data-id") == str(ISOLATED)
    page.locator(".chip").click()
    page.wait_for_function("document.querySelectorAll('.space .row').length > 5")


@pytest.mark.parametrize(
    "hash_",
    [
        "#/sae/0?sort=max&q=flags+number&dead=1",
        "#/sae/0/feature/70?sort=entropy&desc=0&opacity=0.4&cmap=viridis&interp=nearest",
        "#/compare/1?measure=mutual_knn&by=z&cell=1%2C9",
    ],
)
def test_the_address_is_the_whole_state(visit, bundle, hash_):
    page = go(visit, bundle, hash_)
    state = "JSON.stringify(INTERP.state.current())"
    before = page.evaluate(state)
    assert page.evaluate("INTERP.state.format(INTERP.state.current())") == hash_
    content = page.locator("main").inner_text()
    page.reload(wait_until="commit")
    page.wait_for_function("document.body?.dataset.view")
    assert page.evaluate(state) == before
    assert page.locator("h1").inner_text() in content


def test_search_looks_at_categories_captions_and_numbers(visit, bundle):
    page = go(visit, bundle, "#/sae/0")
    page.fill("#search", "flags")
    page.wait_for_function("location.hash.includes('q=flags')")
    page.wait_for_function("document.querySelector('.count').textContent.includes('hidden')")
    found = page.evaluate(
        "INTERP.list.order(INTERP.meta().saes[0], {}, {}, INTERP.state.current().params)"
    )
    assert 0 < len(found) < 120
    assert page.evaluate("document.activeElement.id") == "search"
    page.fill("#search", "#37")
    page.wait_for_function("document.querySelectorAll('.space .row').length === 1")


def test_sorting_by_a_column_orders_rows(visit, bundle):
    page = go(visit, bundle, "#/sae/0")
    page.click('[data-sort="max"]')
    page.wait_for_function("location.hash.includes('sort=max')")
    values = [float(v) for v in page.locator(".space .cell.max").all_inner_texts()]
    assert values == sorted(values, reverse=True)
    page.click('[data-sort="max"]')
    page.wait_for_function("location.hash.includes('desc=0')")
    values = [float(v) for v in page.locator(".space .cell.max").all_inner_texts()]
    assert values == sorted(values)
    head = page.locator('.row.head [aria-sort="ascending"]')
    assert head.inner_text().startswith("Max")


def test_the_table_scrolls_through_all_rows_with_few_nodes(visit, bundle):
    page = go(visit, bundle, "#/sae/0?sort=id&desc=0")
    assert page.locator(".space .row").count() < 40
    page.evaluate("document.querySelector('.scroller').scrollTop = 1e6")
    page.wait_for_selector('.space .row[data-id="198"]')
    assert page.locator(".space .row").count() < 40


def test_keys_step_through_the_list_in_its_order(visit, bundle):
    page = go(visit, bundle, "#/sae/0/feature/16?sort=id&desc=0")
    shown(page, 0, 16)
    page.keyboard.press("j")
    shown(page, 0, 17)
    page.keyboard.press("ArrowLeft")
    shown(page, 0, 16)
    # 15 is dead and hidden.
    page.keyboard.press("k")
    shown(page, 0, 14)
    assert "sort=id" in page.url
    page.go_back()
    shown(page, 0, 16)
    page.keyboard.press("Escape")
    page.wait_for_selector("#search")


def test_dead_latents_say_so(visit, bundle):
    page = go(visit, bundle, "#/sae/0/feature/15")
    shown(page, 0, 15)
    assert "never fired" in page.locator(".gallery-box").inner_text()
    assert "dead" in page.locator("h1").inner_text()


def test_hostile_captions_are_inert(visit, bundle):
    page = go(visit, bundle, "#/sae/2/feature/1")
    shown(page, 2, 1)
    page.wait_for_selector(".charts .main-svg")
    page.locator(".picture").first.click()
    assert "<b>bold</b>" in page.locator("dialog h2").inner_text()
    page.keyboard.press("Escape")
    go(visit, bundle, "#/sae/2")
    map_ready(page)
    assert page.evaluate("window.hacked") is None
    assert page.locator("main b:text-is('bold'), img[src='x']").count() == 0


def test_no_button_uploads_a_chart(visit, bundle):
    page = go(visit, bundle, "#/sae/0/feature/3")
    shown(page, 0, 3)
    map_ready(page)
    page.hover(".chart.map")
    assert "chart-studio" not in page.content()
    assert page.locator("text=/Share chart|Edit chart/i").count() == 0
    assert page.locator('[data-title*="hare"]').count() == 0


def test_wrong_addresses_get_a_message_not_a_blank_page(visit, bundle):
    for hash_, text in (
        ("#/sae/9", "no SAE 9"),
        ("#/sae/0/feature/9999", "latents 0 to 199"),
        ("#/compare/7", "no comparison 7"),
        ("#/nonsense", "no page"),
    ):
        page = go(visit, bundle, hash_)
        assert text in page.locator(".message").inner_text()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_fits_a_phone_in_both_themes(browser, bundle, scheme):
    context = browser.new_context(viewport={"width": 390, "height": 800}, color_scheme=scheme)
    page = context.new_page()
    for hash_ in ("#/", "#/sae/0", "#/sae/0/feature/3", "#/compare/0"):
        go(Visit(page, [], []), bundle, hash_)
        assert page.evaluate("document.documentElement.scrollWidth") <= 390, hash_
    dark = page.evaluate("INTERP.colors.luminance(INTERP.colors.token('page')) < 0.3")
    assert dark == (scheme == "dark")
    context.close()


def test_everything_with_a_click_can_take_the_focus_and_has_a_name(visit, bundle):
    page = go(visit, bundle, "#/sae/0/feature/3")
    shown(page, 0, 3)
    nameless = page.eval_on_selector_all(
        "button, a, select, input, canvas[tabindex]",
        """nodes => nodes.filter((n) => !(n.textContent.trim() || n.ariaLabel || n.title
          || n.labels?.length || n.querySelector('img[alt]'))).map((n) => n.outerHTML)""",
    )
    assert nameless == []
    page.keyboard.press("Tab")
    outline = "getComputedStyle(document.activeElement).outlineStyle"
    assert page.evaluate(outline) != "none"


def test_it_works_over_http_too(visit, bundle):
    with make_server(bundle) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        visit.page.goto(
            f"http://127.0.0.1:{server.server_address[1]}/#/sae/0/feature/3", wait_until="commit"
        )
        shown(visit.page, 0, 3)
        assert all(decoded(visit.page, ".gallery img"))
        visit.page.goto("about:blank")
        server.shutdown()
        thread.join()


def test_a_missing_file_is_named(browser, bundle, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(bundle.parent, copy)
    (copy / "bundle/data/sae0/shard00001.js").unlink()
    page = browser.new_page()
    page.goto((copy / "index.html").as_uri() + "#/sae/0/feature/70", wait_until="commit")
    page.wait_for_selector(".message")
    assert "sae0/shard00001.js is missing" in page.locator(".message").inner_text()
    page.close()
