"""The zoo's language model: a small GPT-2 on the captions and tags of `glyphs`."""

import hashlib
import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from interp.zoo.images import Images
from interp.zoo.nets import find_weights
from interp.zoo.text_tokens import (
    LENGTH,
    VOCABULARY,
    documents,
    encode,
    ngram_bits,
    read_tokenizer,
    targets,
    train_tokenizer,
    wrap_tokenizer,
)
from interp.zoo.training import Job, update

# Four blocks, as deep as a width of 96 allows below 0.6 million parameters; heads of 24.
GPT: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "n_positions": LENGTH,
    "n_embd": 96,
    "n_layer": 4,
    "n_head": 4,
    # Rates are the recipe's: the network itself drops nothing.
    "resid_pdrop": 0.0,
    "embd_pdrop": 0.0,
    "attn_pdrop": 0.0,
    "use_cache": False,
    "bos_token_id": 0,
    "eos_token_id": 0,
    # The only implementation whose attention patterns hooks can see.
    "attn_implementation": "eager",
}
NOTE = (
    "Trained on the captions and tags of a few thousand small images and on nothing else. Claims "
    "about language need a network that was trained on language: the MiniLM asset."
)
# Groups by length that a batch is split into: four halve the time of a step, more gain little.
PARTS = 4
# Texts that the card's picture continues, and how.
PROMPTS = 24
TEMPERATURE = 0.7


def build(n_classes: int) -> nn.Module:
    """Return an untrained `GPT2LMHeadModel`; the number of categories plays no part."""
    from transformers import GPT2Config, GPT2LMHeadModel

    return GPT2LMHeadModel(GPT2Config(**GPT))


def prepare(data: Images, folder: Path) -> tuple[Tensor, Tensor]:
    """Return every image's texts as tokens [n, variants, length], and nothing beside them."""
    texts = documents(data)
    tokenizer = tokenizer_of(data)
    tokens = torch.stack([encode(tokenizer, several) for several in texts])
    return tokens, torch.zeros(len(tokens), dtype=torch.int64)


def tokenizer_of(data: Images) -> Any:
    """Return the tokenizer that a training on these images uses."""
    return train_tokenizer(texts[0] for texts in documents(data))


def metadata(data: Images) -> dict[str, str]:
    """Return the tokenizer, which lies in the weights' file."""
    return {"tokenizer": tokenizer_of(data).to_str()}


def describe(data: Images, folder: Path) -> dict[str, Any]:
    """Return what a user of the network must know."""
    texts = [text for several in documents(data) for text in several]
    return {
        "class": "transformers.GPT2LMHeadModel",
        "config": {key: x for key, x in GPT.items() if not key.endswith("pdrop")},
        "tokenizer": "byte-level BPE, in the metadata of the weights' file under `tokenizer`",
        "texts_sha256": hashlib.sha256("\n".join(texts).encode()).hexdigest(),
        "note": NOTE,
    }


def load_tokenizer(*, folder: Path | str | None = None, length: int = LENGTH) -> Any:
    """Return the tokenizer of the trained network (seed 0), as transformers takes it.

    Args:
        folder: a folder of files that `train_zoo` wrote, searched before the shipped ones.
        length: tokens to which callers pad and cut.
    """
    return wrap_tokenizer(read_tokenizer(find_weights("text", folder=folder)), length=length)


@contextmanager
def _dropping(net: nn.Module, rate: float, generator: torch.Generator) -> Iterator[None]:
    """Set the rate of every dropout, and draw its masks from the generator's state."""
    for module in net.modules():
        if isinstance(module, nn.Dropout):
            module.p = rate
    device = generator.device
    seed = torch.randint(2**62, (), generator=generator, device=device).item()
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(int(seed))
        yield


