"""How each network of the zoo is trained: `make_job` builds the training, `train_zoo` runs it.

Imports torch, diffusers, numpy and safetensors only (`text` and `ldm`: transformers), so that the
recipes also run on a bare machine with a GPU.
"""

import importlib.util
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from interp.errors import InputError
from interp.zoo import dit
from interp.zoo.critic import Critic, augment
from interp.zoo.export import export
from interp.zoo.gan import LAYER_SIZES, Z_WIDTH
from interp.zoo.nets import NAMES, SCHEDULER, build_net, file_stem, home
from interp.zoo.settings import RECIPES
from interp.zoo.training import Box, Job, read_checkpoint, run, update


def _optimizer(
    parameters: Any, recipe: dict[str, Any], share: float = 1.0
) -> torch.optim.Optimizer:
    return torch.optim.AdamW(
        parameters,
        lr=recipe["lr"] * share,
        betas=(recipe["betas"][0] ** share, recipe["betas"][1] ** share),
        weight_decay=recipe["weight_decay"],
        fused=True,
    )


def _job(
    name: str, step: Callable, recipe: dict[str, Any], n_classes: int, seed: int, device: str
) -> Job:
    net = build_net(name, n_classes=n_classes, seed=seed)
    if name in STARTS:
        STARTS[name](net)
    net = net.to(device).train()
    generator = torch.Generator(device).manual_seed(seed)
    return Job(
        nets={name: net},
        ema_of=name,
        optimizers={name: _optimizer(net.parameters(), recipe)},
        step=step,
        generator=generator,
        batch_size=recipe["batch_size"],
        ema_half_life=recipe["ema_half_life"],
        warmup=recipe["warmup"],
        decay_from=recipe["decay_from"],
        extra={"recipe": recipe, "n_classes": n_classes},
    )


def _differences(x: Tensor) -> tuple[Tensor, Tensor]:
    return x[..., 1:, :] - x[..., :-1, :], x[..., 1:] - x[..., :-1]


def autoencoder_step(job: Job, x: Tensor, labels: Tensor, progress: float) -> dict[str, Tensor]:
    """Take one step of an autoencoder with a Gaussian posterior.

    The loss is mse, L1, edges and KL per code value, weighted by the recipe; the KL's weight rises
    linearly over the share `kl_ramp` of the run, where the recipe names one.
    """
    net, recipe = job.nets[job.ema_of], job.extra["recipe"]
    posterior = net.encode(x).latent_dist
    noise = torch.randn(posterior.mean.shape, generator=job.generator, device=x.device)
    y = net.decode(posterior.mean + posterior.std * noise).sample
    mse, l1 = F.mse_loss(y, x), F.l1_loss(y, x)
    edges = sum(F.l1_loss(a, b) for a, b in zip(_differences(y), _differences(x), strict=True))
    kl = posterior.kl().mean() / posterior.mean[0].numel()
    weight = recipe["kl"]
    if "kl_ramp" in recipe:
        weight *= min(1.0, progress / recipe["kl_ramp"])
    loss = recipe["mse"] * mse + recipe["l1"] * l1 + recipe["edges"] * edges + weight * kl
    update(loss, job.optimizers[job.ema_of])
    return {"mse": mse.detach(), "l1": l1.detach(), "kl": kl.detach()}


def alphas_cumprod() -> Tensor:
    """Return the cosine schedule's cumulative alphas [1000] (Nichol and Dhariwal 2021, eq. 17)."""
    n = SCHEDULER["num_train_timesteps"]
    bar = [math.cos((t / n + 0.008) / 1.008 * math.pi / 2) ** 2 for t in range(n + 1)]
    betas = [min(1 - bar[t + 1] / bar[t], 0.999) for t in range(n)]
    return torch.cumprod(1 - torch.tensor(betas, dtype=torch.float32), 0)


