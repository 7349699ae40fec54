"""Real pretrained networks that a user may fetch: registry, cache, conversion, models."""

from interp.assets.cache import (
    cache_folder,
    card,
    fetch,
    is_fetched,
    load_asset,
    verify,
    wrap_asset,
)
from interp.assets.registry import ASSETS, LEFT_OUT, Asset

__all__ = [
    "ASSETS",
    "LEFT_OUT",
    "Asset",
    "cache_folder",
    "card",
    "fetch",
    "is_fetched",
    "load_asset",
    "verify",
    "wrap_asset",
]
