"""Vision encoders: EfficientNet-Lite0 (ImageNet classes) and the backbone of DINOv2-small."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from interp.assets.archives import read_torch
from interp.assets.onnx import read_onnx
from interp.errors import InputError
from interp.models.encoder import Encoder

# Mean and standard deviation of ImageNet's pixels, which both nets were trained on.
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
SIZE = (224, 224)


class Group(NamedTuple):
    """Blocks of one kind: how many, kernel, stride of the first, expansion, channels."""

    repeats: int
    kernel: int
    stride: int
    expansion: int
    width: int


# Tan and Le 2019, table 1, without squeeze-and-excitation, as the Lite variants have it.
LITE0 = (
    Group(1, 3, 1, 1, 16),
    Group(2, 3, 2, 6, 24),
    Group(2, 5, 2, 6, 40),
    Group(3, 3, 2, 6, 80),
    Group(3, 5, 1, 6, 112),
    Group(4, 5, 2, 6, 192),
    Group(1, 3, 1, 6, 320),
)
STEM, HEAD, N_CLASSES = 32, 1280, 1000
# The batch norm's epsilon of the original (TensorFlow's EfficientNet).
EPSILON = 1e-3


class Conv(nn.Conv2d):
    """A convolution whose output has ceil(side / stride) positions: more padding at the end."""

    def __init__(
        self, n_in: int, n_out: int, kernel: int, stride: int = 1, groups: int = 1
    ) -> None:
        super().__init__(n_in, n_out, kernel, stride, groups=groups, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Return the map of x [b, n_in, h, w]."""
        pads: list[int] = []
        for side, kernel, stride in zip(
            reversed(x.shape[2:]), reversed(self.kernel_size), reversed(self.stride), strict=True
        ):
            whole = max(0, (-(-side // stride) - 1) * stride + kernel - side)
            pads += [whole // 2, whole - whole // 2]
        return super().forward(F.pad(x, pads))


class MBConv(nn.Module):
    """Expand by 1 x 1, convolve each channel alone, project by 1 x 1; plus the input if it fits."""

    def __init__(self, n_in: int, n_out: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        wide = n_in * expansion
        self.expand = nn.Identity() if expansion == 1 else Conv(n_in, wide, 1)
        self.expand_norm = nn.Identity() if expansion == 1 else nn.BatchNorm2d(wide, EPSILON)
        self.depthwise = Conv(wide, wide, kernel, stride, groups=wide)
        self.depthwise_norm = nn.BatchNorm2d(wide, EPSILON)
        self.project, self.project_norm = Conv(wide, n_out, 1), nn.BatchNorm2d(n_out, EPSILON)
        self.expands, self.adds = expansion != 1, stride == 1 and n_in == n_out

    def forward(self, x: Tensor) -> Tensor:
        """Return the map [b, n_out, h, w]."""
        h = F.relu6(self.expand_norm(self.expand(x))) if self.expands else x
        h = F.relu6(self.depthwise_norm(self.depthwise(h)))
        h = self.project_norm(self.project(h))
        return x + h if self.adds else h


class EfficientNet(nn.Module):
    """Images [b, 3, h, w], normalized, -> logits [b, 1000]."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.stem_norm = Conv(3, STEM, 3, 2), nn.BatchNorm2d(STEM, EPSILON)
        blocks, width = [], STEM
        for group in LITE0:
            for i in range(group.repeats):
                stride = group.stride if i == 0 else 1
                blocks.append(MBConv(width, group.width, group.kernel, stride, group.expansion))
                width = group.width
        self.blocks = nn.ModuleList(blocks)
        self.head, self.head_norm = Conv(width, HEAD, 1), nn.BatchNorm2d(HEAD, EPSILON)
        self.classes = nn.Linear(HEAD, N_CLASSES)

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits."""
        x = F.relu6(self.stem_norm(self.stem(images)))
        for block in self.blocks:
            x = block(x)
        x = F.relu6(self.head_norm(self.head(x)))
        return self.classes(x.mean((2, 3)))


# From the names of the original to ours, in this order.
LITE_RENAMES = (
    (r"^_blocks\.(\d+)\._expand_conv", r"blocks.\1.expand"),
    (r"^_blocks\.(\d+)\._bn0", r"blocks.\1.expand_norm"),
    (r"^_blocks\.(\d+)\._depthwise_conv", r"blocks.\1.depthwise"),
    (r"^_blocks\.(\d+)\._bn1", r"blocks.\1.depthwise_norm"),
    (r"^_blocks\.(\d+)\._project_conv", r"blocks.\1.project"),
    (r"^_blocks\.(\d+)\._bn2", r"blocks.\1.project_norm"),
    (r"^_conv_stem", "stem"),
    (r"^_bn0", "stem_norm"),
    (r"^_conv_head", "head"),
    (r"^_bn1", "head_norm"),
    (r"^_fc", "classes"),
)


def build_lite0() -> EfficientNet:
    """Return the untrained net: 224 x 224 pixels, 4.65 M parameters."""
    return EfficientNet()


def convert_lite0(data: bytes) -> dict[str, Tensor]:
    """Return our state dict from the bytes of efficientnet-lite0-57934424.pth."""
    state = read_torch(data)
    return {_renamed(name, LITE_RENAMES): tensor for name, tensor in state.items()}


def _renamed(name: str, renames: Sequence[tuple[str, str]]) -> str:
    for pattern, new in renames:
        name = re.sub(pattern, new, name)
    return name


def wrap(net: nn.Module, spec: str, extra: Sequence[str], folder: Path | None) -> Encoder:
    """Return an encoder as a model."""
    return Encoder(net, spec, size=SIZE, mean=MEAN, std=STD, extra=extra)


def build_dino() -> nn.Module:
    """Return the untrained backbone: ViT-S/14, 12 layers of width 384, 22.1 M parameters."""
    from transformers import Dinov2Config, Dinov2Model

    # Oquab et al. 2023, appendix: ViT-S/14, positions for 518 pixels.
    return Dinov2Model(
        Dinov2Config(
            hidden_size=384,
            num_hidden_layers=12,
            num_attention_heads=6,
            patch_size=14,
            image_size=518,
        )
    )


DINO_RENAMES = (
    (r"^backbone\.", ""),
    (r"attention\.attention\.query", "attention.q_proj"),
    (r"attention\.attention\.key", "attention.k_proj"),
    (r"attention\.attention\.value", "attention.v_proj"),
    (r"attention\.output\.dense", "attention.o_proj"),
)


def convert_dino(data: bytes) -> dict[str, Tensor]:
    """Return the state dict of `Dinov2Model` from the bytes of the ONNX file.

    Weights of linear layers have no names there: each is the constant of a MatMul, transposed, and
    is named by the bias that the next Add has. The positions are the two constants that are as long
    as positions are. The head that marks what is salient is left out.

    Raises:
        InputError: no ONNX file, or no such constants.
    """
    graph = read_onnx(data)
    tensors = graph.tensors
    state = {k: v for k, v in tensors.items() if k.startswith("backbone.")}
    products = {node.outputs[0]: node for node in graph.nodes if node.op == "MatMul"}
    for node in graph.nodes:
        bias = next((name for name in node.inputs if name in state), "")
        product = next((products[name] for name in node.inputs if name in products), None)
        if node.op != "Add" or not bias.endswith(".bias") or product is None:
            continue
        weight = next((tensors[name] for name in product.inputs if name in tensors), None)
        if weight is None:
            raise InputError(f"{product.name} of the ONNX file multiplies by no constant")
        state[bias.removesuffix("bias") + "weight"] = weight.T.contiguous()
    state = {_renamed(name, DINO_RENAMES): tensor for name, tensor in state.items()}
    # Only training masks patches; the file has no token for them.
    state["embeddings.mask_token"] = torch.zeros(1, 384)
    state["embeddings.position_embeddings"] = _positions(tensors)
    return state


def _positions(tensors: dict[str, Tensor]) -> Tensor:
    """Return the positions [1, 1 + 37 * 37, 384]: that of the class token, then of the patches."""
    unnamed = [tensor for name, tensor in tensors.items() if name.startswith("onnx::")]
    found = []
    for shape in ((1, 1, 384), (1, 37 * 37, 384)):
        of_shape = [tensor for tensor in unnamed if tensor.shape == shape]
        if len(of_shape) != 1:
            raise InputError(f"{len(of_shape)} constants of shape {shape} in the ONNX file, not 1")
        found += of_shape
    return torch.cat(found, 1)
