"""Generators without training whose answer is known by construction: x = sum_k U_k a_k.

U_k orthonormal, three attributes of four dimensions in 768, phi_k = U_k' x. They differ in how the
code a = (a_1, a_2, a_3) comes from the sources; only P7's images are pictures with more in them
than the code. A twin has the same shape with random maps.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from interp.interventions.bands import deal_frequencies

ATTRIBUTES = ("content", "composition", "surface")
WIDTH = 4
CODE = WIDTH * len(ATTRIBUTES)
PIXELS = 768
LAYERS = 6
STEPS = 3
# Colors and pixels of P7, and the grids that its layers write on, two of each.
IMAGE = (3, 16, 16)
GRIDS = ((4, 4), (4, 4), (8, 8), (8, 8), (16, 16), (16, 16))

Values = Mapping[str, np.ndarray]
# (number of a layer, its value) -> the value that goes on: its own, or a donor's.
Visit = Callable[[int, np.ndarray], np.ndarray]


class Run(NamedTuple):
    """One run: images [n, 768] and the value of every layer."""

    images: np.ndarray
    layers: dict[int, np.ndarray]


@dataclass(frozen=True)
class Generator:
    """A generator that can be run with layers of another run in place."""

    name: str
    sources: dict[str, int]
    """Independent standard normal inputs and their widths."""
    layers: tuple[str, ...]
    role: str
    """Of its layers: "write", or "descendant" where one layer is a graph cut."""
    directions: np.ndarray
    """[768, 12] orthonormal columns, four for each attribute."""
    code: Callable[[Values, Visit], np.ndarray]
    """Sources [n, width] -> a [n, 12], or whole images where layers have grids."""
    grids: tuple[tuple[int, int], ...] = ()
    """Of each layer; (): its images are no pictures of anything."""

    def draw(self, n: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
        """Draw the sources of n images."""
        return {name: rng.standard_normal((n, width)) for name, width in self.sources.items()}

    def run(self, values: Values, put: Mapping[int, np.ndarray] | None = None) -> Run:
        """Make images; `put` replaces the values of layers."""
        seen: dict[int, np.ndarray] = {}

        def visit(layer: int, value: np.ndarray) -> np.ndarray:
            seen[layer] = value if put is None else put.get(layer, value)
            return seen[layer]

        made = self.code(values, visit)
        return Run(made if self.grids else made @ self.directions.T, seen)

    def embed(self, images: Float[np.ndarray, "n 768"]) -> dict[str, np.ndarray]:
        """phi_k = U_k' x for each attribute."""
        code = images @ self.directions
        return {
            name: code[:, WIDTH * k : WIDTH * (k + 1)].copy() for k, name in enumerate(ATTRIBUTES)
        }

    def jacobian(self, source: str) -> dict[str, np.ndarray]:
        """d phi_k / d source [4, width] of a generator that is linear in this source."""
        width = self.sources[source]
        values = {name: np.zeros((width + 1, w)) for name, w in self.sources.items()}
        values[source][1:] = np.eye(width)
        found = self.embed(self.run(values).images)
        return {name: (phi[1:] - phi[0]).T for name, phi in found.items()}


def _directions(rng: np.random.Generator) -> np.ndarray:
    return np.linalg.qr(rng.standard_normal((PIXELS, CODE)))[0]


def _rotation(rng: np.random.Generator, n: int = CODE) -> np.ndarray:
    return np.linalg.qr(rng.standard_normal((n, n)))[0]


def _invertible(rng: np.random.Generator) -> np.ndarray:
    return _rotation(rng) @ np.diag(rng.uniform(0.5, 2, CODE)) @ _rotation(rng)


def _names(count: int, name: str = "layer") -> tuple[str, ...]:
    return tuple(f"{name}{i}" for i in range(count))


def _place(k: int) -> np.ndarray:
    """[4, 12]: the coordinates of attribute k in the code."""
    return np.eye(CODE)[WIDTH * k : WIDTH * (k + 1)]


def make_strict(seed: int, twin: bool = False) -> Generator:
    """P1: w (12-d), six invertible maps, x; every map is a graph cut.

    The product of the maps is a rotation, so that no direction of w matters less than another.
    """
    rng = np.random.default_rng([seed, 1, twin])
    maps = [_invertible(rng) for _ in range(LAYERS - 1)]
    product = np.linalg.multi_dot(maps[::-1])
    maps.append(_rotation(rng) @ np.linalg.inv(product))

    def code(values: Values, visit: Visit) -> np.ndarray:
        h = values["w"]
        for layer, m in enumerate(maps):
            h = visit(layer, h @ m.T)
        return h

    return Generator("strict", {"w": CODE}, _names(LAYERS), "descendant", _directions(rng), code)


