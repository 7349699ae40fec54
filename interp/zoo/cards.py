"""What is known of each shipped network: its origin, how good it is, whether it is undertrained."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from interp.errors import InterpError
from interp.zoo import quality as measures
from interp.zoo.images import Images, load_images
from interp.zoo.leaks import known_leaks
from interp.zoo.nets import find_weights, home, load_net, parse_name
from interp.zoo.sampling import reconstruct, sample_ddpm, sample_gan, vit_outputs
from interp.zoo.ssl_quality import reasons as encoder_reasons

# The three rules of the verdict.
LABEL_SHARE = 0.5
FRECHET_FACTOR = 5.0
NEAREST_SHARE = 0.7
# An encoder is undertrained where it is not twice as good as always naming the most frequent
# category.
MAJORITY_FACTOR = 2.0
# A language model is undertrained where it saves fewer bits per token than this against a bigram
# model, chosen before the first training: it must know clearly more than pairs of tokens.
BIGRAM_MARGIN = 0.25
# How `ddpm` and `dit` are sampled for their cards.
DDPM_STEPS = 25
DDPM_GUIDANCE = 2.0


@dataclass(frozen=True)
class Quality:
    """Measured quality; None where a measure does not apply to the network.

    Attributes:
        n: samples or images judged.
        frechet: Frechet distance, in the zoo's own `vit` features, from training images to samples
            (vae: reconstructions of held-out images).
        frechet_floor: the same from training to held-out images.
        precision: share of samples within the k-NN manifold of as many training images.
        recall: share of those training images within the manifold of the samples.
        precision_heldout: held-out images in place of samples; likewise `recall_heldout`.
        recall_heldout: see `precision_heldout`.
        nearest_train: median over samples of the RMS pixel distance (0 to 1) to the nearest
            training image.
        nearest_train_heldout: the same for held-out images.
        psnr: of reconstructed held-out images, in decibels.
        psnr_train: of reconstructed training images.
        accuracy: share of held-out images whose category `vit` names.
        accuracy_train: the same on training images.
        accuracy_by_category: held-out accuracy of each category.
        majority: share of held-out images in the most frequent category.
        label_accuracy: share of class-conditional samples that `vit` labels as asked (ldm: as the
            category of the image whose caption was asked).
        label_accuracy_shuffled: mean of the same over 200 shuffles of what was asked.
        label_accuracy_shuffled_max: the largest of them.
        vit_accuracy: held-out accuracy of the `vit` that judged the samples.
        frechet_reconstructed: vae-global: Frechet distance of reconstructed held-out images.
        bits_per_token: text: mean -log2 p(token | those before it) on held-out texts.
        bits_per_token_train: the same on training texts.
        bits_unigram: the same of a unigram model of the training texts.
        bits_bigram: of an interpolated Kneser-Ney bigram model.
        knn: ssl: held-out accuracy of category by k-NN in the features of `ssl`, of an untrained
            twin, of pixels and of `vit`; likewise `probe`, of a linear classifier.
        probe: see `knn`.
        effective_rank: of the same features of held-out images, for probe and rank the pixels in
            as many principal components; at most their width.
    """

    n: int
    frechet: float | None = None
    frechet_floor: float | None = None
    precision: float | None = None
    recall: float | None = None
    precision_heldout: float | None = None
    recall_heldout: float | None = None
    nearest_train: float | None = None
    nearest_train_heldout: float | None = None
    psnr: float | None = None
    psnr_train: float | None = None
    accuracy: float | None = None
    accuracy_train: float | None = None
    accuracy_by_category: dict[str, float] | None = None
    majority: float | None = None
    label_accuracy: float | None = None
    vit_accuracy: float | None = None
    label_accuracy_shuffled: float | None = None
    label_accuracy_shuffled_max: float | None = None
    frechet_reconstructed: float | None = None
    bits_per_token: float | None = None
    bits_per_token_train: float | None = None
    bits_unigram: float | None = None
    bits_bigram: float | None = None
    knn: dict[str, float] | None = None
    probe: dict[str, float] | None = None
    effective_rank: dict[str, float] | None = None


class Judged(NamedTuple):
    """What a network is judged against.

    Attributes:
        train: training images.
        heldout: held-out images, an even spread of the number asked for.
        judge: the zoo's `vit`, whose features the distances are of.
        card: the network's card, as JSON values.
        seed: its training seed.
        folder: where it was loaded from, before the shipped ones.
    """

    train: Images
    heldout: Images
    judge: torch.nn.Module
    card: dict[str, Any]
    seed: int
    folder: Path | str | None


class Verdict(NamedTuple):
    """Whether a network is undertrained, and each rule that says so."""

    undertrained: bool
    reasons: tuple[str, ...]


@dataclass(frozen=True)
class Card:
    """A network's card; `quality` and `verdict` are None until `evaluate_zoo` has judged it.

    Attributes:
        name: `zoo:gan`, with `/<seed>` for seeds other than 0.
        data: name, split, number, sha256 and categories of the training images.
        recipe: every hyper-parameter of the training.
        training: steps, images seen, seed, device, threads and seconds.
        net: parameters, and what a user of the network must know (scheduler, scaling).
        weights: file, bytes, dtype and sha256.
        leaks: what it shares with others by its making ("labels: ...", "network: ..."); an entry
            that two networks share may be why they are alike.
        quality: measured quality.
        verdict: undertrained or not, with reasons.
    """

    name: str
    data: dict[str, Any]
    recipe: dict[str, Any]
    training: dict[str, Any]
    net: dict[str, Any]
    weights: dict[str, Any]
    quality: Quality | None
    verdict: Verdict | None
    leaks: tuple[str, ...] = ()

    @property
    def warning(self) -> str:
        """UNDERTRAINED with reasons, a note that nobody measured, or nothing."""
        if self.verdict is None:
            return f"{self.name}: quality not measured"
        if not self.verdict.undertrained:
            return ""
        return f"{self.name}: UNDERTRAINED ({'; '.join(self.verdict.reasons)})"


def card(spec: str, *, folder: Path | str | None = None) -> Card:
    """Return the card of "gan", "zoo:gan" or "zoo:gan/1".

    Args:
        spec: network and training seed.
        folder: a folder of files that `train_zoo` wrote, searched before the shipped ones.

    Raises:
        InputError: no network of that name.
        InterpError: nobody has trained that seed here.
    """
    name, seed = parse_name(spec)
    raw = json.loads(find_weights(name, seed=seed, folder=folder).with_suffix(".json").read_text())
    quality = Quality(**raw["quality"]) if raw["quality"] else None
    judged = (
        Verdict(raw["verdict"]["undertrained"], tuple(raw["verdict"]["reasons"]))
        if raw["verdict"]
        else None
    )
    leaks = tuple(raw.get("leaks", known_leaks(name)))
    return Card(**{**raw, "quality": quality, "verdict": judged, "leaks": leaks})


def verdict(quality: Quality) -> Verdict:
    """Return UNDERTRAINED or not by fixed rules; a rule whose measure is None does not apply.

    Undertrained where `vit` labels class-conditional samples at less than half its own held-out
    accuracy, where the Frechet distance is above five times its floor, where samples are nearer to
    training images than 0.7 times what held-out images are (copies), or where an encoder is not
    twice as accurate as the most frequent category, or where a language model saves less than
    a quarter bit per token against a bigram model.
    """
    reasons = [
        *_sample_reasons(quality),
        *_accuracy_reasons(quality),
        *encoder_reasons(quality),
    ]
    return Verdict(bool(reasons), tuple(reasons))


def _sample_reasons(q: Quality) -> list[str]:
    reasons = []
    if (
        q.label_accuracy is not None
        and q.vit_accuracy is not None
        and q.label_accuracy < LABEL_SHARE * q.vit_accuracy
    ):
        reasons.append(
            f"vit labels {q.label_accuracy:.1%} of class-conditional samples as asked, "
            f"less than half of its {q.vit_accuracy:.1%} on held-out images"
        )
    if (
        q.frechet is not None
        and q.frechet_floor is not None
        and q.frechet > FRECHET_FACTOR * q.frechet_floor
    ):
        reasons.append(
            f"Frechet distance {q.frechet:.3g} is {q.frechet / q.frechet_floor:.1f} times "
            f"its floor {q.frechet_floor:.3g} (limit {FRECHET_FACTOR:g})"
        )
    if q.nearest_train is not None and q.nearest_train_heldout is not None:
        share = q.nearest_train / q.nearest_train_heldout
        if share < NEAREST_SHARE:
            reasons.append(
                f"samples lie {share:.2f} times as far from training images as held-out images do "
                f"(limit {NEAREST_SHARE:g})"
            )
    return reasons


def _accuracy_reasons(q: Quality) -> list[str]:
    reasons = []
    if (
        q.accuracy is not None
        and q.majority is not None
        and q.accuracy < MAJORITY_FACTOR * q.majority
    ):
        reasons.append(
            f"held-out accuracy {q.accuracy:.1%} is below twice the most frequent category's "
            f"{q.majority:.1%}"
        )
    if (
        q.bits_per_token is not None
        and q.bits_bigram is not None
        and q.bits_per_token > q.bits_bigram - BIGRAM_MARGIN
    ):
        reasons.append(
            f"{q.bits_per_token:.2f} bits per held-out token, a bigram model needs "
            f"{q.bits_bigram:.2f} (limit {BIGRAM_MARGIN:g} less)"
        )
    return reasons


def evaluate_zoo(spec: str, *, folder: Path | str | None = None, n: int | None = None) -> Quality:
    """Measure a network of the zoo on `glyphs`, samples in the features of the zoo's `vit`.

    Args:
        spec: "gan", "zoo:gan" or "zoo:gan/1".
        folder: a folder of files that `train_zoo` wrote, searched before the shipped ones.
        n: samples (generators) or images; as many as there are held-out images where None. Frechet
            distances depend on it, so the floor takes as many.

    Raises:
        InputError: no network of that name.
        InterpError: the network, or the `vit` that judges it, is not there.
    """
    name, seed = parse_name(spec)
    net, facts = load_net(name, seed=seed, folder=folder)
    train, heldout = load_images("glyphs", split="train"), load_images("glyphs", split="heldout")
    count = min(n or len(heldout), len(heldout))
    # An even spread over the held-out images, so that every category keeps its share.
    index = torch.linspace(0, len(heldout) - 1, count).round().long()
    heldout = heldout.select(index)
    if name == "vit":
        return _encoder_quality(net, train, heldout)
    judge, _ = load_net("vit", folder=folder)
    own = home(name)
    if own is not None:
        judged = Judged(train, heldout, judge, facts, seed, folder)
        return Quality(n=count, **own.measure(net, judged))
    extra: dict[str, Any] = {}
    if name == "vae":
        samples = reconstruct(net, heldout.pixels)
        spread = torch.linspace(0, len(train) - 1, count).round().long()
        of_train = train.pixels[spread]
        extra = {
            "psnr": measures.psnr(samples, heldout.pixels),
            "psnr_train": measures.psnr(reconstruct(net, of_train), of_train),
        }
    else:
        samples = draw(name, net, heldout.labels.tolist())
        extra = copies(train, heldout, samples)
    if name in ("ddpm", "dit"):
        extra["label_accuracy"] = accuracy(vit_outputs(judge, samples)[1], heldout.labels)
        extra["vit_accuracy"] = accuracy(vit_outputs(judge, heldout.pixels)[1], heldout.labels)
    return Quality(n=count, **distances(judge, train, heldout, samples), **extra)


def draw(name: str, net: torch.nn.Module, labels: list[int]) -> Tensor:
    """Return a uint8 image [32, 32, 3] per label, of seeds 0, 1, ...; `gan` ignores the labels."""
    seeds = range(len(labels))
    if name == "gan":
        return sample_gan(net, seeds)
    if name in ("ddpm", "dit"):
        return sample_ddpm(net, seeds, labels, steps=DDPM_STEPS, guidance=DDPM_GUIDANCE)
    raise InterpError(f"{name} does not generate; gan, ddpm and dit do")


def copies(train: Images, heldout: Images, samples: Tensor) -> dict[str, float]:
    """Return how near samples and held-out images come to training images."""
    return {
        "nearest_train": float(measures.nearest(samples, train.pixels).median()),
        "nearest_train_heldout": float(measures.nearest(heldout.pixels, train.pixels).median()),
    }


def distances(
    judge: torch.nn.Module, train: Images, heldout: Images, samples: Tensor
) -> dict[str, float]:
    """Return Frechet distance, precision and recall of samples and of held-out images."""
    of_train, of_heldout, of_samples = (
        vit_outputs(judge, pixels)[0] for pixels in (train.pixels, heldout.pixels, samples)
    )
    spread = torch.linspace(0, len(train) - 1, len(samples)).round().long()
    precision, recall = measures.precision_recall(of_train[spread], of_samples)
    precision_heldout, recall_heldout = measures.precision_recall(of_train[spread], of_heldout)
    return {
        "frechet": measures.frechet(of_train, of_samples),
        "frechet_floor": measures.frechet(of_train, of_heldout),
        "precision": precision,
        "recall": recall,
        "precision_heldout": precision_heldout,
        "recall_heldout": recall_heldout,
    }


def accuracy(logits: Tensor, labels: Tensor) -> float:
    """Return the share of rows whose largest logit is the label's."""
    return float((logits.argmax(1) == labels).double().mean())


