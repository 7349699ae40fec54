"""The zoo's self-supervised encoder: `vit`'s trunk trained without labels and captions."""

import math
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from interp.zoo.nets import load_net
from interp.zoo.sampling import vit_outputs
from interp.zoo.ssl_quality import judge
from interp.zoo.training import Job, update
from interp.zoo.vit import ViT

# Widths of the projector's output and of its hidden layer. 128 as in SimCLR (arXiv 2002.05709),
# whose section 4.2 finds the output's width of little influence.
PROJECTED = 128
HIDDEN = 512
# Training images after each held-out one in the picture: two groups fill a row of 16.
NEAREST = 7


class Projector(nn.Module):
    """Two layers, batch normalization between; the loss acts behind it, and it does not ship."""

    def __init__(self, width: int):
        super().__init__()
        self.first = nn.Linear(width, HIDDEN, bias=False)
        self.norm = nn.BatchNorm1d(HIDDEN)
        self.second = nn.Linear(HIDDEN, PROJECTED, bias=False)

    def forward(self, x: Float[Tensor, "b d"]) -> Float[Tensor, "b p"]:
        """Return projections [b, p] of features [b, d]."""
        return self.second(F.relu(self.norm(self.first(x))))


def build(n_classes: int) -> ViT:
    """Return `vit` without its head: with equal blocks, objectives compare point by point.

    Args:
        n_classes: not used, as the encoder knows no categories.
    """
    return ViT(None)


def equip(job: Job, seed: int) -> None:
    """Add the projector to a training of the encoder, under the same optimizer."""
    net, device = job.nets["ssl"], next(job.nets["ssl"].parameters()).device
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed + 1)
        job.nets["projector"] = Projector(net.norm.normalized_shape[0]).to(device)
    job.optimizers["ssl"].add_param_group({"params": job.nets["projector"].parameters()})


def view(x: Float[Tensor, "b 3 h w"], generator: torch.Generator) -> Float[Tensor, "b 3 h w"]:
    """Return a random view of each image, a function of the generator.

    A window of 0.55 to 1.1 of each side (times up to 1.2 in aspect) within 0.1 of the image, turned
    by up to 15 degrees and mirrored or not, white outside; contrast 0.6 to 1.4, brightness up to
    0.3, saturation 0.2 to 1.8. Colors stay recognizable, as they tell categories apart.
    """
    b = len(x)
    u = torch.rand(9, b, generator=generator, device=x.device)
    s = 2 * u - 1
    side = (math.log(0.55) + u[0] * math.log(1.1 / 0.55)).exp()
    aspect, angle = (0.18 * s[1]).exp(), s[2] * (math.pi / 12)
    wide, high = side * aspect * s[3].sign(), side / aspect
    room = (1 - side).clamp_min(0) + 0.1
    cos, sin = angle.cos(), angle.sin()
    rows = [cos * wide, -sin * high, s[4] * room, sin * wide, cos * high, s[5] * room]
    grid = F.affine_grid(torch.stack(rows, 1).view(b, 2, 3), list(x.shape), align_corners=False)
    x = F.grid_sample(x - 1, grid, mode="bilinear", align_corners=False) + 1
    x = x * (1 + 0.4 * s[6])[:, None, None, None] + 0.3 * s[7][:, None, None, None]
    gray = x.mean(1, keepdim=True)
    return gray + (x - gray) * (1 + 0.8 * s[8])[:, None, None, None]


def look(
    net: Any, x: Float[Tensor, "b 3 h w"], kept: int, generator: torch.Generator
) -> Float[Tensor, "b d"]:
    """Return the encoder's features of `kept` random patches of each image."""
    tokens = net.patch(x).flatten(2).transpose(1, 2) + net.position
    if kept < tokens.shape[1]:
        order = torch.rand(tokens.shape[:2], generator=generator, device=x.device).argsort(1)
        tokens = tokens.gather(1, order[:, :kept, None].expand(-1, -1, tokens.shape[2]))
    for block in net.blocks:
        tokens = block(tokens)
    return net.norm(tokens).mean(1)


