"""A dose-response with known numbers, for the tests of the strips."""

from typing import Any

import numpy as np

from interp.interventions.steering_record import Control, Distance, DoseResponse, Response, Share
from tests.dashboards.synthetic import picture

STRENGTHS = (-1.0, -0.5, 0.0, 0.5, 1.0)
ATTRIBUTES = ("content", "surface")


def dose(feature: int | None = 3, sae: str = "sae000000000", **changes: Any) -> DoseResponse:
    """A latent that moves the surface twice as far as chance, and little else."""
    n = len(STRENGTHS)
    images = np.stack([[_tinted(seed, s) for seed in (0, 1)] for s in STRENGTHS])
    responses = {
        "content": tuple(_response(0.02 * s) for s in STRENGTHS),
        "surface": tuple(_response(0.6 * s) for s in STRENGTHS),
    }
    control = tuple(
        Control(abs(0.3 * s), abs(0.1 * s), abs(0.4 * s), abs(0.2 * s)) for s in STRENGTHS
    )
    values: dict[str, Any] = {
        "model": "zoo:ddpm",
        "point": "up_blocks.1.resnets.0",
        "label": f"feature {feature} of {sae}",
        "sae": sae,
        "feature": feature,
        "direction": "0123456789abcdef",
        "mode": "add",
        "strengths": STRENGTHS,
        "neutral": 0.0,
        "unit": 4.2,
        "unit_words": "length added to each row, in deviations of clean rows",
        "spread": 0.2,
        "shifts": tuple(abs(s) for s in STRENGTHS),
        "attributes": ATTRIBUTES,
        "scale": dict.fromkeys(ATTRIBUTES, 1.5),
        "responses": responses,
        "isotropic": dict.fromkeys(ATTRIBUTES, control),
        "matched": dict.fromkeys(ATTRIBUTES, control),
        "n_random": 16,
        "n_scanned": 16,
        "target": "surface",
        "target_given": False,
        "off_target": tuple(Share(None if s == 0 else 0.1, None, None) for s in STRENGTHS),
        "off_distribution": {
            "up_blocks.1.resnets.0": tuple(
                Distance(5 + abs(s), 5.0, 1.1, 1.0, 0.05 + 0.2 * abs(s), 0.1) for s in STRENGTHS
            )
        },
        "n_seeds": 12,
        "shown_seeds": (100, 101),
        "images": images,
        "plain": images[n // 2],
        "settings": {"seed": 7},
    }
    return DoseResponse(**values | changes)


def _response(along: float) -> Response:
    size = abs(along) * 1.2
    return Response(along, along - 0.05, along + 0.05, size, size * 0.9, size * 1.1)


def _tinted(seed: int, strength: float) -> np.ndarray:
    pixels = picture(seed, 32).astype(float)
    pixels[..., 0] += 60 * strength
    return np.clip(pixels, 0, 255).astype(np.uint8)
