"""The static dashboard: one folder that opens from `file://`, with no server and no network."""

import html
import importlib
import os
import shutil
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from interp.dashboards import records
from interp.dashboards.encode import plain, write_data
from interp.dashboards.matches import find_pictures, write_matches
from interp.dashboards.schema import check_features
from interp.dashboards.shards import SHARD_SIZE, highlights, write_features
from interp.dashboards.steering import load_steering, place_steering, write_steering
from interp.dashboards.thumbnails import (
    read_picture,
    write_generations,
    write_thumbnails,
    write_webp,
)
from interp.errors import InputError

SCHEMA_VERSION = 1
_ASSETS = Path(__file__).parent / "assets"
# Order of the page's classic scripts: each may use what stands before it.
SCRIPTS = (
    "core.js",
    "glossary.js",
    "colors.js",
    "state.js",
    "charts.js",
    "overlay.js",
    "controls.js",
    "map.js",
    "list.js",
    "browse.js",
    "gallery.js",
    "feature.js",
    "panels.js",
    "steering.js",
    "quality.js",
    "overview.js",
    "matrix.js",
    "pair.js",
    "matched.js",
    "compare.js",
    "main.js",
)
STYLES = (
    "base.css",
    "controls.css",
    "pages.css",
    "feature.css",
    "steering.css",
    "compare.css",
    "matched.css",
    "narrow.css",
)
_MARK = '<meta name="generator" content="interp dashboard">'
_BUNDLE = "bundle"


def build_dashboard(
    out: str | Path,
    features: Sequence[Any] = (),
    stores: Mapping[str, Any] | Iterable[Any] = (),
    *,
    alignments: Sequence[Any] = (),
    matches: Sequence[Any] = (),
    evaluations: Mapping[str, Any] | Sequence[Any] | None = None,
    substitutions: Mapping[str, Any] | Sequence[Any] | None = None,
    steering: Sequence[Any] = (),
    cards: Sequence[Any] = (),
    title: str = "Features and alignments",
    notes: Sequence[str] = (),
    provenance: Mapping[str, Any] | None = None,
) -> Path:
    """Write a dashboard to `out/index.html` (data in `out/bundle/`) and return the page's path.

    The same input gives the same bytes. Other files in `out` stay; an earlier dashboard there is
    replaced, and only once the new one is complete.

    Args:
        out: folder; made where absent.
        features: results of `describe`, or the folders they were saved to. One SAE each.
        stores: the activation stores the features were described on, for their pictures: a mapping
            from store hash, or the stores (or their paths) in any order.
        alignments: results of `compare_layers`, or the files they were saved to.
        matches: results of `match_features`, or the files they were saved to; a cell of an
            alignment's matrix whose two layers have one opens it. Needs the stores' pictures.
        evaluations: results of `evaluate`, by SAE digest or in the order of `features`.
        substitutions: results of `substitute`, likewise.
        steering: results of `steer` with a feature of these SAEs, or the folders they were saved
            to; each stands on its feature's page.
        cards: model cards: mappings or records with `name`; `undertrained`, or `undertrained` in
            `verdict`, marks a model; `samples` may be pixels, uint8 [h, w, 3], or a picture's path.
        title: heading of the page.
        notes: sentences shown verbatim on the first page.
        provenance: what made this, shown as a table (versions, command, seeds ...).

    Raises:
        InputError: nothing to show, features of a store that is not given, fields of unequal
            length, steering of another SAE, or a folder that holds someone else's page.
    """
    out = Path(out)
    loaded, aligned, matched = _load_all(features, alignments, matches)
    by_hash, doses = _stores(stores), [load_steering(item) for item in steering]
    _check_stores(loaded, by_hash)
    places = place_steering(doses, loaded)
    check_target(out)
    pictures = [find_pictures(item, by_hash) for item in matched]
    measured = _measured(loaded, evaluations, substitutions)
    out.mkdir(parents=True, exist_ok=True)
    building = out / f".{_BUNDLE}-{os.getpid()}"
    meta = {"schema": SCHEMA_VERSION, "title": title, "notes": list(notes)}
    meta["provenance"] = plain(provenance or {})
    try:
        meta["cards"] = _write_cards(cards, building / "cards")
        _write_pictures(loaded, pictures, by_hash, building)
        meta["saes"] = _write_saes(loaded, measured, building)
        meta["steering"] = write_steering(doses, places, building)
        meta["alignments"] = _write_alignments(aligned, building / "data")
        meta["matches"] = write_matches(matched, pictures, loaded, aligned, building / "data")
        _mark_undertrained(meta)
        write_data(building / "data", "meta", meta)
        _write_assets(building / "assets")
        return _publish(building, out, title)
    finally:
        shutil.rmtree(building, ignore_errors=True)