def step(job: Job, tokens: Tensor, labels: Tensor, progress: float) -> dict[str, Tensor]:
    """Take one step on a text of each image, drawn among its variants."""
    recipe, net, generator = job.extra["recipe"], job.nets["text"], job.generator
    n, device = len(tokens), tokens.device
    chosen = torch.randint(tokens.shape[1], (n,), generator=generator, device=device)
    rows = tokens[torch.arange(n, device=device), chosen]
    follow = targets(rows)
    lengths = (follow >= 0).sum(1)
    total = torch.zeros((), device=device)
    with _dropping(net, recipe["dropout"], generator):
        # Texts of about one length together: columns behind the longest teach nothing.
        for part in lengths.argsort(stable=True).chunk(PARTS):
            longest = int(lengths[part].max())
            logits = net(rows[part, :longest]).logits
            total = total + F.cross_entropy(
                logits.flatten(0, 1),
                follow[part, :longest].flatten(),
                ignore_index=-100,
                reduction="sum",
            )
    loss = total / lengths.sum()
    update(loss, job.optimizers["text"])
    return {"loss": loss.detach()}


@torch.no_grad()
def bits_per_token(net: Any, tokens: Tensor, *, batch_size: int = 32) -> float:
    """Return the mean over tokens, ends of texts included, of -log2 p(token | those before it)."""
    total, count = 0.0, 0
    for part in tokens.split(batch_size):
        longest = int((targets(part) >= 0).sum(1).max()) + 1
        rows = part[:, :longest]
        follow = targets(rows)
        logits = net(rows[:, :-1]).logits
        losses = F.cross_entropy(
            logits.flatten(0, 1), follow.flatten(), ignore_index=-100, reduction="sum"
        )
        total, count = total + float(losses), count + int((follow >= 0).sum())
    return total / count / math.log(2)


def measure(net: Any, judged: Any) -> dict[str, Any]:
    """Return bits per token of the whole texts of held-out images, beside n-gram models of them.

    Args:
        net: the network.
        judged: `cards.Judged`.
    """
    tokenizer = read_tokenizer(find_weights("text", seed=judged.seed, folder=judged.folder))
    from tokenizers import Tokenizer

    coder = Tokenizer.from_str(tokenizer)
    train, heldout = (
        encode(coder, [texts[0] for texts in documents(images)])
        for images in (judged.train, judged.heldout)
    )
    unigram, bigram = ngram_bits(train, heldout)
    return {
        "bits_per_token": bits_per_token(net, heldout),
        "bits_per_token_train": bits_per_token(net, train),
        "bits_unigram": unigram,
        "bits_bigram": bigram,
    }


@torch.no_grad()
def continue_text(
    net: Any, tokenizer: Any, text: str, *, seed: int = 0, temperature: float = TEMPERATURE
) -> str:
    """Return the text with what the network adds to it, up to its end.

    Args:
        net: the network.
        tokenizer: what `load_tokenizer` returns.
        text: how it begins.
        seed: of the draws.
        temperature: of the softmax; lower is closer to the most probable token.
    """
    generator = torch.Generator().manual_seed(seed)
    rows = tokenizer(text, return_tensors="pt")["input_ids"]
    while rows.shape[1] < LENGTH:
        weights = F.softmax(net(rows).logits[0, -1] / temperature, 0)
        token = torch.multinomial(weights, 1, generator=generator)
        if int(token) == 0:
            break
        rows = torch.cat([rows, token[None]], 1)
    return tokenizer.decode(rows[0], skip_special_tokens=True).strip()


def picture(net: Any, path: Path, heldout: Images) -> None:
    """Write a sheet of held-out captions and the tags that the network gives them."""
    from PIL import Image, ImageDraw, ImageFont

    folder = path.parent
    own = (folder / "text.safetensors").is_file()
    tokenizer = load_tokenizer(folder=folder if own else None)
    rows = torch.linspace(0, len(heldout) - 1, PROMPTS).round().long().tolist()
    lines = []
    for seed, row in enumerate(rows):
        caption = heldout.captions[row]
        lines.append((caption + ":", continue_text(net, tokenizer, caption + ":", seed=seed)))
    sheet = Image.new("L", (16 * 34, 15 * PROMPTS + 6), 255)
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(size=11)
    for i, (given, whole) in enumerate(lines):
        added = whole[len(given) :] if whole.startswith(given) else " " + whole
        draw.text((6, 3 + 15 * i), given, font=font, fill=150)
        draw.text((6 + draw.textlength(given, font=font), 3 + 15 * i), added, font=font, fill=0)
    sheet.quantize(16).save(path, optimize=True)


@torch.no_grad()
def hidden_states(net: Any, tokens: Tensor) -> Float[Tensor, "b t d"]:
    """Return the final normalised stream, what `ldm` attends to."""
    return net.transformer(tokens)[0]
