"""The public experiment behind the founding paper as one configuration, beside our own measures.

Its code swaps the outputs of U-Net blocks between two prompts. Here the same swaps run through our
engine, with disjoint pairs, an arm of independent noise, and a control for damage.
Source: github.com/ludovicaschaerf/feature-inject (October 2025).
"""

import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from interp.atlas.public_measures import add_up_gains, list_similarities
from interp.atlas.public_prompts import PROMPTS, pair_prompts
from interp.atlas.public_record import Likeness, PublicCell, PublicConfig, PublicResult
from interp.errors import InputError
from interp.interventions import (
    Carrier,
    embed_images,
    make_attributes,
    make_pairs,
    measure_effect,
    transfer_ratio,
)
from interp.interventions.carriers import check_interchange
from interp.interventions.reuse import Plain, reusing, run_plain
from interp.interventions.swapping import (
    Attribute,
    Cache,
    check_rerender,
    iterate_batches,
    push_carrier,
    read_carriers,
    swap_carriers,
)
from interp.models import Generation, Model

# Images that are the origin of the attributes.
REFERENCE = 64
# What its scan takes as one block: residual and attention modules of U-Nets, transformer blocks.
_UNET = re.compile(r".*\b(resnets|attentions)\.\d+")
_TRANSFORMER = re.compile(r"(.*\.)?(single_)?transformer_blocks\.\d+")

Report = Callable[[int, int], None]


def list_blocks(model: Model) -> tuple[str, ...]:
    """Names of the blocks that the scan swaps one by one: real ones, in order of execution.

    Of a U-Net every residual and attention block, of a transformer every block, image stream.
    Raises InputError where there is none.
    """
    names = [
        name
        for name in model.points_in("generate")
        if model.points[name].kind == "resid" and model.points[name].stream == "image"
    ]
    for pattern in (_UNET, _TRANSFORMER):
        found = tuple(name for name in names if pattern.fullmatch(name))
        if found:
            return found
    raise InputError(f"{model.name} has no residual, attention or transformer block: name blocks")


def draw_sets(
    blocks: Sequence[str], n_pairs: int, n_sets: int, sizes: Sequence[int], seed: int
) -> list[list[tuple[str, ...]]]:
    """Random sets of blocks, `n_sets` for every pair; none twice within a set.

    Raises InputError for sets larger than the number of blocks.
    """
    if n_sets and max(sizes) > len(blocks):
        raise InputError(f"sets of {max(sizes)} from {len(blocks)} blocks: give smaller set_sizes")
    rng = np.random.default_rng([seed, n_pairs, n_sets])

    def draw() -> tuple[str, ...]:
        chosen = rng.permutation(len(blocks))[: int(rng.choice(sizes))]
        return tuple(str(blocks[i]) for i in sorted(chosen.tolist()))

    return [[draw() for _ in range(n_sets)] for _ in range(n_pairs)]


def count_runs(model: Model, config: PublicConfig) -> int:
    """Images that `public_protocol` makes; a swap costs what comes after its first edit."""
    singles = len(config.blocks or list_blocks(model)) * len(config.windows)
    per_pair = 3 + singles * (1 + config.control)
    per_pair += 2 + config.n_sets * len(config.windows) if config.n_sets else 0
    return len(config.noise) * config.n_pairs * per_pair + REFERENCE


def public_protocol(
    model: Model,
    config: PublicConfig = PublicConfig(),  # noqa: B008  (a frozen value)
    *,
    encoder: Any = None,
    attributes: Mapping[str, Attribute] | None = None,
    progress: Report | None = None,
) -> PublicResult:
    """Run the public experiment on a text-to-image model, and our measures beside its own.

    For each arm of noise: donor and recipient of every pair, every block alone in every step
    window, and random sets of blocks. The recipients' own outputs are put back once per batch and
    have to give the same images.

    Args:
        model: a model that takes prompts, such as `load("diffusers:<folder>")`.
        config: the settings.
        encoder: of the attribute "content", as in `make_attributes`; None leaves content out.
        attributes: name -> function of images, in place of ours.
        progress: called with the number of images made and the number of all.

    Raises:
        InputError: the model takes no prompts, blocks or windows do not fit, or runs are not
            repeatable.
    """
    prompts = PROMPTS[config.prompts] if isinstance(config.prompts, str) else config.prompts
    pairs, left = pair_prompts(prompts, config.n_pairs, config.seed)
    blocks = config.blocks or list_blocks(model)
    count = _Count(count_runs(model, config), progress)
    sides = [[prompts.write(pair[i]) for pair in pairs] for i in (0, 1)]
    if "prompts" not in model.sources(_recipe(config, sides[0], config.seed)).values():
        raise InputError(f"{model.name} takes no prompts: the public experiment is about prompts")
    spare = [prompts.write(t) for t in (left or prompts.triples())]
    reference = _generate(model, _recipe(config, spare, config.seed + 10**6, REFERENCE), config)
    count.add(REFERENCE)
    if attributes is None:
        names = ("content", "composition", "surface")[0 if encoder is not None else 1 :]
        attributes = make_attributes(reference, names, encoder=encoder)
    yard = _Yard(attributes, embed_images(reference, attributes), list_similarities())
    singles, sets = [], []
    for noise in config.noise:
        offset = 0 if noise == "shared" else config.n_pairs
        recipes = (
            _recipe(config, sides[0], config.seed),
            _recipe(config, sides[1], config.seed + offset),
        )
        singles += _scan_singles(model, blocks, recipes, (config, noise, yard, count))
        sets += _scan_sets(model, blocks, recipes, (config, noise, yard, count))
    return PublicResult(model.name, config, blocks, tuple(singles), tuple(sets), count.done)