def _check_content(loaded: Sequence[Any], aligned: Sequence[Any], matched: Sequence[Any]) -> None:
    if matched and not aligned:
        raise InputError(
            f"{len(matched)} matches without an alignment: they open from its cells; pass both"
        )
    if not loaded and not aligned:
        raise InputError("nothing to show: pass at least one Features or one Alignment")
    for item in loaded:
        check_features(item)


def _measured(features: Sequence[Any], evaluations: Any, substitutions: Any) -> dict[str, list]:
    digests = [str(item.sae["digest"]) for item in features]
    return {
        "evaluation": records.by_digest(evaluations, digests, "evaluations"),
        "substitution": records.by_digest(substitutions, digests, "substitutions"),
    }


def _load_all(*given: Sequence[Any]) -> list[list[Any]]:
    """Features, alignments and matches, from memory or from where they were saved."""
    homes = (
        ("interp.features", "Features"),
        ("interp.alignment", "Alignment"),
        ("interp.alignment.matching", "FeatureMatches"),
    )
    found = [
        [_load(item, *home) for item in items] for items, home in zip(given, homes, strict=True)
    ]
    _check_content(*found)
    return found


def _load(item: Any, module: str, name: str) -> Any:
    """Return the record itself, or the one saved at a path."""
    if not isinstance(item, str | Path):
        return item
    return getattr(importlib.import_module(module), name).load(item)


def _stores(stores: Mapping[str, Any] | Iterable[Any]) -> dict[str, Any]:
    items = stores.values() if isinstance(stores, Mapping) else stores
    opened = [_open(item) for item in items]
    return {store.hash: store for store in opened}


def _open(item: Any) -> Any:
    if not isinstance(item, str | Path):
        return item
    from interp.store.store import open_store

    return open_store(item)


def _check_stores(features: Sequence[Any], stores: Mapping[str, Any]) -> None:
    for item in features:
        needed = item.store["hash"]
        if needed not in stores:
            held = ", ".join(stores) or "none"
            raise InputError(
                f"features of {item.point.name} were described on store {needed}; "
                f"the stores given are: {held}. Pass that store, its pictures are needed"
            )


def check_target(out: Path) -> None:
    """Raise InputError for a file, and for a folder with a page of someone else."""
    index = out / "index.html"
    if out.exists() and not out.is_dir():
        raise InputError(f"{out} is a file; a dashboard needs a folder")
    if index.exists() and _MARK not in index.read_text("utf-8", errors="replace"):
        raise InputError(f"{index} is not a dashboard of this library; choose another folder")
    if (out / _BUNDLE).exists() and not (out / _BUNDLE / "data" / "meta.js").exists():
        raise InputError(
            f"{out / _BUNDLE} is not a dashboard of this library; choose another folder"
        )


def _write_pictures(
    features: Sequence[Any], pictures: Sequence[Any], stores: Mapping[str, Any], folder: Path
) -> None:
    """Write what the pages show of each store: pictures and captions of the used generations."""
    used: dict[str, list[np.ndarray]] = {}
    for item in features:
        generation = np.asarray(item.example_generation)
        shown = generation[(np.asarray(item.example_row) >= 0) & (generation >= 0)]
        used.setdefault(item.store["hash"], []).append(shown.ravel())
    for where in pictures:
        if where.store:
            used.setdefault(where.store, []).append(where.generations[where.generations >= 0])
    for key, parts in used.items():
        generations = np.unique(np.concatenate(parts)).astype(np.int64)
        short = short_hash(key)
        size = write_thumbnails(stores[key], generations, folder / "thumbs" / short)
        write_generations(stores[key], generations, size, folder / "data" / "store", short)