def denoising_loss(
    job: Job, x: Tensor, predict: Callable[[Tensor, Tensor], Tensor]
) -> tuple[Tensor, dict[str, Tensor]]:
    """Return the min-SNR-weighted error of `predict(noisy, t)` against v, and what to log."""
    generator = job.generator
    # One timestep from each of b equal strata: a batch then sees all noise levels.
    n = SCHEDULER["num_train_timesteps"]
    strata = torch.arange(len(x), device=x.device) + torch.rand(
        len(x), generator=generator, device=x.device
    )
    t = (strata * (n / len(x))).long().clamp_(max=n - 1)
    noise = torch.randn(x.shape, generator=generator, device=x.device)
    a = job.extra.setdefault("alphas", alphas_cumprod().to(x.device))[t][:, None, None, None]
    v = predict(a.sqrt() * x + (1 - a).sqrt() * noise, t)
    error = (v - (a.sqrt() * noise - (1 - a).sqrt() * x)).square().mean((1, 2, 3))
    snr = (a / (1 - a)).flatten()
    loss = (error * snr.clamp(max=job.extra["recipe"]["min_snr_gamma"]) / (snr + 1)).mean()
    return loss, {"v_mse": error.detach().mean(), "loss": loss.detach()}


def _denoise_step(job: Job, x: Tensor, labels: Tensor, progress: float) -> dict[str, Tensor]:
    net, share = job.nets[job.ema_of], job.extra["recipe"]["null_share"]

    def predict(noisy: Tensor, t: Tensor) -> Tensor:
        null = torch.rand(len(x), generator=job.generator, device=x.device) < share
        classes = torch.where(null, job.extra["n_classes"], labels)
        return net(noisy, t, class_labels=classes).sample

    loss, losses = denoising_loss(job, F.pixel_unshuffle(x, 2), predict)
    update(loss, job.optimizers[job.ema_of])
    return losses


def _distort(x: Tensor, generator: torch.Generator) -> Tensor:
    """Random flip, rotation to 15 degrees, scale 0.8-1.2, shift to 4 pixels, contrast, color."""
    b = len(x)
    u = torch.rand(8, b, generator=generator, device=x.device) * 2 - 1
    angle, scale = u[0] * (math.pi / 12), 1 + 0.2 * u[1]
    flip = torch.where(u[2] < 0, -1.0, 1.0)
    cos, sin = angle.cos() * scale, angle.sin() * scale
    theta = torch.stack([cos * flip, -sin, u[3] / 4, sin * flip, cos, u[4] / 4], 1).view(b, 2, 3)
    grid = F.affine_grid(theta, list(x.shape), align_corners=False)
    x = F.grid_sample(x - 1, grid, mode="bilinear", align_corners=False) + 1
    x = x * (1 + 0.3 * u[5])[:, None, None, None] + 0.2 * u[6][:, None, None, None]
    gray = x.mean(1, keepdim=True)
    return gray + (x - gray) * (1 + 0.5 * u[7])[:, None, None, None]


def _vit_step(job: Job, x: Tensor, labels: Tensor, progress: float) -> dict[str, Tensor]:
    recipe, net, generator = job.extra["recipe"], job.nets["vit"], job.generator
    x = _distort(x, generator)
    share = 1 - recipe["mixup"] * float(torch.rand((), generator=generator, device=x.device))
    target = F.one_hot(labels, job.extra["n_classes"]).float()
    target = share * target + (1 - share) * target.flip(0)
    x = share * x + (1 - share) * x.flip(0)
    tokens = net.patch(x).flatten(2).transpose(1, 2) + net.position
    if progress < recipe["full_from"]:
        order = torch.rand(tokens.shape[:2], generator=generator, device=x.device).argsort(1)
        order = order[:, : recipe["kept_patches"], None].expand(-1, -1, tokens.shape[2])
        tokens = tokens.gather(1, order)
    for block in net.blocks:
        tokens = block(tokens)
    logits = net.head(net.norm(tokens).mean(1))
    loss = F.cross_entropy(logits, target, label_smoothing=recipe["smoothing"])
    update(loss, job.optimizers["vit"])
    return {"loss": loss.detach(), "accuracy": (logits.argmax(1) == labels).float().mean()}