class _Yard(NamedTuple):
    attributes: Mapping[str, Attribute]
    reference: dict[str, np.ndarray]
    similarities: Mapping[str, Callable[[Tensor, Tensor], Any]]


class _Count:
    """Counts images, and tells whoever asked."""

    def __init__(self, total: int, report: Report | None) -> None:
        self.done, self.total, self.report = 0, total, report

    def add(self, n: int) -> None:
        self.done += n
        if self.report is not None:
            self.report(self.done, self.total)


Setting = tuple[PublicConfig, str, _Yard, _Count]
Recipes = tuple[Generation, Generation]


def _recipe(config: PublicConfig, prompts: Sequence[str], seed: int, n: int = 0) -> Generation:
    # A recipe takes prompts by seed: sample i, of seed + i, is to have prompt i.
    k = len(prompts)
    turned = tuple(prompts[(j - seed) % k] for j in range(k))
    return Generation(
        n=n or k, seed=seed, prompts=turned, scheduler=config.scheduler, steps=config.steps,
        guidance=config.guidance, height=config.height, width=config.width,
        batch_size=config.batch_size,
    )  # fmt: skip


def _generate(model: Model, recipe: Generation, config: PublicConfig) -> Tensor:
    starts = range(0, recipe.n, config.batch_size)
    ends = [min(start + config.batch_size, recipe.n) for start in starts]
    batches = [recipe.batch(a, b) for a, b in zip(starts, ends, strict=True)]
    return torch.cat([model.generate(batch).cpu() for batch in batches])


def _carrier(blocks: Sequence[str], window: tuple[float, float]) -> Carrier:
    # The engine's windows hold their first and not their second end; the source's hold both.
    first, last = window
    return Carrier(points=tuple(blocks), window=(last, math.nextafter(first, math.inf)), axis="t")


class _Rows:
    """Embeddings and similarities of one cell, gathered batch by batch."""

    def __init__(self, yard: _Yard) -> None:
        self.yard = yard
        self.embedded: dict[str, list[np.ndarray]] = {key: [] for key in yard.attributes}
        self.alike: dict[str, list[np.ndarray]] = {key: [] for key in yard.similarities}

    def add(self, images: Tensor, a: Tensor, b: Tensor) -> None:
        for key, value in embed_images(images, self.yard.attributes).items():
            self.embedded[key].append(value)
        for key, value in measure_likeness(self.yard.similarities, images, a, b).items():
            self.alike[key].append(value)

    def phi(self) -> dict[str, np.ndarray]:
        return {key: np.concatenate(parts) for key, parts in self.embedded.items()}

    def likeness(self, seed: int) -> dict[str, Likeness]:
        found = {key: np.concatenate(parts, axis=1) for key, parts in self.alike.items()}
        return {key: add_up(value, seed) for key, value in found.items()}


def measure_likeness(
    similarities: Mapping[str, Callable[[Tensor, Tensor], Any]],
    images: Tensor,
    a: Tensor,
    b: Tensor,
) -> dict[str, np.ndarray]:
    """[3, n] by similarity: images to donors, to recipients, and donors to recipients."""
    pairs = ((images, a), (images, b), (a, b))
    return {
        key: np.stack([np.asarray(measure(x, y), dtype=np.float64) for x, y in pairs])
        for key, measure in similarities.items()
    }


def add_up(values: np.ndarray, seed: int) -> Likeness:
    """Means and gains of [3, n] similarities."""
    donor, recipient, between = values
    means = (float(row.mean()) for row in values)
    gains = [add_up_gains(side, between, seed=seed) for side in (donor, recipient)]
    return Likeness(next(means), next(means), next(means), gains[0], gains[1])


