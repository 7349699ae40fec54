"""The static dashboard at the size of a real SAE: seconds to build, bytes, seconds to see pictures.

16,384 latents with 24 examples each, maps of 16 x 16, 4,096 pictures of 64 x 64 pixels. Times are
taken inside the browser: from the start of the navigation, or the change of the address, until
every picture of the latent's page is decoded and a frame has been drawn.
"""

import base64
import json
import re
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from interp import Features, HookPoint, build_dashboard

CATEGORIES = 16
ARGUMENTS = ("--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run")
# Resolves with the time when the pictures of `latent` are decoded and painted, in milliseconds.
SHOWN = """latent => new Promise((done) => {
  const look = () => {
    const images = [...document.querySelectorAll('.gallery img')];
    const ready = document.body?.dataset.shown === '0/' + latent
      && images.length > 0 && images.every((i) => i.complete && i.naturalWidth > 0);
    if (ready) requestAnimationFrame(() => done(performance.now()));
    else requestAnimationFrame(look);
  };
  look();
})"""
SWITCH = """async ([latent]) => {
  const start = performance.now();
  location.hash = '#/sae/0/feature/' + latent;
  return (await (%s)(latent)) - start;
}"""


@dataclass(frozen=True)
class Pictures:
    """A store of plain gradients, one colour each: what the dashboard needs of a store."""

    n: int
    size: int
    hash: str = "benchmark0000"

    @property
    def generations(self) -> dict[str, Any]:
        index = np.arange(self.n)
        return {
            "generation": index,
            "image_id": np.array([f"image-{i}" for i in index], object),
            "caption": np.array([f"a caption of image number {i}" for i in index], object),
            "category": np.array([f"category {i % CATEGORIES}" for i in index], object),
            "seed": index,
        }

    def images(self, generations: np.ndarray) -> np.ndarray:
        ramp = np.linspace(40, 215, self.size)
        noise = np.random.default_rng(0).normal(0, 12, (self.size, self.size))
        plane = np.clip(ramp[:, None] + noise, 0, 255)
        tint = (np.asarray(generations)[:, None] * np.array([37, 101, 59]) % 200 + 55) / 255
        return (plane[None, :, :, None] * tint[:, None, None]).astype(np.uint8)


