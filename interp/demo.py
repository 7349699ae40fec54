"""The whole job on the models in the box, through the public API only: `interp demo`."""

import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

import interp
from interp.demo_matches import match_saes, matches_record, matches_table
from interp.demo_report import closing, plain, strongest
from interp.errors import InputError

SCOPE = (
    "Results from the zoo hold for these small networks on 32-pixel glyphs. They show that the "
    "instrument tells known answers apart; they neither confirm nor refute Schaerf (2025) or the "
    "Platonic Representation Hypothesis. Networks here share training images, and some share "
    "labels or captions, so alignment among them may come from that."
)
MODELS = ("gan", "vae", "vae-global", "ddpm", "ldm", "dit", "vit", "ssl", "text")
DENOISERS = ("ddpm", "ldm", "dit")
# Mostly signal, as much signal as noise, mostly noise.
NOISE_LEVELS = (2.0, 0.0, -2.0)
# What the picture of each model's card shows.
_PICTURES = {
    "gan": "Samples of the GAN.",
    "vae": "Held-out glyphs, below each row their reconstructions.",
    "vae-global": "Held-out glyphs, below each row their reconstructions.",
    "ddpm": "Samples of the U-Net, one row per category.",
    "ldm": "Samples for captions of held-out glyphs.",
    "dit": "Samples of the transformer, one row per category.",
    "vit": "Up to 16 held-out glyphs per row, one row per category that the encoder names. Dark "
    "tiles are inverted: their true category is another. Gaps: it named fewer.",
    "ssl": "Held-out glyphs, each beside the training images nearest to it.",
    "text": "Held-out captions, and the tags that the network adds.",
}
# Seeds of fresh GAN samples: training and judgement never share one.
TRAIN_SEED, JUDGE_SEED = 1_000_000, 2_000_000


@dataclass(frozen=True)
class DemoConfig:
    """Run the whole job on the models in the box and write a page to open."""

    out: Path = Path("demo")
    """Folder of the result; a rerun continues what is there."""
    quick: bool = False
    """Smaller samples and shorter training: under a minute, numbers too rough to quote."""
    seed: int = 0
    """Seed of training, noise, permutations and examples."""
    device: str = "cpu"
    """Device of the models: cpu, cuda, cuda:0 ..."""
    threads: int = 2
    """CPU threads."""

    def __post_init__(self) -> None:
        if self.threads < 1 or self.seed < 0:
            raise InputError(f"threads {self.threads} and seed {self.seed}: at least 1 and 0")


@dataclass(frozen=True)
class _Size:
    samples: int
    train_samples: int
    train_images: int
    images: int
    steps: int
    n_latents: int
    permutations: int
    substitutions: int
    measures: tuple[str, ...]


# Enough rows for the SAEs to settle and for intervals that tell layers apart, within the budget.
# Below 320 permutations Holm over the 16 tests could reject nothing.
_FULL = _Size(512, 3072, 1024, 512, 700, 512, 400, 32, ("cka", "mutual_knn"))
_QUICK = _Size(96, 384, 256, 128, 150, 128, 200, 12, ("cka",))


# Layers of a model that are compared with those of others.
_LAYERS = 8


@dataclass(frozen=True)
class _Target:
    """One SAE: what it reads, and the recipes whose rows train and judge it."""

    label: str
    model: str
    point: str
    k: int
    train: Any
    judge: Any


@dataclass
class _Job:
    config: DemoConfig
    size: _Size
    say: Callable[[str], None]
    models: dict[str, Any] = field(default_factory=dict)
    twins: dict[str, Any] = field(default_factory=dict)
    stores: dict[str, Any] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def stage(self, label: str) -> Iterator[None]:
        """Time one stage and say so."""
        start = time.perf_counter()
        yield
        self.seconds[label] = time.perf_counter() - start
        self.say(f"{self.seconds[label]:7.1f} s  {label}")


@dataclass(frozen=True)
class _Result:
    target: _Target
    features: Any
    evaluation: Any
    substitution: Any


def demo(config: DemoConfig | None = None, *, say: Callable[[str], None] = print) -> Path:
    """Capture, train, evaluate, describe and compare on the models in the box.

    Args:
        config: where to write and how much; None takes the defaults.
        say: takes each line of the report.

    Returns:
        The page to open, `out/index.html`; `out/results.json` holds the numbers.

    Raises:
        InterpError: a model is missing, or the disk cannot hold the captures.
    """
    import torch

    config = config or DemoConfig()
    before = torch.get_num_threads()
    torch.set_num_threads(config.threads)
    try:
        return _demo(_Job(config, _QUICK if config.quick else _FULL, say))
    finally:
        torch.set_num_threads(before)


