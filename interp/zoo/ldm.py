"""The zoo's latent diffusion model: a U-Net on the codes of `vae`, conditioned on `text`.

Sampling and reading go through diffusers' StableDiffusionPipeline, whose parts are `vae`, `text`
and this U-Net: prompts are padded with the end mark to `CONTEXT` tokens, the final stream of `text`
is the context of the cross-attention, and the empty prompt is the null condition.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from interp.errors import InterpError
from interp.zoo.images import Images
from interp.zoo.nets import SCHEDULER, load_net
from interp.zoo.text import GPT, hidden_states, load_tokenizer
from interp.zoo.text_tokens import documents
from interp.zoo.training import Job, update

# Codes of 8 x 8; every block, at 8 and at 4, attends to itself and to the text.
UNET: dict[str, Any] = {
    "sample_size": 8,
    "in_channels": 4,
    "out_channels": 4,
    "down_block_types": ("CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
    "block_out_channels": (64, 72),
    "layers_per_block": 1,
    "resnet_time_scale_shift": "scale_shift",
    # The number of heads, by an old mistake of the library's naming.
    "attention_head_dim": 4,
    "cross_attention_dim": GPT["n_embd"],
    "norm_num_groups": 8,
}
# Tokens of a prompt; longer ones are cut, as are captions with very many tags.
CONTEXT = 32
# Texts of an image that a training draws from: the caption alone, and three orders of its tags.
TEXTS = 4
# How samples are made for the card.
STEPS = 25
GUIDANCE = 3.0
SHUFFLES = 200


def build(n_classes: int) -> nn.Module:
    """Return an untrained `UNet2DConditionModel`; the number of categories plays no part."""
    from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel

    return UNet2DConditionModel(**UNET)


@torch.no_grad()
def posteriors(
    vae: Any, images: Float[Tensor, "n 3 32 32"]
) -> tuple[Float[Tensor, "n 4 8 8"], Float[Tensor, "n 4 8 8"]]:
    """Return means and standard deviations of the codes of images in [-1, 1]."""
    found = [vae.encode(x).latent_dist for x in images.split(128)]
    return torch.cat([p.mean for p in found]), torch.cat([p.std for p in found])


def scaling_factor(mean: Tensor, std: Tensor) -> float:
    """Return 1 / standard deviation of codes drawn from the posteriors, to four figures."""
    variance = mean.double().var() + std.double().square().mean()
    return float(f"{float(variance**-0.5):.4g}")


def prepare(data: Images, folder: Path) -> tuple[Tensor, Tensor]:
    """Return what a training draws from, both as the frozen `vae` and `text` see it.

    Args:
        data: training images.
        folder: of a trained `vae` and `text`; else the shipped ones.

    Returns:
        scaled means and deviations of the codes [n, 2, 4, 8, 8], and hidden states of the texts
        [n, texts + 1, context, d] as float16: caption, orders of tags, nothing.
    """
    vae, _ = load_net("vae", folder=folder)
    mean, std = posteriors(vae, data.floats())
    scale = scaling_factor(mean, std)
    text, _ = load_net("text", folder=folder)
    tokenizer = load_tokenizer(folder=folder, length=CONTEXT)
    contexts = [
        hidden_states(text, _tokens(tokenizer, [*several[1:], ""])).half()
        for several in documents(data, TEXTS + 1)
    ]
    return torch.stack([mean * scale, std * scale], 1), torch.stack(contexts)


def _tokens(tokenizer: Any, texts: Sequence[str]) -> Tensor:
    rows = tokenizer(list(texts), padding="max_length", truncation=True, return_tensors="pt")
    return rows["input_ids"]


def describe(data: Images, folder: Path) -> dict[str, Any]:
    """Return what a user of the network must know: parts, scheduler, scaling."""
    vae, vae_card = load_net("vae", folder=folder)
    _, text_card = load_net("text", folder=folder)
    return {
        "scheduler": SCHEDULER,
        "scaling_factor": scaling_factor(*posteriors(vae, data.floats())),
        "context": CONTEXT,
        "vae_sha256": vae_card["weights"]["sha256"],
        "text_sha256": text_card["weights"]["sha256"],
    }


def step(job: Job, codes: Tensor, contexts: Tensor, progress: float) -> dict[str, Tensor]:
    """Take one step on a draw of each code, with its caption, its caption and tags, or nothing."""
    from interp.zoo.recipes import denoising_loss

    recipe, net, generator = job.extra["recipe"], job.nets["ldm"], job.generator
    n, device = len(codes), codes.device
    noise = torch.randn(codes[:, 0].shape, generator=generator, device=device)
    draws = torch.rand(2, n, generator=generator, device=device)
    null = contexts.shape[1] - 1
    chosen = torch.randint(1, null, (n,), generator=generator, device=device)
    chosen = chosen.where(draws[0] < recipe["tags_share"], 0)
    chosen = chosen.where(draws[1] >= recipe["null_share"], null)
    context = contexts[torch.arange(n, device=device), chosen].float()

    def predict(noisy: Tensor, t: Tensor) -> Tensor:
        return net(noisy, t, encoder_hidden_states=context).sample

    loss, losses = denoising_loss(job, codes[:, 0] + codes[:, 1] * noise, predict)
    update(loss, job.optimizers["ldm"])
    return losses


def make_pipe(net: Any, card: dict[str, Any], *, folder: Path | str | None = None) -> Any:
    """Return the StableDiffusionPipeline around the U-Net.

    Args:
        net: the U-Net, trained or not.
        card: its card; without `net` facts (an untrained network of a test) the shipped ones'.
        folder: a folder of a trained `vae` and `text`, searched before the shipped ones.

    Raises:
        InterpError: `vae` or `text` is not the one that it was trained on.
    """
    from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import (
        StableDiffusionPipeline,
    )
    from diffusers.schedulers.scheduling_ddim import DDIMScheduler

    facts = card.get("net", {})
    parts: dict[str, Any] = {}
    for name in ("vae", "text"):
        parts[name], found = load_net(name, folder=folder)
        asked, there = facts.get(f"{name}_sha256"), found["weights"]["sha256"]
        if asked not in (None, there):
            raise InterpError(
                f"zoo:ldm was trained on a zoo:{name} with sha256 {asked[:12]}..., the one there "
                f"has {there[:12]}...: train it again with `interp zoo train ldm`"
            )
    vae = parts["vae"]
    # The shipped VAE's own factor, where nobody has trained this network.
    vae.register_to_config(scaling_factor=facts.get("scaling_factor", 1.0))
    # The pipeline asks for this offset; timesteps that trail do not use it.
    scheduler: Any = DDIMScheduler(**SCHEDULER, steps_offset=1)
    nothing: Any = None
    pipe = StableDiffusionPipeline(
        vae=vae,
        text_encoder=parts["text"].transformer,
        tokenizer=load_tokenizer(folder=folder, length=CONTEXT),
        unet=net,
        scheduler=scheduler,
        safety_checker=nothing,
        feature_extractor=nothing,
        requires_safety_checker=False,
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


def sample(
    pipe: Any,
    seeds: Sequence[int],
    prompts: Sequence[str],
    *,
    steps: int = STEPS,
    guidance: float = GUIDANCE,
    batch_size: int = 64,
) -> UInt8[Tensor, "n 32 32 3"]:
    """Return one image per seed and prompt by DDIM (eta 0), guided against the empty prompt.

    Args:
        pipe: what `make_pipe` returns.
        seeds: one per image; sample i depends on seeds[i] and prompts[i] alone.
        prompts: one per image.
        steps: denoiser calls.
        guidance: 1 for none.
        batch_size: images per forward pass, before guidance doubles it.
    """
    parts = []
    for start in range(0, len(seeds), batch_size):
        draws = [torch.Generator().manual_seed(s) for s in seeds[start : start + batch_size]]
        made = pipe(
            prompt=list(prompts[start : start + batch_size]),
            generator=draws,
            num_inference_steps=steps,
            guidance_scale=guidance,
            output_type="pt",
        ).images
        parts.append(made.mul(255).round().to(torch.uint8).permute(0, 2, 3, 1))
    return torch.cat(parts)


def measure(net: Any, judged: Any) -> dict[str, Any]:
    """Return the quality of samples with held-out captions, and whether they follow them.

    Args:
        net: the network.
        judged: `cards.Judged`.
    """
    from interp.zoo.cards import accuracy, copies, distances
    from interp.zoo.sampling import vit_outputs

    train, heldout = judged.train, judged.heldout
    pipe = make_pipe(net, judged.card, folder=judged.folder)
    samples = sample(pipe, range(len(heldout)), heldout.captions)
    logits = vit_outputs(judged.judge, samples)[1]
    generator = torch.Generator().manual_seed(0)
    orders = [torch.randperm(len(heldout), generator=generator) for _ in range(SHUFFLES)]
    shuffled = torch.tensor([accuracy(logits, heldout.labels[order]) for order in orders])
    return {
        **distances(judged.judge, train, heldout, samples),
        **copies(train, heldout, samples),
        "label_accuracy": accuracy(logits, heldout.labels),
        "label_accuracy_shuffled": float(shuffled.mean()),
        "label_accuracy_shuffled_max": float(shuffled.max()),
        "vit_accuracy": accuracy(vit_outputs(judged.judge, heldout.pixels)[1], heldout.labels),
    }


def picture(net: Any, path: Path, heldout: Images) -> None:
    """Write 128 held-out images, each row of 16 above samples of its captions."""
    import json

    from interp.zoo import export

    folder = path.parent
    card = json.loads((folder / "ldm.json").read_text())
    pipe = make_pipe(net, card, folder=folder)
    chosen = heldout.select(torch.linspace(0, len(heldout) - 1, 128).round().long())
    made = sample(pipe, range(len(chosen)), chosen.captions)
    pairs = zip(chosen.pixels.split(16), made.split(16), strict=True)
    export.picture(path, torch.cat([part for pair in pairs for part in pair]))
