"""FreeU: less of a skip's low frequencies and more of the backbone, as edits of a U-Net."""

from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor

from interp.errors import InputError
from interp.models import Call, Model
from interp.models.editing import Edit
from interp.models.rows import grid_of

# Si et al. 2024, sec. 3.2: the two stages of lowest resolution are scaled, the others kept.
STAGES = 2


def freeu_edits(
    model: Model,
    *,
    b1: float = 1.0,
    b2: float = 1.0,
    s1: float = 1.0,
    s2: float = 1.0,
    threshold: int | None = 1,
    structure: bool = False,
) -> dict[str, Edit]:
    """Edits for `editing` that scale what each layer of the first two up blocks concatenates.

    Backbone x [c, h, w], the first c // 2 channels (eq. 5): x' = b x; with `structure` (eq. 4)
    x' = alpha x, alpha = (b - 1) (m - min m) / (max m - min m) + 1, m [h, w] the mean of x over all
    its channels. Skip h (eq. 6-8): h' = IFFT(FFT(h) beta), beta = s inside the square of
    frequencies -threshold..threshold - 1 along both axes, 1 outside. A factor of 1 adds no edit, so
    all at 1 change no bit.

    Args:
        model: a U-Net over images.
        b1, b2: backbone factors of the first and second up block.
        s1, s2: skip factors of the same.
        threshold: half the side of the square (released code: 1); None scales the whole skip.
        structure: the backbone factor follows the map (the paper's second version); off as in
            diffusers' `enable_freeu`.

    Raises:
        InputError: not a U-Net over images, or fewer than two up blocks.

    Source: Si et al. 2024 (arXiv 2309.11497v2), eq. 4-8.
    """
    if model.family != "unet" or getattr(model, "video", False):
        raise InputError(f"{model.name}: FreeU scales the skips of a U-Net over images")
    if len(model.root.up_blocks) < STAGES:
        raise InputError(f"{model.name} has {len(model.root.up_blocks)} up blocks, FreeU needs 2")
    if threshold is not None and threshold < 1:
        raise InputError(f"threshold = {threshold}: at least 1, or None for the whole skip")
    edits: dict[str, Edit] = {}
    for stage, (b, s) in enumerate(((b1, s1), (b2, s2))):
        backbones, skips = _inputs(model, stage)
        if b != 1:
            edits |= dict.fromkeys(backbones, partial(_scale_backbone, b, structure))
        if s != 1:
            edits |= dict.fromkeys(skips, partial(_scale_skip, model, s, threshold))
    return edits


def _inputs(model: Model, stage: int) -> tuple[list[str], list[str]]:
    """Points that the layers of an up block concatenate: its backbone maps, and its skips."""
    blocks = model.root.up_blocks
    last = "mid_block" if stage == 0 else f"up_blocks.{stage - 1}"
    before = [name for name in model.points if name.startswith(last + ".")]
    # The last module of the block before: its name is one of a list's, such as "resnets.1".
    backbones = [_last_output(model, last, before)]
    path = f"up_blocks.{stage}"
    for j in range(len(blocks[stage].resnets) - 1):
        attended = f"{path}.attentions.{j}"
        backbones.append(attended if attended in model.points else f"{path}.resnets.{j}")
    sites = model.sites.values()
    skips = [s.name for s in sites if s.stream == "skip" and s.module == path]
    return backbones, skips


def _last_output(model: Model, block: str, names: list[str]) -> str:
    depth = block.count(".") + 2
    outputs = [n for n in names if n.count(".") == depth and ":" not in n]
    if not outputs:
        raise InputError(f"{model.name}: no point at the end of {block}")
    return max(outputs, key=lambda n: model.points[n].depth)


def _scale_backbone(b: float, structure: bool, rows: Tensor, call: Call) -> Tensor:
    half = rows.shape[-1] // 2
    factor: Tensor | float = b
    if structure:
        mean = rows.mean(-1, keepdim=True)
        low, high = mean.amin(1, keepdim=True), mean.amax(1, keepdim=True)
        # A map without any structure has nothing to follow: factor 1.
        part = torch.where(high > low, (mean - low) / (high - low), 0.0)
        factor = (b - 1) * part + 1
    return torch.cat([rows[..., :half] * factor, rows[..., half:]], dim=-1)


def _scale_skip(model: Model, s: float, threshold: int | None, rows: Tensor, call: Call) -> Tensor:
    if threshold is None:
        return rows * s
    n, positions, width = rows.shape
    grid = grid_of((n, positions, width), "bsc", square=True, frame=model.clock.frame)
    if len(grid) != 2:
        raise InputError(f"{call.point}: {positions} positions are no rectangle to filter")
    image = rows.transpose(1, 2).reshape(n, width, *grid)
    return filter_low(image, s, threshold).flatten(2).transpose(1, 2)


def filter_low(
    x: Float[Tensor, "b c h w"], scale: float, threshold: int
) -> Float[Tensor, "b c h w"]:
    """Scale the frequencies -threshold..threshold - 1 along both axes; float32 inside."""
    height, width = x.shape[-2:]
    spectrum = torch.fft.fft2(x.float())
    rows, columns = (torch.fft.fftfreq(k, 1 / k, device=x.device) for k in (height, width))
    low = [(f >= -threshold) & (f <= threshold - 1) for f in (rows, columns)]
    inside = low[0][:, None] & low[1][None]
    return torch.fft.ifft2(torch.where(inside, spectrum * scale, spectrum)).real.to(x.dtype)
