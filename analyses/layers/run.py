"""Which layers of a diffusion U-Net, a GAN and a VAE align best with a vision encoder?

Run from the repository root; captures are kept and continued:

    python -m analyses.layers.run --out runs/layers

Layers are chosen on one half of the images (cut along clusters) and judged on the other.
"""

import argparse
import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

import interp
from interp.zoo import load_images

HERE = Path(__file__).parent
ENCODER = "vit"


@dataclass(frozen=True)
class Config:
    n_images: int  # of 1140 held-out glyphs
    n_samples: int
    log_snr: tuple[float, ...]
    draws: int
    twin_seeds: tuple[int, ...]
    measures: tuple[str, ...]
    n_neighbors: float
    n_permutations: int
    n_folds: int
    seed: int


def points_of(model: Any, mode: str) -> list[str]:
    """Every block output of the main stream, and the codes that a generation starts from."""
    names = model.select(["all"], mode)
    blocks = [n for n in names if model.points[n].kind == "resid" and "skip" not in n]
    return [n for n in names if n in blocks or n in ("z", "w", "code") or n.startswith("s.")]


def capture(name: str, seed: int | None, recipe: Any, out: Path, images: Any = None) -> Any:
    """A model (seed None) or an untrained twin of it, pooled over positions."""
    model = interp.load(f"zoo:{name}", untrained=seed is not None, seed=seed or 0)
    mode = "generate" if isinstance(recipe, interp.Generation) else "encode"
    return interp.capture(
        model,
        points_of(model, mode),
        recipe,
        out=out / "stores",
        rows=interp.Rows("mean"),
        images=images,
        progress=False,
    )


def capture_real(config: Config, out: Path) -> dict[tuple[str, int | None], Any]:
    images = load_images("glyphs", split="heldout", limit=config.n_images, seed=config.seed)
    stores = {}
    for twin in (None, *config.twin_seeds):
        for name in ("ddpm", "vae", ENCODER):
            recipe = interp.Encoding()
            if name == "ddpm":
                # Noise of its own for every network: shared noise would align them.
                seed = config.seed + (twin or 0)
                recipe = interp.Encoding(seed=seed, log_snr=config.log_snr, draws=config.draws)
            stores[name, twin] = capture(name, twin, recipe, out, images)
            say(f"captured {name}, twin {twin}, on real images")
    return stores


def capture_samples(config: Config, out: Path) -> dict[tuple[str, int | None], Any]:
    """The trained GAN's samples for everyone; its twins run on the same seeds."""
    recipe = interp.Generation(n=config.n_samples, seed=config.seed, batch_size=64)
    stores = {}
    for twin in (None, *config.twin_seeds):
        stores["gan", twin] = capture("gan", twin, recipe, out)
        shown = interp.Encoding(images=str(stores["gan", None].path))
        stores[ENCODER, twin] = capture(ENCODER, twin, shown, out)
        say(f"captured gan and {ENCODER}, twin {twin}, on samples")
    return stores


