"""Make the README's pictures from a demo: python .github/screenshots.py demo

Needs the extra "test" and Debian's chromium.
"""

import shutil
import sys
from pathlib import Path

from playwright.sync_api import sync_playwright

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


def main(folder: Path) -> None:
    """Write one PNG per view beside this file."""
    page_path = (folder / "index.html").resolve()
    with sync_playwright() as driver:
        chromium = shutil.which("chromium")
        browser = driver.chromium.launch(executable_path=chromium, args=list(ARGUMENTS))
        for name, view in VIEWS.items():
            page = browser.new_page(viewport={"width": 1440, "height": 1000})
            page.goto(page_path.as_uri() + view)
            page.wait_for_timeout(3000)
            page.screenshot(path=HERE / f"{name}.png")
            print(HERE / f"{name}.png")
        browser.close()


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "demo"))
