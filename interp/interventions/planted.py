"""Planted controls: studies of generators whose answer is known, run before any verdict."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from interp.errors import InputError
from interp.interventions import linear
from interp.interventions.bands import play_bands
from interp.interventions.compactness import (
    Compactness,
    make_jacobian_basis,
    make_pca_basis,
    measure_compactness,
)
from interp.interventions.effects import Effect, Embedded, Pairs, make_pairs, measure_effect
from interp.interventions.excess import Excess, compare_twins
from interp.interventions.layers import (
    Game,
    LayerShares,
    Specialization,
    measure_layers,
    measure_specialization,
    play,
)
from interp.interventions.linear import LAYERS, STEPS, Generator
from interp.interventions.verdict import (
    SourceEvidence,
    Verdict,
    decide_unchecked,
)

# Standard errors of sampled shares are about .02 at this number of pairs.
PAIRS = 400
TWINS = 8
# A twin gives one number, whose error is part of how much twins differ.
TWIN_PAIRS = 100
# Products of two normals have heavy tails: more pairs for the same error.
SYNERGY_PAIRS = 1600
# Images to fit PCA on where a carrier is as wide as an image.
FIT = 1000

PLANTED: dict[str, Callable[..., Generator]] = {
    "P1": linear.make_strict,
    "P2": linear.make_broad,
    "P3": linear.make_compact_specialized,
    "P4": linear.make_broad_by_time,
    "P5": linear.make_wiring,
    "P6": linear.make_noise_latent,
    "P7": linear.make_bands,
    "synergy": linear.make_synergy,
}


@dataclass(frozen=True)
class Study:
    """The whole measurement of one planted generator, through the functions that real models use.

    groups: layer numbers that are swapped together as one player; None: each layer alone.
    """

    name: str
    seed: int = 0
    n_pairs: int = PAIRS
    twin: int = 0
    """0: the generator itself; t > 0: its t-th twin."""
    groups: tuple[tuple[int, ...], ...] | None = None

    @cached_property
    def generator(self) -> Generator:
        """The generator or its twin."""
        if self.name not in PLANTED:
            raise InputError(f"no planted control {self.name!r}; there are {', '.join(PLANTED)}")
        # No twin serves two seeds.
        return PLANTED[self.name](1000 * self.seed + self.twin, twin=self.twin > 0)

    @cached_property
    def _drawn(self) -> list[dict[str, np.ndarray]]:
        rng = np.random.default_rng([self.seed, self.twin, 99])
        return [self.generator.draw(n, rng) for n in (self.n_pairs, self.n_pairs, FIT)]

    @cached_property
    def _runs(self) -> list[linear.Run]:
        return [self.generator.run(values) for values in self._drawn]

    @cached_property
    def pairs(self) -> Pairs:
        """Donors and recipients, their sources independent."""
        a, b, other = (self.generator.embed(run.images) for run in self._runs)
        return make_pairs(a, b, reference=other)

    def swap_layers(self, players: Iterable[int]) -> Embedded:
        """Embeddings of the recipients with players of the donors in place."""
        groups = self.groups or [(i,) for i in range(len(self.generator.layers))]
        put = {i: self._runs[0].layers[i] for player in players for i in groups[player]}
        return self.generator.embed(self.generator.run(self._drawn[1], put).images)

    def swap_sources(self, names: Iterable[str]) -> Embedded:
        """Embeddings of the recipients made from these sources of the donors."""
        values = {**self._drawn[1], **{name: self._drawn[0][name] for name in names}}
        return self.generator.embed(self.generator.run(values).images)

    @cached_property
    def game(self) -> Game:
        """The layers, or groups of them, as a game."""
        names = self.generator.layers
        if self.groups is not None:
            names = tuple("+".join(names[i] for i in group) for group in self.groups)
        return play(self.pairs, self.swap_layers, names, role=self.generator.role)

    @cached_property
    def shares(self) -> LayerShares:
        """Shares of the game."""
        return measure_layers(self.game)

    @cached_property
    def specialization(self) -> Specialization:
        """Specialization of the game."""
        return measure_specialization(self.game)

    @cached_property
    def excess(self) -> Excess:
        """Specialization beyond that of eight twins."""
        twins = [
            Study(self.name, self.seed, TWIN_PAIRS, t, self.groups) for t in range(1, TWINS + 1)
        ]
        found = [measure_specialization(twin.game, n_resamples=2) for twin in twins]
        return compare_twins(self.specialization, found)

    @cached_property
    def bands(self) -> Excess | None:
        """Specialization beyond that of eight band twins; None without grids."""
        if not self.generator.grids:
            return None
        sides = [
            run.images.reshape(-1, *linear.IMAGE).transpose(0, 2, 3, 1) for run in self._runs[:2]
        ]
        grids = dict(zip(self.generator.layers, [[g] for g in self.generator.grids], strict=True))

        def embed(images: np.ndarray) -> Embedded:
            return self.generator.embed(images.transpose(0, 3, 1, 2).reshape(len(images), -1))

        games = [
            play_bands(self.pairs, sides[0], sides[1], grids, embed, seed=seed)
            for seed in range(1, TWINS + 1)
        ]
        twins = [measure_specialization(game) for game in games]
        return compare_twins(self.specialization, twins, paired=True)

    @cached_property
    def sources(self) -> list[SourceEvidence]:
        """What a verdict needs to know about each source."""
        names = list(self.generator.sources)
        image = self._image()
        found = []
        for name in names:
            rest = [other for other in names if other != name]
            others = self._effect(rest, "others", len(names)) if rest else None
            effect = self._effect([name], name, len(names))
            pca, jacobian = self._compactness(name)
            found.append(SourceEvidence(effect, others, pca, jacobian, image))
        return found

    def _effect(self, names: Sequence[str], carrier: str, n_tests: int) -> Effect:
        return measure_effect(
            self.pairs, self.swap_sources(names), carrier=carrier, n_tests=n_tests
        )

    def _image(self) -> Compactness:
        a, b, other = (run.images for run in self._runs)
        # The images span 12 dimensions: a few hundred of them fit their PCA.
        basis = make_pca_basis(other[:200])
        return measure_compactness(self.pairs, a, b, basis, self.generator.embed)

    def _compactness(self, name: str) -> tuple[Compactness, Compactness]:
        a, b, other = (values[name] for values in self._drawn)

        def run(values: np.ndarray) -> Embedded:
            return self.generator.embed(self.generator.run({**self._drawn[1], name: values}).images)

        # One point for the Jacobian: it is the same everywhere, or the swap moves nothing.
        bases = (
            make_pca_basis(other),
            make_jacobian_basis(lambda _: self.generator.jacobian(name), other[:1]),
        )
        found = [measure_compactness(self.pairs, a, b, basis, run) for basis in bases]
        return found[0], found[1]

    @cached_property
    def verdict(self) -> Verdict:
        """The verdict by the committed rule."""
        return decide_unchecked(self.sources, self.shares, self.excess, self.bands)


def by_layer() -> tuple[tuple[int, ...], ...]:
    """Groups of P4: each layer at all steps."""
    return tuple(tuple(t * LAYERS + i for t in range(STEPS)) for i in range(LAYERS))


def by_step() -> tuple[tuple[int, ...], ...]:
    """Groups of P4: each step with all its layers."""
    return tuple(tuple(t * LAYERS + i for i in range(LAYERS)) for t in range(STEPS))
