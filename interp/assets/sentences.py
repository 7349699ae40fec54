"""all-MiniLM-L6-v2: a BERT whose mean over tokens stands for a sentence."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from interp.assets.archives import read_safetensors
from interp.errors import InputError
from interp.models.custom import Custom
from interp.models.inputs import EncodeBatch
from interp.models.points import Site

# Tokens that the model was fine-tuned on at most (its sentence_bert_config.json).
MAX_TOKENS = 256
TEXT: dict[str, Any] = {"stream": "text", "modes": ("encode",)}


class Pool(nn.Module):
    """The mean over a sentence's tokens, of length 1."""

    def forward(self, hidden: Tensor, attention_mask: Tensor) -> Tensor:
        """Return [b, d] of hidden [b, t, d] and a mask [b, t] of 1 and 0."""
        mask = attention_mask[:, :, None].to(hidden.dtype)
        return F.normalize((hidden * mask).sum(1) / mask.sum(1), dim=1)


class SentenceEncoder(nn.Module):
    """Tokens [b, t] -> sentence vectors [b, d] of length 1.

    Args:
        config: a BertConfig of transformers.
    """

    def __init__(self, config: Any) -> None:
        from transformers import BertModel

        super().__init__()
        self.config = config
        self.bert = BertModel(config, add_pooling_layer=False)
        self.pool = Pool()

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Return the sentences' vectors; attention_mask [b, t] is 0 where there is padding."""
        hidden = self.bert(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        return self.pool(hidden, attention_mask)


class Reading:
    """How the encoder is run: its points, and texts through its tokenizer, where there is one.

    A caption is one generation; its tokens, with the first and the last special one, are the rows.
    """

    def __init__(self, net: SentenceEncoder, tokenizer: Any) -> None:
        sites = [Site("embeddings", "bert.embeddings", **TEXT)]
        for i in range(net.config.num_hidden_layers):
            path, name = f"bert.encoder.layer.{i}", f"layers.{i}"
            branches = {"attention": "attention.output.dense", "mlp": "output.dense"}
            for branch, module in branches.items():
                more = {"kind": "contrib", **TEXT}
                sites.append(Site(f"{name}.{branch}", f"{path}.{module}", **more))
            sites.append(Site(name, path, item=0, delta=True, **TEXT))
        sites.append(Site("sentence", "pool", **TEXT))
        self.points: dict[str, str | Site] = {site.name: site for site in sites}
        self.tokenizer = tokenizer
        if tokenizer is not None:
            self.encode = self._encode

    def reference(self) -> tuple[tuple, dict]:
        """Return eight times the first token."""
        tokens = torch.zeros(1, 8, dtype=torch.long)
        return (tokens, torch.ones_like(tokens)), {}

    def _encode(self, root: nn.Module, batch: EncodeBatch) -> None:
        if not batch.prompts:
            raise InputError(
                "this model reads texts of differing lengths: condition='caption', batch_size=1 "
                "and Rows(positions='mean'), on the command line --condition caption "
                "--batch-size 1 --rows.positions mean"
            )
        rows = [self.tokenizer(text)["input_ids"] for text in batch.prompts]
        lengths = sorted({len(row) for row in rows})
        if lengths[-1] > MAX_TOKENS:
            raise InputError(f"a text of {lengths[-1]} tokens; the model takes {MAX_TOKENS}")
        if len(lengths) > 1:
            raise InputError(
                f"prompts of {lengths[0]} to {lengths[-1]} tokens in one batch; padding would "
                "become rows: use batch_size=1 (--batch-size 1)"
            )
        tokens = torch.tensor(rows, device=next(root.parameters()).device)
        root(tokens, torch.ones_like(tokens))


def build() -> SentenceEncoder:
    """Return the untrained net: 6 layers of width 384, 22.6 M parameters."""
    from transformers import BertConfig

    # The config.json beside the weights; what it does not say are BERT's own values.
    return SentenceEncoder(
        BertConfig(
            hidden_size=384,
            num_hidden_layers=6,
            num_attention_heads=12,
            intermediate_size=1536,
            vocab_size=30522,
            max_position_embeddings=512,
        )
    )


def convert(data: bytes) -> dict[str, Tensor]:
    """Return our state dict from the bytes of model.safetensors.

    BERT's own pooling layer, which sentence embeddings do not use, and the list of positions 0, 1,
    2 ... are left out.
    """
    kept = read_safetensors(data).items()
    left_out = ("pooler.", "embeddings.position_ids")
    return {f"bert.{name}": tensor for name, tensor in kept if not name.startswith(left_out)}


def wrap(net: nn.Module, spec: str, extra: Sequence[str], folder: Path | None) -> Custom:
    """Return the encoder as a model; its tokenizer is in `folder`, None: it cannot encode."""
    assert isinstance(net, SentenceEncoder)
    tokenizer = None
    if folder is not None:
        from transformers import PreTrainedTokenizerFast

        tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(folder / "tokenizer.json"))
    return Custom(net, spec, adapter=Reading(net, tokenizer), extra=extra)