def _demo(job: _Job) -> Path:
    job.config.out.mkdir(parents=True, exist_ok=True)
    with job.stage("load the models and their untrained twins"):
        _load(job)
    with job.stage("capture the GAN: entries and maps of fresh samples"):
        _capture_gan(job)
    with job.stage("capture the others on held-out glyphs"):
        _capture_glyphs(job)
    results = []
    for target in _targets(job):
        with job.stage(f"SAE on {target.label}: capture, train, evaluate, substitute, describe"):
            results.append(_sae(job, target))
    with job.stage("compare layers across models, beside twins and pixels"):
        alignments = _compare(job)
    with job.stage("match features of the SAEs on the same images"):
        matches = match_saes(results, job.stores, job.config.out, job.config.seed)
    with job.stage("write the page"):
        page = _page(job, results, alignments, matches)
    _write_results(job, results, alignments, matches)
    for line in (*closing(results, alignments, MODELS), *matches_table(matches)):
        job.say(line)
    job.say(f"\n{SCOPE}\n\n{sum(job.seconds.values()):.0f} s in all. Open {page}")
    return page


def _load(job: _Job) -> None:
    for name in MODELS:
        spec, device = f"zoo:{name}", job.config.device
        job.models[name] = interp.load(spec, device=device)
        job.twins[name] = interp.load(spec, untrained=True, seed=1, device=device)


def _blocks(model: Any) -> list[str]:
    """Block outputs in order of execution, without branches, differences and ports."""
    return [
        name
        for name, point in model.points.items()
        if point.kind == "resid"
        and point.stream in ("image", "text")
        and not name.endswith(":main")
    ]


