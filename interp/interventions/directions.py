"""Directions of a code: SeFa, GANSpace and the channels of StyleSpace; boundaries.py has more."""

import copy
from collections.abc import Container, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from interp.errors import InputError
from interp.models import Call, Generation, Model, reading, to_rows
from interp.models.editing import Edit

# Covariances of d-wide codes are off by about sqrt(d / n): 7 to 11 % for d = 512 to 128 at 40 d.
SAMPLES_PER_WIDTH = 40
# A unit vector may be off by the rounding of float32.
_UNIT = 1e-5


@dataclass(frozen=True, eq=False)
class Directions:
    """Unit vectors in the code at one point, or shared by several points of one width.

    `steer` takes a row of `vectors`, `Carrier.subspace` takes `subspace()`.
    """

    name: str
    """Where they come from: "sefa", "ganspace", ..."""
    points: tuple[str, ...]
    """Hook points that they live at; a layer range names one point per layer."""
    vectors: Float[Tensor, "r d"]
    """Unit norm, float64, in the order that the method states."""
    scale: Float[Tensor, " r"]
    """Standard deviation of the code along each, over samples of the model."""
    value: Float[Tensor, " r"]
    """What orders them: eigenvalue, variance, held-out accuracy."""
    facts: dict[str, float] = field(default_factory=dict)
    """Further numbers, such as sizes and controls."""

    def __post_init__(self) -> None:
        r = len(self.vectors)
        if self.vectors.ndim != 2 or self.scale.shape != (r,) or self.value.shape != (r,):
            raise InputError(
                f"{self.name}: vectors {tuple(self.vectors.shape)}, scale "
                f"{tuple(self.scale.shape)}, value {tuple(self.value.shape)}: [r, d], [r], [r] are "
                "needed"
            )
        worst = float((self.vectors.norm(dim=1) - 1).abs().max()) if r else 0.0
        if not worst <= _UNIT:
            raise InputError(f"{self.name}: a vector's norm is off 1 by {worst:.2g}: normalize it")

    def __len__(self) -> int:
        return len(self.vectors)

    def select(self, rows: Sequence[int]) -> "Directions":
        """Return some of the directions, by index, in the order given."""
        index = torch.as_tensor(list(rows), dtype=torch.long)
        if not len(index) or int(index.max()) >= len(self) or int(index.min()) < 0:
            raise InputError(f"{self.name} has directions 0..{len(self) - 1}, not {list(rows)}")
        parts = {key: getattr(self, key)[index] for key in ("vectors", "scale", "value")}
        return replace(self, **parts)

    def subspace(self, count: int | None = None) -> Float[Tensor, "count d"]:
        """Return orthonormal rows that span the first `count` directions (None: all), in order.

        Row i is direction i without its parts along the rows before it (Gram-Schmidt), so that
        directions that are orthonormal already stay as they are.

        Raises:
            InputError: the directions are linearly dependent.
        """
        chosen = self.vectors[:count]
        q, r = torch.linalg.qr(chosen.T)
        diagonal = r.diagonal()
        if len(diagonal) < len(chosen) or float(diagonal.abs().min()) < _UNIT:
            raise InputError(f"{len(chosen)} directions of {self.name} are linearly dependent")
        return (q * diagonal.sign()).T


def direction_edits(directions: Directions, index: int, strength: float) -> dict[str, Edit]:
    """Edits for `editing` that add strength x scale x direction at each of its points.

    Args:
        directions: where the direction is from.
        index: which.
        strength: in standard deviations of the code along it; 0 changes no bit.
    """
    one = directions.select([index])
    push = strength * one.scale[0] * one.vectors[0]

    def add(rows: Tensor, call: Call) -> Tensor:
        return rows + push.to(rows) if strength else rows

    return dict.fromkeys(one.points, add)


# Closed form.


def factorize(weight: Float[Tensor, "c d"]) -> tuple[Float[Tensor, " d"], Float[Tensor, "d d"]]:
    """Eigenvalues and eigenvectors (rows) of A'A: the directions n by falling ||A n||^2.

    Signs are such that the entry of largest size of each vector is positive (of equal ones the
    first). Where n < d rows leave a null space, its vectors come last, with eigenvalue 0.
    Source: Shen and Zhou 2021 (arXiv 2007.06600), the closed-form factorization.
    """
    a = weight.double()
    values, vectors = torch.linalg.eigh(a.T @ a)
    return values.flip(0).clamp(min=0), orient(vectors.T.flip(0))


