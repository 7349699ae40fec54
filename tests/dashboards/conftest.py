"""One browser and one bundle for all tests of the pages."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from interp.dashboards import build_dashboard
from tests.dashboards.pages import (
    ARGUMENTS,
    CHROMIUM,
    DRIVER,
    FEW_ROWS,
    ISOLATED,
    WAIT,
    Visit,
)
from tests.dashboards.synthetic import (
    SyntheticStore,
    edited,
    evaluation,
    features,
    picture,
    with_few_rows,
)
from tests.dashboards.synthetic_alignment import alignment
from tests.dashboards.synthetic_matches import matches


@pytest.fixture(scope="session")
def bundle(tmp_path_factory) -> Path:
    store, vectors = SyntheticStore(n=64), SyntheticStore(hash="feedbeef0001", n=48)
    one = features(200, store=store)
    one = with_few_rows(one, FEW_ROWS, 11)
    umap = one.umap.copy()
    umap[ISOLATED] = (40, 40)
    hostile = SyntheticStore(hash="badbadbad001", n=48, hostile=True)
    found = [
        edited(one, umap=umap),
        features(80, store=vectors, grid=(), n_calls=1, seed=1, model="zoo:gan"),
        features(80, store=hostile, seed=2),
    ]
    return build_dashboard(
        tmp_path_factory.mktemp("dashboard"),
        found,
        [store, vectors, hostile],
        alignments=[alignment(n_blocks=4), alignment(n_blocks=3, sample_set="samples")],
        matches=[matches(store)],
        evaluations=[evaluation(), None, None],
        cards=[
            {
                "name": "zoo:gan",
                "verdict": {"undertrained": True, "reasons": ["far off"]},
                "samples": picture(3, 32),
                "samples_note": "Dark tiles are inverted.",
            },
            {"name": "zoo:ddpm"},
        ],
        notes=["One note, <b>verbatim</b>."],
    )


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    sync_api = pytest.importorskip("playwright.sync_api")
    with sync_api.sync_playwright() as driver:
        running = driver.chromium.launch(executable_path=CHROMIUM, args=list(ARGUMENTS))
        yield running
        running.close()


@pytest.fixture(scope="session")
def opened(browser, bundle) -> Iterator[Visit]:
    """One page for most tests: they go on by its address, as a reader does."""
    context = browser.new_context(viewport={"width": 1400, "height": 900})
    page = context.new_page()
    page.set_default_timeout(WAIT)
    console: list[str] = []
    requests: list[str] = []
    page.on("console", lambda m: None if DRIVER.search(m.text) else console.append(m.text))
    page.on("pageerror", lambda error: console.append(str(error)))

    def route(handler) -> None:
        url = handler.request.url
        if url.startswith(("file:", "data:", "blob:", "http://127.0.0.1")):
            handler.continue_()
        else:
            requests.append(url)
            handler.abort()

    context.route("**/*", route)
    page.goto(bundle.as_uri(), wait_until="commit")
    yield Visit(page, console, requests)
    context.close()


@pytest.fixture
def visit(opened) -> Iterator[Visit]:
    yield opened
    said, asked = opened.console.copy(), opened.requests.copy()
    opened.console.clear()
    opened.requests.clear()
    assert asked == []
    assert said == []
