"""A one-step consistency U-Net for terrain heights, with attention in 28 places."""

import math
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from interp.assets.onnx import Graph, read_onnx
from interp.errors import InputError
from interp.models.clock import timestep_of
from interp.models.custom import Custom
from interp.models.inputs import EncodeBatch, GenerateBatch, check_latents
from interp.models.noise import normal
from interp.models.pixels import to_image, to_unit
from interp.models.points import Site, input_sites

SIDE = 128
BASE, MULTIPLIERS, PER_LEVEL = 32, (1, 1, 2, 3, 4), 4
# Sides of the maps that have attention: 32, 16 and 8 of 128 pixels.
ATTENTION_LEVELS = (2, 3, 4)
HEAD_WIDTH, GROUPS, EMBED = 32, 32, 128
# Karras et al. 2022, section 5: sigma_data; and the range over which the net was distilled.
SIGMA_DATA, SIGMA_MIN, SIGMA_MAX = 0.5, 0.002, 80.0
# Consistency models (Song et al. 2023, appendix C) rescale the time 1000 * log(sigma) / 4.
TIME_SCALE = 250.0
# Longest period of the sinusoids (Vaswani et al. 2017, section 3.5).
LONGEST = 10_000.0
# Difficulty 1..100 is given to the net as (d - 1) / 99.
N_CLASSES = 100
# What "no condition" means: the net has no null, the middle of its range stands for it.
NULL_CLASS = 49


class ResBlock(nn.Module):
    """norm, SiLU, (resample,) conv, scale and shift by the embedding, SiLU, conv, plus the input.

    Args:
        n_in, n_out: channels.
        resample: "down" averages 2 x 2, "up" repeats, "" keeps the size.
    """

    def __init__(self, n_in: int, n_out: int, resample: str = "") -> None:
        super().__init__()
        self.norm_in, self.conv_in = nn.GroupNorm(GROUPS, n_in), nn.Conv2d(n_in, n_out, 3, 1, 1)
        self.embed = nn.Linear(EMBED, 2 * n_out)
        self.norm_out, self.conv_out = nn.GroupNorm(GROUPS, n_out), nn.Conv2d(n_out, n_out, 3, 1, 1)
        self.skip = nn.Identity() if n_in == n_out else nn.Conv2d(n_in, n_out, 1)
        self.resample = resample

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        """Return the map [b, n_out, h, w] of x [b, n_in, h, w] and embedding [b, 128]."""
        h = F.silu(self.norm_in(x))
        if self.resample == "down":
            h, x = F.avg_pool2d(h, 2), F.avg_pool2d(x, 2)
        elif self.resample == "up":
            h, x = (F.interpolate(one, scale_factor=2.0, mode="nearest") for one in (h, x))
        scale, shift = self.embed(F.silu(embedding))[:, :, None, None].chunk(2, 1)
        h = self.norm_out(self.conv_in(h)) * (1 + scale) + shift
        return self.skip(x) + self.conv_out(F.silu(h))


