"""The nouns of reading: hook points (what a user names) and sites (where in the host they live)."""

import dataclasses
import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from interp.errors import PointError

STREAMS = ("image", "text", "skip", "context", "entry")
KINDS = ("resid", "delta", "contrib", "entry")
AXES = "bchwfts"


@dataclass(frozen=True)
class HookPoint:
    """One place of a network whose activations can be read and edited.

    Attributes:
        name: stable name, the dotted path of the block with an optional suffix (":delta", ":text",
            ":main"), or an entry or port without a module of its own ("z", "x_T", "skip.3").
        module: dotted path of the hooked module inside its root; "" is the root itself.
        stream: "image", "text", "skip", "context" or "entry".
        kind: "resid" (block output), "delta" (block output minus its input), "contrib" (what one
            branch adds), "entry" (codes and noise that a generation starts from).
        width: length `d` of one row.
        grid: positions at the reference input: () one vector, (t,) tokens, (h, w) or (f, h, w).
        layout: axes of a `Read.value`, one letter each: b batch, c width, h, w, f frame, t token,
            s space flattened to one axis.
        depth: place in the order of execution, 0 (first) to 1 (last).
    """

    name: str
    module: str
    stream: str
    kind: str
    width: int
    grid: tuple[int, ...]
    layout: str
    depth: float

    def __post_init__(self) -> None:
        counts = (self.width, *self.grid) if isinstance(self.grid, tuple) else (0,)
        if not all(type(n) is int and n > 0 for n in counts) or len(counts) > 4:
            raise PointError(
                f"{self.name}: width {self.width!r} and grid {self.grid!r} must be whole numbers "
                ">= 1, at most three of them in the grid"
            )
        texts = (self.name, self.module, self.layout)
        if not all(isinstance(text, str) for text in texts) or set(self.layout) - set(AXES):
            raise PointError(
                f"{self.name!r}: name, module {self.module!r} and layout {self.layout!r} must be "
                f"text, the layout of the letters {AXES}"
            )
        if type(self.depth) not in (int, float) or not 0 <= self.depth <= 1:
            raise PointError(f"{self.name}: depth {self.depth!r} is not a number from 0 to 1")
        if self.stream not in STREAMS or self.kind not in KINDS:
            raise PointError(
                f"{self.name}: stream {self.stream!r} is not in {STREAMS} "
                f"or kind {self.kind!r} is not in {KINDS}"
            )

    def as_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return {**dataclasses.asdict(self), "grid": list(self.grid)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "HookPoint":
        """Build a point from `as_dict`'s values; unknown or missing keys raise `PointError`."""
        names = {field.name for field in dataclasses.fields(cls)}
        if set(values) != names:
            odd = sorted(set(values) ^ names)
            raise PointError(f"a hook point has the keys {sorted(names)}; these differ: {odd}")
        return cls(**{**values, "grid": tuple(values["grid"])})


@dataclass(frozen=True)
class Site:
    """How to reach a point inside its host; adapters list these, a probe turns them into points.

    Attributes:
        name: the point's name.
        module: dotted path of the module to hook; "" is the root.
        port: "output" of the module, "input" (one argument of it), or "delta" (output - argument).
        item: element of a tuple output or tuple argument; None where there is only one tensor.
        argument: argument's name in the module's `forward`; "" is the first one.
        stream, kind: as in `HookPoint`.
        fold: what the host folded into the batch axis: "" nothing, "f" frames, "s" space.
        layout: axes of the value after unfolding; "" derives them from the number of axes.
        square: tokens are patches of an image and unfold into (h, w).
        calls: "all", or "first": the first call of a generation only.
        delta: offer "<name>:delta" where output and argument agree in shape.
        modes: in which of "generate" and "encode" the point fires.
        also: further modules that take the same tensor as the same argument; an edit reaches all.
    """

    name: str
    module: str
    port: str = "output"
    item: int | str | None = None
    argument: str = ""
    stream: str = "image"
    kind: str = "resid"
    fold: str = ""
    layout: str = ""
    square: bool = False
    calls: str = "all"
    delta: bool = False
    modes: tuple[str, ...] = ("generate", "encode")
    also: tuple[str, ...] = ()


def input_sites(*, layout: str = "", square: bool = False) -> list[Site]:
    """Return a denoiser's input: "x_T" at a generation's first call, "x_t" at every call."""
    entry = {"kind": "entry", "stream": "entry", "layout": layout, "square": square}
    return [
        Site("x_T", "", "input", calls="first", modes=("generate",), **entry),
        Site("x_t", "", "input", **entry),
    ]


def unknown(name: str, known: Iterable[str], what: str) -> PointError:
    """Return the error for a name that does not exist, with the closest ones that do."""
    known = list(known)
    close = difflib.get_close_matches(name, known, n=4, cutoff=0.4) or known[:4]
    return PointError(
        f"{what} has no hook point {name!r}; closest: {', '.join(close)} ({len(known)} in all)"
    )