def orient(vectors: Float[Tensor, "r d"]) -> Float[Tensor, "r d"]:
    """Return vectors with the sign at which their entry of largest size is positive."""
    # Sizes that differ by rounding alone count as equal, so that the first of them decides.
    size = vectors.abs()
    first = (size >= size.amax(1, keepdim=True) * (1 - 1e-9)).int().argmax(1, keepdim=True)
    return vectors * vectors.gather(1, first).sign()


def sefa(
    model: Model,
    layers: Sequence[int] | None = None,
    *,
    normalize: bool = False,
    n: int = 0,
    seed: int = 0,
) -> Directions:
    """Directions of w that change the styles most: eigenvectors of A'A, without any sample.

    A stacks the weights of the affines that turn entries of W+ into styles: for each entry its
    convolution's, for the last entry, which has none, its toRGB's. Order: falling ||A n||^2, which
    is `value`. Signs as in `factorize`.

    Args:
        model: a GAN.
        layers: entries of W+, such as range(0, 2); the directions then live at "w_plus.<l>" of
            these alone. None: all entries, and the directions live at "w".
        normalize: give each style (row of A) unit norm first, as the released code does and the
            paper's formula does not.
        n: samples of w behind `scale`; 0: 40 per dimension.
        seed: first seed of these samples.

    Raises:
        InputError: not a GAN, an entry that does not exist, or a style that is not affine in w.

    Source: Shen and Zhou 2021 (arXiv 2007.06600); github.com/genforce/sefa, utils.py.
    """
    chosen, points = _layer_points(model, layers)
    width = model.point("w").width
    weight = torch.cat([_linear_part(module, width) for module in _affines(model, chosen)])
    if normalize:
        weight = weight / weight.norm(dim=1, keepdim=True)
    values, vectors = factorize(weight)
    codes = collect_codes(model, "w", Generation(n=n or _enough(vectors), seed=seed))
    return Directions("sefa", points, vectors, (codes @ vectors.T).std(0), values)


def _enough(vectors: Tensor) -> int:
    return SAMPLES_PER_WIDTH * vectors.shape[1]


def _layer_points(model: Model, layers: Sequence[int] | None) -> tuple[list[int], tuple[str, ...]]:
    """Entries of W+ and the points of directions that reach these alone."""
    if model.family != "gan":
        raise InputError(f"{model.name} is a {model.family}, not a gan: it has no w")
    count = sum(name.startswith("w_plus.") for name in model.points)
    if layers is None:
        return list(range(count)), ("w",)
    chosen = list(layers)
    if not chosen or min(chosen) < 0 or max(chosen) >= count:
        raise InputError(f"layers {chosen} of {model.name}: entries of W+ are 0..{count - 1}")
    return chosen, tuple(f"w_plus.{i}" for i in chosen)


def _affines(model: Model, entries: Sequence[int]) -> list[torch.nn.Module]:
    root = model.root
    last = len(root.layers)
    return [root.layers[i].affine if i < last else root.rgbs[-1].affine for i in entries]


def _linear_part(affine: torch.nn.Module, width: int) -> Float[Tensor, "c d"]:
    """A of an affine module x -> A x + b, whatever its parametrization: A e_i = f(e_i) - f(0)."""
    exact: Any = copy.deepcopy(affine).double().cpu()
    basis = torch.eye(width, dtype=torch.float64)
    with torch.no_grad():
        start = exact(torch.zeros_like(basis[:1]))
        columns, doubled = exact(basis) - start, exact(2 * basis) - start
    if not torch.allclose(doubled, 2 * columns, rtol=1e-9, atol=1e-12):
        raise InputError(f"{type(affine).__name__} is not affine in w: SeFa has no closed form")
    return columns.T


# From samples.


def collect_codes(
    model: Model,
    point: str,
    recipe: Generation,
    *,
    calls: Container[int] | None = None,
    pooled: bool = True,
) -> Float[Tensor, "n d"]:
    """Codes at a point over the samples of a recipe, float64; a row per sample (and call).

    Of a GAN's w and styles only the mapping network and the affine run.

    Args:
        model: the model.
        point: name of a hook point.
        recipe: what is generated.
        calls: denoiser calls to keep; None is all.
        pooled: average over positions; else one row per position.
    """
    return torch.cat(list(_iterate_codes(model, point, recipe, calls, pooled)))


def _iterate_codes(
    model: Model, point: str, recipe: Generation, calls: Container[int] | None, pooled: bool
) -> Iterator[Float[Tensor, "n d"]]:
    spot = model.point(point)
    for start in range(0, recipe.n, recipe.batch_size):
        stop = min(start + recipe.batch_size, recipe.n)
        batch = recipe.batch(start, stop, n_classes=model.n_classes)
        direct = _code_module(model, point)
        if direct is not None:
            with torch.no_grad():
                w = model.root.mapping(model.draw_latents(batch))
                yield direct(w).double().cpu()
            continue
        with reading(model, [point]) as reader:
            model.generate(batch)
        for read in reader.calls:
            if calls is None or read.call in calls:
                rows = to_rows(read.value, spot).double().cpu()
                yield rows.mean(1) if pooled else rows.flatten(0, 1)


