"""Codes and rows for the tests of the backward ops: odd sizes, repeated latents, skewed counts."""

import torch
import torch.nn.functional as F
from interp_kernels import Weights
from torch import Tensor

# n, d, m, k
SIZES = [(1, 1, 1, 1), (5, 3, 7, 7), (17, 13, 63, 5), (130, 37, 61, 4), (64, 33, 100, 1)]


def draw(generator: torch.Generator, *shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)


def code(
    n: int, m: int, k: int, generator: torch.Generator, *, kind: str = "zipf"
) -> tuple[Tensor, Tensor]:
    """Values [n, k] float64, about half of them 0, and indices [n, k]."""
    values = draw(generator, n, k).relu()
    if kind == "one":
        # One latent active everywhere, in every slot of every row.
        return values, torch.zeros(n, k, dtype=torch.int64)
    if kind == "dead":
        return torch.zeros(n, k, dtype=torch.float64), torch.randint(m, (n, k), generator=generator)
    # Zipf with repetition: the first latent holds a fifth of all slots.
    rates = 1 / torch.arange(1, m + 1, dtype=torch.float64)
    flat = torch.multinomial(rates, max(1, n * k), replacement=True, generator=generator)
    return values, flat[: n * k].view(n, k)


def weights(m: int, d: int, generator: torch.Generator) -> tuple[Weights, tuple[Weights, Weights]]:
    """Float64 parameters of an autoencoder (unit decoder rows) and moments of a run in progress."""

    def one() -> list[Tensor]:
        return [draw(generator, m, d), draw(generator, m, d), draw(generator, m)]

    decoder, encoder, bias = one()
    first, second = Weights(*one()), Weights(*(t.square() + 0.1 for t in one()))
    return Weights(F.normalize(decoder, dim=1), encoder, bias), (first, second)


def clone(state: tuple[Weights, ...], dtype: torch.dtype = torch.float64) -> list[Weights]:
    return [Weights(*(t.to(dtype, copy=True) for t in group)) for group in state]


def relative_error(found: Tensor, truth: Tensor) -> float:
    size = float(truth.double().norm())
    return float((found.double() - truth.double()).norm()) / (size or 1.0)
