"""Games over real carriers: in parts that can be resumed, by step window, and on wiring twins."""

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from interp.atlas.config import LEAST_PAIRS
from interp.atlas.parts import keep_arrays
from interp.interventions import Carrier, Game, play_carriers
from interp.interventions.swapping import Attribute
from interp.models import Generation, Model, editing


class Arms(NamedTuple):
    """What every game of one model shares."""

    donor: Generation
    recipient: Generation
    attributes: Mapping[str, Attribute]
    reference: Tensor


def remember(attributes: Mapping[str, Attribute], images: Tensor) -> dict[str, Attribute]:
    """Attributes that embed these images once: every game asks for its references."""

    def wrap(embed: Attribute) -> Attribute:
        with torch.no_grad():
            known = embed(images)
        return lambda given: known if given is images else embed(given)

    return {name: wrap(embed) for name, embed in attributes.items()}


def play_parts(
    model: Model,
    players: Sequence[Carrier],
    arms: Arms,
    *,
    folder: Path | None = None,
    name: str = "game",
    cut: Sequence[str] = (),
) -> Game:
    """Play all subsets of players, a few pairs at a time; finished parts are kept in `folder`.

    cut: points that are 0 in every run, donors and recipients among them.
    Raises InputError and PointError as `play_carriers`.
    """
    batch = max(arms.donor.batch_size, LEAST_PAIRS)
    # Never a rest of too few pairs.
    parts = max(1, arms.donor.n // batch)
    edges = np.linspace(0, arms.donor.n, parts + 1).astype(int).tolist()
    moments, about = [], {}
    for start, stop in itertools.pairwise(edges):
        found = keep_arrays(
            folder,
            f"{name}-{start}-{stop}",
            lambda start=start, stop=stop: _play(model, players, arms, (start, stop), cut),
            _KEPT,
        )
        moments.append(found["moments"])
        about = found
    return Game(
        tuple(about["layers"].tolist()),
        tuple(about["attributes"].tolist()),
        str(about["role"]),
        tuple(frozenset(np.flatnonzero(row).tolist()) for row in about["subsets"]),
        np.concatenate(moments, axis=1),
        about["orders"] if about["orders"].size else None,
    )


# Arrays of one batch of a game, as `_play` names them.
_KEPT = ("layers", "attributes", "role", "subsets", "moments", "orders")


def _play(
    model: Model,
    players: Sequence[Carrier],
    arms: Arms,
    rows: tuple[int, int],
    cut: Sequence[str],
) -> dict[str, np.ndarray]:
    donor, recipient = (take_rows(recipe, rows) for recipe in (arms.donor, arms.recipient))
    silent = editing(model, dict.fromkeys(cut, _silence)) if cut else nullcontext()
    with silent:
        game = play_carriers(
            model,
            players,
            donor,
            recipient,
            arms.attributes,
            arms.reference,
            batch_size=arms.donor.batch_size,
        )
    inside = [[i in subset for i in range(len(players))] for subset in game.subsets]
    return {
        "layers": np.array(game.layers),
        "attributes": np.array(game.attributes),
        "role": np.array(game.role),
        "subsets": np.array(inside),
        "moments": game.moments,
        "orders": np.zeros(0) if game.orders is None else game.orders,
    }


def _silence(rows: Tensor, call: Any) -> Tensor:
    return torch.zeros_like(rows)


def take_rows(recipe: Generation, rows: tuple[int, int]) -> Generation:
    """The recipe of samples start .. stop - 1, with their own seeds, classes and texts."""
    start, stop = rows
    return dataclasses.replace(recipe, n=stop - start, seed=recipe.seed + start)


def merge_players(players: Sequence[Carrier], count: int) -> list[Carrier]:
    """Join neighbors to at most `count` players, as even as can be."""
    if len(players) <= count:
        return list(players)
    groups = [group.tolist() for group in np.array_split(np.arange(len(players)), count)]
    return [join_carriers([players[i] for i in group]) for group in groups]


def join_carriers(carriers: Sequence[Carrier], name: str = "") -> Carrier:
    """One carrier of all points and sources of several; the name runs from the first to the last.

    What bounds them (calls, half) is that of the first.
    """
    first, last = carriers[0], carriers[-1]
    span = first.label if len(carriers) == 1 else f"{first.label} .. {last.label}"
    points = tuple(dict.fromkeys(p for one in carriers for p in one.points))
    fields = tuple(dict.fromkeys(f for one in carriers for f in one.fields))
    roles = {one.role for one in carriers}
    role = first.role if len(roles) == 1 else ""
    return dataclasses.replace(first, points=points, fields=fields, name=name or span, role=role)


def cut_windows(calls: int, count: int = 3) -> list[tuple[str, range]]:
    """Early, middle and late calls, as even as can be; fewer where there are fewer calls."""
    names = {1: ("all",), 2: ("early", "late"), 3: ("early", "middle", "late")}
    count = min(count, calls)
    groups = np.array_split(np.arange(calls), count)
    return [
        (name, range(int(g[0]), int(g[-1]) + 1))
        for name, g in zip(names[count], groups, strict=True)
    ]


def in_window(players: Sequence[Carrier], name: str, calls: range) -> list[Carrier]:
    """The same players at some calls only."""
    return [dataclasses.replace(one, calls=calls, name=f"{one.label}, {name}") for one in players]
