"""What a capture goes through: the images or samples of a recipe, one generation each."""

import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor

from interp.errors import InputError
from interp.models.inputs import EncodeBatch, Encoding, GenerateBatch, Generation, noise_seed
from interp.models.model import Model
from interp.models.samples import Origin
from interp.store.files import canonical_json, sha256, tensor_bytes
from interp.store.store import ActivationStore, open_store

if TYPE_CHECKING:
    from interp.zoo import Images

GLYPHS = ("glyphs/train", "glyphs/heldout", "glyphs/all")


@dataclasses.dataclass(frozen=True)
class Inputs:
    """Images to encode and what is known of each; `columns` are those of the generations table."""

    pixels: UInt8[Tensor, "n h w 3"]
    columns: dict[str, Sequence[Any]]
    name: str

    def __len__(self) -> int:
        return len(self.pixels)

    @property
    def digest(self) -> str:
        """SHA-256 of the ids and pixels."""
        pixels = sha256(tensor_bytes(self.pixels.contiguous()))
        return sha256(canonical_json([list(self.columns["image_id"]), pixels]))

    def take(self, index: np.ndarray) -> dict[str, list[Any]]:
        """Return the columns at `index`."""
        return {name: [values[i] for i in index] for name, values in self.columns.items()}


def find_inputs(recipe: Encoding, images: "Images | None", model: Model) -> Inputs:
    """Return the images of a recipe, or those that were passed beside it.

    Images of a folder that differ in size are fitted to the model's own size.

    Raises:
        InputError: the recipe names no images.
    """
    if images is not None:
        chosen = images.select(range(min(recipe.limit, len(images)))) if recipe.limit else images
        return _from_images(chosen)
    if (Path(recipe.images) / "manifest.json").is_file():
        return _from_store(open_store(recipe.images), recipe.limit)
    from interp.zoo import load_images

    limit, size = recipe.limit or None, recipe.size or None
    if recipe.images in GLYPHS:
        side: Any = recipe.images.removeprefix("glyphs/")
        found = load_images("glyphs", split=side, size=size, limit=limit, seed=recipe.seed)
        return dataclasses.replace(_from_images(found), name=recipe.images)
    if not Path(recipe.images).is_dir():
        raise InputError(
            f"no images {recipe.images!r}: give one of {', '.join(GLYPHS)}, a folder of "
            "images, or the folder of a store"
        )
    fit = max(model.image_size) or None
    found = load_images(recipe.images, size=size, fit=fit, limit=limit, seed=recipe.seed)
    return _from_images(found)


def _from_images(images: "Images") -> Inputs:
    labels = images.labels.tolist()
    columns = {
        "image_id": images.ids,
        "cluster": images.clusters,
        "label": labels,
        "category": [images.categories[label] for label in labels],
        "caption": images.captions,
        "split": images.split,
        "source": images.sources,
    }
    return Inputs(images.pixels, columns, images.name)


def _from_store(store: ActivationStore, limit: int) -> Inputs:
    """Return the images beside a store's rows, each once however often it was drawn."""
    table = store.generations
    _, first = np.unique(table["image_id"].astype(str), return_index=True)
    kept = np.sort(first)[: limit or None]
    names = ("image_id", "cluster", "label", "category", "caption", "prompt", "split", "source")
    columns = {name: table[name][kept].tolist() for name in names}
    return Inputs(store.images(table["generation"][kept]), columns, store.hash[:12])


def stored_inputs(store: ActivationStore, draws: int) -> Inputs:
    """Return the inputs of an encoding from its own store: one image per `draws` generations."""
    table = store.generations
    kept = np.arange(0, len(table["generation"]), draws)
    columns = {name: values[kept].tolist() for name, values in table.items()}
    return Inputs(store.images(table["generation"][kept]), columns, store.hash[:12])


def takes_noise(model: Model) -> bool:
    """Tell whether a model encodes at a noise level."""
    return model.log_snr(1.0) is not None


def generate_batch(recipe: Generation, model: Model, generations: np.ndarray) -> GenerateBatch:
    """Return the samples with these numbers as one batch."""
    parts = [recipe.batch(g, g + 1, n_classes=model.n_classes) for g in generations.tolist()]
    return dataclasses.replace(
        parts[0],
        seeds=tuple(part.seeds[0] for part in parts),
        prompts=tuple(prompt for part in parts for prompt in part.prompts),
        classes=tuple(label for part in parts for label in part.classes),
    )