class Attention(nn.Module):
    """What self-attention over all positions adds to a map; heads of 32 channels."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(GROUPS, width)
        self.qkv, self.out = nn.Conv2d(width, 3 * width, 1), nn.Conv2d(width, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Return the addition [b, c, h, w] to x [b, c, h, w]."""
        b, c, h, w = x.shape
        parts = self.qkv(self.norm(x)).chunk(3, 1)
        heads = (p.reshape(b, c // HEAD_WIDTH, HEAD_WIDTH, h * w).transpose(2, 3) for p in parts)
        mixed = F.scaled_dot_product_attention(*heads).transpose(2, 3)
        return self.out(mixed.reshape(b, c, h, w))


class Stage(nn.Module):
    """One block of the U-Net: residual block, then attention, then an upsampling block, if any."""

    def __init__(
        self,
        n_in: int,
        n_out: int,
        *,
        attention: bool = False,
        resample: str = "",
        up: bool = False,
    ) -> None:
        super().__init__()
        self.res = ResBlock(n_in, n_out, resample)
        self.attention = Attention(n_out) if attention else None
        self.up = ResBlock(n_out, n_out, "up") if up else None

    def forward(self, x: Tensor, embedding: Tensor, skip: Tensor | None = None) -> Tensor:
        """Return the map; `skip` [b, c', h, w] joins x along the channels."""
        x = self.res(x if skip is None else torch.cat([x, skip], 1), embedding)
        x = x if self.attention is None else x + self.attention(x)
        return x if self.up is None else self.up(x, embedding)


class Middle(nn.Module):
    """The innermost block: residual block, attention, residual block."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.res_in, self.attention = ResBlock(width, width), Attention(width)
        self.res_out = ResBlock(width, width)

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        """Return the map [b, c, h, w]."""
        x = self.res_in(x, embedding)
        return self.res_out(x + self.attention(x), embedding)


class Embedding(nn.Module):
    """Sinusoids of the log noise level and a perceptron of the difficulty, summed: [b, 128]."""

    def __init__(self) -> None:
        super().__init__()
        self.time = nn.Sequential(nn.Linear(BASE, EMBED), nn.SiLU(), nn.Linear(EMBED, EMBED))
        self.label = nn.Sequential(nn.Linear(1, EMBED), nn.SiLU(), nn.Linear(EMBED, EMBED))

    def forward(self, sigma: Tensor, difficulty: Tensor) -> Tensor:
        """Return the embedding of sigma [b] and difficulty [b] in [0, 1]."""
        half = BASE // 2
        steps = torch.arange(half, device=sigma.device, dtype=torch.float32)
        periods = torch.exp(-math.log(LONGEST) * steps / half).to(sigma.dtype)
        angles = TIME_SCALE * sigma.log()[:, None] * periods
        waves = torch.cat([angles.cos(), angles.sin()], 1)
        return self.time(waves) + self.label(difficulty[:, None])


class TerrainUNet(nn.Module):
    """Noisy heights, noise level and difficulty -> denoised heights in [-1, 1].

    denoised = clip(c_skip x + c_out F(c_in x, log sigma, difficulty)), with the boundary condition
    at sigma_min of consistency models (Song et al. 2023, appendix C).
    """

    def __init__(self) -> None:
        super().__init__()
        self.embedding = Embedding()
        blocks: list[nn.Module] = [nn.Conv2d(1, BASE, 3, 1, 1)]
        widths, width = [BASE], BASE
        for level, multiplier in enumerate(MULTIPLIERS):
            for _ in range(PER_LEVEL):
                with_attention = level in ATTENTION_LEVELS
                blocks.append(Stage(width, BASE * multiplier, attention=with_attention))
                width = BASE * multiplier
                widths.append(width)
            if level < len(MULTIPLIERS) - 1:
                blocks.append(Stage(width, width, resample="down"))
                widths.append(width)
        self.input_blocks = nn.ModuleList(blocks)
        self.middle = Middle(width)
        self.output_blocks = nn.ModuleList(_outputs(widths, width))
        self.norm, self.out = nn.GroupNorm(GROUPS, BASE), nn.Conv2d(BASE, 1, 3, 1, 1)

    def forward(self, noisy: Tensor, sigma: Tensor, difficulty: Tensor) -> Tensor:
        """Return denoised heights [b, 1, h, w] of noisy ones, sigma [b] and difficulty [b]."""
        variance = SIGMA_DATA**2
        apart, total = sigma - SIGMA_MIN, (sigma**2 + variance).sqrt()
        keep, take = variance / (apart**2 + variance), apart * SIGMA_DATA / total
        embedding = self.embedding(sigma, difficulty)
        stem, *blocks = self.input_blocks
        h = stem(noisy / total[:, None, None, None])
        skips = [h]
        for block in blocks:
            h = block(h, embedding)
            skips.append(h)
        h = self.middle(h, embedding)
        for block in self.output_blocks:
            h = block(h, embedding, skips.pop())
        h = self.out(F.silu(self.norm(h)))
        keep, take = (one[:, None, None, None] for one in (keep, take))
        return (keep * noisy + take * h).clamp(-1, 1)


def _outputs(widths: list[int], width: int) -> Iterator[Stage]:
    """Yield the blocks of the way up; each takes the newest skip that is left."""
    left = list(widths)
    for level, multiplier in reversed(list(enumerate(MULTIPLIERS))):
        for i in range(PER_LEVEL + 1):
            up = level > 0 and i == PER_LEVEL
            n_out, attention = BASE * multiplier, level in ATTENTION_LEVELS
            yield Stage(width + left.pop(), n_out, attention=attention, up=up)
            width = n_out


# From the names of the original, which are those of OpenAI's guided diffusion, to ours.
RENAMES = (
    (r"^network\.", ""),
    (r"^time_embed\.", "embedding.time."),
    (r"^label_emb\.", "embedding.label."),
    (r"^input_blocks\.0\.0\.", "input_blocks.0."),
    (r"^middle_block\.0\.", "middle.res_in."),
    (r"^middle_block\.1\.", "middle.attention."),
    (r"^middle_block\.2\.", "middle.res_out."),
    (r"^(\w+_blocks\.\d+)\.\d\.(?=qkv|proj_out)", r"\1.attention."),
    (r"^(\w+_blocks\.\d+)\.0\.(?=in_layers|emb_layers|out_layers|skip)", r"\1.res."),
    (r"^(output_blocks\.\d+)\.[12]\.(?=in_layers|emb_layers|out_layers)", r"\1.up."),
    (r"in_layers\.2", "conv_in"),
    (r"emb_layers\.1", "embed"),
    (r"out_layers\.3", "conv_out"),
    (r"skip_connection", "skip"),
    (r"proj_out", "out"),
    (r"^out\.2\.", "out."),
)


def rename(name: str) -> str:
    """Return our name of a parameter of the original: "network.input_blocks.11.1.qkv.weight" ..."""
    for pattern, new in RENAMES:
        name = re.sub(pattern, new, name)
    return name


def build() -> TerrainUNet:
    """Return the untrained net: 128 x 128 heights, 10.5 M parameters."""
    return TerrainUNet()


def convert(data: bytes) -> dict[str, Tensor]:
    """Return our state dict from the bytes of the ONNX file.

    Convolutions and linear layers keep their names there. The scale and shift of each group norm do
    not: the file has them as the constants that multiply and are added after an
    InstanceNormalization, in the order of execution, which is that of our modules.

    Raises:
        InputError: no ONNX file, or other norms than the net has.
    """
    graph = read_onnx(data)
    state = {rename(k): v for k, v in graph.tensors.items() if k.startswith("network.")}
    with torch.device("meta"):
        net = build()
    names = [name for name, part in net.named_modules() if isinstance(part, nn.GroupNorm)]
    affine = list(norm_constants(graph))
    if len(affine) != len(names):
        raise InputError(f"the ONNX file has {len(affine)} norms, the terrain U-Net {len(names)}")
    for name, (scale, shift) in zip(names, affine, strict=True):
        state |= {f"{name}.weight": scale.flatten(), f"{name}.bias": shift.flatten()}
    return state


def norm_constants(graph: Graph) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield scale and shift of each group norm: what follows its Reshape, as Mul and as Add.

    Raises:
        InputError: something else follows a normalization.
    """
    readers = {name: node for node in reversed(graph.nodes) for name in node.inputs}
    for node in graph.nodes:
        if node.op != "InstanceNormalization":
            continue
        found = []
        for op in ("Reshape", "Mul", "Add"):
            after = readers.get(node.outputs[0])
            if after is None or after.op != op:
                raise InputError(f"no {op} follows {node.name} ({node.op}) in the ONNX file")
            found += [graph.tensors[name] for name in after.inputs if name in graph.tensors][:1]
            node = after
        if len(found) != 2:
            raise InputError(f"no constant scale and shift before {node.name} in the ONNX file")
        yield found[0], found[1]


class Denoising:
    """How the net is run: its points, its noise level, one-step sampling, encoding of images.

    An image's heights are its grey values, from -1 (black) to 1 (white); class c stands for
    difficulty c + 1 of 100, and no class for the middle of the range (the net has no null).
    """

    image_size = (SIDE, SIDE)
    n_classes = N_CLASSES
    sources: ClassVar[dict[str, str]] = {"x_T": "latents", "classes": "classes"}

    def __init__(self, net: TerrainUNet) -> None:
        self.points: dict[str, str | Site] = {site.name: site for site in _sites(net)}

    def reference(self) -> tuple[tuple, dict]:
        """Return flat terrain at noise level 1."""
        return (torch.zeros(1, 1, SIDE, SIDE), torch.ones(1), torch.zeros(1)), {}

    def time(self, arguments: dict[str, Any]) -> float:
        """Return sigma, which is this net's own measure of time."""
        return timestep_of(arguments["sigma"]) or 0.0

    def log_snr(self, t: float) -> float:
        """Return -2 log sigma: noise is added to what is left as it is."""
        return -2 * math.log(t)

    def draw_latents(self, root: nn.Module, batch: GenerateBatch) -> Tensor:
        """Return the noise [b, 1, 128, 128] of the seeds, before it is scaled to its level."""
        return normal(batch.seeds, (1, SIDE, SIDE), next(root.parameters()))

    def render(self, root: nn.Module, batch: GenerateBatch) -> Tensor:
        """Return heights as grey images, made in one step from noise at the highest level."""
        given = {"prompts": batch.prompts, "a scheduler": batch.scheduler}
        given |= {"guidance": batch.guidance != 1, "truncation": batch.truncation != 1}
        for name in (name for name, value in given.items() if value):
            raise InputError(f"the terrain net takes no {name}: it makes an image in one step")
        if (batch.height or batch.width) and (batch.height, batch.width) != self.image_size:
            raise InputError(f"the terrain net makes images of {self.image_size} pixels only")
        noise = self.draw_latents(root, batch)
        if batch.latents is not None:
            noise = check_latents(batch.latents, noise.shape, "noise").to(noise)
        return to_image(self._run(root, noise * SIGMA_MAX, SIGMA_MAX, batch.classes))

    def encode(self, root: nn.Module, batch: EncodeBatch) -> None:
        """Run once on grey images with noise at the wanted level."""
        if batch.log_snr is None or not batch.noise_seeds:
            raise InputError("the terrain net encodes at a noise level: log_snr and noise_seeds")
        if batch.prompts:
            raise InputError("the terrain net takes classes (difficulty), not prompts")
        like, sigma = next(root.parameters()), math.exp(-batch.log_snr / 2)
        clean = to_unit(batch.images, self.image_size, like).mean(1, keepdim=True)
        noise = normal(batch.noise_seeds, (1, SIDE, SIDE), clean)
        self._run(root, clean + sigma * noise, sigma, batch.classes)

    def _run(self, root: nn.Module, x: Tensor, sigma: float, classes: Sequence[int]) -> Tensor:
        labels = classes or (NULL_CLASS,) * len(x)
        if not all(0 <= c < N_CLASSES for c in labels):
            odd = next(c for c in labels if not 0 <= c < N_CLASSES)
            raise InputError(f"class {odd}: difficulty takes 0..{N_CLASSES - 1}")
        difficulty = torch.tensor(labels).to(x) / (N_CLASSES - 1)
        return root(x, x.new_full((len(x),), sigma), difficulty)


def _sites(net: TerrainUNet) -> Iterator[Site]:
    yield from input_sites()
    yield Site("embedding", "embedding", stream="context", kind="entry")
    named: list[tuple[str, nn.Module]] = [("middle", net.middle)]
    for name in ("input_blocks", "output_blocks"):
        named += [
            (f"{name}.{i}", part) for i, part in enumerate(net.get_submodule(name).children())
        ]
    for path, part in named:
        yield Site(path, path, delta=path != "input_blocks.0")
        if getattr(part, "attention", None) is not None:
            yield Site(f"{path}.attention", f"{path}.attention", kind="contrib")
    # The last output block takes the first skip, as in `interp.models.unet`.
    last = len(net.output_blocks) - 1
    for i in range(last + 1):
        owner = f"output_blocks.{last - i}"
        yield Site(f"skip.{i}", owner, "input", argument="skip", stream="skip")
    yield Site("out", "out", kind="contrib")


def wrap(net: nn.Module, spec: str, extra: Sequence[str], folder: Path | None) -> Custom:
    """Return the net as a model."""
    assert isinstance(net, TerrainUNet)
    return Custom(net, spec, adapter=Denoising(net), extra=extra)
