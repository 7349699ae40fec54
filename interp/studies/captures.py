"""Models named by spec, shown the images of a study: stores of each and of its untrained twins."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

from interp.errors import InputError
from interp.harvest import capture
from interp.loading import load
from interp.models import Encoding, Model, Rows
from interp.store import ActivationStore
from interp.studies.captions import read_captions, with_captions
from interp.studies.options import Showing

if TYPE_CHECKING:
    from interp.zoo import Images

GLYPHS: dict[str, Literal["train", "heldout", "all"]] = {
    "glyphs/train": "train",
    "glyphs/heldout": "heldout",
    "glyphs/all": "all",
}
# Side to which images of differing sizes are fitted for models without a size of their own.
FIT = 256
# Ends of a network and changes of resolution: no layers of their own.
INNER = ("conv_in", "conv_out", "quant_conv", "samplers", "skip.")


def main_points(model: Model, n_layers: int) -> list[str]:
    """Ends of blocks that fire when the model encodes, at most `n_layers`, evenly over the depth.

    An attention stands for the resnet before it; the last block is always among them.
    """
    blocks = [
        name
        for name in model.points_in("encode")
        if model.points[name].kind == "resid"
        and model.points[name].stream in ("image", "text")
        and not name.endswith(":main")
    ]
    ends = [
        name
        for name in blocks
        if not any(part in name for part in INNER)
        and ("resnets" not in name or name.replace("resnets", "attentions") not in blocks)
    ]
    ends = ends or blocks
    if not ends:
        raise InputError(f"{model.name} has no block outputs when it encodes: name its points")
    stride = -(-len(ends) // n_layers)
    return ends[::-1][::stride][::-1]


class Captured(NamedTuple):
    """The stores of one model."""

    store: ActivationStore
    twins: list[ActivationStore]
    """In the order of the seeds of their weights."""
    shared: ActivationStore | None
    """The same noise for all models and other images: for diffusion models, where asked for."""


def capture_model(
    spec: str | Model,
    points: Sequence[str],
    showing: Showing,
    *,
    rows: Rows,
    seed: int,
    out: Path,
    say: Callable[[str], None],
    shared_noise: bool = False,
) -> Captured:
    """Show the images to a model and to its untrained twins; finished stores are used again.

    shared_noise: also under noise that all models share, each on images of its own.
    Raises InputError as `load` and `capture`.
    """
    model = _load(spec, showing, None) if isinstance(spec, str) else spec
    if "encode" not in model.capabilities:
        raise InputError(
            f"{model.name} cannot look at images. Where it makes images: capture those (`interp "
            f"capture generate {model.name}`), give that store in its place, and show its images "
            "to the others with images=STORE"
        )
    names = list(points) or main_points(model, showing.n_layers)
    images = _images(showing, model)

    def read(one: Model, noise: str = "own") -> ActivationStore:
        twin = ", untrained" if one.provenance.get("untrained") else ""
        more = ", shared noise" if noise != "own" else ""
        say(f"capture {one.name}{twin}{more}: {len(names)} points")
        recipe = _recipe(one, showing, seed, noise)
        return capture(one, names, recipe, out=out, rows=rows, images=images, progress=False)

    captured = read(model)
    noisy = shared_noise and model.log_snr(1.0) is not None
    shared = read(model, "permuted") if noisy else None
    twins = [read(_twin(spec, showing, i + 1)) for i in range(showing.untrained)]
    return Captured(captured, twins, shared)


def _load(spec: str, showing: Showing, twin: int | None) -> Model:
    options = {"untrained": twin is not None, "seed": twin or 0}
    return load(spec, device=showing.device, dtype=showing.dtype or None, **options)


def _twin(spec: str | Model, showing: Showing, number: int) -> Model:
    if isinstance(spec, str):
        return _load(spec, showing, number)
    raise InputError(
        f"{spec.name} is a loaded model, whose untrained twin cannot be made from it: give the "
        "spec, or untrained=0 and the twins' stores in twins="
    )


def _recipe(model: Model, showing: Showing, seed: int, noise: str = "own") -> Encoding:
    reads_text, noisy = model.family == "bridge", model.log_snr(1.0) is not None
    return Encoding(
        images=showing.images,
        limit=showing.limit,
        size=showing.size,
        seed=seed,
        log_snr=showing.log_snr if noisy else (),
        draws=showing.draws if noisy else 1,
        noise=noise if noisy else "own",
        condition="caption" if reads_text else "null",
        # Texts differ in length.
        batch_size=1 if reads_text else showing.batch_size,
    )


def _images(showing: Showing, model: Model) -> "Images | None":
    """The images as this model gets them; None where a store names them."""
    from interp.zoo import load_images

    if (Path(showing.images) / "manifest.json").is_file():
        if showing.captions:
            raise InputError("captions belong to a folder of images; those of a store are its own")
        return None
    size, limit = showing.size or None, showing.limit or None
    if showing.images in GLYPHS:
        images = load_images("glyphs", split=GLYPHS[showing.images], size=size, limit=limit)
    elif Path(showing.images).is_dir():
        fit = max(model.image_size) or FIT
        images = load_images(showing.images, size=size, fit=fit, limit=limit)
    else:
        raise InputError(
            f"no images {showing.images!r}: give one of {', '.join(GLYPHS)}, a folder of images, "
            "or the folder of a store"
        )
    return with_captions(images, read_captions(showing.captions)) if showing.captions else images