def _encoder_quality(net: torch.nn.Module, train: Images, heldout: Images) -> Quality:
    logits = vit_outputs(net, heldout.pixels)[1]
    labels = heldout.labels
    each = {
        category: accuracy(logits[labels == i], labels[labels == i])
        for i, category in enumerate(heldout.categories)
        if bool((labels == i).any())
    }
    return Quality(
        n=len(heldout),
        accuracy=accuracy(logits, labels),
        accuracy_train=accuracy(vit_outputs(net, train.pixels)[1], train.labels),
        accuracy_by_category=each,
        majority=float(torch.bincount(labels).max() / len(labels)),
    )


def write_quality(spec: str, quality: Quality, *, folder: Path | str) -> Card:
    """Put quality, to four figures, and verdict into the card in `folder`; return the card."""
    name, seed = parse_name(spec)
    path = find_weights(name, seed=seed, folder=folder).with_suffix(".json")
    raw = json.loads(path.read_text())
    raw["quality"] = _rounded(asdict(quality))
    raw["verdict"] = verdict(quality)._asdict()
    path.write_text(json.dumps(raw, indent=1, ensure_ascii=False) + "\n")
    return card(spec, folder=folder)


def _rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _rounded(x) for key, x in value.items()}
    return float(f"{value:.4g}") if isinstance(value, float) else value
