"""Classifier guidance of a diffusion U-Net, as edits and as a model whose classes it obeys."""

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from interp.errors import InputError
from interp.models import Call, GenerateBatch, Model, editing
from interp.models.clock import Clock, Interest
from interp.models.editing import Edit

# (images [b, 3, h, w] in [-1, 1] or the noisy input, timestep) -> log p(y | .) of each sample [b]
LogProb = Callable[[Tensor, float | None], Tensor]

# Below this log-SNR the step of the clean image is more than exp(6 / 2) = 20 times the gradient
# that the network gives, and so is that gradient's error.
LOWEST = -6.0


def guidance_edits(
    model: Model,
    log_prob: LogProb,
    *,
    scale: float,
    noisy: bool = False,
    lowest: float = LOWEST,
) -> dict[str, Edit]:
    """Edits for `editing` that move each prediction along the gradient of a log-probability.

    eps' = eps - sqrt(1 - a) scale g, a = sigmoid(log-SNR), g = d log p / d x_t at the network's own
    input x_t; the same change in the terms of networks that predict v or the clean image
    (`shift_factor`). With `noisy` the log-probability is of x_t itself (a noise-aware classifier:
    ADM's). Otherwise it is of the clean image that the network predicts at x_t, and g goes through
    the network: an approximation (universal guidance, forward), since p(y | x_t) is the mean over
    the clean images and not its value at their mean.

    Under classifier-free guidance the conditional half's prediction is judged and both halves get
    the same change, so that it enters the guided prediction once. A scale of 0 is no edit. The
    gradient of `Model.render` ends here.

    Args:
        model: a diffusion U-Net on pixels or, unless `noisy`, on an autoencoder's codes.
        log_prob: what to raise, as `LogProb`; each sample's depends on that sample alone. Noisy
            codes are given as they are.
        scale: of the gradient (ADM, sec. 4: 1 is the exact posterior of an exact classifier).
        noisy: `log_prob` knows noise.
        lowest: log-SNR below which nothing is changed.

    Raises:
        InputError: not a diffusion U-Net with a known noise level, or a scale that is not finite;
            in the run, a `log_prob` that gives no gradient or no [b].

    Sources: Dhariwal and Nichol 2021 (arXiv 2105.05233), algorithm 2; Bansal et al. 2023 (arXiv
    2302.07121), forward universal guidance.
    """
    _check(model, scale)
    if scale == 0:
        return {}
    run = _Run(model, log_prob, scale, noisy, lowest)
    return {"x_t": run.start, "conv_out": run.finish}


def _check(model: Model, scale: float) -> None:
    host: Any = getattr(model, "host", None)
    if model.family != "unet" or host is None or host.scheduler is None:
        raise InputError(f"{model.name}: classifier guidance needs a diffusion U-Net that samples")
    kind = host.scheduler.config.get("prediction_type")
    if kind not in ("epsilon", "v_prediction", "sample"):
        raise InputError(f"{model.name} predicts {kind!r}: epsilon, v_prediction or sample needed")
    if not math.isfinite(scale):
        raise InputError(f"scale = {scale}: a finite number is needed")


