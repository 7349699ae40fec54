"""The gate that an SAE has to pass: the model runs on its reconstructions; what do images lose?"""

import copy
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor

from interp.errors import InputError, SAEError
from interp.models import EncodeBatch, Generation, Model, editing, find_origin
from interp.sae import SAE
from interp.sae.match import check_match
from interp.sae.split import unit_hash
from interp.stats import FOLDS, jackknife, make_folds

Edit = Callable[[Tensor, Any], Tensor]
Distance = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Substitution:
    """Image-level damage of running a model on an SAE's reconstructions.

    0 is the model without an edit, 1 the model with the point's activations replaced by their
    mean. A damage near 1 says that the reconstruction carries no more to the image than the mean.
    """

    point: str
    damage: float
    """mean distance under reconstruction / mean distance under mean ablation."""
    low: float | None
    """95 % jackknife interval of `damage` over images; None for fewer than two."""
    high: float | None
    reconstruction: float
    """Mean distance between images with the reconstruction in place and without an edit."""
    ablation: float
    """Mean distance between images with the mean in place and without an edit."""
    identity: float
    """Largest distance under the identity edit: exactly 0, or the measurement is void."""
    per_image: tuple[float, ...]
    """Distance of each image under reconstruction."""
    per_image_ablation: tuple[float, ...]
    n: int
    """Images."""
    distance: str
    """Name of the distance."""
    sae: str
    """Digest of the SAE."""


def rms_distance(x: UInt8[Tensor, "b h w 3"], y: UInt8[Tensor, "b h w 3"]) -> Float[Tensor, " b"]:
    """Root mean squared pixel difference of each pair of images, pixels in 0..1."""
    difference = (x.double() - y.double()) / 255
    return difference.square().flatten(1).mean(1).sqrt()


def low_pass_distance(
    x: UInt8[Tensor, "b h w 3"], y: UInt8[Tensor, "b h w 3"]
) -> Float[Tensor, " b"]:
    """`rms_distance` of the images averaged over 4 x 4 pixels: composition without texture.

    At the edges of images whose sides are not multiples of 4 fewer pixels are averaged.
    """
    small = [
        F.avg_pool2d(image.double().movedim(-1, 1), 4, ceil_mode=True, count_include_pad=False)
        for image in (x, y)
    ]
    return ((small[0] - small[1]) / 255).square().flatten(1).mean(1).sqrt()


def substitute(
    model: Model,
    sae: SAE,
    point: str,
    source: Generation | UInt8[Tensor, "n h w 3"],
    *,
    calls: Container[int] | None = None,
    cfg: str = "both",
    batch_size: int = 32,
    distance: Distance = rms_distance,
    allow_train: bool = False,
    seed: int = 0,
) -> Substitution:
    """Run a model with a point's activations replaced by their reconstruction, and compare images.

    damage = sum_i d(image_i, reconstructed_i) / sum_i d(image_i, ablated_i)

    The same seeds make the images with the identity in place (their distance has to be 0), with
    x_hat = decode(encode(x)) in place, and with every row replaced by the SAE's training mean
    (for an SAE of another library: by what it reconstructs from the empty code). At a ":delta"
    point the block's input stays and the edited difference is added to it; the error term is
    dropped, since it is what the damage measures.

    Args:
        model: a model that makes images from `source`.
        sae: an SAE of this point.
        point: name of the hook point.
        source: a recipe to generate by, or images [n, h, w, 3] for autoencoders to reconstruct.
        calls: denoiser calls to edit, such as range(5, 10); None is all.
        cfg: guidance halves to edit: both, cond or uncond.
        batch_size: images per run where `source` is images; a recipe has its own.
        distance: (images, images) -> one number >= 0 each, 0 for equal images; also a feature
            distance of the user's.
        allow_train: let seeds in whose images the SAE was trained on.
        seed: of the jackknife's folds.

    Returns:
        The damage with its interval, and both ends.

    Raises:
        SAEError: the SAE belongs to another point or model, or was trained on images of the recipe.
        PointError: the model has no such point, or it does not fire.
        InputError: the model makes no images of `source`, or the ablation changes none of them.
    """
    check_fit(model, sae, point, source, allow_train)
    sae = copy.deepcopy(sae).to(model.device)
    values = measure_edits(
        model, point, source, {"reconstruction": rowwise(sae.forward), "ablation": ablation(sae)},
        calls=calls, cfg=cfg, batch_size=batch_size, distance=distance,
    )  # fmt: skip
    return record(sae, point, values, getattr(distance, "__name__", "distance"), seed)


def check_fit(
    model: Model, sae: SAE, point: str, source: Generation | Tensor, allow_train: bool
) -> None:
    """Refuse an SAE of another point or model, and images that it was trained on.

    Raises:
        SAEError: as it says.
        PointError: the model has no such point.
    """
    identity = model.identity()
    check_match(sae, model.point(point), identity)
    if isinstance(source, Generation) and not allow_train:
        _refuse_trained(model, identity, sae, source)


