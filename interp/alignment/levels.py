"""Reference levels on the same images: what simple features of them, or none, already give.

"Some pairing exists" is a weak claim: two networks that only tell two sources apart reject it. What
counts is by how much a cell passes what something simpler reaches on the same images. Each function
here makes one such something: histograms of colors, random convolutions, words of captions, their
length, and random features with the spectrum of a layer. Pixels stand in `representations`; VAE
latents and the like are given as they are (`reference`). Untrained twins and shared noise come from
captures.
"""

import dataclasses
import hashlib
import math
from collections import Counter
from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from interp.alignment.representations import (
    TOKEN_GRID,
    Representation,
    read_generations,
    store_images,
)
from interp.errors import InputError
from interp.store import ActivationStore

# Bins per channel: 64 colors, as coarse as the histograms of image retrieval (Swain and Ballard
# 1991, sec. 3, take 2048; there images have a thousand times as many pixels as the zoo's).
COLOR_BINS = 4
# Draws of random levels: their mean is then known to less than half their spread.
DRAWS = 5
# Filters of a random convolution, as many as the first layer of a residual network has.
FILTERS = 64
# Side of a filter.
FILTER = 5


def reference(
    x: Float[Tensor, "n ..."],
    ids: Sequence[str],
    name: str,
    *,
    clusters: Sequence[str] = (),
    strata: Sequence[str] = (),
    preprocessing: str = "as given",
) -> Representation:
    """Features of your own as a reference level, such as the latents of a VAE.

    Args:
        x: [n, d], or [n, p, d] with positions as in the layers compared.
        ids: [n] image ids.
        name: "vae/code": a label, a slash, and what it is.
        clusters, strata: [n] labels, or empty.
        preprocessing: what was done to the rows.
    """
    label, _, point = name.partition("/")
    if not label or not point:
        raise InputError(f"the name {name!r} of a level needs the form 'label/what'")
    more = {"preprocessing": preprocessing, "reference": True}
    labels = (tuple(ids), tuple(clusters), tuple(strata))
    return Representation(label, point, torch.as_tensor(x), *labels, **more)


def color_representation(
    store: ActivationStore, *, pooling: str = "mean", strata: str = "source"
) -> Representation:
    """The color histogram of each image: shares of its pixels in 4 x 4 x 4 cells of RGB.

    pooling: "mean": x [n, 64]; "tokens": one histogram for each cell of the 4 x 4 grid, the mean
    over images removed, x [n, 16, 64].
    Raises StoreError when the store has no images.
    """
    images, labels = store_images(store, strata)
    bins = images.long() * COLOR_BINS // 256
    code = (bins[:, 0] * COLOR_BINS + bins[:, 1]) * COLOR_BINS + bins[:, 2]
    n, h, w = code.shape
    rows, columns = TOKEN_GRID if pooling == "tokens" else (1, 1)
    y, x = torch.arange(h) * rows // h, torch.arange(w) * columns // w
    place = (y[:, None] * columns + x[None, :]).expand(n, h, w)
    size = COLOR_BINS**3
    key = (torch.arange(n)[:, None, None] * rows * columns + place) * size + code
    counts = torch.bincount(key.flatten(), minlength=n * rows * columns * size)
    shares = counts.view(n, rows * columns, size).double()
    shares /= shares.sum(-1, keepdim=True)
    how = f"shares of pixels in {COLOR_BINS} x {COLOR_BINS} x {COLOR_BINS} colors"
    if pooling == "tokens":
        how = f"{how}, mean of each position removed"
        shares = shares - shares.mean(0)
    return Representation(
        "colors",
        "histogram",
        (shares if pooling == "tokens" else shares[:, 0]).float(),
        **labels,
        reference=True,
        preprocessing=how,
    )


