"""SAEs with nothing trivial in them: biases, gains, thresholds, mean and scale."""

import torch

from interp.sae import SAE, VARIANTS, TrainConfig
from interp.sae.formats.imported import Imported
from interp.sae.formats.weights import make

D, M, K = 6, 24, 3


def rows(n=64, seed=9):
    return 2 * torch.randn(n, D, generator=torch.Generator().manual_seed(seed)) + 1


def trained(variant: str, *, normalized: bool = True, seed: int = 0) -> SAE:
    """One of our variants as training might leave it."""
    sae = VARIANTS[variant].build(D, TrainConfig(variant=variant, n_latents=M, k=K))
    g = torch.Generator().manual_seed(seed)
    if normalized:
        sae.fit(torch.linspace(-3, 3, D).double(), torch.linspace(0.5, 2, D).double())
    with torch.no_grad():
        for value in sae.parameters():
            value += 0.2 * torch.randn(value.shape, generator=g)
        for name, value in sae.named_buffers():
            if name == "threshold":
                value.fill_(0.3)
    sae.after_step()
    return sae


def imported(activation: str, rows: str = "none", seed: int = 0, **more: bool) -> Imported:
    """An imported SAE: rows of any norm, different biases at input and output."""
    g = torch.Generator().manual_seed(seed)

    def draw(*shape):
        return 0.5 * torch.randn(shape, generator=g)

    weights = {"W_enc": draw(M, D), "W_dec": draw(M, D)}
    weights |= {"b_enc": draw(M), "b_dec": draw(D), "b_in": draw(D)}
    if activation == "jumprelu":
        weights["threshold"] = 0.1 + draw(M).abs()
    if activation == "gated":
        weights |= {"r_mag": draw(M), "b_mag": draw(M)}
    k = K if activation in ("topk", "groupmax", "pursuit") else 0
    return make(activation, weights, k=k, rows=rows, **more)
