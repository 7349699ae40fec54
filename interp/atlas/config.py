"""What an atlas is asked for, and the sizes that follow from the model."""

from dataclasses import dataclass
from typing import NamedTuple

from interp.errors import InputError

# Fewer pairs have no intervals to be believed (interp.interventions.effects.MIN_PAIRS).
LEAST_PAIRS = 10


@dataclass(frozen=True)
class AtlasConfig:
    """Settings of an atlas; the defaults take minutes on two CPU cores for the models in the box.

    Raises InputError for numbers that no atlas can be made with.
    """

    n_pairs: int = 0
    """Disjoint pairs of donor and recipient; 0: 128 where an image takes one call of the network,
    48 where it takes several."""
    steps: int = 8
    """Sampling steps of diffusion models: few, so that every step can be swapped in minutes."""
    scheduler: str = ""
    """Sampler; empty: the model's own where it draws no noise, else ddim."""
    guidance: float = 1.0
    """Classifier-free guidance; 1: none."""
    prompts: tuple[str, ...] = ()
    """Texts for models that take them; empty: captions or the public experiment's texts."""
    attributes: tuple[str, ...] = ("content", "composition", "surface")
    """Names of `interp.interventions.ATTRIBUTES`, at least two."""
    encoder: str = "zoo:vit"
    """Vision encoder behind content."""
    twins: int = 5
    """Untrained initializations; the decision rule asks for five."""
    gradients: int = 0
    """Random projections behind the Jacobian basis; 0: 512 or, with several calls, 256."""
    fit: int = 1024
    """Samples of a source behind its PCA basis, and held-out images behind d_img. The default alone
    is cut to 256 images with several calls, and to 512 (96 with several calls) by quick."""
    batch_size: int = 32
    """Images per run."""
    images: int = 6
    """Pairs whose images are shown."""
    seed: int = 0
    """Seed of everything."""
    device: str = "cpu"
    """Device of the model: cpu, cuda, cuda:0 ..."""
    quick: bool = False
    """Few pairs, steps and players, numbers too rough to quote: about a minute, two for models of
    several calls."""

    def __post_init__(self) -> None:
        bounds = {"steps": 1, "twins": 2, "fit": 2, "batch_size": 1, "images": 1, "seed": 0}
        for name, low in {**bounds, "gradients": 0}.items():
            if getattr(self, name) < low:
                raise InputError(f"{name} = {getattr(self, name)}: at least {low} is needed")
        if self.n_pairs and self.n_pairs < LEAST_PAIRS:
            raise InputError(
                f"{self.n_pairs} pairs: intervals over pairs need {LEAST_PAIRS} or more"
            )
        if len(self.attributes) < 2:
            raise InputError(
                f"attributes {self.attributes}: specialization is a difference between two or more"
            )


class Sizes(NamedTuple):
    """How much of everything."""

    n_pairs: int
    n_reference: int
    """Images whose mean is the origin of each attribute."""
    n_fit: int
    """Held-out images behind the PCA basis of images."""
    n_latents: int
    """Samples behind the PCA basis of a source."""
    gradients: int
    players: int
    """Of the game that decides: all subsets are run."""
    map_players: int
    """Of the game in each step window."""
    twin_pairs: int
    """A twin gives one number, whose error is part of how much twins differ."""
    carriers: int
    """Block outputs in the table, evenly over the depth; 0: all."""


def choose_sizes(config: AtlasConfig, calls: int) -> Sizes:
    """Sizes for a model whose image takes `calls` runs of the network."""
    if config.quick:
        return _quick(config, calls)
    several = calls > 1
    n = config.n_pairs or (48 if several else 128)
    return Sizes(
        n_pairs=n,
        n_reference=128,
        # Behind d_img where no data are at hand.
        n_fit=_cut_fit(config, 256 if several else 1024),
        n_latents=config.fit,
        gradients=config.gradients or (256 if several else 512),
        # 2^4 and 2^6 subsets: what 4 minutes allow.
        players=4 if several else 6,
        map_players=3,
        twin_pairs=max(LEAST_PAIRS, n // 2),
        carriers=10 if several else 0,
    )


def _quick(config: AtlasConfig, calls: int) -> Sizes:
    # 2^12 patterns of signs: enough for Holm over all carriers.
    n = config.n_pairs or (12 if calls > 1 else 24)
    return Sizes(
        n_pairs=n,
        n_reference=48,
        n_fit=_cut_fit(config, 96 if calls > 1 else 512),
        n_latents=_cut_fit(config, 512),
        gradients=config.gradients or (32 if calls > 1 else 192),
        players=3,
        map_players=2,
        twin_pairs=LEAST_PAIRS,
        carriers=4,
    )


def _cut_fit(config: AtlasConfig, most: int) -> int:
    """`fit` as it was asked for; its default is cut to `most`."""
    return min(config.fit, most) if config.fit == AtlasConfig.fit else config.fit
