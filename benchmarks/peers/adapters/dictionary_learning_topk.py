"""dictionary_learning: `trainSAE(data, [config], ...)`; the SAE is read back from its ae.pt."""

# pyright: reportMissingImports=false
import tempfile
from pathlib import Path

from dictionary_learning.trainers.top_k import AutoEncoderTopK, TopKTrainer
from dictionary_learning.training import trainSAE

PACKAGE = "dictionary-learning"
AHEAD = 0


def train(job, rows):
    config = {
        "trainer": TopKTrainer,
        "steps": job.steps,
        "activation_dim": rows.width,
        "dict_size": job.m,
        "k": job.k,
        "lr": job.lr,
        # Its default, 1000 steps, is longer than a short run may be.
        "warmup_steps": 0,
        "layer": 0,
        "lm_name": "prepared batches",
        "seed": job.seed,
        "device": "cpu",
    }
    with tempfile.TemporaryDirectory() as folder:
        trainSAE(rows, [config], job.steps, save_dir=folder, device="cpu")
        sae = AutoEncoderTopK.from_pretrained(Path(folder) / "trainer_0" / "ae.pt")
    weights = {
        "encoder": sae.encoder.weight,
        "encoder_bias": sae.encoder.bias - sae.encoder.weight @ sae.b_dec,
        "decoder": sae.decoder.weight.T.contiguous(),
        "decoder_bias": sae.b_dec,
    }
    return weights, sae
