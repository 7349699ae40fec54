"""Compactness of a model's sources: which directions, fitted on other seeds, decide an image."""

import dataclasses
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from interp.errors import InputError
from interp.interventions import (
    Compactness,
    Pairs,
    embed_images,
    make_gradient_basis,
    make_pca_basis,
    make_random_basis,
    measure_compactness,
    measure_kept,
)
from interp.interventions.effects import Embedded
from interp.interventions.swapping import Attribute
from interp.models import Generation, Model

# Half the memory of a usual machine; the arrays are held at once.
_MOST_BYTES = 8 * 2**30


class Subject(NamedTuple):
    """A model and the pairs on which the directions of its sources are counted."""

    model: Model
    donor: Generation
    recipient: Generation
    fit: Generation
    gradient: Generation
    attributes: Mapping[str, Attribute]
    pairs: Pairs


class Directions(NamedTuple):
    """Counts of one source in two bases, and what as many random directions keep."""

    width: int
    pca: Compactness
    jacobian: Compactness
    random: float
    """Share kept by random directions, as many as d* of the Jacobian basis; NaN: none counted."""
    n_gradients: int


def make_images(model: Model, recipe: Generation, limit: int = 0) -> Tensor:
    """Images uint8 [n, h, w, 3] of a recipe, or of its first `limit` samples."""
    stop = min(limit, recipe.n) if limit else recipe.n
    return torch.cat([model.generate(batch) for batch in _batches(model, recipe, stop)])


def _batches(model: Model, recipe: Generation, stop: int):
    for start in range(0, stop, recipe.batch_size):
        end = min(start + recipe.batch_size, stop)
        yield recipe.batch(start, end, n_classes=model.n_classes)


def draw_source(model: Model, recipe: Generation) -> Tensor:
    """Latents [n, ...] of a recipe's samples."""
    return torch.cat(
        [model.draw_latents(batch).cpu() for batch in _batches(model, recipe, recipe.n)]
    )


def run_latents(model: Model, recipe: Generation, latents: Tensor) -> Tensor:
    """Images of a recipe's samples with these latents in place of their own."""
    made, start = [], 0
    for batch in _batches(model, recipe, recipe.n):
        part = latents[start : start + len(batch.seeds)]
        made.append(model.generate(dataclasses.replace(batch, latents=part)))
        start += len(batch.seeds)
    return torch.cat(made)


def count_directions(subject: Subject, n_latents: int, seed: int) -> Directions:
    """Count the directions of the latents (z, x_T, the code) that decide the attributes.

    PCA of `n_latents` draws of other seeds (of a white source it is arbitrary, as P6 shows), and
    gradients of random projections at others.

    Raises InputError where the images have no gradient.
    """
    model = subject.model
    a, b = (draw_source(model, recipe) for recipe in (subject.donor, subject.recipient))
    shape, known = a.shape[1:], {}

    def run(values: np.ndarray) -> Embedded:
        key = values.tobytes()
        if key not in known:
            latents = torch.from_numpy(values).float().reshape(-1, *shape)
            images = run_latents(model, subject.recipient, latents)
            known[key] = embed_images(images, subject.attributes)
        return known[key]

    flat = [x.flatten(1).double().numpy() for x in (a, b)]
    other = dataclasses.replace(subject.fit, n=n_latents)
    bases = [
        make_pca_basis(draw_source(model, other).flatten(1).double().numpy()),
        make_gradient_basis(project_gradients(subject, seed)),
    ]
    pca, jacobian = (
        measure_compactness(subject.pairs, flat[0], flat[1], basis, run) for basis in bases
    )
    kept, width = float("nan"), flat[0].shape[1]
    if jacobian.d_star is not None:
        basis = make_random_basis(jacobian.d_star, width, seed)
        kept = measure_kept(subject.pairs, flat[0], flat[1], basis, run)
    return Directions(width, pca, jacobian, kept, subject.gradient.n)


def project_gradients(subject: Subject, seed: int) -> np.ndarray:
    """Gradients [n, d] of random projections of the scaled attributes, each at another seed.

    Row i is d / d latents_i of sum_k v_ik' phi_k(image_i) / s_k, v white, s_k the root mean square
    length of the centered donors, so that no attribute counts more for its units. One backward pass
    serves a batch: sample i's image depends on its own latents alone.
    """
    model, recipe = subject.model, subject.gradient
    scales = {k: float(np.sqrt((x**2).sum(1).mean())) for k, x in subject.pairs.donor.items()}
    rng = torch.Generator().manual_seed(seed)
    rows = []
    for batch in _batches(model, recipe, recipe.n):
        with torch.enable_grad():
            latents = model.draw_latents(batch).detach().requires_grad_(True)
            images = model.render(dataclasses.replace(batch, latents=latents))
            total = _project(images, subject.attributes, scales, rng)
            (gradient,) = torch.autograd.grad(total, latents)
        rows.append(gradient.detach().flatten(1).cpu().double())
    found = torch.cat(rows)
    whole = found.isfinite().all(1)
    if not bool(whole.any()):
        raise InputError(f"{model.name}: no gradient of {len(found)} is finite")
    return found[whole].numpy()


def _project(
    images: Tensor,
    attributes: Mapping[str, Attribute],
    scales: Mapping[str, float],
    rng: torch.Generator,
) -> Tensor:
    total = images.new_zeros(())
    for name, embed in attributes.items():
        phi = embed(images)
        v = torch.randn(phi.shape, generator=rng).to(phi)
        total = total + (v * phi).sum() / scales[name]
    return total


def _check_memory(donors: Tensor, others: Tensor) -> None:
    n, m, d = len(donors), len(others), others[0].numel()
    # float64: donors, recipients, their difference, its part in the basis, the mix and the mix
    # rounded; of the other images, themselves, the centered ones and the basis.
    needed = 8 * d * (6 * n + 3 * m)
    if needed > _MOST_BYTES:
        raise InputError(
            f"principal directions of {m} images of {d} numbers, swapped in {n} pairs, need about "
            f"{needed / 2**30:.0f} GiB, more than {_MOST_BYTES / 2**30:.0f}: take fewer pairs, "
            "fewer held-out images, or smaller ones"
        )


def count_image_directions(
    pairs: Pairs,
    donors: Tensor,
    recipients: Tensor,
    others: Tensor,
    attributes: Mapping[str, Attribute],
) -> Compactness:
    """d_img: principal directions of other images whose swap in pixels keeps the attributes.

    donors, recipients, others: uint8 [n, h, w, 3]. Mixed images are clipped and rounded to bytes,
    as every image here is.

    Raises InputError, with an estimate, where this takes more than 8 GiB of memory.
    """
    _check_memory(donors, others)
    a, b, other = (x.flatten(1).double().numpy() for x in (donors, recipients, others))

    def run(values: np.ndarray) -> Embedded:
        mixed = torch.from_numpy(values).round().clamp(0, 255).to(torch.uint8)
        return embed_images(mixed.reshape(donors.shape), attributes)

    return measure_compactness(pairs, a, b, make_pca_basis(other), run)
