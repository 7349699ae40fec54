"""Similarities of the public experiment, and how it adds them up; kept beside our own measures."""

import importlib
import importlib.util
import math
from collections.abc import Callable
from statistics import NormalDist
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from interp.errors import InputError
from interp.interventions.raw import available_raw
from interp.stats import student_quantile

# images, images uint8 [n, h, w, 3] -> similarity of each pair [n]
Similarity = Callable[[Tensor, Tensor], Any]

# Bins of hue, saturation, value: 256 in all, as many as texture has. The source's are not known.
HSV_BINS = (16, 4, 4)
# Lowe 2004, sec. 7.1: the nearest match counts where it is nearer than .8 of the second.
RATIO = 0.8
RESAMPLES = 1000
LEVEL = 0.95


class Gain(NamedTuple):
    """What the public experiment makes of a similarity: max(s - between, 0), over pairs.

    s is the similarity to the donor, or to the recipient; between that of donor and recipient.
    """

    mean: float
    mean_low: float
    """Student's t interval."""
    mean_high: float
    median: float
    median_low: float
    """Bias-corrected and accelerated bootstrap."""
    median_high: float
    unclipped: float
    """Mean of s - between without the clip, which is what the clip adds to."""
    clipped: float
    """Share of the pairs that the clip sets to 0."""


def list_similarities() -> dict[str, Similarity]:
    """Similarities that can be computed here: SSIM, color, texture; keypoints and CLIP if present.

    keypoints need the package `cv2`, clip its weights in the local cache.
    """
    raw = available_raw()
    found: dict[str, Similarity] = {
        "ssim": raw["ssim"],
        "color": color_correlation,
        "texture": texture_correlation,
    }
    if importlib.util.find_spec("cv2") is not None:
        found["keypoints"] = count_keypoint_matches
    if "clip" in raw:
        found["clip"] = raw["clip"]
    return found


def color_correlation(
    a: UInt8[Tensor, "n h w 3"], b: UInt8[Tensor, "n h w 3"]
) -> Float[np.ndarray, " n"]:
    """Pearson correlation of the joint hue-saturation-value histograms of each pair of images."""
    return _correlate(*(_hsv_histogram(_check(x)) for x in (a, b)))


def texture_correlation(
    a: UInt8[Tensor, "n h w 3"], b: UInt8[Tensor, "n h w 3"]
) -> Float[np.ndarray, " n"]:
    """Pearson correlation of histograms of local binary patterns: 8 neighbors at distance 1.

    Source: Ojala, Pietikainen and Maenpaa 2002, eq. 9, without rotation invariance.
    """
    return _correlate(*(_pattern_histogram(_check(x)) for x in (a, b)))


def count_keypoint_matches(
    a: UInt8[Tensor, "n h w 3"], b: UInt8[Tensor, "n h w 3"]
) -> Float[np.ndarray, " n"]:
    """Number of SIFT keypoints of the first image whose match in the second passes Lowe's test.

    Raises InputError where the package `cv2` is not installed. Source: Lowe 2004, sec. 7.1.
    """
    if importlib.util.find_spec("cv2") is None:
        raise InputError("keypoints need the package cv2: pip install opencv-python-headless")
    cv2: Any = importlib.import_module("cv2")
    sift, matcher = cv2.SIFT_create(), cv2.BFMatcher()
    found = []
    for one, other in zip(_check(a).numpy(), _check(b).numpy(), strict=True):
        left, right = (
            sift.detectAndCompute(cv2.cvtColor(x, cv2.COLOR_RGB2GRAY), None)[1]
            for x in (one, other)
        )
        if left is None or right is None or len(right) < 2:
            found.append(0)
            continue
        matches = matcher.knnMatch(left, right, k=2)
        found.append(sum(m.distance < RATIO * n.distance for m, n in matches))
    return np.array(found, dtype=np.float64)


def _check(images: Tensor) -> Tensor:
    if images.ndim != 4 or images.shape[-1] != 3 or images.dtype != torch.uint8:
        raise InputError(
            f"images are {images.dtype} {tuple(images.shape)}; uint8 [n, h, w, 3] is needed"
        )
    return images.cpu()


def _hsv_histogram(images: Tensor) -> Tensor:
    """[n, bins] counts. Gray pixels have hue 0."""
    x = images.flatten(1, 2).double() / 255
    top, low = x.amax(-1), x.amin(-1)
    chroma = top - low
    safe = torch.where(chroma > 0, chroma, 1.0)
    r, g, b = x.unbind(-1)
    sector = torch.where(
        top == r,
        (g - b) / safe % 6,
        torch.where(top == g, (b - r) / safe + 2, (r - g) / safe + 4),
    )
    hue = torch.where(chroma > 0, sector / 6, 0.0)
    saturation = torch.where(top > 0, chroma / torch.where(top > 0, top, 1.0), 0.0)
    index = torch.zeros_like(hue, dtype=torch.long)
    for value, bins in zip((hue, saturation, top), HSV_BINS, strict=True):
        index = index * bins + (value * bins).long().clamp(max=bins - 1)
    return _count(index, math.prod(HSV_BINS))