def contrast(
    a: Float[Tensor, "b p"], b: Float[Tensor, "b p"], temperature: float
) -> tuple[Tensor, Tensor]:
    """Return NT-Xent of two views' projections, and how often the partner is the nearest of all.

    loss = mean over the 2 b views i of -log(exp(s_ij / T) / sum_{k != i} exp(s_ik / T)), s the
    cosine and j the other view of the same image; log(2 b - 1) where all are equal. Source: Chen et
    al. 2020 (SimCLR, arXiv 2002.05709), equation 1.
    """
    z = F.normalize(torch.cat([a, b]), dim=1)
    logits = (z @ z.T / temperature).fill_diagonal_(-math.inf)
    partner = torch.arange(len(z), device=z.device).roll(len(a))
    return F.cross_entropy(logits, partner), (logits.argmax(1) == partner).float().mean()


def step(job: Job, x: Tensor, labels: Tensor, progress: float) -> dict[str, Tensor]:
    """Tell each image's two views apart from those of all others; the labels are not looked at.

    Of each view `kept_patches` are shown until `full_from`: a step costs that share, and the views
    have less in common.
    """
    recipe, net, project, generator = (
        job.extra["recipe"],
        job.nets["ssl"],
        job.nets["projector"],
        job.generator,
    )
    kept = recipe["kept_patches"] if progress < recipe["full_from"] else net.position.shape[1]
    seen = torch.cat([view(x, generator), view(x, generator)])
    a, b = project(look(net, seen, kept, generator)).chunk(2)
    loss, found = contrast(a, b, recipe["temperature"])
    update(loss, job.optimizers["ssl"])
    return {"loss": loss.detach(), "found": found.detach()}


def describe(data: Any, folder: Path) -> dict[str, Any]:
    """Return what a user of the encoder must know."""
    return {
        "objective": "SimCLR: no labels, no captions",
        "features": "mean of the normalized patch tokens, no head",
    }


def measure(net: Any, judged: Any) -> dict[str, Any]:
    """Return the card's measures of the encoder, beside an untrained twin, pixels and `vit`.

    The twin's weights are those of another seed than the training began with.
    """
    twin, _ = load_net(
        "ssl",
        seed=judged.seed,
        untrained=True,
        init_seed=judged.seed + 1,
        folder=judged.folder,
    )
    a, b = judged.train.pixels, judged.heldout.pixels
    rows = {
        name: (vit_outputs(encoder, a)[0], vit_outputs(encoder, b)[0])
        for name, encoder in (("ssl", net), ("untrained", twin), ("vit", judged.judge))
    }
    rows["pixels"] = (a.flatten(1).double() / 255, b.flatten(1).double() / 255)
    return judge(rows, judged.train, judged.heldout)


def picture(net: Any, path: Path, heldout: Any) -> None:
    """Write a held-out image of each category, framed, before its nearest training images.

    Nearest is the highest cosine of features from which the training mean is subtracted.
    """
    from interp.zoo.export import picture as write_sheet
    from interp.zoo.images import load_images

    train = load_images("glyphs", split="train")
    rows = vit_outputs(net, train.pixels)[0]
    members = [(heldout.labels == i).nonzero()[:, 0] for i in range(len(heldout.categories))]
    chosen = torch.stack([rows[len(rows) // 2] for rows in members if len(rows)])
    framed = heldout.pixels[chosen].clone()
    for edge in (framed[:, :2], framed[:, -2:], framed[:, :, :2], framed[:, :, -2:]):
        edge.zero_()
    a = F.normalize(rows - rows.mean(0), dim=1)
    b = F.normalize(vit_outputs(net, heldout.pixels[chosen])[0] - rows.mean(0), dim=1)
    near = train.pixels[(b @ a.T).topk(NEAREST, dim=1).indices]
    write_sheet(path, torch.cat([framed[:, None], near], 1).flatten(0, 1))
