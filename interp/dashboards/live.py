"""Live steering: what a server may render on request, and what it refuses."""

import io
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from interp.errors import InputError

# A request is five short values.
MAX_BODY = 4096
# Seeds are 31-bit: every generator takes them.
MAX_SEED = 2**31 - 1
_FIELDS = ("sae", "feature", "mode", "strength", "seed")
_ASSETS = Path(__file__).parent / "assets"
# What the server adds to the page: paths below /live/ -> (file, type).
FILES = {
    "live.js": ("live.js", "text/javascript; charset=utf-8"),
    "live.css": ("live.css", "text/css; charset=utf-8"),
}
# The page may talk to nobody; served with live steering, to its own server.
_CLOSED, _OPEN = "connect-src 'none'", "connect-src 'self'"
_LAST = '<script src="bundle/assets/main.js"></script>'


class Dial(NamedTuple):
    """Range of one mode's strength."""

    low: float
    high: float
    start: float
    """Where the slider stands at first."""
    neutral: float | None
    """The strength that changes nothing."""
    words: str
    """Unit of the strength."""


class LiveSAE(NamedTuple):
    """An SAE whose features can be steered."""

    point: str
    n_latents: int


class LiveRequest(NamedTuple):
    """One picture that the page asks for."""

    sae: str
    """Digest."""
    feature: int
    mode: str
    strength: float
    seed: int


@dataclass(frozen=True, eq=False)
class Live:
    """What a server may steer, and the function that does it."""

    model: str
    saes: Mapping[str, LiveSAE]
    """By digest: the page's features name theirs."""
    dials: Mapping[str, Dial]
    """By mode, in the order of the page's list; "add" among them."""
    render: Callable[[LiveRequest], np.ndarray]
    """Returns uint8 [h, w, 3]. Called by one thread at a time."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """Shown on the page: steps, guidance, prompt ..."""
    seed: int = 0
    """Seed that the panel starts with: best one on whose image no SAE was trained."""

    def __post_init__(self) -> None:
        if not self.saes or "add" not in self.dials:
            raise InputError(
                f"live steering needs an SAE (got {len(self.saes)}) and the mode add (got "
                f"{', '.join(self.dials) or 'none'})"
            )
        _whole("seed", self.seed, MAX_SEED)

    def about(self) -> dict[str, Any]:
        """Return what the page has to know, as JSON values."""
        return {
            "model": self.model,
            "saes": {digest: sae._asdict() for digest, sae in self.saes.items()},
            "dials": {mode: dial._asdict() for mode, dial in self.dials.items()},
            "seed": self.seed,
            "max_seed": MAX_SEED,
            "settings": dict(self.settings),
        }


def parse_request(body: bytes, live: Live) -> LiveRequest:
    """Read a request, every value of it checked.

    Raises InputError, which says what is wrong and what is possible.
    """
    try:
        given = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise InputError("the request is not JSON") from error
    if not isinstance(given, dict) or set(given) != set(_FIELDS):
        raise InputError(f"the request has to hold exactly {', '.join(_FIELDS)}")
    found = LiveRequest(**given)
    if not isinstance(found.sae, str) or found.sae not in live.saes:
        raise InputError(f"the SAE is not one of the {len(live.saes)} that this server steers")
    sae = live.saes[found.sae]
    feature = _whole("feature", found.feature, sae.n_latents - 1)
    if not isinstance(found.mode, str) or found.mode not in live.dials:
        raise InputError(f"the mode is not one of {', '.join(live.dials)}")
    dial, strength = live.dials[found.mode], found.strength
    is_number = isinstance(strength, int | float) and not isinstance(strength, bool)
    # Compared first: a whole number of hundreds of digits has no float. NaN is in no range.
    if not is_number or not dial.low <= strength <= dial.high:
        raise InputError(f"the strength has to be a number from {dial.low:g} to {dial.high:g}")
    seed = _whole("seed", found.seed, MAX_SEED)
    return LiveRequest(found.sae, feature, found.mode, float(strength), seed)


def _whole(name: str, value: Any, largest: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= largest:
        raise InputError(f"the {name} has to be a whole number from 0 to {largest}")
    return value


def open_page(page: str, token: str) -> bytes:
    """Return a dashboard's page with the panel's script, and a policy that lets it ask its server.

    Nothing else of the content security policy changes.
    Raises InputError for a page of another version.
    """
    if page.count(_CLOSED) != 1 or page.count(_LAST) != 1 or page.count("</head>") != 1:
        raise InputError("the page is of another version: build the dashboard again")
    page = page.replace(_CLOSED, _OPEN)
    added = f'<meta name="interp-live" content="{token}">\n'
    added += '<link rel="stylesheet" href="live/live.css">\n</head>'
    page = page.replace("</head>", added)
    script = '<script src="live/live.js"></script>\n'
    return page.replace(_LAST, script + _LAST).encode()


def read_asset(name: str) -> tuple[bytes, str] | None:
    """Return bytes and type of a file of the panel; None where there is none of this name."""
    if name not in FILES:
        return None
    file, kind = FILES[name]
    return (_ASSETS / file).read_bytes(), kind


def encode_picture(picture: np.ndarray) -> bytes:
    """Return pixels as PNG.

    Raises InputError for anything but uint8 [h, w, 3].
    """
    from PIL import Image

    if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[2] != 3:
        raise InputError(f"the picture is {picture.dtype} {picture.shape}, not uint8 [h, w, 3]")
    target = io.BytesIO()
    # Of this machine to itself: speed before size.
    Image.fromarray(np.ascontiguousarray(picture)).save(target, "PNG", compress_level=1)
    return target.getvalue()
