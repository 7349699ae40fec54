"""dictionary_learning: `trainSAE` of any of its trainers, read back from its ae.pt.

Options: trainer, and arguments of it.
"""

# pyright: reportMissingImports=false
import tempfile
from pathlib import Path

from dictionary_learning.dictionary import AutoEncoder, JumpReluAutoEncoder
from dictionary_learning.trainers.batch_top_k import BatchTopKSAE, BatchTopKTrainer
from dictionary_learning.trainers.jumprelu import JumpReluTrainer
from dictionary_learning.trainers.matryoshka_batch_top_k import (
    MatryoshkaBatchTopKSAE,
    MatryoshkaBatchTopKTrainer,
)
from dictionary_learning.trainers.standard import StandardTrainer
from dictionary_learning.trainers.top_k import AutoEncoderTopK, TopKTrainer
from dictionary_learning.training import trainSAE

PACKAGE = "dictionary-learning"
AHEAD = 0
KINDS = {
    "topk": (TopKTrainer, AutoEncoderTopK),
    "batchtopk": (BatchTopKTrainer, BatchTopKSAE),
    "matryoshka": (MatryoshkaBatchTopKTrainer, MatryoshkaBatchTopKSAE),
    "standard": (StandardTrainer, AutoEncoder),
    "jumprelu": (JumpReluTrainer, JumpReluAutoEncoder),
}


def train(job, rows):
    options = dict(job.options)
    name = options.pop("trainer")
    trainer, kind = KINDS[name]
    # Its defaults, 1000 and 2000 steps, are longer than a short run may be.
    options["warmup_steps"] = 0
    if name in ("standard", "jumprelu"):
        options["sparsity_warmup_steps"] = job.steps // 4
    if name in ("topk", "batchtopk", "matryoshka"):
        options |= {"k": job.k, "threshold_start_step": min(1000, job.steps // 2)}
    if name == "matryoshka":
        # Halves of halves down to a sixteenth.
        options["group_fractions"] = [1 / 16, 1 / 16, 1 / 8, 1 / 4, 1 / 2]
    if name == "jumprelu":
        options["target_l0"] = job.k
    config = {
        "trainer": trainer,
        "steps": job.steps,
        "activation_dim": rows.width,
        "dict_size": job.m,
        "lr": job.lr,
        "layer": 0,
        "lm_name": "prepared batches",
        "seed": job.seed,
        "device": "cpu",
        **options,
    }
    with tempfile.TemporaryDirectory() as folder:
        trainSAE(rows, [config], job.steps, save_dir=folder, device="cpu")
        sae = kind.from_pretrained(Path(folder) / "trainer_0" / "ae.pt")
    decoder = sae.W_dec if hasattr(sae, "W_dec") else sae.decoder.weight.T
    return {"decoder": decoder.contiguous()}, sae.decode, sae.encode