def _noise_maps(job: Job, device: torch.device) -> list[Tensor]:
    return [
        torch.randn(job.batch_size, 1, h, h, generator=job.generator, device=device)
        for h in LAYER_SIZES
    ]


def _gan_step(job: Job, x: Tensor, labels: Tensor, progress: float) -> dict[str, Tensor]:
    recipe, net, critic, generator = (
        job.extra["recipe"],
        job.nets["gan"],
        job.nets["critic"],
        job.generator,
    )
    z = torch.randn(len(x), Z_WIDTH, generator=generator, device=x.device)
    w = net.mapping(z)
    net.w_mean.lerp_(w.detach().mean(0), 0.005)
    # One batch of fakes serves both updates: the generator's graph stays valid while only the
    # critic moves.
    fake = net.synthesize(w[:, None].expand(-1, 8, -1), _noise_maps(job, x.device))
    critic.requires_grad_(True)
    on_real, on_fake = critic(augment(x, generator)), critic(augment(fake.detach(), generator))
    loss = F.softplus(on_fake).mean() + F.softplus(-on_real).mean()
    if job.step_count % recipe["r1_every"] == 0:
        loss = loss + recipe["r1_every"] * recipe["r1"] / 2 * _r1(critic, x, generator)
    update(loss, job.optimizers["critic"])
    critic.requires_grad_(False)
    fooling = F.softplus(-critic(augment(fake, generator))).mean()
    update(fooling, job.optimizers["gan"])
    return {
        "critic": loss.detach(), "generator": fooling.detach(),
        "real": on_real.detach().mean(), "fake": on_fake.detach().mean(),
        "sign": on_real.detach().sign().mean(),
    }  # fmt: skip


def _r1(critic: torch.nn.Module, x: Tensor, generator: torch.Generator) -> Tensor:
    """Return the critic's squared gradient at augmented real images (Mescheder et al. 2018)."""
    x = augment(x, generator).detach().requires_grad_(True)
    (gradient,) = torch.autograd.grad(critic(x).sum(), x, create_graph=True)
    return gradient.square().sum((1, 2, 3)).mean()


STEPS = {
    "vae": autoencoder_step,
    "ddpm": _denoise_step,
    "vit": _vit_step,
    "gan": _gan_step,
    "dit": _denoise_step,
}
# What a network's fresh weights become before its first step; the untrained twin stays as built.
STARTS = {"dit": dit.start}


def make_job(
    name: str,
    *,
    n_classes: int,
    seed: int = 0,
    device: str = "cpu",
    batch_size: int | None = None,
) -> Job:
    """Return the training of one network before its first step.

    Args:
        name: one of `nets.NAMES`.
        n_classes: number of categories.
        seed: initial weights and all randomness of the training.
        device: where it runs.
        batch_size: the recipe's where None.
    """
    if name not in NAMES:
        raise InputError(f"no zoo network {name!r}; there are {', '.join(NAMES)}")
    recipe = dict(RECIPES[name])
    recipe["batch_size"] = batch_size or recipe["batch_size"]
    own = home(name)
    step = STEPS[name] if own is None else own.step
    job = _job(name, step, recipe, n_classes, seed, device)
    equip = getattr(own, "equip", None)
    if equip is not None:
        equip(job, seed)
    if name == "gan":
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed + 1)
            critic = Critic().to(device)
        job.nets["critic"] = critic
        # Lazy regularisation shrinks the critic's rate and betas by k / (k + 1) (StyleGAN2,
        # appendix B).
        share = recipe["r1_every"] / (recipe["r1_every"] + 1)
        job.optimizers["critic"] = _optimizer(critic.parameters(), recipe, share)
    return job