def _scan_singles(
    model: Model, blocks: Sequence[str], recipes: Recipes, setting: Setting
) -> Iterator[PublicCell]:
    config, noise, yard, count = setting
    keys = [(block, window) for window in config.windows for block in blocks]
    carriers = [_carrier([block], window) for block, window in keys]
    check_interchange(model, carriers, *recipes)
    sides = [_Rows(yard), _Rows(yard)]
    swapped, pushed = ([_Rows(yard) for _ in keys] for _ in range(2))
    for start, one, other in iterate_batches(model, *recipes, config.batch_size):
        a, given = read_carriers(model, blocks, one)
        plain = run_plain(model, blocks, carriers, other)
        b = plain.images
        check_rerender(model, [Carrier(points=tuple(blocks))], plain.kept, other, b)
        count.add(3 * len(a))
        for rows, images in zip(sides, (a, b), strict=True):
            rows.add(images, a, b)
        for i, carrier in enumerate(carriers):
            swapped[i].add(_swap_reusing(model, carrier, plain, (given, other)), a, b)
            if config.control:
                state = config.seed, start
                pushed[i].add(_push_reusing(model, carrier, plain, (given, other), state), a, b)
            count.add(len(a) * (1 + config.control))
    donor, recipient = (rows.phi() for rows in sides)
    pairs = make_pairs(donor, recipient, reference=yard.reference)
    for i, (block, window) in enumerate(keys):
        phi = swapped[i].phi()
        options = {"carrier": block, "role": "descendant", "n_tests": len(keys)}
        moved = measure_effect(pairs, pushed[i].phi(), **options) if config.control else None
        tau = {key: transfer_ratio(donor[key], recipient[key], phi[key]) for key in phi}
        likeness = swapped[i].likeness(config.seed)
        effect = measure_effect(pairs, phi, **options)
        yield PublicCell(block, window, noise, likeness, effect, moved, tau)


def _swap_reusing(model: Model, carrier: Carrier, plain: Plain, run: tuple[Cache, Any]) -> Tensor:
    given, other = run
    with reusing(model, plain, [carrier]):
        return swap_carriers(model, [carrier], given, other)


def _push_reusing(
    model: Model, carrier: Carrier, plain: Plain, run: tuple[Cache, Any], state: tuple[int, int]
) -> Tensor:
    given, other = run
    with reusing(model, plain, [carrier]):
        return push_carrier(model, carrier, (given, plain.kept), other, state)


def _scan_sets(
    model: Model, blocks: Sequence[str], recipes: Recipes, setting: Setting
) -> Iterator[PublicCell]:
    config, noise, yard, count = setting
    if not config.n_sets:
        return
    drawn = draw_sets(blocks, config.n_pairs, config.n_sets, config.set_sizes, config.seed)
    # (window, block) -> similarity -> one [3] per pair, the mean over its sets that hold the block.
    found: dict[Any, dict[str, list[np.ndarray]]] = {}
    for pair, one, other in iterate_batches(model, *recipes, 1):
        a, given = read_carriers(model, blocks, one)
        every = [_carrier(some, window) for window in config.windows for some in drawn[pair]]
        plain = run_plain(model, (), every, other)
        count.add(2)
        for window in config.windows:
            held: dict[str, dict[str, list[np.ndarray]]] = {}
            for carrier in (_carrier(some, window) for some in drawn[pair]):
                images = _swap_reusing(model, carrier, plain, (given, other))
                sides = a, plain.images
                _hold(held, carrier.points, measure_likeness(yard.similarities, images, *sides))
            count.add(config.n_sets)
            means = [(b, k, np.mean(x, 0)) for b, row in held.items() for k, x in row.items()]
            for block, key, mean in means:
                found.setdefault((window, block), {}).setdefault(key, []).append(mean)
    for window in config.windows:
        for block in blocks:
            values = found.get((window, block), {})
            rows = {key: np.stack(parts, axis=1) for key, parts in values.items()}
            enough = {key: value for key, value in rows.items() if value.shape[1] > 1}
            likeness = {key: add_up(value, config.seed) for key, value in enough.items()}
            yield PublicCell(block, window, noise, likeness)


def _hold(
    held: dict[str, dict[str, list[np.ndarray]]],
    chosen: Sequence[str],
    values: Mapping[str, np.ndarray],
) -> None:
    for block in chosen:
        for key, value in values.items():
            held.setdefault(block, {}).setdefault(key, []).append(value[:, 0])
