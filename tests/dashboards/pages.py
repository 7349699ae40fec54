"""How the tests drive the dashboard's pages in a browser."""

import re
import shutil
from pathlib import Path
from typing import Any, NamedTuple

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
ARGUMENTS = (
    "--no-sandbox",
    "--disable-gpu",
    "--enable-unsafe-swiftshader",
    "--disable-background-networking",
    "--disable-component-update",
    "--no-first-run",
)
# The software renderer of a machine without a GPU reports its slowness as a warning.
DRIVER = re.compile(r"GL Driver Message|GPU stall|swiftshader|SwiftShader")
ISOLATED = 37
# A latent that is active on eleven rows.
FEW_ROWS = 21
WAIT = 30_000


class Visit(NamedTuple):
    """An open page with what its console said and which other hosts it asked for."""

    page: Any
    console: list[str]
    requests: list[str]


def go(visit: Visit, bundle: Path, hash_: str = "#/") -> Any:
    page = visit.page
    if not page.url.startswith("file:"):
        page.goto(bundle.as_uri(), wait_until="commit")
    page.wait_for_function("document.body?.dataset.view")
    move = """h => new Promise((done) => {
      if (location.hash === h) return done();
      delete document.body.dataset.view;
      addEventListener('hashchange', done, { once: true });
      location.hash = h; })"""
    page.evaluate(move, hash_)
    page.wait_for_function("document.body.dataset.view")
    return page


def shown(page, sae: int, latent: int) -> None:
    page.wait_for_function(f"document.body.dataset.shown === '{sae}/{latent}'")


def decoded(page, selector: str) -> list[bool]:
    """Whether each picture has pixels, once all of them have settled."""
    page.wait_for_function(f"[...document.querySelectorAll('{selector}')].every((i) => i.complete)")
    return page.eval_on_selector_all(selector, "nodes => nodes.map((n) => n.naturalWidth > 0)")


def map_ready(page) -> None:
    page.wait_for_selector(".chart.map .main-svg")
    page.wait_for_function("document.querySelector('.chart.map')._fullLayout?._size?.w > 0")
