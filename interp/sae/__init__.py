"""Sparse autoencoders: one final class per variant, one training loop, one evaluation."""

from interp.sae.base import SAE, Code, Losses
from interp.sae.config import TrainConfig
from interp.sae.evaluate import Evaluation, evaluate
from interp.sae.many import Job, train_many
from interp.sae.topk import TopK
from interp.sae.train import Run, train

# Each entry is also a case of the conformance suite (tests/sae/test_conformance.py).
VARIANTS: dict[str, type[SAE]] = {
    "topk": TopK,
}

__all__ = [
    "SAE",
    "VARIANTS",
    "Code",
    "Evaluation",
    "Job",
    "Losses",
    "Run",
    "TopK",
    "TrainConfig",
    "evaluate",
    "train",
    "train_many",
]
