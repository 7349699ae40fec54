"""What is learned by what: planted cases with a known truth, and the autoencoders that try."""

from collections.abc import Callable
from typing import Any, NamedTuple

from benchmarks.peers.table import Row
from interp.sae.synthetic import (
    OutlierDictionary,
    Planted,
    PlantedDictionary,
    SpatialDictionary,
    TimedDictionary,
    correlated_dictionary,
    hierarchical_dictionary,
    small_synth_sae_bench,
)


class Case(NamedTuple):
    """A planted dictionary, and what every autoencoder gets for it."""

    make: Callable[[int, int], Planted]
    """(steps, seed) -> batches and truth."""
    m: int
    """Latents; the number of atoms, but for `synth`."""
    k: int
    """Active latents per row: the mean number of atoms in a row."""
    steps: int
    says: str
    """What is planted, in a few words."""


# Width 64, 256 atoms, 6 in a row, 512 rows per step, unless it says otherwise.
MIDDLE = 512

CASES = {
    "small": Case(
        lambda steps, seed: PlantedDictionary(steps=steps, seed=seed),
        512, 8, 1500,
        "512 atoms in 128 dimensions, 8 draws per row, 1024 rows per step",
    ),
    "zipf": Case(
        lambda steps, seed: PlantedDictionary(
            256, 64, 6, exponent=0.7, steps=steps, seed=seed, batch_size=MIDDLE
        ),
        256, 6, 1000,
        "rates fall as i^-0.7",
    ),
    "correlated": Case(
        lambda steps, seed: correlated_dictionary(steps=steps, seed=seed, batch_size=MIDDLE),
        256, 6, 1000,
        "atoms fire together: a Gaussian copula of rank 8",
    ),
    "hierarchy": Case(
        lambda steps, seed: hierarchical_dictionary(steps=steps, seed=seed, batch_size=MIDDLE),
        416, 7, 1000,
        "32 trees of 13 atoms: children fire only with their parents",
    ),
    "spatial": Case(
        lambda steps, seed: SpatialDictionary(steps=steps, seed=seed, batch_size=MIDDLE),
        256, 6, 1000,
        "atoms are disks on maps of 16 x 16, some maps four times as rich as others",
    ),
    "timestep": Case(
        lambda steps, seed: TimedDictionary(steps=steps, seed=seed, batch_size=MIDDLE),
        256, 6, 1000,
        "atoms fire around their own of 16 timesteps, late ones three times as many",
    ),
    "outlier": Case(
        lambda steps, seed: OutlierDictionary(steps=steps, seed=seed, batch_size=MIDDLE),
        256, 6, 1000,
        "3 coordinates of mean 10 and standard deviation 1 beside the atoms",
    ),
    "synth": Case(
        lambda steps, seed: small_synth_sae_bench(steps=steps, seed=seed),
        256, 7, 390,
        "SynthSAEBench with 1024 features in 96 dimensions, 1024 rows per step",
    ),
}  # fmt: skip

# The seed that is judged; settings were chosen on the other one.
JUDGED, TUNED = 0, 1


def _ours(variant: str, note: str = "", **options: Any) -> Row:
    given = {"variant": variant, "options": options}
    return Row(f"interp, {variant}", "", "interp_variants.py", given, note)


def _peer(peer: str, kind: str, name: str, note: str = "", **options: Any) -> Row:
    adapter = f"{peer.replace('-', '_')}_variants.py"
    return Row(f"{peer}, {name}", peer, adapter, {kind: name, **options}, note)


_TARGET = "its L0 follows from a penalty, which was chosen on `zipf` of another seed"

OURS = (
    _ours("topk"),
    _ours("batchtopk"),
    _ours("matryoshka"),
    _ours("archetypal"),
    _ours("pursuit"),
    _ours("omp"),
    _ours("jumprelu"),
    _ours("relu", _TARGET, l1=0.3),
    _ours("gated", _TARGET, l1=0.5),
)
PEER_ROWS = (
    _peer("sae-lens", "architecture", "topk"),
    _peer("sae-lens", "architecture", "batchtopk"),
    _peer("sae-lens", "architecture", "matryoshka"),
    _peer(
        "sae-lens",
        "architecture",
        "jumprelu",
        _TARGET,
        l0_coefficient=0.25,
        jumprelu_bandwidth=0.5,
        jumprelu_init_threshold=0.1,
    ),
    _peer("sae-lens", "architecture", "standard", "with its default penalty", l1_coefficient=1.0),
    _peer("dictionary-learning", "trainer", "topk"),
    _peer("dictionary-learning", "trainer", "batchtopk"),
    _peer("dictionary-learning", "trainer", "matryoshka"),
    _peer("dictionary-learning", "trainer", "jumprelu", bandwidth=0.1),
    Row(
        "sparsify, topk",
        "sparsify",
        "sparsify_topk.py",
        {"optimizer": "adam"},
        "its trainer always lets the rate fall linearly to 0",
    ),
)
ROWS = (*OURS, *PEER_ROWS)
# The rows of the figure of quality over time, on the case `small`.
CURVES = ("interp, topk", "sae-lens, topk", "dictionary-learning, topk", "sparsify, topk")