def train_zoo(
    name: str,
    *,
    out: Path | str,
    steps: int | None = None,
    minutes: float | None = None,
    seed: int = 0,
    device: str = "cpu",
    threads: int | None = None,
    resume: bool = True,
    batch_size: int | None = None,
    progress: bool = True,
) -> Path:
    """Train one network of the zoo on `glyphs`, write weights and card, return the weights' path.

    The end is `steps`, `minutes` of training time, or whichever comes first; the recipe's own
    minutes where neither is given. With `steps` alone a killed run on a CPU resumes bit for bit;
    `minutes` depend on the machine's speed.

    Args:
        name: one of `nets.NAMES`.
        out: folder of `<name>.safetensors` and `<name>.json` (`<name>-1` for seed 1); checkpoints
            and the log go to `out/<name>`. `ldm` takes the `vae` and `text` there, else the
            shipped ones.
        steps: optimizer steps.
        minutes: minutes of training time, over all resumptions.
        seed: initial weights and all randomness.
        device: cpu or cuda.
        threads: CPU threads of torch during the call; left alone where None.
        resume: continue from the folder's last checkpoint.
        batch_size: the recipe's where None.
        progress: show a progress bar.

    Raises:
        InputError: no network of that name.
        InterpError: the checkpoint there is of another recipe.
    """
    from interp.zoo.images import load_images

    data = load_images("glyphs", split="train")
    job = make_job(
        name,
        n_classes=len(data.categories),
        seed=seed,
        device=device,
        batch_size=batch_size,
    )
    box = Box(steps, minutes if steps or minutes else job.extra["recipe"]["minutes"])
    inputs, labels = (x.to(device) for x in _inputs(name, data, Path(out)))
    folder = Path(out) / file_stem(name, seed)
    before = torch.get_num_threads()
    torch.set_num_threads(threads or before)
    try:
        with _bar(name, progress) as on_step:
            run(job, inputs, labels, box, folder, resume=resume, on_step=on_step)
        return export(job, name, Path(out), seed=seed, device=device, data=data)
    finally:
        torch.set_num_threads(before)


def export_checkpoint(
    name: str,
    checkpoint: Path | str,
    *,
    out: Path | str,
    seed: int = 0,
    device: str = "cpu",
    batch_size: int | None = None,
) -> Path:
    """Write weights and card of a training that still runs or was stopped; return the path.

    Args:
        name: one of `nets.NAMES`.
        checkpoint: a `last.pt` or milestone that `train_zoo` wrote.
        out: folder of the two files.
        seed: the training's seed.
        device: where it was trained, for the card.
        batch_size: the training's, where it was not the recipe's.
    """
    from interp.zoo.images import load_images

    data = load_images("glyphs", split="train")
    job = make_job(name, n_classes=len(data.categories), seed=seed, batch_size=batch_size)
    read_checkpoint(job, Path(checkpoint))
    return export(job, name, Path(out), seed=seed, device=device, data=data)


def _inputs(name: str, data: Any, out: Path) -> tuple[Tensor, Tensor]:
    """Return what a training draws its batches from, one row per image, and what goes with each."""
    prepare = getattr(home(name), "prepare", None)
    if prepare is not None:
        return prepare(data, out)
    return data.pixels.permute(0, 3, 1, 2).contiguous(), data.labels.long()


@contextmanager
def _bar(name: str, shown: bool) -> Iterator[Callable[[int, float, dict[str, float]], None] | None]:
    """Yield a callback that moves a progress bar, or None; without tqdm there is no bar."""
    if not shown or importlib.util.find_spec("tqdm") is None:
        yield None
        return
    from tqdm import tqdm

    with tqdm(total=1000, desc=name, unit="permille") as bar:

        def on_step(step: int, progress: float, losses: dict[str, float]) -> None:
            bar.set_postfix({"step": step, **losses}, refresh=False)
            bar.update(round(1000 * progress) - bar.n)

        yield on_step
