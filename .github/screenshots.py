"""Make the README's pictures.

python .github/screenshots.py demo            of a demo: feature.png, comparison.png
python .github/screenshots.py --atlas FOLDER  of a run of `interp atlas`: atlas.png

Needs the extra "test" and Debian's chromium.
"""

import shutil
import sys
import tempfile
from pathlib import Path

from playwright.sync_api import sync_playwright

from interp.atlas import load_atlas
from interp.dashboards import atlas_figure
from interp.dashboards.theme import CONFIG

ARGUMENTS = (
    "--no-sandbox",
    "--disable-gpu",
    "--enable-unsafe-swiftshader",
    "--disable-background-networking",
    "--disable-component-update",
    "--no-first-run",
)
HERE = Path(__file__).resolve().parent
# A dense latent of the U-Net (the demo's last SAE), and the comparison on held-out images.
VIEWS = {"feature": "#/sae/3/feature/354", "comparison": "#/compare/0"}


def main(arguments: list[str]) -> None:
    """Write one PNG per view beside this file."""
    with tempfile.TemporaryDirectory() as scratch, sync_playwright() as driver:
        chromium = shutil.which("chromium")
        browser = driver.chromium.launch(executable_path=chromium, args=list(ARGUMENTS))
        if "--atlas" in arguments:
            figure = atlas_figure(load_atlas(arguments[-1]))
            path = Path(scratch) / "atlas.html"
            figure.write_html(path, config=CONFIG, include_plotlyjs=True)
            take(browser, path.as_uri(), "atlas", (1216, int(figure.layout.height) + 16))
        else:
            page_path = (Path(arguments[-1] if arguments else "demo") / "index.html").resolve()
            for name, view in VIEWS.items():
                take(browser, page_path.as_uri() + view, name, (1440, 1000))
        browser.close()


def take(browser, address: str, name: str, size: tuple[int, int]) -> None:
    """Write what a window of that size shows once the charts stand."""
    page = browser.new_page(viewport={"width": size[0], "height": size[1]})
    page.goto(address)
    page.wait_for_timeout(3000)
    page.screenshot(path=HERE / f"{name}.png")
    print(HERE / f"{name}.png")


if __name__ == "__main__":
    main(sys.argv[1:])