def random_convolutions(
    store: ActivationStore,
    *,
    pooling: str = "mean",
    strata: str = "source",
    n_draws: int = DRAWS,
    seed: int = 0,
) -> list[Representation]:
    """One layer of random filters, rectified and pooled: wiring without any training.

    64 Gaussian filters of 5 x 5 pixels and unit norm, zero mean over each filter, then the
    positive part, averaged over the image (or each cell of the 4 x 4 grid, the mean over images
    removed). Each draw of filters is one Representation, told apart by `call`.
    Source: Saxe et al. 2011, "On random weights and unsupervised feature learning", sec. 2.
    """
    images, labels = store_images(store, strata)
    images = images.float() / 255
    how = f"{FILTERS} random {FILTER} x {FILTER} filters, rectified, mean over positions"
    if pooling == "tokens":
        how = f"{how} of each cell, mean of each removed"
    out = []
    for draw in range(n_draws):
        generator = torch.Generator().manual_seed(seed * n_draws + draw)
        filters = torch.randn(FILTERS, 3, FILTER, FILTER, generator=generator)
        filters -= filters.mean((1, 2, 3), keepdim=True)
        filters /= filters.flatten(1).norm(dim=1)[:, None, None, None]
        grid = TOKEN_GRID if pooling == "tokens" else (1, 1)
        parts = [
            torch.nn.functional.adaptive_avg_pool2d(
                torch.nn.functional.conv2d(part, filters, padding=FILTER // 2).relu(), grid
            )
            for part in images.split(256)
        ]
        x = torch.cat(parts).flatten(2).transpose(1, 2)
        x = x - x.mean(0) if pooling == "tokens" else x[:, 0]
        more = {"call": draw, "reference": True, "preprocessing": how}
        out.append(Representation("random convolutions", "relu", x, **labels, **more))
    return out


def caption_representations(
    store: ActivationStore, *, pooling: str = "mean", strata: str = "source"
) -> list[Representation]:
    """Bag of words, TF-IDF and length of the captions of a store, as `text_representations`.

    Raises InputError where the images have no captions, and for pooling "tokens".
    """
    if pooling != "mean":
        raise InputError(f"captions have no positions: pooling={pooling!r} has no level of words")
    table = read_generations(store, strata)
    texts = store.generations["caption"][table.first].astype(str).tolist()
    if not any(texts):
        raise InputError(f"the images of {store.path} have no captions: leave the words out")
    made = text_representations(texts, table.ids)
    labels = {k: v for k, v in table.labels.items() if k != "leaks"}
    return [dataclasses.replace(one, **labels) for one in made]


def text_representations(texts: Sequence[str], ids: Sequence[str]) -> list[Representation]:
    """What the words alone give: counts [n, w], TF-IDF [n, w], and length [n, 2].

    Words are runs of letters and digits in lower case; those of one text only are left out, since
    they are like nothing. TF-IDF: count times log((1 + n) / (1 + texts that have it)) + 1, rows of
    length 1. Length: log(1 + words), log(1 + characters).

    Args:
        texts: [n], one per image.
        ids: [n] image ids.

    Raises:
        InputError: other lengths, or no word in two texts.
    """
    if len(texts) != len(ids):
        raise InputError(f"{len(texts)} texts for {len(ids)} image ids")
    words = [_words(text) for text in texts]
    seen = Counter(word for one in words for word in set(one))
    kept = sorted(word for word, count in seen.items() if count > 1)
    if not kept:
        raise InputError(f"no word stands in two of the {len(texts)} texts: nothing to compare")
    place = {word: i for i, word in enumerate(kept)}
    counts = torch.zeros(len(texts), len(kept), dtype=torch.float64)
    for row, one in enumerate(words):
        for word, count in Counter(one).items():
            if word in place:
                counts[row, place[word]] = count
    documents = (counts > 0).sum(0).double()
    weighted = counts * (torch.log((1 + len(texts)) / (1 + documents)) + 1)
    # A text without any of these words stays at zero.
    weighted /= weighted.norm(dim=1, keepdim=True).clamp(min=1e-300)
    lengths = [[math.log1p(len(w)), math.log1p(len(t))] for w, t in zip(words, texts, strict=True)]
    parts = {
        "words/counts": (counts, f"counts of {len(kept)} words"),
        "words/tfidf": (weighted, f"TF-IDF of {len(kept)} words, rows of length 1"),
        "caption/length": (torch.tensor(lengths, dtype=torch.float64), "log words, log characters"),
    }
    return [reference(x.float(), ids, name, preprocessing=how) for name, (x, how) in parts.items()]


def _words(text: str) -> list[str]:
    letters = "".join(c if c.isalnum() else " " for c in text.lower())
    return letters.split()


def matched_spectrum(one: Representation, draw: int = 0, seed: int = 0) -> Representation:
    """Random features with the spectrum of a layer: its singular values, directions at random.

    x = mean + U S V', with S V' of the centered layer and U an orthonormal basis of a Gaussian
    matrix, centered: rows know nothing of the images, and every measure that depends on width and
    spectrum alone is where it was. Different layers have different draws.
    Source: rotation tests, Langsrud 2005, sec. 2.
    """
    flat = one.x.reshape(-1, one.x.shape[-1]).double()
    mean = flat.mean(0)
    _, values, right = torch.linalg.svd(flat - mean, full_matrices=False)
    rank = min(len(values), len(flat) - 1)
    # Of the whole name: layers of two models often end alike, and may not share a draw.
    name = int.from_bytes(hashlib.sha256(one.name.encode()).digest()[:8], "big")
    rng = np.random.default_rng([seed, draw, name])
    noise = torch.from_numpy(rng.standard_normal((len(flat), rank)))
    left, _ = torch.linalg.qr(noise - noise.mean(0))
    x = mean + (left * values[:rank]) @ right[:rank]
    how = f"{one.preprocessing}, rotated at random (draw {draw})"
    return dataclasses.replace(one, x=x.view(one.x.shape).float(), preprocessing=how)
