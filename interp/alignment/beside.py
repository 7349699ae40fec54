"""Reference levels that replace whole models: untrained twins, shared noise, random spectra."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from interp.alignment.levels import DRAWS, matched_spectrum
from interp.alignment.representations import Representation
from interp.errors import InputError


@dataclass(frozen=True)
class Beside:
    """A level that has something in place of the layers of models, in one draw or several.

    Attributes:
        name: of the level.
        counts: model -> draws of it; a model that is absent stands for itself.
        draw: (layer number, draw) -> what stands in its place.
        partial: whether a pair of which only one side is replaced has this level too.
    """

    name: str
    counts: Mapping[str, int]
    draw: Callable[[int, int], Representation]
    partial: bool

    def n_draws(self, pair: tuple[str, str]) -> int:
        """Draws of a pair of models: those of the side that has more; the other repeats its own."""
        counts = [self.counts.get(m, 0) for m in pair]
        return 0 if not self.partial and min(counts) == 0 else max(counts)


def twin_level(
    name: str,
    layers: Sequence[Representation],
    twins: Mapping[str, Sequence[Sequence[Representation]]],
) -> Beside:
    """Twins or other captures, matched to the layers by model, point and call.

    Draw t of a model pairs with draw t of another: independent initializations on both sides.
    Raises InputError for a layer that a twin lacks.
    """
    known = [
        {(one.model, one.point, one.call): one for one in some}
        for several in twins.values()
        for some in several
    ]
    starts, at = {}, 0
    for m, several in twins.items():
        starts[m], at = at, at + len(several)
    found: dict[tuple[int, int], Representation] = {}
    for i, one in enumerate(layers):
        for t in range(len(twins.get(one.model, ()))):
            twin = known[starts[one.model] + t].get((one.model, one.point, one.call))
            if twin is None:
                raise InputError(f"the {name.removesuffix('s')} of {one.model} lacks {one.name}")
            found[i, t] = twin
    counts = {m: len(several) for m, several in twins.items()}
    return Beside(name, counts, lambda i, t: found[i, t], partial=name != "shared noise")


def spectrum_level(layers: Sequence[Representation], seed: int) -> Beside:
    """Random features with the spectrum of each layer, several draws."""
    counts = {one.model: DRAWS for one in layers if not one.reference}

    def draw(i: int, t: int) -> Representation:
        return matched_spectrum(layers[i], t, seed)

    return Beside("spectrum", counts, draw, partial=False)
