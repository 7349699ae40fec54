"""Image similarities that others report, raw: SSIM always, LPIPS and CLIP where they are installed.

They enter no decision: they are no Euclidean embeddings, so there are no shares of them.
"""

import functools
import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from interp.errors import InputError
from interp.interventions.attributes_pixels import to_channels

# Wang et al. 2004, sec. III-C: a Gaussian window of 11 x 11 and 1.5, K1 = .01, K2 = .03.
_WINDOW, _SIGMA, _K1, _K2 = 11, 1.5, 0.01, 0.03
# ITU-R BT.601: luma of R, G, B.
_LUMA = (0.299, 0.587, 0.114)
# Means and deviations of CLIP's training images: Radford et al. 2021, the released preprocessing.
_CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
_CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
# The model that the public experiment scores with.
CLIP = "openai/clip-vit-base-patch32"
_ALEXNET = "alexnet-owt-*.pth"


def ssim(a: Tensor, b: Tensor) -> Float[Tensor, " n"]:
    """Mean structural similarity of the luma of two batches of images, row by row; 1 is equal.

    SSIM = (2 m_a m_b + C1) (2 s_ab + C2) / ((m_a^2 + m_b^2 + C1) (s_a^2 + s_b^2 + C2)), weighted
    moments in an 11 x 11 Gaussian window, averaged over all places where the window fits;
    C1 = .01^2, C2 = .03^2 for pixels in [0, 1]. No downsampling of large images.

    Args:
        a, b: images uint8 [n, h, w, 3] or float in [0, 1], of one shape; h, w >= 16.

    Raises:
        InputError: shapes differ or images do not fit.
    """
    x, y = _two(a, b)
    weights = x.new_tensor(_LUMA)
    x, y = ((side * weights[:, None, None]).sum(1, keepdim=True) for side in (x, y))
    place = torch.arange(_WINDOW, dtype=x.dtype, device=x.device) - _WINDOW // 2
    window = torch.exp(-place.square() / (2 * _SIGMA**2))
    window = window / window.sum()

    def blur(z: Tensor) -> Tensor:
        return F.conv2d(F.conv2d(z, window[None, None, :, None]), window[None, None, None, :])

    mx, my = blur(x), blur(y)
    xx, yy, xy = blur(x * x) - mx * mx, blur(y * y) - my * my, blur(x * y) - mx * my
    c1, c2 = _K1**2, _K2**2
    top = (2 * mx * my + c1) * (2 * xy + c2)
    return (top / ((mx * mx + my * my + c1) * (xx + yy + c2))).mean((1, 2, 3))


def lpips(a: Tensor, b: Tensor) -> Float[Tensor, " n"]:
    """Learned perceptual distance (AlexNet) of images, row by row; 0 is equal.

    Needs the package `lpips` and the weights of torchvision's AlexNet in torch's hub folder;
    nothing is downloaded. Images as in `ssim`.
    Raises InputError where they are missing. Source: Zhang et al. 2018, eq. 1.
    """
    x, y = _two(a, b)
    network = _load_lpips()
    with torch.no_grad():
        return network(2 * x.float().cpu() - 1, 2 * y.float().cpu() - 1).flatten()


def clip(a: Tensor, b: Tensor, *, weights: str = CLIP) -> Float[Tensor, " n"]:
    """Cosine of CLIP's image embeddings, row by row; 1 is equal.

    weights: a name in the local cache of Hugging Face, or a folder; nothing is downloaded.
    Images as in `ssim`, resized to the network's size (bicubic). Raises InputError where the
    weights are missing. Source: Radford et al. 2021, sec. 2.3.
    """
    x, y = _two(a, b)
    network = _load_clip(weights)
    size = network.config.image_size
    embedded = []
    for side in (x, y):
        side = F.interpolate(
            side.float().cpu(), (size, size), mode="bicubic", antialias=True, align_corners=False
        ).clamp(0, 1)
        mean, std = (side.new_tensor(v)[:, None, None] for v in (_CLIP_MEAN, _CLIP_STD))
        with torch.no_grad():
            embedded.append(network(pixel_values=(side - mean) / std).image_embeds)
    return F.cosine_similarity(*embedded)


# Every measure: images, images -> one value per row.
RAW: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"ssim": ssim, "lpips": lpips, "clip": clip}


def available_raw() -> dict[str, Callable[[Tensor, Tensor], Tensor]]:
    """Those of `RAW` whose package and weights are on this machine; nothing is downloaded."""
    there = {"ssim": True, "lpips": _find_lpips() == "", "clip": _find_clip(CLIP) == ""}
    return {name: measure for name, measure in RAW.items() if there.get(name, True)}


def _two(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    if a.shape != b.shape:
        raise InputError(
            f"images {tuple(a.shape)} and {tuple(b.shape)}: they have to be as many and of one size"
        )
    return to_channels(a), to_channels(b)


def _find_lpips() -> str:
    """What LPIPS lacks, "" for nothing."""
    missing = [name for name in ("lpips", "torchvision") if importlib.util.find_spec(name) is None]
    if missing:
        return f"the package {missing[0]} (pip install lpips torchvision)"
    folder = Path(torch.hub.get_dir()) / "checkpoints"
    return "" if list(folder.glob(_ALEXNET)) else f"{_ALEXNET} of torchvision in {folder}"


def _load_lpips() -> Any:
    if lacking := _find_lpips():
        raise InputError(f"LPIPS lacks {lacking}; nothing is downloaded. SSIM is there without")
    return _build_lpips()


@functools.cache
def _build_lpips() -> Any:
    module = importlib.import_module("lpips")
    return module.LPIPS(net="alex", verbose=False).eval()


def _find_clip(weights: str) -> str:
    """What CLIP lacks, "" for nothing."""
    if Path(weights).is_dir():
        return ""
    from huggingface_hub import try_to_load_from_cache

    files = ("model.safetensors", "pytorch_model.bin")
    found = [isinstance(try_to_load_from_cache(weights, name), str) for name in files]
    return "" if any(found) else f"{' or '.join(files)} of {weights} in the local cache"


def _load_clip(weights: str) -> Any:
    if lacking := _find_clip(weights):
        raise InputError(f"CLIP lacks {lacking}; nothing is downloaded: give weights=<a folder>")
    return _build_clip(weights)


@functools.cache
def _build_clip(weights: str) -> Any:
    from transformers import CLIPVisionModelWithProjection

    return CLIPVisionModelWithProjection.from_pretrained(weights, local_files_only=True).eval()
