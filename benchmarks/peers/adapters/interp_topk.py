"""interp: `train` on an iterable of batches."""

import tempfile

from interp import TrainConfig
from interp import train as train_sae

PACKAGE = None
# The first batches give mean and scale.
AHEAD = 17


def train(job, rows):
    same = {} if job.options.get("defaults") else {"lr": job.lr, "warmup": 0.0, "decay": 0.0}
    config = TrainConfig(
        n_latents=job.m,
        k=job.k,
        batch_size=rows.batch_size,
        steps=job.steps,
        seed=job.seed,
        **same,
    )
    with tempfile.TemporaryDirectory() as folder:
        sae = train_sae(rows, config, out=folder, progress=False).sae
    w = sae.state_dict()
    encoder = w["W_enc"] / w["scale"]
    weights = {
        "encoder": encoder,
        "encoder_bias": w["b_enc"] - w["W_enc"] @ w["b_dec"] - encoder @ w["mean"],
        "decoder": w["W_dec"] * w["scale"],
        "decoder_bias": w["b_dec"] * w["scale"] + w["mean"],
    }
    return weights, sae
