"""The carriers that a model has: its sources, its writes and its graph cuts."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
from torch import Tensor

from interp.errors import InputError
from interp.interventions.carriers import Carrier, first_batch
from interp.interventions.layers import EXACT
from interp.interventions.roles import find_role
from interp.interventions.scheduling import list_moments
from interp.models import Generation, HookPoint, Model

LEVELS = ("blocks", "branches", "stages", "kinds")

# What a branch or a block does, by the name of its module or of the list that it is in.
_KINDS = {
    "attn1": "self-attention",
    "attn2": "cross-attention",
    "attn": "joint attention",
    "ff": "feed-forward",
    "ff_in": "feed-forward",
    "ff_context": "feed-forward",
    "single_transformer_blocks": "single-stream block",
    "attentions": "self-attention",
    "temp_attentions": "self-attention",
    "motion_modules": "self-attention",
}


def list_carriers(
    model: Model, recipe: Generation | Tensor, level: str = "blocks"
) -> list[Carrier]:
    """List what can be swapped in a model, each under a name of its own, sources first.

    Args:
        model: the model.
        recipe: the donors or the recipients, or images that an autoencoder reconstructs.
        level: "blocks": each source; each write that lies in no other (a block's ":delta", a GAN's
            "w_plus.l"), each cross-attention's text context, a GAN's "s.l", noise and image parts;
            each block's output, skip and main path, as a graph cut. "branches": these, and what
            attention and feed-forward branches add. "stages": at most 6 players that share the
            writes out among them in order of depth, as `play_carriers` takes them for an exact
            Shapley share; block outputs, as graph cuts, where a chain of layers has no writes.
            "kinds": one player for each of resnet, self-attention, cross-attention, feed-forward (a
            GAN: style, noise).

    Returns:
        Carriers whose roles are those of `find_role`; sources are whole (`Carrier.fields`).

    Raises:
        InputError: an unknown level, or a model without writes or outputs to share out.
    """
    if level not in LEVELS:
        raise InputError(f"level {level!r} is not one of {', '.join(LEVELS)}")
    mode = "generate" if isinstance(recipe, Generation) else "encode"
    model.require(mode)
    if level == "stages":
        return _list_stages(model, mode)
    if level == "kinds":
        return _list_kinds(model, mode)
    names = list(model.sources(recipe)) if isinstance(recipe, Generation) else []
    sources = [Carrier(fields=(name,), name=name) for name in names]
    points = [*_list_writes(model, mode, level == "branches"), *_list_cuts(model, mode)]
    # An autoencoder's images are no source that a recipe holds, but their code is one.
    entries = ["code"] if mode == "encode" and "code" in model.points else []
    return [*sources, *(Carrier((name,), name=name) for name in (*entries, *points))]


def make_carrier(
    model: Model, patterns: Sequence[str], mode: str = "generate", **options: Any
) -> Carrier:
    """Make a carrier of the points that names and globs pick, such as "up_blocks.1.*:delta".

    options: the other fields of `Carrier`. Raises PointError as `Model.select`.
    """
    return Carrier(model.select(patterns, mode), **options)


def split_calls(
    model: Model, recipe: Generation, carriers: Sequence[Carrier], n: int = 3
) -> list[list[Carrier]]:
    """Split the calls of a recipe into n windows: the carriers in each, early calls first.

    Windows are of equal length up to one call, and named "<carrier> @ <first>-<last>". Sources act
    through all calls and are left out.

    Raises:
        InputError: fewer calls than windows, a carrier that is already bound to some calls, or an
            adapter whose calls are not known.
    """
    moments = list_moments(model, first_batch(model, recipe))
    if moments is None or not 1 <= n <= len(moments):
        raise InputError(
            f"{n} windows of {'unknown' if moments is None else len(moments)} calls of "
            f"{model.name}: at most one window per call"
        )
    bound = [c.label for c in carriers if c.calls is not None or c.window is not None]
    if bound:
        raise InputError(f"{bound[0]} is bound to some calls already: give it without")
    found = []
    for calls in np.array_split(np.arange(len(moments)), n):
        first, last = int(calls[0]), int(calls[-1])
        changes: dict[str, Any] = {"window": (first, last + 1), "axis": "call"}
        named = [(f"{c.label} @ {first}-{last}", c) for c in carriers if c.points]
        found.append([dataclasses.replace(c, name=name, **changes) for name, c in named])
    return found


def find_writes(model: Model, mode: str) -> tuple[str, ...]:
    """Return the writes that lie in no other, in order: what stages share out among them.

    Of a style-based generator "w_plus.l"; else each ":delta" whose module is in no other's, and
    branches and contexts outside all of these.
    """
    names = model.points_in(mode)
    styles = tuple(name for name in names if name.startswith("w_plus."))
    if styles:
        return styles
    writes = [model.points[name] for name in names if find_role(model.points[name]) == "write"]
    outer = {point.module for point in writes if point.kind == "delta"}

    def free(point: HookPoint) -> bool:
        parts = point.module.split(".")
        around = {".".join(parts[:i]) for i in range(1, len(parts))}
        # A branch of a block that is one whole branch: its delta has it.
        return not around & outer and (point.kind == "delta" or point.module not in outer)

    return tuple(point.name for point in writes if free(point))


def _list_writes(model: Model, mode: str, branches: bool) -> list[str]:
    chosen = set(find_writes(model, mode))
    names = model.points_in(mode)
    deltas = [model.points[name].module for name in chosen if model.points[name].kind == "delta"]
    for name in names:
        point = model.points[name]
        inside = any(point.module.startswith(f"{module}.") for module in deltas)
        lean = point.kind == "entry" or (point.kind == "contrib" and not inside)
        if find_role(point) == "write" and (branches or lean):
            chosen.add(name)
    return [name for name in names if name in chosen]


def _list_cuts(model: Model, mode: str) -> list[str]:
    """Block outputs, skips and main paths; blocks inside an attention's wrapper are left out."""
    names = model.points_in(mode)
    whole = [name for name in names if model.points[name].kind == "resid"]
    inner = {
        name
        for name in whole
        if any(name.startswith(f"{other}.") and other in model.points for other in whole)
    }
    codes = [name for name in names if name == "w"]
    return [name for name in names if name in codes or (name in whole and name not in inner)]


