"""Donors and recipients: independent in everything, or of equal noise and other text or class."""

import dataclasses
from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple, TypeVar

import numpy as np

from interp.atlas.config import AtlasConfig, Sizes
from interp.errors import InputError
from interp.models import Generation, Model

# First seed of each role, far enough apart that no two roles share a sample.
OFFSETS = {"donor": 0, "recipient": 1_000_000, "fit": 2_000_000, "gradient": 3_000_000}
# Seeds of one atlas; another `seed` starts here.
_SPAN = 10_000_000

T = TypeVar("T")


class Drawn(NamedTuple):
    """Recipes of one atlas."""

    donor: Generation
    recipient: Generation
    fit: Generation
    """Other images, of which the first are the references."""
    gradient: Generation
    """Images at which attributes are differentiated."""
    shared: tuple[Generation, Generation] | None
    """Donors and recipients of equal noise; None where noise is the only source."""
    seeds: dict[str, int]


def settle_recipe(model: Model, config: AtlasConfig, prompts: Sequence[str]) -> Generation:
    """Return what all runs share: steps, sampler, guidance; n and seed are still to come.

    prompts: texts for models that take them.
    Raises InputError: the model cannot generate, or texts and model do not fit.
    """
    model.require("generate")
    steps = config.steps if not config.quick else min(config.steps, 4)
    recipe = Generation(
        n=1,
        scheduler=config.scheduler,
        steps=steps,
        guidance=config.guidance,
        batch_size=config.batch_size,
    )
    takes = takes_prompts(model)
    if config.prompts and not takes:
        raise InputError(f"{model.name} takes no prompts; leave them out")
    if takes and not prompts:
        raise InputError(f"{model.name} makes images of prompts: give some")
    if takes:
        recipe = dataclasses.replace(recipe, prompts=tuple(prompts[:1]))
    if not config.scheduler and "step_noise" in model.sources(recipe):
        recipe = dataclasses.replace(recipe, scheduler="ddim")
    return recipe


def takes_prompts(model: Model) -> bool:
    """Whether an image of this model is a function of a text."""
    return "prompts" in model.sources(Generation(n=1, prompts=("x",)))


def draw_recipes(
    model: Model, recipe: Generation, config: AtlasConfig, sizes: Sizes, prompts: Sequence[str]
) -> Drawn:
    """Choose seeds, classes and texts of donors, recipients and other images.

    Classes and texts are drawn apart from the seeds, so that each source is independent of the
    others. In the shared arm a pair has one seed and two classes, or two texts.
    """
    first = {role: config.seed * _SPAN + offset for role, offset in OFFSETS.items()}
    count = {
        "donor": sizes.n_pairs,
        "recipient": sizes.n_pairs,
        "fit": max(sizes.n_fit, sizes.n_reference),
        "gradient": sizes.gradients,
    }
    rng = np.random.default_rng([config.seed, 11])
    texts = _deal(prompts, count, rng) if takes_prompts(model) else {}
    found: dict[str, Generation] = {}
    for role, seed in first.items():
        more: dict[str, Any] = {}
        if texts:
            more["prompts"] = align(texts[role], seed)
        if model.n_classes:
            classes = rng.integers(model.n_classes, size=count[role]).tolist()
            more["classes"] = align(classes, seed)
        found[role] = dataclasses.replace(recipe, n=count[role], seed=seed, **more)
    shared = _share(model, found, texts, rng)
    return Drawn(found["donor"], found["recipient"], found["fit"], found["gradient"], shared, first)


def warn_of_texts(drawn: Drawn) -> list[str]:
    """What to say where pairs are not disjoint in their texts, for there were too few; else []."""
    texts = Counter((*drawn.donor.prompts, *drawn.recipient.prompts))
    # A pair never has one text twice.
    again = sum(count > 1 for count in texts.values())
    if not again:
        return []
    n = drawn.donor.n
    return [
        f"The {n} pairs share {len(texts)} texts, of which {again} are in several pairs: pairs are "
        f"disjoint in noise and not in text, and intervals over pairs may be too narrow. {2 * n} "
        "different texts, or fewer pairs, would make them disjoint."
    ]


def _share(
    model: Model,
    found: dict[str, Generation],
    texts: dict[str, list[str]],
    rng: np.random.Generator,
) -> tuple[Generation, Generation] | None:
    donor = found["donor"]
    if texts:
        other = align(texts["recipient"], donor.seed)
        return donor, dataclasses.replace(donor, prompts=other)
    if model.n_classes < 2:
        return None
    # Sample i has class (seed + i) of the tuple: another class for the same sample.
    moved = rng.integers(1, model.n_classes, size=donor.n)
    classes = (np.array(donor.classes) + moved) % model.n_classes
    return donor, dataclasses.replace(donor, classes=tuple(classes.tolist()))


def align(values: Sequence[T], seed: int) -> tuple[T, ...]:
    """Turn values about, so that sample i of a recipe from this seed takes values[i].

    A recipe takes entry (seed + i) mod n for its sample i.
    """
    n = len(values)
    return tuple(values[(i - seed) % n] for i in range(n))


def _deal(
    prompts: Sequence[str], count: dict[str, int], rng: np.random.Generator
) -> dict[str, list[str]]:
    """Texts for each role, each text once where there are enough; a pair never has one twice."""
    if len(set(prompts)) < 2:
        raise InputError(f"{len(set(prompts))} different prompts: at least two are needed")
    pool = list(dict.fromkeys(prompts))
    n = count["donor"]
    order = rng.permutation(len(pool)).tolist()
    donors = [pool[order[i % len(pool)]] for i in range(n)]
    # As far along the same order: no text meets itself.
    step = n if len(pool) >= 2 * n else max(1, len(pool) // 2)
    recipients = [pool[order[(i + step) % len(pool)]] for i in range(n)]
    rest = {
        role: [pool[i] for i in rng.integers(len(pool), size=count[role])]
        for role in ("fit", "gradient")
    }
    return {"donor": donors, "recipient": recipients, **rest}
