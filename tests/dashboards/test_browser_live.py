"""The live panel in a real browser: it stands where the server renders, and nowhere else."""

import threading

import numpy as np
import pytest

from interp.dashboards import Dial, Live, LiveSAE, make_server
from interp.errors import InputError
from interp.interventions import LIVE_RANGES
from tests.dashboards.pages import CHROMIUM, decoded, go, shown
from tests.dashboards.synthetic import SyntheticStore, features

pytestmark = [
    pytest.mark.browser,
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed (apt install chromium)"),
]


@pytest.fixture
def address(bundle):
    asked = []

    def render(request):
        asked.append(request)
        if request.strength > 0.9:
            raise InputError("too strong for this test")
        return np.full((8, 8, 3), 40 * len(asked) % 256, np.uint8)

    digest = features(8, store=SyntheticStore(n=64)).sae["digest"]
    dials = {mode: Dial(*ends) for mode, ends in LIVE_RANGES.items()}
    live = Live("a model", {digest: LiveSAE("mid", 200)}, dials, render)
    with make_server(bundle, live=live) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}/", asked
        server.shutdown()
        thread.join()


def test_a_feature_is_steered_from_its_page(visit, bundle, address) -> None:
    where, asked = address
    page = visit.page
    page.goto(where + "#/sae/0/feature/3", wait_until="commit")
    shown(page, 0, 3)
    panel = page.locator(".panel.live")
    panel.wait_for()
    panel.get_by_role("button", name="Render").click()
    page.wait_for_function("!document.querySelector('.live button').disabled")
    assert decoded(page, ".live img") == [True, True]
    assert [(r.feature, r.mode, r.strength, r.seed) for r in asked] == [
        (0, "add", 0, 0),
        (3, "add", 0.5, 0),
    ]
    panel.get_by_label("Mode").select_option("suppress")
    page.wait_for_function("!document.querySelector('.live button').disabled")
    # Suppressing all of it is refused by this model: the page says so in its words.
    assert "too strong for this test" in panel.inner_text()
    assert "share of the feature's activation" in panel.inner_text()
    page.keyboard.press("j")
    page.wait_for_function("document.body.dataset.shown !== '0/3'")
    assert page.locator(".panel.live").count() == 1
    # The refusal is an answer with status 400, which browsers put on the console.
    visit.console[:] = [line for line in visit.console if "400" not in line]
    page.goto("about:blank")


def test_the_static_page_has_no_panel(visit, bundle) -> None:
    page = go(visit, bundle, "#/sae/0/feature/3")
    shown(page, 0, 3)
    assert page.locator(".panel.live").count() == 0
    assert page.locator("script[src*=live]").count() == 0