def noise_seeds(
    recipe: Encoding, inputs: Inputs, generations: np.ndarray, weights: str
) -> list[int]:
    """Return the seed of the noise of each generation.

    Networks that are shown the same noise align through it, so by default the weights are part of
    the seed. With `noise="permuted"` an image is shown under the noise of another, by a permutation
    that the weights decide.

    Args:
        recipe: what is encoded.
        inputs: all images of the capture.
        generations: numbers of the generations.
        weights: digest of the network that looks.
    """
    index, draws = np.divmod(generations, recipe.draws)
    own = weights if recipe.noise == "own" else ""
    if recipe.noise == "permuted":
        rng = np.random.default_rng([recipe.seed, int(weights[:16], 16)])
        index = rng.permutation(len(inputs))[index]
    ids = inputs.columns["image_id"]
    pairs = zip(index, draws.tolist(), strict=True)
    return [noise_seed(recipe.seed, ids[i], draw, own) for i, draw in pairs]


def encode_batches(
    recipe: Encoding, model: Model, inputs: Inputs, generations: np.ndarray, weights: str
) -> list[EncodeBatch]:
    """Return one batch per noise level (one in all where the model takes no noise).

    weights: digest of the model's weights, see `noise_seeds`.
    """
    index = generations // recipe.draws
    columns = inputs.take(index)
    noisy = takes_noise(model)
    batch = EncodeBatch(
        images=inputs.pixels[torch.from_numpy(index)],
        noise_seeds=tuple(noise_seeds(recipe, inputs, generations, weights)) if noisy else (),
        prompts=tuple(columns["caption"]) if recipe.condition == "caption" else (),
        classes=tuple(columns["label"]) if recipe.condition == "class" else (),
    )
    if not noisy:
        return [batch]
    return [
        dataclasses.replace(batch, log_snr=level, call=call)
        for call, level in enumerate(recipe.levels)
    ]


def check_encoding(recipe: Encoding, model: Model) -> None:
    """Refuse a recipe whose noise a model would ignore.

    Raises:
        InputError: noise levels or several draws for a model without noise.
    """
    odd = recipe.log_snr or recipe.draws > 1 or recipe.noise != "own"
    if not takes_noise(model) and odd:
        raise InputError(
            f"{model.name} takes no noise: log_snr {recipe.log_snr}, draws {recipe.draws} and "
            f"noise {recipe.noise!r} have no effect; leave them out"
        )
    if not all(math.isfinite(level) for level in recipe.levels):
        raise InputError(f"log_snr must be finite numbers, got {recipe.log_snr}")


def describe_generations(
    recipe: Generation | Encoding,
    model: Model,
    source: Inputs | Origin,
    generations: np.ndarray,
    weights: str,
) -> dict[str, Any]:
    """Return the columns of the generations table for some generations.

    Args:
        recipe: what is made or encoded.
        model: what makes or encodes it.
        source: the images of an encoding, or the origin of a generation's samples.
        generations: their numbers.
        weights: digest of the model's weights, see `noise_seeds`.
    """
    if isinstance(source, Inputs):
        assert isinstance(recipe, Encoding)
        inputs = source
        index, draws = np.divmod(generations, recipe.draws)
        columns: dict[str, Any] = inputs.take(index)
        noisy = takes_noise(model)
        seeds = noise_seeds(recipe, inputs, generations, weights)
        columns["seed"] = seeds if noisy else [-1] * len(index)
        columns["draw"] = draws
    else:
        assert isinstance(recipe, Generation)
        batch = generate_batch(recipe, model, generations)
        ids = source.image_ids(batch)
        columns = {
            "image_id": ids,
            "cluster": source.clusters(batch),
            "seed": batch.seeds,
            "source": [model.name] * len(ids),
            "prompt": batch.prompts or [""] * len(ids),
            "caption": batch.prompts or [""] * len(ids),
            "label": batch.classes or [-1] * len(ids),
            "category": [f"class {c}" for c in batch.classes] or [""] * len(ids),
        }
    columns["generation"] = generations
    return columns
