"""Sparse autoencoders: one final class per variant, one training loop, one evaluation."""

from interp.sae.base import SAE, Code, Context, Losses
from interp.sae.batchtopk import BatchTopK
from interp.sae.config import TrainConfig
from interp.sae.evaluate import Evaluation, evaluate
from interp.sae.formats import load_sae, save_sae
from interp.sae.gated import Gated
from interp.sae.jumprelu import JumpReLU
from interp.sae.many import Job, train_many
from interp.sae.matryoshka import Matryoshka
from interp.sae.relu import ReLU
from interp.sae.topk import TopK
from interp.sae.train import Run, train

# Each entry is also a case of the conformance suite (tests/sae/test_conformance.py).
VARIANTS: dict[str, type[SAE]] = {
    "batchtopk": BatchTopK,
    "gated": Gated,
    "jumprelu": JumpReLU,
    "matryoshka": Matryoshka,
    "relu": ReLU,
    "topk": TopK,
}

__all__ = [
    "SAE",
    "VARIANTS",
    "BatchTopK",
    "Code",
    "Context",
    "Evaluation",
    "Gated",
    "Job",
    "JumpReLU",
    "Losses",
    "Matryoshka",
    "ReLU",
    "Run",
    "TopK",
    "TrainConfig",
    "evaluate",
    "load_sae",
    "save_sae",
    "train",
    "train_many",
]