def halves(store: Any, seed: int) -> tuple[list[str], list[str]]:
    """Image ids in two halves of whole clusters."""
    ids, first = np.unique(store.generations["image_id"].astype(str), return_index=True)
    clusters = store.generations["cluster"][first].astype(str)
    names = np.unique(clusters)
    chosen = names[np.random.default_rng(seed).permutation(len(names))[: len(names) // 2]]
    inside = np.isin(clusters, chosen)
    return ids[inside].tolist(), ids[~inside].tolist()


class Found(NamedTuple):
    """Alignments of one sample set; all but the first on the judging half."""

    chosen: Any
    judged: Any  # beside pairs of twins, both sides untrained
    one_sided: list[Any]  # per twin seed: the generator untrained, the encoder trained
    both: list[Any]  # per further twin seed: both untrained


def align(config: Config, stores: Any, label: str, out: Path) -> Found:
    models = {name: store for (name, twin), store in stores.items() if twin is None}
    twins = {seed: {name: stores[name, seed] for name in models} for seed in config.twin_seeds}
    choose, judge = halves(models[ENCODER], config.seed)
    options = {
        "measures": config.measures,
        "n_neighbors": config.n_neighbors,
        "seed": config.seed,
        "pairs": [(name, ENCODER) for name in models if name != ENCODER],
    }

    def run(name: str, sources: Any, images: list[str], **more: Any) -> Any:
        alignment = interp.compare_layers(sources, images=images, **options, **more)
        alignment.save(out / f"{label}-{name}.json")
        say(f"compared {label}, {name}: {len(alignment.layers)} layers, {alignment.n} images")
        return alignment

    plain = {"n_permutations": 0, "n_folds": 0}
    full = {"n_permutations": config.n_permutations, "n_folds": config.n_folds}
    interval = {"n_permutations": 0, "n_folds": config.n_folds}
    first, *rest = config.twin_seeds
    one_sided = []
    for seed, some in twins.items():
        generators = {name: store for name, store in some.items() if name != ENCODER}
        one_sided.append(run(f"generator{seed}", models, judge, twins=generators, **interval))
    return Found(
        run("choose", models, choose, **plain),
        run("judge", models, judge, twins=twins[first], **full),
        one_sided,
        # Untrained generators have images of their own: they pair by what they were made from.
        [run(f"twins{seed}", twins[seed], judge, pairing="seed", **plain) for seed in rest],
    )


def best(alignment: Any, measure: str, wanted: Any, any_layer: bool = False) -> tuple[str, str]:
    """Names of the cell of the largest value between a wanted layer and the encoder.

    The encoder is its last block, what it has made of the image, or any of its layers.
    """
    layers = alignment.layers
    encoder = [layer for layer in layers if layer.model == ENCODER][0 if any_layer else -1 :]
    pairs = [(a.name, b.name) for a in layers if wanted(a) for b in encoder]
    return max(pairs, key=lambda p: alignment.cell(*p, measure).comparison.value)


def judge_pair(found: Found, pair: tuple[str, str], measure: str) -> dict[str, Any]:
    """The chosen pair on images that did not choose it, beside all reference levels."""
    cell = found.judged.cell(*pair, measure)
    one = cell.comparison
    against = ("pixels/rgb", pair[1])
    over, interval = found.judged.difference(pair, against, measure)
    sides = [a.cell(*pair, measure) for a in found.one_sided]
    both = [a.cell(*pair, measure).comparison.value for a in found.both]
    return {
        "layer": pair[0],
        "encoder": pair[1],
        "measure": measure,
        "value": one.value,
        "interval": [one.low, one.high],
        "null": one.null_mean,
        "z": one.z,
        "p": one.p,
        "pixels": found.judged.cell(*against, measure).comparison.value,
        "over_pixels": [over, float(interval.low), float(interval.high)],
        "untrained_generator": [c.twin_value for c in sides],
        "over_untrained_generator": [
            [c.difference, c.difference_low, c.difference_high] for c in sides
        ],
        "both_untrained": [cell.twin_value, *both],
        "over_both_untrained": [cell.difference, cell.difference_low, cell.difference_high],
    }


def questions(real: Found, samples: Found, config: Config) -> list[dict[str, Any]]:
    groups = [("U-Net, any block and level", real, lambda a: a.model == "ddpm")]
    for call, level in enumerate(config.log_snr):
        name = f"U-Net at log-SNR {level:g}"
        groups.append((name, real, lambda a, c=call: a.model == "ddpm" and a.call == c))
    for half in ("encoder", "decoder"):
        name = f"VAE {half}"
        groups.append((name, real, lambda a, h=half: a.model == "vae" and a.point.startswith(h)))
    groups.append(("VAE code", real, lambda a: a.model == "vae" and a.point == "code"))
    for part in ("z", "w", "s.", "layers."):
        name = {"s.": "GAN styles s", "layers.": "GAN maps"}.get(part, f"GAN {part}")
        groups.append((name, samples, lambda a, p=part: a.model == "gan" and a.point.startswith(p)))
    out = []
    for name, found, wanted in groups:
        for measure in config.measures:
            for any_layer in (False, True):
                pair = best(found.chosen, measure, wanted, any_layer)
                target = "any layer" if any_layer else "last block"
                head = {"question": name, "target": target}
                out.append({**head, **judge_pair(found, pair, measure)})
    return out


def contrasts(real: Found, samples: Found, config: Config) -> list[dict[str, Any]]:
    """Paired differences between winners of two groups, both chosen on the other half."""
    level = dict(enumerate(config.log_snr))
    sides = [
        (real, f"U-Net log-SNR {level[0]:g} over {level[1]:g}", ("ddpm", 0), ("ddpm", 1)),
        (real, f"U-Net log-SNR {level[0]:g} over {level[2]:g}", ("ddpm", 0), ("ddpm", 2)),
        (real, "VAE encoder over decoder", ("vae", "encoder"), ("vae", "decoder")),
        (real, "U-Net over VAE", ("ddpm", None), ("vae", None)),
        (samples, "GAN maps over w", ("gan", "layers."), ("gan", "w")),
    ]
    out = []
    for found, name, *groups in sides:
        for measure in config.measures:
            a, b = (best(found.chosen, measure, lambda x, g=g: _in(x, *g)) for g in groups)
            value, interval = found.judged.difference(a, b, measure)
            numbers = [value, float(interval.low), float(interval.high)]
            out.append({"contrast": name, "measure": measure, "pairs": [a, b], "over": numbers})
    return out


def _in(layer: Any, model: str, part: str | int | None) -> bool:
    if layer.model != model or part is None:
        return layer.model == model
    return layer.call == part if isinstance(part, int) else layer.point.startswith(part)


def profile(found: Found, measure: str) -> list[dict[str, Any]]:
    """Every layer against the last block of the encoder, on the judging half."""
    judged = found.judged
    target = [layer.name for layer in judged.layers if layer.model == ENCODER][-1]
    rows = []
    for model in judged.models:
        if model == ENCODER:
            continue
        for layer in judged.layers:
            if layer.model == model:
                cell = judged.cell(layer.name, target, measure)
                one = cell.comparison
                rows.append(
                    {
                        "model": model,
                        "point": layer.point,
                        "log_snr": layer.log_snr,
                        "encoder": target,
                        "value": one.value,
                        "interval": [one.low, one.high],
                        "p": one.p,
                        "untrained_generator": found.one_sided[0]
                        .cell(layer.name, target, measure)
                        .twin_value,
                        "pixels": judged.cell("pixels/rgb", target, measure).comparison.value,
                    }
                )
    return rows


def draw(rows: list[dict[str, Any]], measure: str, caption: str) -> Any:
    """Alignment with the encoder along each model, with twins and pixels."""
    import plotly.graph_objects as go
    from plotly.subplots import make_subplots

    models = list(dict.fromkeys(row["model"] for row in rows))
    figure = make_subplots(rows=len(models), cols=1, subplot_titles=models, vertical_spacing=0.17)
    # Okabe and Ito: apart for the color-blind.
    colors = ["#0072B2", "#E69F00", "#009E73", "#CC79A7"]
    for place, model in enumerate(models, 1):
        mine = [row for row in rows if row["model"] == model]
        for color, level in zip(
            colors, dict.fromkeys(row["log_snr"] for row in mine), strict=False
        ):
            some = [row for row in mine if row["log_snr"] == level]
            label = model if level is None else f"{model}, log-SNR {level:.1f}"
            x, y = [row["point"] for row in some], [row["value"] for row in some]
            up = [row["interval"][1] - row["value"] for row in some]
            error = {"array": up, "thickness": 1}
            line = {"color": color}
            figure.add_scatter(x=x, y=y, error_y=error, name=label, line=line, row=place, col=1)
            dotted = {"color": color, "dash": "dot"}
            y = [row["untrained_generator"] for row in some]
            figure.add_scatter(x=x, y=y, name=f"{label}, untrained", line=dotted, row=place, col=1)
        figure.add_hline(y=mine[0]["pixels"], line_dash="dash", row=place, col=1)
        title = f"{measure} with {mine[0]['encoder']}"
        figure.update_yaxes(title_text=title, row=place, col=1)
    figure.update_xaxes(tickangle=-60, tickfont_size=9)
    figure.update_layout(
        template="plotly_white",
        height=420 * len(models),
        title={"text": caption, "font": {"size": 13}},
    )
    return go.Figure(figure)


def rounded(value: Any) -> Any:
    if isinstance(value, float):
        return round(value, 4)
    if isinstance(value, dict):
        return {k: rounded(v) for k, v in value.items()}
    return [rounded(v) for v in value] if isinstance(value, list | tuple) else value


def say(line: str) -> None:
    print(f"{time.strftime('%H:%M:%S')}  {line}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config", type=Path, default=HERE / "config.json")
    parser.add_argument("--out", type=Path, default=Path("runs/layers"))
    arguments = parser.parse_args()
    raw = json.loads(arguments.config.read_text())
    config = Config(**{k: tuple(v) if isinstance(v, list) else v for k, v in raw.items()})
    out = arguments.out
    out.mkdir(parents=True, exist_ok=True)
    start = time.monotonic()
    stores = capture_real(config, out), capture_samples(config, out)
    real = align(config, stores[0], "real", out)
    samples = align(config, stores[1], "samples", out)
    measure = config.measures[0]
    rows = profile(real, measure) + profile(samples, measure)
    result = {
        "config": raw,
        "models": {
            name: {key: found[name, None].model.get(key) for key in ("spec", "weights_sha256")}
            for found in stores
            for name in {key[0] for key in found}
        },
        "n": {"real": real.judged.n, "samples": samples.judged.n},
        "families": [vars(f) for found in (real, samples) for f in found.judged.families],
        "questions": questions(real, samples, config),
        "contrasts": contrasts(real, samples, config),
        "profile": rows,
    }
    (out / "results.json").write_text(json.dumps(rounded(result), indent=1) + "\n")
    caption = (
        "Lines: trained, 95 % jackknife interval; dotted: untrained generator; dashed: pixels."
        f" n = {real.judged.n} glyphs, {samples.judged.n} GAN samples; seed {config.seed}"
    )
    draw(rows, measure, caption).write_html(out / "figure.html", include_plotlyjs="directory")
    say(f"done in {time.monotonic() - start:.0f} s: {out / 'results.json'}")


if __name__ == "__main__":
    main()
