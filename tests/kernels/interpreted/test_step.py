"""Whole training steps through the kernels, in the interpreter, against the torch-only ones."""

import torch
from interp_kernels import using_backend

from interp.sae import TopK, TrainConfig
from interp.sae.step import fused_step, open_stack
from interp.sae.synthetic import PlantedDictionary

CONFIG = TrainConfig(n_latents=24, k=3, batch_size=16, steps=25, dead_window=1, lr=2e-2)


def _curve(backend: str, dtype: torch.dtype | None, members: int) -> torch.Tensor:
    saes = [TopK(10, 24, 3, seed=seed, aux_k=4) for seed in range(members)]
    optimizers = [torch.optim.Adam(sae.parameters(), fused=True) for sae in saes]
    counters = [torch.zeros(24, dtype=torch.int64) for _ in saes]
    stack = open_stack(saes, optimizers, counters, dtype=dtype)
    lines = []
    with using_backend(backend):
        for step, x in enumerate(PlantedDictionary(20, 10, 3, batch_size=16, steps=4)):
            lines.append(fused_step(stack, [x] * members, CONFIG, step))
    return torch.cat([torch.stack(lines).flatten(), *(sae.W_enc.flatten() for sae in saes)])


def test_four_steps_in_single_precision_equal_the_eager_ones():
    for members in (1, 2):
        found = _curve("triton", None, members)
        torch.testing.assert_close(found, _curve("eager", None, members), rtol=0, atol=1e-4)


def test_four_steps_on_half_precision_copies_stay_near_the_eager_ones():
    found = _curve("triton", torch.float16, 1)
    torch.testing.assert_close(found, _curve("eager", torch.float16, 1), rtol=0, atol=2e-2)
