"""SAELens: `SAETrainer` of any of its architectures, saved and loaded as its users would.

Options: architecture, and arguments of its training config.
"""

# pyright: reportMissingImports=false
import tempfile

from sae_lens import (
    SAE,
    BatchTopKTrainingSAE,
    BatchTopKTrainingSAEConfig,
    GatedTrainingSAE,
    GatedTrainingSAEConfig,
    JumpReLUTrainingSAE,
    JumpReLUTrainingSAEConfig,
    MatchingPursuitTrainingSAE,
    MatchingPursuitTrainingSAEConfig,
    MatryoshkaBatchTopKTrainingSAE,
    MatryoshkaBatchTopKTrainingSAEConfig,
    StandardTrainingSAE,
    StandardTrainingSAEConfig,
    TopKTrainingSAE,
    TopKTrainingSAEConfig,
)
from sae_lens.config import LoggingConfig, SAETrainerConfig
from sae_lens.training.sae_trainer import SAETrainer

PACKAGE = "sae-lens"
AHEAD = 0
# Architecture -> class, config, and whether the config takes k.
KINDS = {
    "topk": (TopKTrainingSAE, TopKTrainingSAEConfig, True),
    "batchtopk": (BatchTopKTrainingSAE, BatchTopKTrainingSAEConfig, True),
    "matryoshka": (MatryoshkaBatchTopKTrainingSAE, MatryoshkaBatchTopKTrainingSAEConfig, True),
    "standard": (StandardTrainingSAE, StandardTrainingSAEConfig, False),
    "gated": (GatedTrainingSAE, GatedTrainingSAEConfig, False),
    "jumprelu": (JumpReLUTrainingSAE, JumpReLUTrainingSAEConfig, False),
    "matching_pursuit": (MatchingPursuitTrainingSAE, MatchingPursuitTrainingSAEConfig, False),
}


def train(job, rows):
    options = dict(job.options)
    architecture = options.pop("architecture")
    kind, config, takes_k = KINDS[architecture]
    if takes_k:
        options["k"] = job.k
    if architecture == "matryoshka":
        # Halves of halves down to a sixteenth; its own default has one width alone.
        options["matryoshka_widths"] = [job.m // 16, job.m // 8, job.m // 4, job.m // 2, job.m]
    if architecture == "matching_pursuit":
        options["max_iterations"] = job.k
    sae = kind(config(d_in=rows.width, d_sae=job.m, device="cpu", **options))
    trainer = SAETrainerConfig(
        total_training_samples=job.steps * rows.batch_size,
        train_batch_size_samples=rows.batch_size,
        lr=job.lr,
        # Wanted by the trainer, used by no constant rate.
        lr_end=job.lr,
        device="cpu",
        logger=LoggingConfig(log_to_wandb=False),
    )
    trained = SAETrainer(trainer, sae, iter(rows)).fit()
    with tempfile.TemporaryDirectory() as folder:
        trained.save_inference_model(folder)
        loaded = SAE.load_from_disk(folder, device="cpu").eval()
    return {"decoder": loaded.W_dec}, loaded.decode, loaded.encode
