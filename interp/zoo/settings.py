"""Every hyper-parameter of the zoo's trainings; a network's card repeats its own."""

from typing import Any

# Batch sizes suit one CPU core; `minutes` is the default length of a training.
RECIPES: dict[str, dict[str, Any]] = {
    # Edges: L1 of image differences, against the blur of a small VAE. No feature network judges the
    # reconstruction, so that the zoo's networks share no supervision.
    "vae": {
        "batch_size": 24,
        "lr": 2e-3,
        "betas": (0.9, 0.99),
        "weight_decay": 0.0,
        "decay_from": 0.3,
        "warmup": 100,
        "ema_half_life": 200,
        "mse": 1.0,
        "l1": 0.5,
        "edges": 0.5,
        "kl": 1e-3,
        "minutes": 10,
    },
    # v-prediction with min-SNR weighting, gamma 5 (Hang et al. 2023, arXiv 2303.09556).
    "ddpm": {
        "batch_size": 64,
        "lr": 1.5e-3,
        "betas": (0.9, 0.99),
        "weight_decay": 0.0,
        "decay_from": 0.2,
        "warmup": 200,
        "ema_half_life": 500,
        "null_share": 0.12,
        "min_snr_gamma": 5.0,
        "minutes": 85,
    },
    # As `ddpm`, but half the batch: at the start of a training that a slow machine cuts short,
    # twice the steps are worth more than quieter ones.
    "dit": {
        "batch_size": 32,
        "lr": 1e-3,
        "betas": (0.9, 0.99),
        "weight_decay": 0.0,
        "decay_from": 0.2,
        "warmup": 200,
        "ema_half_life": 500,
        "null_share": 0.12,
        "min_snr_gamma": 5.0,
        "minutes": 60,
    },
    # Half of the patches are dropped in the first 70 % of the run, where a step then costs half.
    "vit": {
        "batch_size": 64,
        "lr": 1.5e-3,
        "betas": (0.9, 0.98),
        "weight_decay": 0.05,
        "decay_from": 0.0,
        "warmup": 100,
        "ema_half_life": 200,
        "kept_patches": 32,
        "full_from": 0.7,
        "mixup": 0.2,
        "smoothing": 0.1,
        "minutes": 14,
    },
    # SimCLR: its one constant needs no balancing against others, and negatives rule out a collapse.
    # The temperature is MoCo v2's (Chen et al. 2020, arXiv 2003.04297, section 3). Three eighths of
    # the patches are shown in the first 80 % of the run: on a slow machine, steps count.
    "ssl": {
        "batch_size": 64,
        "lr": 1.5e-3,
        "betas": (0.9, 0.98),
        "weight_decay": 0.05,
        "decay_from": 0.0,
        "warmup": 100,
        "ema_half_life": 200,
        "kept_patches": 24,
        "full_from": 0.8,
        "temperature": 0.2,
        "minutes": 18,
    },
    # Non-saturating loss, lazy R1, differentiable augmentation. R1 is small because its gradient
    # sums over pixels: StyleGAN2-ADA (Karras 2020, arXiv 2006.06676) takes 0.01 at 32 pixels.
    "gan": {
        "batch_size": 32,
        "lr": 2.5e-3,
        "betas": (0.0, 0.99),
        "weight_decay": 0.0,
        "decay_from": 0.7,
        "warmup": 50,
        "ema_half_life": 400,
        "r1": 0.05,
        "r1_every": 16,
        "minutes": 165,
    },
    # So little text is learnt by heart within a few hundred steps: dropout and weight decay, and
    # other orders of the tags (text_tokens.documents).
    "text": {
        "batch_size": 32,
        "lr": 2e-3,
        "betas": (0.9, 0.98),
        "weight_decay": 0.1,
        "decay_from": 0.0,
        "warmup": 100,
        "ema_half_life": 100,
        "dropout": 0.2,
        "minutes": 8,
    },
    # As `vae`, but draws from the prior are to be images: at a weight of 4e-3 a code carried 180
    # nats, far more than tell the training images apart (8), and draws showed no things. At .3, in
    # half of these steps, draws were no better (Frechet 16) and reconstructions blurred (15.9 dB).
    # The weight rises slowly, lest the code shuts at the start (Bowman et al. 2016, arXiv
    # 1511.06349, section 3.1).
    "vae-global": {
        "batch_size": 48,
        "lr": 2e-3,
        "betas": (0.9, 0.99),
        "weight_decay": 0.0,
        "decay_from": 0.3,
        "warmup": 100,
        "ema_half_life": 200,
        "mse": 1.0,
        "l1": 0.5,
        "edges": 0.5,
        "kl": 0.15,
        "kl_ramp": 0.5,
        "minutes": 40,
    },
    # As `ddpm`, with half the batch for twice the steps, as `dit`.
    "ldm": {
        "batch_size": 32,
        "lr": 1.5e-3,
        "betas": (0.9, 0.99),
        "weight_decay": 0.0,
        "decay_from": 0.2,
        "warmup": 200,
        "ema_half_life": 500,
        "null_share": 0.12,
        "tags_share": 0.3,
        "min_snr_gamma": 5.0,
        "minutes": 60,
    },
}