@dataclass
class _Run:
    """One guided run: what its two edits share within a call."""

    model: Model
    log_prob: LogProb
    scale: float
    noisy: bool
    lowest: float
    leaf: Tensor | None = None
    recording: bool = False

    def start(self, rows: Tensor, call: Call) -> Tensor:
        """Begin to record at the network's input."""
        if call.factor > 2:
            raise InputError(f"the batch is {call.factor} times the samples; guidance needs 1 or 2")
        if call.log_snr is None:
            raise InputError(f"{self.model.name}: no noise level is known at timestep {call.t}")
        if call.log_snr < self.lowest:
            return rows
        self.recording = torch.is_grad_enabled()
        # The run's own forward pass is recorded: a second one would fire every hook twice.
        torch.set_grad_enabled(not self.noisy)
        self.leaf = rows.detach().requires_grad_(not self.noisy)
        return self.leaf

    def finish(self, rows: Tensor, call: Call) -> Tensor:
        """Change the prediction by the gradient."""
        leaf, self.leaf = self.leaf, None
        if leaf is None:
            return rows
        try:
            with torch.enable_grad():
                gradient = self._gradient(rows, leaf, call)
        finally:
            torch.set_grad_enabled(self.recording)
        kind = self.model.host.scheduler.config.prediction_type  # pyright: ignore
        step = shift_factor(kind, _signal(call)) * self.scale * gradient
        both = torch.cat([step] * call.factor)
        # Learned variances follow the prediction's channels and stay.
        width = leaf.shape[-1]
        out = rows.detach()
        return torch.cat([out[..., :width] + both.to(out), out[..., width:]], dim=-1)

    def _gradient(self, rows: Tensor, leaf: Tensor, call: Call) -> Tensor:
        n = len(rows) // call.factor
        if self.noisy:
            leaf = leaf.detach()[-n:].requires_grad_()
            seen = _unfold(self.model, leaf)
            root: Any = self.model
            pixels = not root.host.kind
            seen = F.pixel_shuffle(seen, root.host.unshuffle) if pixels else seen
        else:
            kind = self.model.host.scheduler.config.prediction_type  # pyright: ignore
            width = leaf.shape[-1]
            clean = predict_clean(kind, rows[-n:, :, :width], leaf[-n:], _signal(call))
            seen = _to_pixels(self.model, _unfold(self.model, clean))
        value = self.log_prob(seen, call.t)
        if tuple(value.shape) != (n,) or not value.requires_grad:
            raise InputError(
                f"log_prob gave {tuple(value.shape)} for {n} samples"
                f"{'' if value.requires_grad else ' without a gradient'}: [{n}] is needed, as a "
                "differentiable function of its first argument"
            )
        return torch.autograd.grad(value.sum(), leaf)[0][-n:].detach()


def _signal(call: Call) -> float:
    return 1 / (1 + math.exp(-(call.log_snr or 0.0)))


def predict_clean(
    kind: str, output: Float[Tensor, "b ..."], x: Float[Tensor, "b ..."], a: float
) -> Float[Tensor, "b ..."]:
    """The clean sample that a prediction of `kind` stands for, at x = sqrt(a) x0 + sqrt(1 - a) n.

    kind: "epsilon" (n), "v_prediction" (sqrt(a) n - sqrt(1 - a) x0) or "sample" (x0).
    """
    if kind == "sample":
        return output
    if kind == "v_prediction":
        return math.sqrt(a) * x - math.sqrt(1 - a) * output
    return (x - math.sqrt(1 - a) * output) / math.sqrt(a)


def shift_factor(kind: str, a: float) -> float:
    """What a prediction of `kind` moves by per unit of the gradient of log p at x_t.

    eps' = eps - sqrt(1 - a) g at the same x_t means x0' = x0 + (1 - a) / sqrt(a) g, and so
    v' = v - sqrt((1 - a) / a) g.
    """
    if kind == "sample":
        return (1 - a) / math.sqrt(a)
    return -math.sqrt(1 - a) / (math.sqrt(a) if kind == "v_prediction" else 1.0)


def _unfold(model: Model, rows: Tensor) -> Float[Tensor, "b c h w"]:
    height, width = model.clock.frame or (0, 0)
    return rows.transpose(1, 2).reshape(len(rows), -1, height, width)


