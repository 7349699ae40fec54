"""The shipped networks with their cards, the recipes that made them, and the `glyphs` images."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from interp.zoo.cards import Card, card, evaluate_zoo, verdict, write_quality
    from interp.zoo.images import Images, load_images
    from interp.zoo.nets import build_net, load_net
    from interp.zoo.recipes import train_zoo

MODELS = ("gan", "vae", "ddpm", "vit", "text", "vae-global", "ldm", "dit", "ssl")

_HOMES = {
    "Card": "cards",
    "Images": "images",
    "build_net": "nets",
    "card": "cards",
    "evaluate_zoo": "cards",
    "load_images": "images",
    "load_net": "nets",
    "train_zoo": "recipes",
    "verdict": "cards",
    "write_quality": "cards",
}

__all__ = [
    "MODELS",
    "Card",
    "Images",
    "build_net",
    "card",
    "evaluate_zoo",
    "load_images",
    "load_net",
    "train_zoo",
    "verdict",
    "write_quality",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
