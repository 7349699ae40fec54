"""overcomplete; see common.py."""

import json
import sys
import types

import torch
from common import D, K, M, main, randomize

# Its plots want a matplotlib and a torchvision of their own; SAEs need neither.
for name in ("torchvision", "torchvision.transforms", "cv2", "timm"):
    try:
        __import__(name)
    except ImportError:
        sys.modules[name] = types.ModuleType(name)

from overcomplete.sae import BatchTopKSAE, JumpSAE, MpSAE, TopKSAE  # noqa: E402
from overcomplete.sae.base import SAE  # noqa: E402
from overcomplete.sae.rasae import RATopKSAE  # noqa: E402

CLASSES = {kind.__name__: kind for kind in (SAE, TopKSAE, BatchTopKSAE, JumpSAE, RATopKSAE)}


def pair(sae):
    return lambda x: sae.encode(x)[1], sae.decode


def made(sae, normalization="l2", threshold=None, **more):
    randomize(sae)
    if hasattr(sae, "thresholds"):
        sae.thresholds.data -= 1.0
    state = {key: value.clone() for key, value in sae.state_dict().items()}
    if threshold is not None:
        sae.running_threshold = torch.tensor(threshold)
        more["running_threshold"] = threshold
    sae.eval()

    def save(path):
        path.mkdir(parents=True)
        torch.save(state, path / "state_dict.pt")
        config = {"library": "overcomplete", "class": type(sae).__name__, **more}
        config["normalization"] = normalization
        (path / "config.json").write_text(json.dumps(config))

    return (save, *pair(sae))


def theirs():
    g = torch.Generator().manual_seed(3)
    points = torch.randn(40, D, generator=g)
    found = {
        name: made(TopKSAE(D, M, top_k=K, dictionary_params={"normalization": name}), name, top_k=K)
        for name in ("l2", "max_l2", "l1", "max_l1", "identity")
    }
    trained = {"use_multiplier": True}
    return found | {
        "relu": made(SAE(D, M, dictionary_params=trained)),
        "jump": made(JumpSAE(D, M)),
        "batchtopk": made(BatchTopKSAE(D, M, top_k=K), threshold=0.7),
        "archetypal": made(RATopKSAE(D, M, points, top_k=K, delta=0.4), top_k=K, delta=0.4),
        "pursuit": made(MpSAE(D, M, k=K), top_k=K),
        "tied": made(TopKSAE(D, M, top_k=K).tied(bias=True), top_k=K),
        "untied": made(TopKSAE(D, M, top_k=K).untied(), top_k=K),
    }


def load(path):
    config = json.loads((path / "config.json").read_text())
    more = {"top_k": config["top_k"]} if "top_k" in config else {}
    more["dictionary_params"] = {"normalization": config["normalization"]}
    sae = CLASSES[config["class"]](config["input_shape"], config["nb_concepts"], **more)
    sae.load_state_dict(torch.load(path / "state_dict.pt", weights_only=True))
    return pair(sae.eval())


if __name__ == "__main__":
    main(theirs, load)