def _compared(model: Any) -> list[str]:
    """Ends of blocks, one per block, at most `_LAYERS`: an attention stands for its resnet."""
    blocks = _blocks(model)
    inner = ("conv_in", "conv_out", "quant_conv", "samplers")
    ends = [
        name
        for name in blocks
        if not any(part in name for part in inner)
        and ("resnets" not in name or name.replace("resnets", "attentions") not in blocks)
    ]
    # Evenly, the last one always.
    stride = -(-len(ends) // _LAYERS)
    return ends[::-1][::stride][::-1]


def _capture(job: _Job, key: str, model: Any, points: Sequence[str], recipe: Any, **more: Any):
    more.setdefault("rows", interp.Rows(positions="mean"))
    out = job.config.out / "activations"
    job.stores[key] = interp.capture(model, points, recipe, out=out, progress=False, **more)
    return job.stores[key]


def _pair(job: _Job, name: str) -> list[tuple[str, Any]]:
    return [(name, job.models[name]), (f"{name} twin", job.twins[name])]


def _capture_gan(job: _Job) -> None:
    recipe = interp.Generation(n=job.size.samples, seed=JUDGE_SEED, batch_size=64)
    for key, model in _pair(job, "gan"):
        _capture(job, key, model, ["z", "w", *_blocks(model)], recipe)
    seen = interp.Encoding(images=str(job.stores["gan"].path))
    for key, model in _pair(job, "vit"):
        _capture(job, f"{key} on samples", model, _blocks(model), seen)


def _capture_glyphs(job: _Job) -> None:
    from interp.zoo import load_images

    images = load_images("glyphs", split="heldout", limit=job.size.images, seed=job.config.seed)
    for name in (name for name in MODELS if name not in ("gan", *DENOISERS)):
        # Texts differ in length: one at a time.
        text = {"condition": "caption", "batch_size": 1} if name == "text" else {}
        for key, model in _pair(job, name):
            points = [*_blocks(model), *_entries(model)]
            _capture(job, key, model, points, interp.Encoding(**text), images=images)
    number = 0
    for name in DENOISERS:
        for key, model in _pair(job, name):
            # Noise of its own for everyone: networks that are shown the same align through it.
            recipe = interp.Encoding(seed=job.config.seed + number, log_snr=NOISE_LEVELS)
            _capture(job, key, model, _compared(model), recipe, images=images)
            number += 1


def _entries(model: Any) -> list[str]:
    """What an autoencoder codes an image by."""
    return [name for name in ("code", "z") if name in model.points_in("encode")]


def _targets(job: _Job) -> list[_Target]:
    size, seed = job.size, job.config.seed
    gan = [
        interp.Generation(n=n, seed=first, batch_size=64)
        for n, first in ((size.train_samples, TRAIN_SEED), (size.samples, JUDGE_SEED))
    ]
    vae, ddpm = (
        [
            interp.Encoding(f"glyphs/{split}", limit=limit, seed=seed, log_snr=levels)
            for split, limit in (("train", size.train_images), ("heldout", size.images))
        ]
        for levels in ((), NOISE_LEVELS)
    )
    return [
        _Target("GAN latent w", "gan", "w", 8, *gan),
        _Target("a GAN map, 8 x 8", "gan", "layers.2", 12, *gan),
        _Target("a VAE decoder block, 8 x 8", "vae", "decoder.mid_block.resnets.1", 12, *vae),
        _Target("a U-Net block, 8 x 8", "ddpm", "up_blocks.1.attentions.1", 12, *ddpm),
        _Target("a DiT block", "dit", "transformer_blocks.3", 12, *ddpm),
    ]


def _sae(job: _Job, target: _Target) -> _Result:
    model, point, size = job.models[target.model], target.point, job.size
    # One capture serves all SAEs of a model that share a recipe.
    points = sorted({t.point for t in _targets(job) if t.model == target.model})
    train, judge = (
        _capture(job, f"{target.model} {part}", model, points, recipe, rows=interp.Rows())
        for part, recipe in (("train", target.train), ("judge", target.judge))
    )
    config = interp.TrainConfig(
        n_latents=size.n_latents, k=target.k, steps=size.steps, seed=job.config.seed, held_out=0.0
    )
    folder = job.config.out / "saes" / f"{target.model}.{point}"
    sae = interp.train(train, config, point=point, out=folder, progress=False).sae
    evaluation = interp.evaluate(sae, judge, point, seed=job.config.seed)
    substitution = interp.substitute(model, sae, point, _images(job, target, judge))
    # Loading and compiling UMAP alone takes ten to twenty seconds.
    shared = {"seed": job.config.seed, "progress": False}
    features = interp.describe(sae, judge, point, umap=not job.config.quick, **shared)
    features.save(folder / "features")
    return _Result(target, features, evaluation, substitution)


def _images(job: _Job, target: _Target, judge: Any) -> Any:
    """What the model is run on when the SAE is put into it: pictures to rebuild, or seeds."""
    n = job.size.substitutions
    if target.model == "vae":
        return judge.images(range(n))
    return interp.Generation(n=n, seed=JUDGE_SEED, steps=10, batch_size=n)


def _compare(job: _Job) -> list[Any]:
    size = job.size
    shared = {"measures": size.measures, "n_permutations": size.permutations}
    shared |= {"seed": job.config.seed}
    shown = [name for name in MODELS if name != "gan"]
    # Every pair of models costs permutations (Holm): all with the encoder, and two denoisers that
    # share nothing but the images.
    pairs = [(name, "vit") for name in shown if name != "vit"] + [("ddpm", "dit")]
    points = {name: [*_compared(job.models[name]), *_entries(job.models[name])] for name in shown}
    real = {name: (job.stores[name], points[name]) for name in points}
    twins = {name: (job.stores[f"{name} twin"], points[name]) for name in points}
    made = {"gan": job.stores["gan"], "vit": job.stores["vit on samples"]}
    made_twins = {"gan": job.stores["gan twin"], "vit": job.stores["vit twin on samples"]}
    alignments = [
        interp.compare_layers(real, twins=twins, pairs=pairs, **shared),
        interp.compare_layers(made, twins=made_twins, **shared),
    ]
    for alignment, name in zip(alignments, ("glyphs", "samples"), strict=True):
        alignment.save(job.config.out / f"alignment-{name}.json")
    return alignments


def _page(
    job: _Job, results: Sequence[_Result], alignments: Sequence[Any], matches: Sequence[Any]
) -> Path:
    return interp.build_dashboard(
        job.config.out,
        [result.features for result in results],
        job.stores.values(),
        alignments=alignments,
        matches=matches,
        evaluations=[result.evaluation for result in results],
        substitutions=[result.substitution for result in results],
        cards=[_card(name) for name in MODELS],
        title="What six small generative models, two encoders and a language model hold",
        notes=[SCOPE],
        provenance=_provenance(job),
    )


def _card(name: str) -> dict[str, Any]:
    from interp.zoo import card

    record = card(name)
    undertrained = record.verdict is not None and record.verdict.undertrained
    picture = resources.files("interp.zoo") / "weights" / f"{name}.png"
    more = {"undertrained": undertrained, "warning": record.warning, "samples": Path(str(picture))}
    return {**plain(record), **more, "samples_note": _PICTURES[name]}


def _provenance(job: _Job) -> dict[str, Any]:
    quick = " --quick" if job.config.quick else ""
    identity = job.models["vit"].identity()
    return {
        "command": f"interp demo{quick} --seed {job.config.seed}",
        "interp": interp.__version__,
        **identity["versions"],
        "threads": job.config.threads,
        "device": job.config.device,
        **{f"weights of zoo:{n}": m.identity()["weights_sha256"] for n, m in job.models.items()},
    }


def _write_results(
    job: _Job, results: Sequence[_Result], alignments: Sequence[Any], matches: Sequence[Any]
) -> None:
    values = {
        "scope": SCOPE,
        "provenance": _provenance(job),
        "saes": [
            {
                "label": result.target.label,
                "evaluation": plain(result.evaluation),
                "substitution": plain(result.substitution),
            }
            for result in results
        ],
        "alignments": [
            {
                "sample_set": alignment.sample_set,
                "n": alignment.n,
                "families": [plain(family) for family in alignment.families],
                "strongest": strongest(alignment),
            }
            for alignment in alignments
        ],
        "matches": matches_record(matches),
    }
    out = job.config.out
    (out / "results.json").write_text(json.dumps(values, indent=1, sort_keys=True) + "\n")
    seconds = {name: round(value, 2) for name, value in job.seconds.items()}
    (out / "seconds.json").write_text(json.dumps(seconds, indent=1) + "\n")
