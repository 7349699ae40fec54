"""SAELens: `SAETrainer(cfg, sae, data_provider).fit()`, its documented way for own data."""

# pyright: reportMissingImports=false
from sae_lens import TopKTrainingSAE, TopKTrainingSAEConfig
from sae_lens.config import LoggingConfig, SAETrainerConfig
from sae_lens.training.sae_trainer import SAETrainer

PACKAGE = "sae-lens"
AHEAD = 0


def train(job, rows):
    sae = TopKTrainingSAE(
        TopKTrainingSAEConfig(d_in=rows.width, d_sae=job.m, k=job.k, device="cpu")
    )
    config = SAETrainerConfig(
        total_training_samples=job.steps * rows.batch_size,
        train_batch_size_samples=rows.batch_size,
        lr=job.lr,
        # Wanted by the trainer, used by no constant rate.
        lr_end=job.lr,
        device="cpu",
        logger=LoggingConfig(log_to_wandb=False),
    )
    sae = SAETrainer(config, sae, iter(rows)).fit().eval()
    # Values are read as if the decoder's rows had norm 1.
    norm = sae.W_dec.norm(dim=1)
    encoder = (sae.W_enc * norm).T
    bias = sae.b_enc * norm
    if sae.cfg.apply_b_dec_to_input:
        bias = bias - encoder @ sae.b_dec
    weights = {
        "encoder": encoder,
        "encoder_bias": bias,
        "decoder": sae.W_dec / norm[:, None],
        "decoder_bias": sae.b_dec,
    }
    return weights, lambda x: sae.decode(sae.encode(x))
