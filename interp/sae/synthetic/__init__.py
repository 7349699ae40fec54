"""Activations with a known answer: sparse mixtures of planted atoms, and their recovery."""

from interp.sae.metrics import Recovery, recovery
from interp.sae.synthetic.base import Mixture, Planted, Truth
from interp.sae.synthetic.bench import small_synth_sae_bench, synth_sae_bench
from interp.sae.synthetic.dictionary import OutlierDictionary, PlantedDictionary
from interp.sae.synthetic.space import SpatialDictionary
from interp.sae.synthetic.timed import TimedDictionary
from interp.sae.synthetic.tree import (
    Firing,
    FiringDictionary,
    correlated_dictionary,
    hierarchical_dictionary,
)

__all__ = [
    "Firing",
    "FiringDictionary",
    "Mixture",
    "OutlierDictionary",
    "Planted",
    "PlantedDictionary",
    "Recovery",
    "SpatialDictionary",
    "TimedDictionary",
    "Truth",
    "correlated_dictionary",
    "hierarchical_dictionary",
    "recovery",
    "small_synth_sae_bench",
    "synth_sae_bench",
]
