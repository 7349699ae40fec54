"""Sparse autoencoders: one final class per variant, one training loop, one evaluation."""

from interp.sae.archetypal import Archetypal
from interp.sae.base import SAE, Code, Context, Losses
from interp.sae.batchtopk import BatchTopK
from interp.sae.config import TrainConfig
from interp.sae.crosscoder import Crosscoder
from interp.sae.evaluate import Evaluation, evaluate
from interp.sae.evaluate_joined import JoinedEvaluation, evaluate_joined, rejoin
from interp.sae.formats import load_sae, save_sae
from interp.sae.gated import Gated
from interp.sae.joined import Joined, Site, join
from interp.sae.jumprelu import JumpReLU
from interp.sae.many import Job, train_many
from interp.sae.matryoshka import Matryoshka
from interp.sae.omp import OMP
from interp.sae.pursuit import Pursuit
from interp.sae.relu import ReLU
from interp.sae.shares import Shares, crosscoder_shares
from interp.sae.topk import TopK
from interp.sae.train import Run, train
from interp.sae.transcoder import Transcoder

# Each entry is also a case of the conformance suite (tests/sae/test_conformance.py).
VARIANTS: dict[str, type[SAE]] = {
    "archetypal": Archetypal,
    "batchtopk": BatchTopK,
    "crosscoder": Crosscoder,
    "gated": Gated,
    "jumprelu": JumpReLU,
    "matryoshka": Matryoshka,
    "omp": OMP,
    "pursuit": Pursuit,
    "relu": ReLU,
    "topk": TopK,
    "transcoder": Transcoder,
}

__all__ = [
    "OMP",
    "SAE",
    "VARIANTS",
    "Archetypal",
    "BatchTopK",
    "Code",
    "Context",
    "Crosscoder",
    "Evaluation",
    "Gated",
    "Job",
    "Joined",
    "JoinedEvaluation",
    "JumpReLU",
    "Losses",
    "Matryoshka",
    "Pursuit",
    "ReLU",
    "Run",
    "Shares",
    "Site",
    "TopK",
    "TrainConfig",
    "Transcoder",
    "crosscoder_shares",
    "evaluate",
    "evaluate_joined",
    "join",
    "load_sae",
    "rejoin",
    "save_sae",
    "train",
    "train_many",
]
