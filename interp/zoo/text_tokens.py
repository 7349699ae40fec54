"""The texts of `glyphs` as tokens: documents, a byte-pair tokenizer, and n-gram models of them."""

import math
import random
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from interp.errors import InputError
from interp.zoo.images import Images

# Begins and ends every text and fills the rest of a row; its id is 0.
END = "<|end|>"
# 256 bytes, the mark of the end, and 767 merges: 2.7 letters a token of the training texts.
VOCABULARY = 1024
# Positions of the network; the longest training text has 115 tokens.
LENGTH = 128
# Texts per image: the whole one, the caption alone, and orders of the tags.
VARIANTS = 8


def documents(images: Images, variants: int = VARIANTS) -> list[tuple[str, ...]]:
    """Return the texts of each image: "caption: tag, tag", "caption", then other orders of tags.

    Orders are drawn from the image's id alone. Categories, the labels of `vit`, are left out, so
    that nothing supervised enters the text.

    Args:
        images: whose captions and tags.
        variants: texts per image, at least 2.
    """
    return [
        _texts(one, caption, list(tags), variants)
        for one, caption, tags in zip(images.ids, images.captions, images.tags, strict=True)
    ]


def _texts(one: str, caption: str, tags: list[str], variants: int) -> tuple[str, ...]:
    texts = [_joined(caption, tags), caption]
    for k in range(2, variants):
        order = random.Random(f"{one}/{k}").sample(tags, len(tags))
        # Every third begins with a tag, as the tags' words are rare after a colon alone.
        texts.append(_joined(caption, order) if k % 3 else ", ".join([*order, caption]))
    return tuple(texts)


def _joined(caption: str, tags: Sequence[str]) -> str:
    return f"{caption}: {', '.join(tags)}" if tags else caption


def train_tokenizer(texts: Iterable[str], *, size: int = VOCABULARY) -> Any:
    """Return a `tokenizers.Tokenizer`: byte-pair encoding of bytes, merges by falling count.

    Sennrich et al. 2016 (arXiv 1508.07909) on bytes, as in GPT-2; a function of the texts alone.
    Encoding puts `END` before the text.

    Args:
        texts: what the merges are counted in.
        size: number of tokens.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

    tokenizer: Any = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.ByteLevel()
    trainer: Any = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=[END],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{END} $A", special_tokens=[(END, 0)]
    )
    return tokenizer


def wrap_tokenizer(text: str, *, length: int = LENGTH) -> Any:
    """Return the tokenizer in the form that transformers and diffusers take.

    Args:
        text: the JSON of a `tokenizers.Tokenizer`.
        length: longest row of tokens, to which callers may pad and cut.
    """
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

    marks = {"bos_token": END, "eos_token": END, "pad_token": END, "unk_token": END}
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(text),
        model_max_length=length,
        padding_side="right",
        # The template does so already; transformer-lens asks.
        add_bos_token=True,
        name_or_path="zoo:text",
        **marks,
    )


def read_tokenizer(path: Path | str) -> str:
    """Return the JSON of the tokenizer that lies in the weights' file.

    Raises:
        InputError: there is none in this file.
    """
    from safetensors import safe_open

    with safe_open(str(path), "pt") as file:
        found = (file.metadata() or {}).get("tokenizer")
    if found is None:
        raise InputError(f"{path} holds no tokenizer; weights of `text` do")
    return found


def encode(tokenizer: Any, texts: Sequence[str], length: int = LENGTH) -> Int[Tensor, "n length"]:
    """Return rows of tokens: `END`, the text, and `END` in the rest; longer texts are cut.

    Args:
        tokenizer: a `tokenizers.Tokenizer`.
        texts: one per row.
        length: tokens per row.
    """
    rows = torch.zeros(len(texts), length, dtype=torch.int64)
    for row, found in zip(rows, tokenizer.encode_batch(list(texts)), strict=True):
        ids = found.ids[:length]
        row[: len(ids)] = torch.tensor(ids)
    return rows


def targets(tokens: Int[Tensor, "b n"]) -> Int[Tensor, "b n-1"]:
    """Return what follows each token, -100 behind the text: its end counts once."""
    following = tokens[:, 1:]
    end = following == 0
    return following.masked_fill((end.cumsum(1) - end.long()) > 0, -100)


def ngram_bits(
    train: Int[Tensor, "n t"], heldout: Int[Tensor, "m t"], *, size: int = VOCABULARY
) -> tuple[float, float]:
    """Return the held-out bits per token of a unigram and of a bigram model.

    Unigram: (count + 1) / (total + size). Bigram: see `kneser_ney`.

    Args:
        train: rows as `encode` makes them.
        heldout: likewise.
        size: number of tokens in the vocabulary.
    """
    pairs, asked = Counter(_pairs(train)), list(_pairs(heldout))
    counts: Counter[int] = Counter()
    for (_, token), k in pairs.items():
        counts[token] += k
    total, bigram = counts.total() + size, kneser_ney(pairs, size)
    bits = sum(-math.log2((counts[token] + 1) / total) for _, token in asked)
    return bits / len(asked), sum(-math.log2(bigram(*pair)) for pair in asked) / len(asked)


def kneser_ney(pairs: Counter[tuple[int, int]], size: int) -> Callable[[int, int], float]:
    """Return p(token | the one before) of interpolated Kneser-Ney smoothing.

    max(count - D, 0) / context + D types / context * q(token): q is proportional to one plus the
    number of distinct tokens before it, D = n1 / (n1 + 2 n2) from the numbers of pairs that are
    seen once and twice (Chen and Goodman 1999, sections 2.7 and 3).

    Args:
        pairs: how often each (token before, token) was seen.
        size: number of tokens in the vocabulary.
    """
    context: Counter[int] = Counter()
    before: Counter[int] = Counter()
    types: Counter[int] = Counter()
    for (a, b), k in pairs.items():
        context[a] += k
        before[b] += 1
        types[a] += 1
    once, twice = (sum(k == n for k in pairs.values()) for n in (1, 2))
    discount = once / (once + 2 * twice) if once else 0.5

    def probability(a: int, b: int) -> float:
        q = (before[b] + 1) / (len(pairs) + size)
        if not context[a]:
            return q
        return (max(pairs[a, b] - discount, 0) + discount * types[a] * q) / context[a]

    return probability


def _pairs(tokens: Tensor) -> Iterable[tuple[int, int]]:
    follow = targets(tokens)
    kept = follow >= 0
    return zip(tokens[:, :-1][kept].tolist(), follow[kept].tolist(), strict=True)