def measure_edits(
    model: Model,
    point: str,
    source: Generation | Tensor,
    edits: Mapping[str, Edit],
    *,
    calls: Container[int] | None,
    cfg: str,
    batch_size: int,
    distance: Distance,
) -> dict[str, np.ndarray]:
    """Distance of every image under each edit from the image without one; also under "identity"."""
    edits = {"identity": lambda rows, call: rows, **edits}
    found: dict[str, list[Tensor]] = {name: [] for name in edits}
    for run in _runs(model, source, batch_size):
        plain = run()
        for name, edit in edits.items():
            with torch.no_grad(), editing(model, {point: edit}, calls=calls, cfg=cfg):
                found[name].append(_checked(distance(plain, run()), len(plain)))
    return {name: torch.cat(parts).double().cpu().numpy() for name, parts in found.items()}


def _refuse_trained(model: Model, identity: dict[str, Any], sae: SAE, recipe: Generation) -> None:
    trained = set(sae.trained_units.tolist())
    batch = recipe.batch(0, recipe.n, n_classes=model.n_classes)
    origin = find_origin(recipe, model, identity)
    names = zip(batch.seeds, origin.image_ids(batch), origin.clusters(batch), strict=True)
    seen = [
        seed
        for seed, image, cluster in names
        if trained & {unit_hash("image", image), unit_hash("cluster", cluster)}
    ]
    if seen:
        raise SAEError(
            f"the SAE was trained on the images of {len(seen)} of the {recipe.n} seeds, such as "
            f"{seen[0]}: give the recipe another seed, or pass allow_train=True"
        )


def ablation(sae: SAE) -> Edit:
    """Every row becomes the mean of the SAE's training rows.

    An SAE of another library has no mean: its reconstruction of the empty code stands for it.
    """
    known = bool(sae.mean.any())
    center = sae.mean if known else (sae.offset() * sae.scale).detach()
    return rowwise(lambda x: center.expand_as(x))


def rowwise(change: Callable[[Tensor], Tensor]) -> Edit:
    """An edit of float32 rows [n, d], whatever their layout and dtype are."""

    def edit(rows: Tensor, call: Any) -> Tensor:
        flat = rows.reshape(-1, rows.shape[-1])
        return change(flat.float()).to(rows.dtype).reshape(rows.shape)

    return edit


def _runs(
    model: Model, source: Generation | Tensor, batch_size: int
) -> Iterator[Callable[[], Tensor]]:
    """One function per batch that makes its images, the same ones at every call."""
    if isinstance(source, Generation):
        for start in range(0, source.n, source.batch_size):
            stop = min(start + source.batch_size, source.n)
            batch = source.batch(start, stop, n_classes=model.n_classes)
            yield lambda batch=batch: model.generate(batch)
        return
    for images in source.split(batch_size):
        yield lambda images=images: _reconstruct(model, images)


def _reconstruct(model: Model, images: Tensor) -> Tensor:
    made = model.encode(EncodeBatch(images))
    if made is None:
        raise InputError(
            f"{model.name} makes no image when it encodes one: give a Generation recipe"
        )
    return made


def _checked(distances: Tensor, n: int) -> Tensor:
    if distances.shape != (n,) or not bool((distances >= 0).all()):
        raise InputError(
            f"the distance gave {tuple(distances.shape)} for {n} images, or negative or NaN values"
        )
    return distances


def record(
    sae: SAE, point: str, values: Mapping[str, np.ndarray], distance: str, seed: int
) -> Substitution:
    """The damage from the distances under "reconstruction", "ablation" and "identity"."""
    rebuilt, ablated = values["reconstruction"], values["ablation"]
    if ablated.sum() == 0:
        raise InputError(
            f"replacing {point} by its mean changes no image: the edited calls do not reach them"
        )
    low, high = _interval(rebuilt, ablated, seed)
    return Substitution(
        point=point,
        damage=float(rebuilt.sum() / ablated.sum()),
        low=low,
        high=high,
        reconstruction=float(rebuilt.mean()),
        ablation=float(ablated.mean()),
        identity=float(values["identity"].max()),
        per_image=tuple(rebuilt.tolist()),
        per_image_ablation=tuple(ablated.tolist()),
        n=len(rebuilt),
        distance=distance,
        sae=sae.digest,
    )


def _interval(
    rebuilt: np.ndarray, ablated: np.ndarray, seed: int
) -> tuple[float | None, float | None]:
    n = len(rebuilt)
    folds = make_folds(range(n), min(FOLDS, n), seed) if n > 1 else np.zeros(n, int)
    groups: Sequence[int] = np.unique(folds).tolist()
    left = [ablated[folds != g].sum() for g in groups]
    if n < 2 or min(left) == 0:
        return None, None
    deleted = np.array([rebuilt[folds != g].sum() for g in groups]) / np.array(left)
    interval = jackknife(np.float64(rebuilt.sum() / ablated.sum()), deleted)
    return float(interval.low), float(interval.high)
