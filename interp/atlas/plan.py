"""What an atlas will run, settled and checked before any image is made."""

import dataclasses
from collections.abc import Mapping
from typing import Any, NamedTuple

from interp.atlas.config import AtlasConfig, Sizes, choose_sizes
from interp.atlas.pairing import Drawn, draw_recipes, settle_recipe
from interp.atlas.texts import find_prompts
from interp.atlas.words import ATTRIBUTES
from interp.errors import InputError
from interp.interventions import Carrier, list_carriers
from interp.interventions.scheduling import list_moments
from interp.interventions.swapping import Attribute
from interp.loading import load
from interp.models import Generation, Model


class Plan(NamedTuple):
    """What is settled before any image is made."""

    model: Model
    config: AtlasConfig
    sizes: Sizes
    recipe: Generation
    drawn: Drawn
    stages: list[Carrier]
    calls: int
    noise: dict[int, float | None]
    encoder: Model | None
    attributes: Mapping[str, Attribute] | None


def make_plan(
    model: Model, config: AtlasConfig, attributes: Mapping[str, Attribute] | None
) -> Plan:
    """Check everything that can be checked before a model makes an image."""
    if attributes is not None and len(attributes) < 2:
        raise InputError(
            f"attributes {list(attributes)}: specialization is a difference between two or more"
        )
    _require_images(model)
    prompts = find_prompts(model, config.prompts)
    recipe = settle_recipe(model, config, prompts)
    moments = list_moments(model, recipe.batch(0, 1, n_classes=model.n_classes))
    calls = 1 if moments is None else len(moments)
    sizes = choose_sizes(config, calls)
    drawn = draw_recipes(model, recipe, config, sizes, prompts)
    stages = list_carriers(model, drawn.recipient, "stages")
    unknown = sorted(set(config.attributes) - set(ATTRIBUTES))
    if unknown:
        raise InputError(f"attribute {unknown[0]!r} is not one of {', '.join(ATTRIBUTES)}")
    encoder = None
    if attributes is None and "content" in config.attributes:
        encoder = load(config.encoder, device=config.device)
        if "encode" not in encoder.capabilities:
            raise InputError(
                f"encoder={config.encoder}: it cannot encode images; give a vision encoder, such "
                "as zoo:vit or transformers:<id or folder>"
            )
    noise = {moment.call: moment.log_snr for moment in moments or ()}
    return Plan(model, config, sizes, recipe, drawn, stages, calls, noise, encoder, attributes)


def _require_images(model: Model) -> None:
    """Refuse a model without images of its own, and name some that have them."""
    try:
        model.require("generate")
    except InputError as error:
        fix = "give a GAN, a VAE or a diffusion model"
        if model.name.startswith("zoo:"):
            fix = "models that make images: zoo:gan, zoo:vae, zoo:ddpm, zoo:ldm, zoo:dit"
        raise InputError(f"{error}; {fix}") from error


def identify(plan: Plan) -> dict[str, dict[str, Any]]:
    """What a record says of its run: an earlier one of equal parts may be replaced."""
    about = plan.model.identity()
    return {
        "model": {name: about[name] for name in ("spec", "weights_sha256")},
        "config": dataclasses.asdict(plan.config),
        "recipe": share_recipe(plan.recipe),
    }


def share_recipe(recipe: Generation) -> dict[str, Any]:
    """What donors and recipients share."""
    shared = dataclasses.asdict(recipe)
    for name in ("n", "seed", "prompts", "classes"):
        shared.pop(name)
    return shared
