"""Write a trained network as it ships: float16 EMA weights, its card, and a picture."""

import hashlib
import json
import platform
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from interp.zoo.dit import null_class
from interp.zoo.leaks import known_leaks
from interp.zoo.nets import SCHEDULER, file_stem, home
from interp.zoo.training import Job

# Encoding this many training images fixes the scaling of the VAE's code to about a thousandth.
SCALING_IMAGES = 2048


def export(job: Job, name: str, out: Path, *, seed: int, device: str, data: Any) -> Path:
    """Write `<stem>.safetensors` and the card `<stem>.json`, its quality still open, into `out`.

    Args:
        job: the training, at its end or on its way.
        name: one of `nets.NAMES`.
        out: folder of the two files.
        seed: training seed.
        device: where it was trained.
        data: the training `Images`, which also fix the scaling of the VAE's code.

    Returns:
        the weights' path.
    """
    from safetensors.torch import save

    out.mkdir(parents=True, exist_ok=True)
    path = out / f"{file_stem(name, seed)}.safetensors"
    weights = {k: x.to("cpu", torch.float16) for k, x in job.ema.state_dict().items()}
    metadata = getattr(home(name), "metadata", None)
    content = save(weights, None if metadata is None else metadata(data))
    _replace(path, content)
    card = {
        "name": f"zoo:{name}" if seed == 0 else f"zoo:{name}/{seed}",
        "data": _account(data),
        "recipe": {key: x for key, x in job.extra["recipe"].items() if key != "minutes"},
        "training": {
            "steps": job.step_count,
            "images_seen": job.step_count * job.batch_size,
            "seed": seed,
            "seconds": round(job.elapsed, 1),
            "device": device
            if device != "cpu"
            else f"cpu ({platform.machine()}), {torch.get_num_threads()} thread(s)",
            "torch": torch.__version__.split("+")[0],
        },
        "net": describe_net(name, job.ema, data, out),
        "weights": {
            "file": path.name,
            "bytes": len(content),
            "dtype": "float16",
            "kind": "exponential moving average",
            "sha256": hashlib.sha256(content).hexdigest(),
        },
        "leaks": known_leaks(name),
        "quality": None,
        "verdict": None,
    }
    _replace(
        path.with_suffix(".json"), (json.dumps(card, indent=1, ensure_ascii=False) + "\n").encode()
    )
    return path


def _account(data: Any) -> dict[str, Any]:
    return {
        "name": data.name,
        "split": "train",
        "n": len(data),
        "sha256": data.sha256,
        "categories": list(data.categories),
    }


def _replace(path: Path, content: bytes) -> None:
    part = path.with_name(path.name + ".part")
    part.write_bytes(content)
    part.replace(path)


@torch.no_grad()
def describe_net(name: str, net: Any, data: Any, folder: Path) -> dict[str, Any]:
    """Return the number of parameters and what a user of the network must know to drive it."""
    facts: dict[str, Any] = {"parameters": sum(p.numel() for p in net.parameters())}
    describe = getattr(home(name), "describe", None)
    if describe is not None:
        facts |= describe(data, folder)
    if name in ("ddpm", "dit"):
        facts |= {
            "scheduler": SCHEDULER,
            "null_class": null_class(net),
            "pixel_unshuffle": 2,
        }
    if name == "vae":
        images = data.pixels.permute(0, 3, 1, 2)
        parts = [
            x.float().div(127.5).sub(1)
            for x in images[:: max(1, len(images) // SCALING_IMAGES)].split(128)
        ]
        posteriors = [net.encode(x).latent_dist for x in parts]
        mean = torch.cat([p.mean for p in posteriors])
        variance = mean.var() + torch.cat([p.var for p in posteriors]).mean()
        facts |= {
            "shift_factor": round(float(mean.mean()), 4),
            "scale_factor": round(float(variance**-0.5), 4),
        }
    return facts


def picture(path: Path, images: Tensor, *, columns: int = 16, colors: int = 128) -> None:
    """Write uint8 images [n, 32, 32, 3] as one PNG sheet of at most `colors` colors."""
    from PIL import Image

    n, side = len(images), images.shape[1]
    rows = -(-n // columns)
    sheet = torch.full((rows * columns, side + 2, side + 2, 3), 255, dtype=torch.uint8)
    sheet[:n, 1:-1, 1:-1] = images
    sheet = sheet.view(rows, columns, side + 2, side + 2, 3).permute(0, 2, 1, 3, 4)
    image = Image.fromarray(sheet.reshape(rows * (side + 2), columns * (side + 2), 3).numpy())
    image.quantize(colors, dither=Image.Dither.NONE).save(path, optimize=True)


def sample_picture(name: str, net: Any, path: Path, heldout: Any) -> None:
    """Write the card's picture.

    gan: 128 samples. ddpm, dit: a row of samples per category. vae: held-out images above their
    reconstructions. vit: a row of held-out images per category that it names, those of another
    category inverted. Networks of `nets.HOMES`: what their own module says.

    Args:
        name: one of `nets.NAMES`.
        net: the network.
        path: PNG file.
        heldout: held-out `Images`.
    """
    from interp.zoo.cards import draw
    from interp.zoo.sampling import reconstruct, vit_outputs

    own = home(name)
    if own is not None:
        return own.picture(net, path, heldout)
    n_classes = len(heldout.categories)
    if name in ("gan", "ddpm", "dit"):
        rows = [row for row in range(n_classes) for _ in range(16)]
        labels = rows if name != "gan" else [0] * 128
        picture(path, draw(name, net, labels))
        return
    spread = torch.linspace(0, len(heldout) - 1, 64).round().long()
    if name == "vae":
        chosen = heldout.pixels[spread]
        pairs = torch.stack(
            [chosen.view(4, 16, 32, 32, 3), reconstruct(net, chosen).view(4, 16, 32, 32, 3)], 1
        )
        picture(path, pairs.reshape(-1, 32, 32, 3))
        return
    named = vit_outputs(net, heldout.pixels)[1].argmax(1)
    rows = torch.full((n_classes, 16, 32, 32, 3), 255, dtype=torch.uint8)
    for category in range(n_classes):
        members = (named == category).nonzero()[:, 0]
        if len(members):
            members = members[
                torch.linspace(0, len(members) - 1, min(16, len(members))).round().long()
            ]
        pixels = heldout.pixels[members]
        wrong = heldout.labels[members] != category
        rows[category, : len(members)] = torch.where(
            wrong[:, None, None, None], 255 - pixels, pixels
        )
    picture(path, rows.view(-1, 32, 32, 3))
