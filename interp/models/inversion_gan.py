"""Codes of a GAN for given images: w or one w per layer, by Adam, with or without the noise."""

import math
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from interp.models.editing import editing
from interp.models.inputs import GenerateBatch

# images [b, 3, h, w] in [-1, 1] -> features [b, ...]
Features = Callable[[Tensor], Tensor]

# Karras et al. 2020, app. D: 1000 steps at .1; at 32 pixels the loss is flat after 300.
ITERATIONS = 300
LR = 0.1
# Karras et al. 2020, app. D: the mean over 10 000 z; at 1000 it is off by 3 % of a deviation.
MEAN_OF = 1000


class Found(NamedTuple):
    """What an inversion found: latents, what the autoencoder alone makes, the rest by method."""

    latents: Tensor
    codec: Tensor | None = None
    nulls: Tensor | None = None
    noise: tuple[Tensor, ...] = ()


def invert_gan(
    model: Any,
    pixels: Float[Tensor, "b 3 h w"],
    batch: GenerateBatch,
    method: str,
    settings: Any,
    features: Features | None,
) -> Found:
    """Optimize w from its mean and, for "w_plus", one code per layer from that w.

    Loss of an image: mean squared difference of pixels in [-1, 1], of the generator's unclipped
    output, plus `feature_weight` times that of the features. Each stage has `iterations` steps; the
    rate falls to 0 along half a cosine. The best codes of the last stage are kept. Optimized noise
    maps start from the seeds' and are not regularized: they take what the codes cannot.
    """
    n, layers = len(pixels), sum(name.startswith("w_plus.") for name in model.points)
    with torch.no_grad():
        seen = model.draw_latents(GenerateBatch(tuple(range(MEAN_OF))))
        mean = model.root.mapping(seen.to(model.dtype)).mean(0)
        noise = [m.to(mean) for m in model.inputs(batch.seeds)[1]]
    if settings.noise == "zero":
        noise = [torch.zeros_like(m) for m in noise]
    goal = None if features is None else features(pixels).detach()

    def judge(made: Tensor) -> Tensor:
        loss = (made - pixels).square().flatten(1).mean(1)
        if features is None or goal is None:
            return loss
        distance = (features(made) - goal).square().flatten(1).mean(1)
        return loss + settings.feature_weight * distance

    code = mean[None, None].expand(n, 1, -1)
    code, noise = _descend(model, batch, code, noise, judge, settings)
    if method == "w_plus":
        start = code.expand(-1, layers, -1)
        code, noise = _descend(model, batch, start, noise, judge, settings)
    kept = () if settings.noise == "fixed" else tuple(noise)
    return Found(code if method == "w_plus" else code[:, 0], noise=kept)


def _descend(
    model: Any,
    batch: GenerateBatch,
    start: Float[Tensor, "b layers d"],
    noise: list[Tensor],
    judge: Callable[[Tensor], Tensor],
    settings: Any,
) -> tuple[Tensor, list[Tensor]]:
    """Codes [b, 1 or layers, d] and noise maps with the smallest loss on the way."""
    code = start.detach().clone().requires_grad_()
    free = settings.noise == "optimized"
    maps = [m.detach().clone().requires_grad_(free) for m in noise]
    learned = [code, *maps] if free else [code]
    rate, total = settings.lr or LR, settings.iterations or ITERATIONS
    adam = torch.optim.Adam(learned, lr=rate)
    worst = torch.full((len(code),), math.inf, device=code.device)
    best = [worst, *(value.detach().clone() for value in (code, *maps))]
    with ExitStack() as stack, torch.enable_grad():
        synthesize = _synthesizer(model, batch, code, maps, stack)
        for i in range(total):
            # Half a cosine from the full rate to 0.
            adam.param_groups[0]["lr"] = rate * (1 + math.cos(math.pi * i / total)) / 2
            losses = judge(synthesize())
            _keep(best, losses, [code, *maps])
            # Without the generator's parameters, whose gradients nobody asked for.
            gradients = torch.autograd.grad(losses.sum(), learned)
            for value, gradient in zip(learned, gradients, strict=True):
                value.grad = gradient
            adam.step()
        _keep(best, judge(synthesize()), [code, *maps])
    return best[1], best[2:]


def _keep(best: list[Tensor], losses: Tensor, values: list[Tensor]) -> None:
    """Put the loss, codes and maps of the images that got better in place of the best so far."""
    better = losses.detach() < best[0]
    for old, new in zip(best, (losses, *values), strict=True):
        old[better] = new.detach()[better]


def _synthesizer(
    model: Any, batch: GenerateBatch, code: Tensor, maps: list[Tensor], stack: ExitStack
) -> Callable[[], Tensor]:
    """A function that makes unclipped images of the present codes and maps."""
    made: list[Tensor] = []

    def note(module: Any, args: Any, output: Tensor) -> None:
        made.append(output)

    stack.callback(model.root.register_forward_hook(note).remove)
    edits: dict[str, Any] = {
        f"noise.{i}": lambda rows, call, m=m: m.flatten(1)[:, :, None] for i, m in enumerate(maps)
    }
    if code.shape[1] == 1:
        edits["w"] = lambda rows, call: code
    else:
        for i in range(code.shape[1]):
            edits[f"w_plus.{i}"] = lambda rows, call, i=i: code[:, i : i + 1]
    stack.enter_context(editing(model, edits))

    def synthesize() -> Tensor:
        model.render(batch)
        return made.pop().float()

    return synthesize
