"""Twins of equal grids and frequency bands: what layers would do if only their sizes differed.

A layer on a coarse grid can draw no fine detail, so that layers of different grids differ in what
they decide even where nobody learned anything. The band twin has just that: the frequencies of the
donor's and the recipient's image are dealt out to players by the grids that they write on, and a
swap puts in the donor's frequencies of these players.
"""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from jaxtyping import Float, Int

from interp.errors import InputError
from interp.interventions.effects import Embedded, Pairs
from interp.interventions.layers import Game, play

# (h, w), or () for none.
Grid = tuple[int, ...]
Embed = Callable[[Float[np.ndarray, "n h w c"]], Embedded]


def deal_frequencies(
    grids: Sequence[Sequence[Grid]], size: tuple[int, int], *, seed: int = 0
) -> Int[np.ndarray, "h w"]:
    """Give every spatial frequency of an image to one player, at random within its band.

    Band i has the frequencies that the i-th coarsest grid can hold (at most half a cycle per cell
    in each direction) and the coarser ones cannot; the finest also has all that no grid holds.
    Within a band, players have frequencies in proportion to how many of their points write on this
    grid. A frequency and its negative go together, so that images stay real.

    Args:
        grids: the grid (h, w) of every point of each player; () for a point without one, which
            counts in every band. A grid finer than the image is as fine as the image.
        size: height and width of images.
        seed: of the dealing.

    Returns:
        The player of each entry of `np.fft.fft2`.

    Raises:
        InputError: fewer than two players, one without points, or a grid that is none.
    """
    _check(grids, size)
    grids = [[g and (min(g[0], size[0]), min(g[1], size[1])) for g in points] for points in grids]
    reach = _reaches(size)
    distinct = sorted({g for points in grids for g in points if g}, key=np.prod) or [size]
    band = np.full(size, len(distinct) - 1)
    for i, grid in reversed(list(enumerate(distinct[:-1]))):
        held = (reach[0] <= grid[0] / 2) & (reach[1] <= grid[1] / 2)
        band[held] = i
    # Each frequency beside its negative; the lower of the two flat places stands for both.
    place = np.arange(size[0] * size[1]).reshape(size)
    rows, columns = (-np.arange(n) % n for n in size)
    first = np.minimum(place, place[rows][:, columns])
    rng = np.random.default_rng([seed, 31])
    owner = np.zeros(place.size, dtype=np.int64)
    for i, grid in enumerate(distinct):
        counts = np.array([sum(g in (grid, ()) for g in points) for points in grids], dtype=float)
        free = rng.permutation(np.unique(first[band == i]))
        # A band of few frequencies: which player gets one more is chance, not order.
        shuffled = rng.permutation(len(grids))
        edges = np.cumsum(counts[shuffled]) / counts.sum() * len(free)
        owner[free] = shuffled[np.searchsorted(edges, np.arange(len(free)) + 0.5)]
    return owner[first]


def play_bands(
    pairs: Pairs,
    donors: Float[np.ndarray, "n h w c"],
    recipients: Float[np.ndarray, "n h w c"],
    grids: Mapping[str, Sequence[Grid]],
    embed: Embed,
    *,
    seed: int = 0,
) -> Game:
    """Play the game of the layers on a band twin of the images.

    A swap puts the donors' frequencies of some players into the recipients: exactly the recipients
    for none and, up to rounding, the donors for all.

    Args:
        pairs: of the same images.
        donors: images in any unit.
        recipients: images.
        grids: player -> the grid of each of its points, as `deal_frequencies`.
        embed: images -> embeddings, as those of `pairs`; values may lie outside the range of
            images, for it to clip.
        seed: of the dealing: another twin.

    Raises:
        InputError: as `deal_frequencies`, and for images that differ in shape.
    """
    if donors.shape != recipients.shape or donors.ndim != 4:
        raise InputError(
            f"donors {donors.shape} and recipients {recipients.shape}: two equal [n, h, w, c] are "
            "needed"
        )
    size = donors.shape[1:3]
    owners = deal_frequencies(list(grids.values()), size, seed=seed)[:, : size[1] // 2 + 1]
    change = np.fft.rfft2(np.asarray(donors, np.float64) - recipients, axes=(1, 2))

    def swap(players: frozenset[int]) -> Embedded:
        inside = np.isin(owners, sorted(players))[None, :, :, None]
        return embed(recipients + np.fft.irfft2(change * inside, s=size, axes=(1, 2)))

    return play(pairs, swap, list(grids))


def _reaches(size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """|frequency| down and across in cycles per image, each [h, w]."""
    down, across = (np.abs(np.fft.fftfreq(n, 1 / n)) for n in size)
    return np.broadcast_to(down[:, None], size), np.broadcast_to(across, size)


def _check(grids: Sequence[Sequence[Grid]], size: tuple[int, int]) -> None:
    if len(grids) < 2 or min(size) < 2:
        raise InputError(f"{len(grids)} players, images of {size}: at least 2 and 2 x 2 are needed")
    for i, points in enumerate(grids):
        odd = [g for g in points if g and (len(g) != 2 or min(g) < 1)]
        if not points or odd:
            raise InputError(
                f"player {i} writes on {list(points)}: give one grid (h, w) or () for each point"
            )