def _code_module(model: Model, point: str) -> Any:
    """What maps w to a GAN's code, so that no image has to be made; None for other points."""
    kind, _, index = point.partition(".")
    if model.family != "gan" or kind not in ("w", "w_plus", "s", "s_rgb"):
        return None
    if kind in ("w", "w_plus"):
        return torch.nn.Identity()
    stack = model.root.layers if kind == "s" else model.root.rgbs
    return stack[int(index)].affine


def ganspace(
    model: Model,
    point: str = "w",
    *,
    n: int = 0,
    seed: int = 0,
    components: int | None = None,
    layers: Sequence[int] | None = None,
    recipe: Generation | None = None,
    calls: Container[int] | None = None,
    pooled: bool = True,
) -> Directions:
    """Principal directions of a code over seeds: eigenvectors of its covariance.

    Order: falling variance, which is `value` (divisor n - 1). Signs as in `factorize`. The
    covariance is summed batch by batch in float64 about the first batch's mean, so memory does not
    grow with n. `facts`: n rows, and the share of the variance that the components hold.

    Args:
        model: a GAN for "w"; any model that generates for other points, such as the middle block
            of a U-Net (h-space).
        point: where the code is.
        n: samples; 0: 40 per dimension (GANSpace drew 10^6, for the tail of 512 components).
        seed: first seed.
        components: how many to return; None: all.
        layers: entries of W+ that a direction of w is to reach alone (GANSpace's layer ranges).
        recipe: what is generated; its n and seed then hold.
        calls, pooled: as in `collect_codes`.

    Raises:
        InputError: fewer than two rows, layers for another point than w, or an entry that does not
            exist.

    Source: Harkonen et al. 2020 (arXiv 2004.02546).
    """
    points = (point,)
    if layers is not None:
        if point != "w":
            raise InputError(f"layers are entries of W+: they need the point 'w', not {point!r}")
        points = _layer_points(model, layers)[1]
    width = model.point(point).width
    recipe = recipe or Generation(n=n or SAMPLES_PER_WIDTH * width, seed=seed)
    count, total, outer = 0, torch.zeros(width).double(), torch.zeros(width, width).double()
    center: Tensor | None = None
    for codes in _iterate_codes(model, point, recipe, calls, pooled):
        center = codes.mean(0) if center is None else center
        shifted = codes - center
        count += len(codes)
        total += shifted.sum(0)
        outer += shifted.T @ shifted
    if count < 2:
        raise InputError(f"{count} rows of {point}: a covariance needs 2 or more")
    covariance = (outer - total[:, None] * total / count) / (count - 1)
    values, vectors = torch.linalg.eigh(covariance)
    values, vectors = values.flip(0).clamp(min=0), orient(vectors.T.flip(0))
    kept = values[:components]
    facts = {"n": float(count), "share": float(kept.sum() / values.sum())}
    return Directions("ganspace", points, vectors[:components], kept.sqrt(), kept, facts)


def style_channels(
    model: Model, layers: Sequence[int] | None = None, *, n: int = 0, seed: int = 0
) -> dict[str, Directions]:
    """Each style channel as a one-hot direction: point "s.<l>" -> as many as it has channels.

    `scale` is the channel's standard deviation over samples, the unit of StyleSpace's edits;
    `value` is its mean.

    Args:
        model: a GAN.
        layers: convolutions; None: all. toRGB styles ("s_rgb.<r>") are not among them.
        n, seed: as in `sefa`, per channel.

    Raises:
        InputError: not a GAN, or a layer that does not exist.

    Source: Wu et al. 2021 (arXiv 2011.12799).
    """
    if model.family != "gan":
        raise InputError(f"{model.name} is a {model.family}, not a gan: it has no styles")
    count = len(model.root.layers)
    chosen = list(range(count)) if layers is None else list(layers)
    if not chosen or min(chosen) < 0 or max(chosen) >= count:
        raise InputError(f"layers {chosen} of {model.name}: convolutions are 0..{count - 1}")
    found = {}
    for layer in chosen:
        name = f"s.{layer}"
        width = model.point(name).width
        recipe = Generation(n=n or SAMPLES_PER_WIDTH * width, seed=seed)
        codes = collect_codes(model, name, recipe)
        one_hot = torch.eye(width, dtype=torch.float64)
        found[name] = Directions("channels", (name,), one_hot, codes.std(0), codes.mean(0))
    return found
