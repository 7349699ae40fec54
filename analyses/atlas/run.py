"""What decides an image, in generators of the box? One atlas each, and a table of all.

Run from the repository root; a run that was stopped goes on from its parts:

    python -m analyses.atlas.run --out runs/atlas
    python -m analyses.atlas.run --report    # the table of the committed records, without measuring
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

from interp.atlas import Atlas, AtlasConfig, atlas, load_atlas
from interp.dashboards import build_atlas_page

HERE = Path(__file__).parent
START, END = "<!-- table -->", "<!-- /table -->"


def run(models: Sequence[str], out: Path, *, seed: int, quick: bool = False) -> dict[str, Atlas]:
    """Make the atlas and the page of every model; finished ones are read."""
    found = {}
    for name in models:
        folder = out / name
        config = AtlasConfig(seed=seed, quick=quick)
        made_by = f"interp atlas zoo:{name}" + (" --quick" if quick else "")
        if not (folder / "atlas.json").exists():
            atlas(f"zoo:{name}", config, folder, progress=print, made_by=made_by)
        print(build_atlas_page(folder), flush=True)
        found[name] = load_atlas(folder)
    return found


def keep(out: Path, models: Sequence[str], folder: Path = HERE) -> None:
    """Copy the records, without their pictures, beside this file."""
    for name in models:
        values = json.loads((out / name / "atlas.json").read_text())
        text = json.dumps(values, separators=(",", ":"), allow_nan=False)
        (folder / f"{name}.json").write_text(text + "\n")


def table(found: dict[str, dict]) -> str:
    """The verdicts of all models, with what they rest on, as Markdown."""
    lines = [
        "| model | pairs | compact | sources: S [bounds], d* PCA / Jacobian | d_img | specialized "
        "| shares (content, composition, surface) | specialization | beyond untrained twins [99 %] "
        "| beyond band twins [99 %] |",
        "|---|---:|---|---|---:|---|---|---:|---:|---:|",
    ]
    for name, record in found.items():
        deciding = next(one for one in record["layers"] if one["decides"])
        verdict = record["verdict"]
        sources = "; ".join(
            f"{one['source']} {_interval(one['sufficiency'])}, "
            f"{_stars(one['pca'])} / {_stars(one['jacobian'])}"
            for one in record["compactness"]
        )
        cells = (
            f"`{name}`",
            str(record["n_pairs"]),
            _answer(verdict, "compact"),
            sources,
            _stars(record["image_curve"]),
            _answer(verdict, "specialized"),
            ", ".join(deciding["shares"]["kinds"]),
            _interval(deciding["specialization"]),
            _interval(deciding["excess"]),
            _interval(deciding.get("band_excess")),
        )
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _answer(verdict: dict | None, which: str) -> str:
    return "no verdict" if verdict is None else verdict[which]["answer"]


def _interval(value: dict | None) -> str:
    if value is None or value["value"] is None:
        return "undefined"
    # No "-0.00".
    point, low, high = (round(value[key], 2) + 0.0 for key in ("value", "low", "high"))
    return f"{point:.2f} [{low:.2f}, {high:.2f}]"


def _stars(curve: dict | None) -> str:
    if curve is None:
        return "-"
    if curve["d_star"] is not None:
        return str(curve["d_star"])
    return f"> {curve['rank']}" if curve["kept"] else "-"


def report(folder: Path = HERE) -> str:
    """The table of the committed records, also written into the README."""
    config = json.loads((folder / "config.json").read_text())
    found = {name: json.loads((folder / f"{name}.json").read_text()) for name in config["models"]}
    text = table(found)
    readme = folder / "README.md"
    before, _, rest = readme.read_text().partition(START)
    _, _, after = rest.partition(END)
    readme.write_text(f"{before}{START}\n{text}\n{END}{after}")
    return text


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the study, or print its table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("runs/atlas"))
    parser.add_argument("--report", action="store_true", help="the table of the committed records")
    parser.add_argument("--quick", action="store_true", help="small atlases, kept nowhere")
    parser.add_argument("--models", nargs="*", help="of the configuration; all if none")
    options = parser.parse_args(arguments)
    config = json.loads((HERE / "config.json").read_text())
    models = options.models or config["models"]
    if not options.report:
        run(models, options.out, seed=config["seed"], quick=options.quick)
        if options.quick:
            return
        keep(options.out, models)
    print(report())


if __name__ == "__main__":
    main()