def _to_pixels(model: Model, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b 3 h w"]:
    host: Any = getattr(model, "host", None)
    if not host.kind:
        return F.pixel_shuffle(x, host.unshuffle) if host.unshuffle > 1 else x
    vae = host.pipe.vae
    shift = vae.config.get("shift_factor") or 0.0
    return vae.decode((x / vae.config.scaling_factor + shift).to(vae.dtype)).sample.to(x.dtype)


def class_log_prob(encoder: Model, classes: Sequence[int]) -> LogProb:
    """log p(class | image) of an encoder with a class head: a classifier that knows no noise.

    Args:
        encoder: a vision encoder whose output is logits [b, n_classes], such as zoo:vit.
        classes: one per sample.

    Raises:
        InputError: not an encoder, no class head, or a class that it does not have.
    """
    top = count_classes(encoder)
    if not classes or min(classes) < 0 or max(classes) >= top:
        raise InputError(f"classes {tuple(classes)[:8]} of {encoder.name}: it has 0..{top - 1}")
    labels = torch.tensor(list(classes))

    def log_prob(images: Tensor, t: float | None) -> Tensor:
        if len(images) != len(labels):
            raise InputError(f"{len(labels)} classes for {len(images)} images")
        logs = _logits(encoder, images).log_softmax(1)
        return logs.gather(1, labels.to(logs.device)[:, None])[:, 0]

    return log_prob


def count_classes(encoder: Model) -> int:
    """Return how many classes an encoder's head tells apart; `InputError` where it has none."""
    if encoder.family != "encoder":
        raise InputError(f"{encoder.name} is a {encoder.family}: a vision encoder is needed")
    with torch.no_grad():
        logits = _logits(encoder, torch.zeros(1, 3, *encoder.image_size, device=encoder.device))
    return logits.shape[1]


def _logits(encoder: Any, images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b n_classes"]:
    if isinstance(getattr(encoder.root, "head", None), nn.Identity):
        raise InputError(f"{encoder.name} has no class head")
    if tuple(images.shape[2:]) != tuple(encoder.size):
        options = {"mode": "bilinear", "antialias": True, "align_corners": False}
        images = F.interpolate(images, tuple(encoder.size), **options)
    mean, std = (images.new_tensor(v)[:, None, None] for v in (encoder.mean, encoder.std))
    found = encoder.root((((images + 1) / 2 - mean) / std).to(encoder.dtype))
    logits = getattr(found, "logits", found)
    if not isinstance(logits, Tensor) or logits.ndim != 2:
        raise InputError(f"{encoder.name} has no class head: {type(found).__name__} is no logits")
    return logits.float()


def guide_by_classifier(
    model: Model,
    encoder: Model,
    *,
    scale: float,
    conditional: bool = False,
    lowest: float = LOWEST,
) -> Model:
    """Return a model that makes what `model` makes, guided to each sample's class by an encoder.

    A generation's classes are the classifier's, so `Carrier(fields=("classes",))` of an interchange
    on it is guidance toward the donor's class, and nothing else. The network and its hook points
    are those of `model`. No run of it is replayed in part: the gradient needs every block's. For
    the same reason activations cannot be interchanged within it: a value put in place passes no
    gradient, so that the recipient's own value already changes the image, and `measure_interchange`
    refuses.

    Args:
        model: a diffusion U-Net.
        encoder: as in `class_log_prob`.
        scale, lowest: as in `guidance_edits`.
        conditional: the class conditions the network too (ADM's second setting); else it is given
            its null class or, where it has none, no class.

    Raises:
        InputError: as `guidance_edits` and `class_log_prob`; in the run, a batch without classes.
    """
    _check(model, scale)
    # Found once, by a run of the network, which must not happen within another run.
    model.point("conv_out")
    guided = copy.copy(model)
    guided.n_classes = count_classes(encoder)
    # Said for good, since the edits themselves come within each run, with its classes.
    guided.clock = Clock()
    guided.clock.interests.append(Interest(("x_t", "conv_out"), None, True))
    guided.name = f"{model.name}+{encoder.name}"
    settings = {"classifier": encoder.name, "scale": scale, "conditional": conditional}
    guided.provenance = {**model.provenance, "guided": {**settings, "lowest": lowest}}

    def inner(batch: GenerateBatch) -> GenerateBatch:
        if not batch.classes:
            raise InputError(f"{guided.name} needs a class for each sample")
        return batch if conditional else replace(batch, classes=())

    def generate(batch: GenerateBatch) -> Tensor:
        given = inner(batch)
        log_prob = class_log_prob(encoder, batch.classes)
        with editing(guided, guidance_edits(guided, log_prob, scale=scale, lowest=lowest)):
            return model._generate(given)

    def draw_latents(batch: GenerateBatch) -> Tensor:
        return model._draw_latents(replace(batch, classes=()) if batch.classes else batch)

    parts = {**model.components(), "classifier": encoder.root}
    own: dict[str, Any] = {"_generate": generate, "_draw_latents": draw_latents}
    for name, function in {**own, "components": lambda: parts}.items():
        setattr(guided, name, function)
    return guided