def _stem(model: Model, point: HookPoint) -> str:
    """The part of the network that a write is in: a stage of a U-Net, a block, a resolution."""
    if point.name.startswith("w_plus."):
        side = model.points[point.module].grid
        return f"{side[0]}x{side[-1]}"
    parts = point.module.split(".")
    ends = [i for i, part in enumerate(parts) if part == "mid_block" or part.isdigit()]
    return ".".join(parts[: ends[0] + 1]) if ends else point.module


def _list_stages(model: Model, mode: str) -> list[Carrier]:
    writes = [model.points[name] for name in find_writes(model, mode)]
    groups: dict[str, list[str]] = {}
    for point in writes:
        groups.setdefault(_stem(model, point), []).append(point.name)
    if len(groups) < 2:
        # One stage alone: its blocks are the players.
        groups = {}
        for point in writes:
            groups.setdefault(point.module, []).append(point.name)
    role = ""
    if len(groups) < 2:
        # A chain of layers has no writes: its outputs, which are graph cuts and support no claim.
        role, groups = "descendant", {name: [name] for name in _list_outputs(model, mode)}
    if len(groups) < 2:
        raise InputError(
            f"{model.name} has {len(writes)} writes and {len(groups)} block outputs in {mode}: two "
            "or more are needed to share anything out; name points with extra="
        )
    stems = list(groups)
    found = []
    for part in np.array_split(np.arange(len(stems)), min(EXACT, len(stems))):
        chosen = [stems[i] for i in part]
        points = tuple(name for stem in chosen for name in groups[stem])
        name = chosen[0] if len(chosen) == 1 else f"{chosen[0]} to {chosen[-1]}"
        found.append(Carrier(points, name=name, role=role))
    return found


def _list_outputs(model: Model, mode: str) -> list[str]:
    cuts = _list_cuts(model, mode)
    return [name for name in cuts if model.points[name].stream in ("image", "text")]


def _list_kinds(model: Model, mode: str) -> list[Carrier]:
    names = model.points_in(mode)
    branched = {
        model.points[name].module.rpartition(".")[0]
        for name in names
        if model.points[name].kind == "contrib"
    }
    groups: dict[str, list[str]] = {}
    for name in names:
        kind = _find_kind(model, model.points[name], branched)
        if kind:
            groups.setdefault(kind, []).append(name)
    return [Carrier(tuple(points), name=kind) for kind, points in groups.items()]


def _find_kind(model: Model, point: HookPoint, branched: set[str]) -> str:
    """The kind of a write; "" where its branches are counted instead, or it is none."""
    owner, _, leaf = point.module.rpartition(".")
    if point.name.startswith("w_plus."):
        return "style"
    if point.kind == "contrib" and leaf == "noise":
        return "noise"
    if (
        point.kind == "contrib"
        and leaf == "attn2"
        and f"context.{point.module}" not in model.points
    ):
        # Over frames both branches look at the sequence itself.
        return "self-attention"
    if point.kind == "contrib":
        return _KINDS.get(leaf, "")
    inside = (point.module, f"{point.module}.")
    if point.kind != "delta" or any(p == inside[0] or p.startswith(inside[1]) for p in branched):
        return ""
    of_list = owner.rpartition(".")[2]
    if of_list.endswith("transformer_blocks") and of_list not in _KINDS:
        return ""
    nested = any(
        owner.startswith(f"{other.module}.") and other.kind == "delta"
        for other in model.points.values()
    )
    # What is in no attention here is convolution: resnets, temporal convolutions, decoder layers.
    return "" if nested else _KINDS.get(of_list, "resnet")