def make_broad(seed: int, twin: bool = False) -> Generator:
    """P2: six residual writes with sources of their own, two layers for each attribute.

    a_k = (u_l + u_l') / sqrt 2 with l, l' the layers of k. Twin: each write hits all attributes.
    """
    rng = np.random.default_rng([seed, 2, twin])
    if twin:
        writes = [rng.standard_normal((WIDTH, CODE)) / CODE**0.5 for _ in range(LAYERS)]
    else:
        writes = [_place(layer // 2) / 2**0.5 for layer in range(LAYERS)]

    def code(values: Values, visit: Visit) -> np.ndarray:
        parts = [visit(i, values[f"u{i}"] @ write) for i, write in enumerate(writes)]
        return np.sum(parts, axis=0)

    sources = dict.fromkeys(_names(LAYERS, "u"), WIDTH)
    return Generator("broad", sources, _names(LAYERS), "write", _directions(rng), code)


def make_compact_specialized(seed: int, twin: bool = False) -> Generator:
    """P3: the writes of P2, all driven by one w (12-d), as styles drive a StyleGAN."""
    rng = np.random.default_rng([seed, 3, twin])
    if twin:
        writes = [rng.standard_normal((CODE, CODE)) / CODE**0.5 for _ in range(LAYERS)]
    else:
        turn = _rotation(rng)
        writes = [turn @ _place(i // 2).T @ _place(i // 2) / 2 for i in range(LAYERS)]

    def code(values: Values, visit: Visit) -> np.ndarray:
        return np.sum([visit(i, values["w"] @ write) for i, write in enumerate(writes)], axis=0)

    name = "compact and specialized"
    return Generator(name, {"w": CODE}, _names(LAYERS), "write", _directions(rng), code)


def make_broad_by_time(seed: int, twin: bool = False) -> Generator:
    """P4: step t has a source of its own and writes attribute t, split equally over six layers.

    Layer number t * 6 + l is layer l at step t. Twin: each write hits all attributes.
    """
    rng = np.random.default_rng([seed, 4, twin])
    shape = (STEPS, LAYERS, WIDTH, CODE)
    writes = np.stack([np.stack([_place(t)] * LAYERS) for t in range(STEPS)]) / LAYERS
    if twin:
        writes = rng.standard_normal(shape) / CODE**0.5

    def code(values: Values, visit: Visit) -> np.ndarray:
        parts = [
            visit(t * LAYERS + i, values[f"noise{t}"] @ writes[t, i])
            for t in range(STEPS)
            for i in range(LAYERS)
        ]
        return np.sum(parts, axis=0)

    names = tuple(f"step{t}.layer{i}" for t in range(STEPS) for i in range(LAYERS))
    sources = dict.fromkeys(_names(STEPS, "noise"), WIDTH)
    return Generator("broad by time", sources, names, "write", _directions(rng), code)


def make_wiring(seed: int, twin: bool = False) -> Generator:
    """P5: a random linear U-Net; its twins are further draws of the same law.

    Three levels; level j keeps bands j..3 (a linear convolution mixes no bands, pooling drops the
    finest), attribute k is band k. down_j = E_j pool(down_{j-1}), mid = M down_3,
    up_j = D_j (down_j + up_{j+1}), x = up_1. Layers: the three skips and the middle block.
    """
    rng = np.random.default_rng([seed, 5, twin])
    levels = len(ATTRIBUTES)
    down, up = ([_banded(rng, j) for j in range(levels)] for _ in range(2))
    middle = _banded(rng, levels - 1)

    def code(values: Values, visit: Visit) -> np.ndarray:
        h, skips = values["z"], []
        for m in down:
            h = h @ m.T
            skips.append(h)
        g = visit(levels, h @ middle.T)
        for j in reversed(range(levels)):
            g = (visit(j, skips[j]) + g) @ up[j].T
        return g

    names = ("skip1", "skip2", "skip3", "mid")
    return Generator("wiring", {"z": CODE}, names, "write", _directions(rng), code)


def _banded(rng: np.random.Generator, level: int) -> np.ndarray:
    """Block-diagonal [12, 12]: a random 4 x 4 map in each band that the level keeps, else 0."""
    out = np.zeros((CODE, CODE))
    for band in range(level, len(ATTRIBUTES)):
        place = slice(WIDTH * band, WIDTH * (band + 1))
        out[place, place] = rng.standard_normal((WIDTH, WIDTH)) / WIDTH**0.5
    return out


def make_noise_latent(seed: int, twin: bool = False) -> Generator:
    """P6: x = U M x_T, white x_T of 768 dimensions, M with 12 orthonormal rows.

    Its one layer would be M x_T itself; two halves of it stand in, so that shares are defined.
    """
    rng = np.random.default_rng([seed, 6, twin])
    m = np.linalg.qr(rng.standard_normal((PIXELS, CODE)))[0]
    halves = [m / 2, m / 2] if not twin else [m * a for a in rng.uniform(0.3, 0.7, (2, CODE))]

    def code(values: Values, visit: Visit) -> np.ndarray:
        return np.sum([visit(i, values["x_T"] @ half) for i, half in enumerate(halves)], axis=0)

    name = "noise as latent"
    return Generator(name, {"x_T": PIXELS}, _names(2), "write", _directions(rng), code)


def make_bands(seed: int, twin: bool = False) -> Generator:
    """P7: layers that differ only in the grid they write on; attribute k is seen mostly in band k.

    Every layer adds waves of its own, with white coefficients, of its share of the frequencies of
    its grid (`deal_frequencies`): one more draw of the law of band twins. Twin: shares of all
    frequencies.
    """
    rng = np.random.default_rng([seed, 8, twin])
    waves, frequencies = _waves()
    bands = deal_frequencies([[grid] for grid in GRIDS[::2]], IMAGE[1:], seed=seed)
    owners = deal_frequencies([[IMAGE[1:]]] * LAYERS, IMAGE[1:], seed=seed)
    if not twin:
        owners = deal_frequencies([[grid] for grid in GRIDS], IMAGE[1:], seed=seed)
    own = [waves[owners.ravel()[frequencies] == i] for i in range(LAYERS)]
    inside = [waves[bands.ravel()[frequencies] == k] for k in range(len(ATTRIBUTES))]
    mixes = [rng.standard_normal((len(part) * IMAGE[0], WIDTH)) for part in inside]
    pure = [
        _draw_waves(np.linalg.qr(mix)[0].T, part) for mix, part in zip(mixes, inside, strict=True)
    ]
    # Turned about (1, 1, 1): 77 % of an attribute is seen in its own band.
    directions = np.einsum("kj,jwp->kwp", _turn(35), np.stack(pure)).reshape(CODE, PIXELS).T

    def code(values: Values, visit: Visit) -> np.ndarray:
        images = np.zeros((len(values["u0"]), PIXELS))
        for i, part in enumerate(own):
            images += visit(i, _draw_waves(values[f"u{i}"], part))
        return images

    sources = {f"u{i}": len(part) * IMAGE[0] for i, part in enumerate(own)}
    return Generator("bands", sources, _names(LAYERS), "write", directions, code, GRIDS)


def _turn(degrees: float) -> Float[np.ndarray, "3 3"]:
    """The rotation about (1, 1, 1)."""
    angle = math.radians(degrees)
    third = (1 - math.cos(angle)) / 3
    side = math.sin(angle) / math.sqrt(3)
    first = np.array([third + math.cos(angle), third - side, third + side])
    return np.stack([np.roll(first, i) for i in range(3)])


def _waves() -> tuple[Float[np.ndarray, "256 256"], Int[np.ndarray, " 256"]]:
    """Orthonormal cosines and sines on the pixels of one color, and the frequency of each."""
    h, w = IMAGE[1:]
    down, across = np.divmod(np.arange(h * w), w)
    found = []
    for place in range(h * w):
        fy, fx = divmod(place, w)
        negative = (-fy % h) * w + -fx % w
        phase = 2 * np.pi * (fy * down / h + fx * across / w)
        # A frequency and its negative share a cosine and a sine.
        wave = np.cos(phase) if place <= negative else np.sin(phase)
        found.append(wave / np.linalg.norm(wave))
    return np.stack(found), np.arange(h * w)


def _draw_waves(values: np.ndarray, waves: np.ndarray) -> Float[np.ndarray, "n 768"]:
    """Coefficients by color and wave to images."""
    colors = values.reshape(len(values) * IMAGE[0], len(waves))
    return (colors @ waves).reshape(len(values), PIXELS)


def make_synergy(seed: int, twin: bool = False) -> Generator:
    """a = u1 u2, by coordinate: either alone moves nothing to the donor, both together all.

    The twin is another draw of the image directions.
    """
    rng = np.random.default_rng([seed, 7, twin])

    def code(values: Values, visit: Visit) -> np.ndarray:
        return visit(0, values["u1"]) * visit(1, values["u2"])

    sources = {"u1": CODE, "u2": CODE}
    return Generator("synergy", sources, ("layer1", "layer2"), "write", _directions(rng), code)
