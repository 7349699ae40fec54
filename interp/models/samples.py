"""What a made image is: the weights that made it, and everything that they were given."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from interp.errors import InputError
from interp.models.inputs import GenerateBatch, Generation
from interp.models.model import Model


@dataclass(frozen=True)
class Origin:
    """Where the samples of one recipe come from.

    An image id is `<weights>@<given>`: 12 digits of the sha256 of the weights, then the seed and
    everything else that decides the image, as in "3fa9c1d2e4b5@seed8,class=1,steps=20,...". Equal
    ids are equal images up to rounding, whatever name the model was loaded by; equal `given` parts
    with other weights are what an untrained twin makes of the same noise.

    Recipes have ids, and the batches that they give. Batches whose `latents` or `step_seeds` are
    set are made by interventions alone, from several samples of recipes: their images have no id.

    Attributes:
        weights: first 12 digits of the weights' sha256.
        shared: what all samples of the recipe were given, as "name=value".
    """

    weights: str
    shared: tuple[str, ...]

    def image_ids(self, batch: GenerateBatch) -> list[str]:
        """Return one id per sample of a recipe's batch.

        Raises:
            InputError: an intervention gave the batch latents or step seeds of its own.
        """
        if batch.latents is not None or batch.step_seeds:
            raise InputError(
                "images of given latents or step_seeds are no function of their seeds: they have "
                "no id"
            )
        own: list[list[str]] = [[f"seed{seed}"] for seed in batch.seeds]
        for parts, label in zip(own, batch.classes, strict=False):
            parts.append(f"class={label}")
        for parts, prompt in zip(own, batch.prompts, strict=False):
            parts.append(f"prompt={_short(prompt)}")
        return [f"{self.weights}@{','.join([*parts, *self.shared])}" for parts in own]

    def clusters(self, batch: GenerateBatch) -> list[str]:
        """Return the cluster of each sample: those of one seed share their noise."""
        return [f"{self.weights}@seed{seed}" for seed in batch.seeds]


def find_origin(recipe: Generation, model: Model, identity: Mapping[str, Any]) -> Origin:
    """Return the origin of a recipe's samples.

    Options that the model's family ignores do not count: they change no image.

    Args:
        recipe: what is made.
        model: what makes it.
        identity: `model.identity()`, which takes seconds for large models.
    """
    weights = str(identity["weights_sha256"])
    shared = []
    others = {k: v for k, v in identity["components"].items() if v != weights}
    if others:
        shared.append(f"with={_short(json.dumps(others, sort_keys=True))}")
    host = getattr(model, "host", None)
    sampled = host is not None or model.family == "custom"
    if sampled:
        shared += [f"steps={recipe.steps}", f"sampler={_sampler(recipe, host)}"]
    if sampled and recipe.guidance != 1:
        shared.append(f"guidance={recipe.guidance!r}")
        shared += [f"negative={_short(t)}" for t in (recipe.negative_prompt,) if t]
    size = (recipe.height or model.image_size[0], recipe.width or model.image_size[1])
    if size != model.image_size:
        shared.append(f"size={size[0]}x{size[1]}")
    if model.family in ("gan", "custom") and recipe.truncation != 1:
        shared.append(f"truncation={recipe.truncation!r}")
    return Origin(weights[:12], tuple(shared))


def _sampler(recipe: Generation, host: Any) -> str:
    if host is None:
        return recipe.scheduler or "own"
    from interp.models.noise import make_scheduler

    scheduler = make_scheduler(recipe.scheduler, host.scheduler)
    config = {k: v for k, v in scheduler.config.items() if not k.startswith("_")}
    name = type(scheduler).__name__.removesuffix("Scheduler")
    return f"{name}-{_short(json.dumps(config, sort_keys=True, default=str))}"


def _short(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:12]