def synthetic(m: int, e: int, side: int, pictures: Pictures) -> Features:
    """Features of m latents that all fire, with e examples of side x side maps each."""
    rng = np.random.default_rng(0)
    kind = np.ones((m, e), np.uint8)
    kind[:, : e // 2], kind[:, -e // 6 :] = 0, 2
    generation = rng.integers(0, pictures.n, (m, e)).astype(np.int32)
    neighbors = ((np.arange(m)[:, None] + np.arange(1, 9)) % m).astype(np.int32)
    return Features(
        point=HookPoint("block", "block", "image", "resid", 512, (side, side), "bchw", 0.5),
        sae={"digest": "benchmark", "spec": {"variant": "topk", "k": 32}, "recipe": {}},
        store={"hash": pictures.hash, "name": "b", "model": {"spec": "synthetic"}, "recipe": {}},
        n_rows=10**6,
        n_generations=pictures.n,
        density=10 ** rng.uniform(-5, -1.5, m),
        mean_active=rng.uniform(0.5, 3, m).astype(np.float32),
        maximum=rng.uniform(3, 20, m).astype(np.float32),
        dead=np.zeros(m, bool),
        histogram=rng.integers(0, 1000, (m, 40)),
        edges=np.linspace(-3, 2, 41),
        example_row=rng.integers(0, 10**6, (m, e)),
        example_kind=kind,
        example_bin=np.where(kind == 1, np.arange(e) % 4, -1).astype(np.int8),
        example_value=rng.uniform(0.1, 3, (m, e)).astype(np.float32),
        example_generation=generation,
        example_call=rng.integers(0, 20, (m, e)).astype(np.int16),
        example_half=np.ones((m, e), np.int8),
        example_y=rng.integers(0, side, (m, e)).astype(np.int32),
        example_x=rng.integers(0, side, (m, e)).astype(np.int32),
        maps=rng.random((m, e, side, side), np.float32).astype(np.float16),
        grid=(side, side),
        profile_calls=rng.random((m, 20), np.float32),
        calls=[{"call": i, "t": 50.0 * i, "log_snr": i - 10.0, "n_rows": 1} for i in range(20)],
        category_profile=rng.random((m, CATEGORIES), np.float32),
        categories=[f"category {i}" for i in range(CATEGORIES)],
        neighbors=neighbors,
        neighbor_cosine=rng.random((m, 8), np.float32),
        coactive=neighbors,
        coactive_score=rng.random((m, 8), np.float32),
        coactive_measure="Jaccard",
        umap=rng.normal(size=(m, 2)).astype(np.float32),
        seed=0,
        notes=(),
    )


@contextmanager
def browser() -> Iterator[Any]:
    """A headless Chromium; raises where there is none."""
    from playwright.sync_api import sync_playwright

    path = shutil.which("chromium") or shutil.which("chromium-browser")
    if path is None:
        raise RuntimeError("this benchmark needs chromium (apt install chromium)")
    with sync_playwright() as driver:
        running = driver.chromium.launch(executable_path=path, args=list(ARGUMENTS))
        yield running
        running.close()


def gate() -> None:
    """The pages show what the features say: examples, their order, and their maps' bytes."""
    pictures = Pictures(64, 32)
    features = synthetic(130, 12, 8, pictures)
    with tempfile.TemporaryDirectory() as folder, browser() as running:
        index = build_dashboard(folder, [features], [pictures])
        text = (Path(folder) / "bundle/data/sae0/shard00002.js").read_text()
        shard = json.loads(re.fullmatch(r"INTERP\.receive\([^,]*,(.*)\);\n", text)[1])  # type: ignore
        levels = np.frombuffer(base64.b64decode(shard["maps"]["data"]), np.uint8).reshape(
            shard["maps"]["shape"]
        )
        scale = np.frombuffer(base64.b64decode(shard["scale"]["data"]), "<f4")
        shown = levels / 254 * scale[:, None, None, None]
        assert np.abs(shown - features.maps[128:]).max() <= scale.max() / 254
        page = running.new_page()
        page.goto(index.as_uri() + "#/sae/0/feature/129", wait_until="commit")
        page.evaluate(SHOWN, 129)
        sources = page.eval_on_selector_all(".gallery img", "nodes => nodes.map((n) => n.src)")
        found = [int(re.search(r"(\d+)\.webp$", source)[1]) for source in sources]  # type: ignore
        assert sorted(found) == sorted(features.example_generation[129].tolist())
        top = features.example_kind[129] == 0
        assert found[: top.sum()] == features.example_generation[129][top].tolist()


def run(quick: bool = False) -> dict[str, Any]:
    """Build the bundle, open it several times, step through latents of one and of new shards."""
    m, n, repeats = (2048, 512, 2) if quick else (16_384, 4096, 7)
    pictures = Pictures(n, 64)
    features = synthetic(m, 24, 16, pictures)
    with tempfile.TemporaryDirectory() as folder:
        start, cpu = time.perf_counter(), time.process_time()
        index = build_dashboard(folder, [features], [pictures])
        build, build_cpu = time.perf_counter() - start, time.process_time() - cpu
        size = sum(path.stat().st_size for path in Path(folder).rglob("*") if path.is_file())
        with browser() as running:
            first = [_first(running, index, 64 * k + 3) for k in range(repeats)]
            same, new, table = _switches(running, index, m, repeats)
    return {
        "latents": m,
        "examples": 24,
        "pictures": n,
        "repeats": repeats,
        "figures": [
            _figure("first grid", first, "<= 1"),
            _figure("switch, same shard", same, "<= 0.3"),
            _figure("switch, new shard", new, "<= 0.3"),
            _figure("table of all latents", table, None),
            {"name": "build", "value": round(build, 2), "unit": "s"},
            {"name": "build, CPU", "value": round(build_cpu, 2), "unit": "s"},
            {"name": "size", "value": round(size / 1e6, 1), "unit": "MB"},
        ],
        "milliseconds": {"first": first, "same": same, "new": new, "table": table},
    }


def _figure(name: str, milliseconds: list[float], limit: str | None) -> dict[str, Any]:
    value = round(statistics.median(milliseconds) / 1000, 3)
    return {"name": name, "value": value, "unit": "s"} | ({"limit": limit} if limit else {})


def _first(running: Any, index: Path, latent: int) -> float:
    """Milliseconds from the start of the navigation, in a page without any cache."""
    context = running.new_context(viewport={"width": 1400, "height": 900})
    page = context.new_page()
    page.goto(index.as_uri() + f"#/sae/0/feature/{latent}", wait_until="commit")
    value = page.evaluate(SHOWN, latent)
    context.close()
    return round(value, 1)


def _switches(running: Any, index: Path, m: int, repeats: int) -> tuple[list[float], ...]:
    page = running.new_page(viewport={"width": 1400, "height": 900})
    page.goto(index.as_uri() + "#/sae/0/feature/0", wait_until="commit")
    page.wait_for_selector(".chart.map .main-svg", timeout=120_000)
    step = SWITCH % SHOWN

    def timed(latent: int) -> float:
        # A reader looks before going on; charts and what is read ahead settle meanwhile.
        page.wait_for_timeout(1500)
        return round(page.evaluate(step, [latent]), 1)

    same = [timed(k) for k in range(1, repeats + 1)]
    new = [timed(int(k)) for k in np.linspace(m // 8, m - 1, repeats)]
    tables = []
    for _ in range(repeats):
        tables.append(round(page.evaluate(_TABLE), 1))
        page.evaluate("location.hash = '#/'")
        page.wait_for_selector(".hero")
    return same, new, tables


_TABLE = """() => new Promise((done) => {
  const start = performance.now();
  location.hash = '#/sae/0';
  const look = () => document.querySelector('.browse .space .row')
    ? done(performance.now() - start) : requestAnimationFrame(look);
  look();
})"""


def main() -> None:
    """Gate, then measure, then print."""
    gate()
    print(json.dumps(run(quick="--quick" in sys.argv), indent=1))


if __name__ == "__main__":
    main()
