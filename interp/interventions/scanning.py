"""Layers of a real model as a game: every subset of carriers swapped, donors run once."""

import dataclasses
from collections.abc import Mapping, Sequence

import torch
from jaxtyping import UInt8
from torch import Tensor

from interp.errors import InputError
from interp.interventions.carriers import Carrier, Source, check_interchange, list_given
from interp.interventions.effects import Embedded, make_moments, make_pairs, solve_shares
from interp.interventions.layers import ORDERS, Game, play
from interp.interventions.reuse import Plain, reusing, run_both
from interp.interventions.sources import Batch, check_pairing, mix_fields
from interp.interventions.swapping import (
    Attribute,
    Cache,
    check_rerender,
    embed_images,
    iterate_batches,
    swap_carriers,
)
from interp.models import Generation, Inversion, Model


def play_carriers(
    model: Model,
    layers: Sequence[str | Carrier],
    donor: Generation | UInt8[Tensor, "n h w 3"] | Inversion,
    recipient: Generation | UInt8[Tensor, "n h w 3"] | Inversion,
    attributes: Mapping[str, Attribute],
    reference: UInt8[Tensor, "m h w 3"],
    *,
    pair: Sequence[int] | None = None,
    batch_size: int = 32,
    n_orders: int = ORDERS,
    interactions: bool = True,
    allow_train: bool = False,
    seed: int = 0,
) -> Game:
    """Swap subsets of carriers on a real model: the game behind `measure_layers`.

    Donors and recipients run once, each subset once more; the donors' activations of all pairs
    stay in memory meanwhile. With no carrier in place the recipients have to come out the same.

    Args:
        model: the model.
        layers: the players or names of hook points, at least two; where two hold one point, the
            later one's edit stands.
        donor, recipient: as in `interchange`.
        attributes: name -> function of images, as in `measure_interchange`.
        reference: other images, whose mean is the origin of each attribute.
        pair: [n], as in `make_pairs`.
        batch_size: pairs per run.
        n_orders, interactions, seed: as in `play`.
        allow_train: as in `interchange`.

    Returns:
        The game; its role is "descendant" if any carrier is one.

    Raises:
        PointError, InputError: as in `interchange` and `play`; labels that repeat; recipients that
            differ when their own values are put back; an attribute that does not vary.
    """
    players = list_given(layers)
    roles = check_interchange(model, players, donor, recipient)
    check_pairing(model, players, donor, recipient, allow_train)
    labels = [carrier.label for carrier in players]
    if len(set(labels)) != len(labels):
        raise InputError(f"carriers of one name among {labels}: name them apart")
    cached, donors, recipients = _prepare(model, players, donor, recipient, batch_size)
    a, b, origin = (embed_images(side, attributes) for side in (donors, recipients, reference))
    pairs = make_pairs(a, b, reference=origin, pair=pair)
    # Attributes without shares are refused by name before any subset runs.
    solve_shares(make_moments(pairs, b).sum(0), pairs.attributes)

    def swap(chosen: frozenset[int]) -> Embedded:
        part = [players[i] for i in sorted(chosen)]
        images = []
        for one, other, given, plain in cached:
            with reusing(model, plain, part):
                mixed = mix_fields(model, part, one, other)
                images.append(swap_carriers(model, part, given, mixed))
        return embed_images(torch.cat(images), attributes)

    role = "descendant" if "descendant" in roles else "write"
    options = {"n_orders": n_orders, "interactions": interactions, "seed": seed}
    game = play(pairs, swap, labels, role=role, **options)
    return dataclasses.replace(game, in_full=sum(plain.stateful for *_, plain in cached))


def _prepare(
    model: Model,
    layers: Sequence[Carrier],
    donor: Source,
    recipient: Source,
    batch_size: int,
) -> tuple[list[tuple[Batch, Batch, Cache, Plain]], Tensor, Tensor]:
    """Run donors and recipients once: batches with the donors' activations, and both images.

    Subsets begin at different layers, so that what each can use again is recorded for all.
    """
    names = tuple(dict.fromkeys(name for carrier in layers for name in carrier.points))
    cached, donors, recipients = [], [], []
    for start, one, other in iterate_batches(model, donor, recipient, batch_size):
        turn = start // batch_size
        a, given, plain = run_both(model, names, layers, (one, other), turn)
        check_rerender(model, layers, plain.kept, other, plain.images)
        cached.append((one, other, given, plain._replace(kept={})))
        donors.append(a)
        recipients.append(plain.images)
    if any(plain.stateful for *_, plain in cached):
        # What one batch shows of the network holds for all.
        full = {"record": None, "stateful": True}
        cached = [(*rest, plain._replace(**full)) for *rest, plain in cached]
    return cached, torch.cat(donors), torch.cat(recipients)