def _write_saes(
    features: Sequence[Any], measured: dict[str, list], folder: Path
) -> list[dict[str, Any]]:
    found = []
    for index, item in enumerate(features):
        n_shards = write_features(item, index, folder / "data")
        record = records.sae_record(item) | {"n_shards": n_shards, "shard_size": SHARD_SIZE}
        record["highlights"] = highlights(item)
        found.append(record | {name: values[index] for name, values in measured.items()})
    return found


def short_hash(key: str) -> str:
    """Return the first 12 characters of a store's hash: its name in file names."""
    return key[:12]


def _write_alignments(alignments: Sequence[Any], data: Path) -> list[dict[str, Any]]:
    for index, alignment in enumerate(alignments):
        write_data(data, f"alignment{index}", records.alignment_record(alignment))
    return [
        {
            "sample_set": alignment.sample_set,
            "n": plain(records.read(alignment, "n")),
            "n_permutations": plain(records.read(alignment, "n_permutations")),
            "n_families": len(records.read(alignment, "families", ())),
            "strongest": records.strongest(alignment),
        }
        for alignment in alignments
    ]


def _mark_undertrained(meta: dict[str, Any]) -> None:
    weak = {card["name"] for card in meta["cards"] if card["undertrained"]}
    for sae in meta["saes"]:
        sae["undertrained"] = sae["model"] in weak


def _write_cards(cards: Sequence[Any], folder: Path) -> list[dict[str, Any]]:
    found = []
    for index, card in enumerate(cards):
        record = records.card_record(card)
        samples = records.read(card, "samples")
        if isinstance(samples, str | Path):
            samples = read_picture(Path(samples))
        if samples is not None:
            folder.mkdir(parents=True, exist_ok=True)
            write_webp(np.asarray(samples, np.uint8), folder / f"{index}.webp", max_edge=768)
            record["samples"] = f"cards/{index}.webp"
        found.append(record)
    return found


def _write_assets(folder: Path) -> None:
    import plotly

    folder.mkdir(parents=True, exist_ok=True)
    for name in (*STYLES, *SCRIPTS):
        shutil.copyfile(_ASSETS / name, folder / name)
    plotly_js = Path(plotly.__file__).parent / "package_data" / "plotly.min.js"
    shutil.copyfile(plotly_js, folder / "plotly.min.js")


def page(title: str, scripts: str, styles: str) -> str:
    """Return the one HTML page around the given script and style tags."""
    template = (_ASSETS / "index.html").read_text("utf-8")
    # The title comes last: nothing in it can be taken for one of the other places.
    parts = {"mark": _MARK, "scripts": scripts, "styles": styles, "title": html.escape(title)}
    for name, value in parts.items():
        template = template.replace("{{" + name + "}}", value)
    return template


def _publish(building: Path, out: Path, title: str) -> Path:
    names = [f"{_BUNDLE}/assets/{name}" for name in SCRIPTS]
    # The start-up data stands before main.js, so that the first view needs no further round.
    names.insert(-1, f"{_BUNDLE}/data/meta.js")
    scripts = "\n".join(f'<script src="{name}"></script>' for name in names)
    sheets = [f"{_BUNDLE}/assets/{name}" for name in STYLES]
    styles = "\n".join(f'<link rel="stylesheet" href="{name}">' for name in sheets)
    target, old = out / _BUNDLE, out / f".{_BUNDLE}-old-{os.getpid()}"
    if target.exists():
        target.rename(old)
    building.rename(target)
    shutil.rmtree(old, ignore_errors=True)
    index = out / "index.html"
    draft = out / f".index-{os.getpid()}.html"
    draft.write_text(page(title, scripts, styles), encoding="utf-8", newline="\n")
    draft.replace(index)
    return index