def _pattern_histogram(images: Tensor) -> Tensor:
    """[n, 256] counts of the patterns of inner pixels."""
    # ITU-R BT.601, sec. 2.5.1.
    gray = images.double() @ torch.tensor([0.299, 0.587, 0.114], dtype=torch.float64)
    h, w = gray.shape[1:]
    if h < 3 or w < 3:
        raise InputError(f"images of {h} x {w} pixels have no inner pixel: 3 x 3 at least")
    center = gray[:, 1:-1, 1:-1]
    around = ((0, 0), (0, 1), (0, 2), (1, 2), (2, 2), (2, 1), (2, 0), (1, 0))
    code = torch.zeros_like(center, dtype=torch.long)
    for bit, (y, x) in enumerate(around):
        code += (gray[:, y : y + h - 2, x : x + w - 2] >= center).long() << bit
    return _count(code.flatten(1), 256)


def _count(index: Tensor, bins: int) -> Tensor:
    ones = torch.ones_like(index, dtype=torch.float64)
    return torch.zeros(len(index), bins, dtype=torch.float64).scatter_add_(1, index, ones)


def _correlate(a: Tensor, b: Tensor) -> Float[np.ndarray, " n"]:
    """Pearson correlation by row; 0 where a histogram is flat."""
    if a.shape != b.shape:
        raise InputError(f"{len(a)} and {len(b)} images: pairs are needed")
    a, b = (x - x.mean(1, keepdim=True) for x in (a, b))
    length = a.norm(dim=1) * b.norm(dim=1)
    return torch.where(length > 0, (a * b).sum(1) / length.clamp(min=1e-300), 0.0).numpy()


def add_up_gains(
    similarity: Float[np.ndarray, " n"],
    between: Float[np.ndarray, " n"],
    *,
    n_resamples: int = RESAMPLES,
    seed: int = 0,
) -> Gain:
    """Add up similarities as the public experiment does, and say what its clip hides.

    gain_p = max(similarity_p - between_p, 0) over pairs p.

    Args:
        similarity: of the swapped images to donors, or to recipients; at least two.
        between: of donors to recipients.
        n_resamples, seed: of the bootstrap of the median.

    Raises:
        InputError: lengths differ, fewer than two pairs, values that are not finite.
    """
    s, base = (np.asarray(x, dtype=np.float64) for x in (similarity, between))
    if s.shape != base.shape or s.ndim != 1 or len(s) < 2:
        raise InputError(f"similarities {s.shape} and {base.shape}: two equal lengths >= 2")
    if not (np.isfinite(s).all() and np.isfinite(base).all()):
        raise InputError("similarities hold NaN or infinite values")
    over = s - base
    gain = np.maximum(over, 0)
    half = student_quantile(0.5 + LEVEL / 2, len(s) - 1) * gain.std(ddof=1) / math.sqrt(len(s))
    low, high = bound_median(gain, n_resamples, seed)
    mean = float(gain.mean())
    return Gain(
        mean, mean - half, mean + half, float(np.median(gain)), low, high,
        float(over.mean()), float((over < 0).mean()),
    )  # fmt: skip


def bound_median(
    values: Float[np.ndarray, " n"], n_resamples: int, seed: int
) -> tuple[float, float]:
    """BCa interval of a median; where its acceleration is undefined (no spread) it counts as 0.

    Source: Efron 1987, eq. 2.3 and 6.6.
    """
    rng, n, normal = np.random.default_rng([seed, len(values)]), len(values), NormalDist()
    point = np.median(values)
    drawn = np.median(values[rng.integers(n, size=(n_resamples, n))], axis=1)
    # Ties by half, so that a constant sample is not biased; kept off 0 and 1.
    share = ((drawn < point).sum() + (drawn == point).sum() / 2) / n_resamples
    z0 = normal.inv_cdf(float(np.clip(share, 1 / n_resamples, 1 - 1 / n_resamples)))
    left = np.array([np.median(np.delete(values, i)) for i in range(n)])
    away = left.mean() - left
    spread = (away**2).sum() ** 1.5
    a = float((away**3).sum() / (6 * spread)) if spread > 0 else 0.0
    ends = []
    for tail in ((1 - LEVEL) / 2, (1 + LEVEL) / 2):
        z = z0 + normal.inv_cdf(tail)
        ends.append(float(np.quantile(drawn, normal.cdf(z0 + z / (1 - a * z)))))
    return ends[0], ends[1]
