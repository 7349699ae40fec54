"""What an image shows, as an encoder sees it: pooled features, differentiable where it is one."""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from interp.errors import InputError
from interp.interventions.attributes_pixels import Attribute, to_channels
from interp.models import EncodeBatch, Model, editing, reading, to_rows
from interp.models.encoder import Encoder
from interp.models.pixels import to_unit

POOLS: dict[str, Callable[[Tensor], Tensor]] = {
    "mean": lambda rows: rows.mean(1),
    "first": lambda rows: rows[:, 0],
    "both": lambda rows: torch.cat([rows[:, 0], rows.mean(1)], 1),
}
# Images per pass: what a vision encoder of 300 M parameters takes at once on a CPU of 16 GB.
_BATCH = 64


def make_encoder(model: Model, point: str = "", pool: str = "mean") -> Attribute:
    """Turn a model that encodes images into an attribute: one pooled point of it.

    Vision encoders are differentiable in float images; an autoencoder is read without gradients,
    from images rounded to 8 bits.

    Args:
        model: a vision encoder, or an autoencoder with a `point`.
        point: which activations; "": the last block of a vision encoder.
        pool: "mean" over positions, "first" (the class token, where there is one), or "both".

    Returns:
        images uint8 [n, h, w, 3], or float in [0, 1] -> float32 [n, d].

    Raises:
        InputError: the model is of another kind, an autoencoder comes without a point, or `pool`
            is none of the three.
        PointError: the point does not exist or does not fire.
    """
    model.require("encode")
    if pool not in POOLS:
        raise InputError(f"pool = {pool!r} is not one of {', '.join(POOLS)}")
    if isinstance(model, Encoder):
        point = point or model.blocks[-1]
    if model.family not in ("encoder", "vae") or not point:
        raise InputError(
            f"{model.name} ({model.family}) has no last block that stands for content: give a "
            "vision encoder (zoo:vit), make_encoder(model, point) of an autoencoder, or any "
            "function of images [n, h, w, 3] that returns [n, d]"
        )
    model.select([point], "encode")
    run = _look if isinstance(model, Encoder) else _read

    def features(images: Tensor) -> Float[Tensor, "n d"]:
        x = to_channels(images)
        return torch.cat([POOLS[pool](run(model, point, part)).float() for part in x.split(_BATCH)])

    return features


def _look(model: Model, point: str, x: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b p d"]:
    """Rows of a vision encoder, with their gradient."""
    assert isinstance(model, Encoder)
    like = next(model.root.parameters())
    signed = to_unit(255 * x.permute(0, 2, 3, 1), model.size, like.new_empty(0).float())
    mean, std = (like.new_tensor(v).float()[:, None, None] for v in (model.mean, model.std))
    kept: list[Tensor] = []

    def keep(rows: Tensor, _: object) -> Tensor:
        kept.append(rows)
        return rows

    # Gradients are of images; the encoder's own weights ask for none.
    graded = torch.set_grad_enabled(torch.is_grad_enabled() and x.requires_grad)
    with graded, editing(model, {point: keep}, batch=len(x)):
        model.root((((signed + 1) / 2 - mean) / std).to(like.dtype))
    return kept[0].to(x.device)


def _read(model: Model, point: str, x: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b p d"]:
    """Rows of an autoencoder, which takes 8-bit images."""
    if x.requires_grad:
        raise InputError(
            f"{model.name} takes images of 8 bits, which have no gradient: use a vision encoder "
            "(zoo:vit) for content where a gradient is asked for"
        )
    images = (255 * x).round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1)
    with reading(model, [point]) as reader:
        model.encode(EncodeBatch(images.contiguous()))
    return to_rows(reader.calls[0].value, model.points[point]).to(x.device)
