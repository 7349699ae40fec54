"""sparsify: its `Trainer` on a model whose only layer hands out the prepared rows."""

# pyright: reportMissingImports=false
import tempfile
from pathlib import Path

import torch
from sparsify import SparseCoder, SparseCoderConfig, TrainConfig, Trainer

PACKAGE = "eai-sparsify"
AHEAD = 0


class Tokens(torch.utils.data.Dataset):
    """One sequence per step; what it says does not matter."""

    def __init__(self, steps, length):
        self.steps, self.ids = steps, torch.zeros(length, dtype=torch.int64)

    def __len__(self):
        return self.steps

    def __getitem__(self, index):
        return {"input_ids": self.ids}


class Layer(torch.nn.Module):
    """Gives the next batch as the activations [1, n, d] of one sequence."""

    def __init__(self, rows):
        super().__init__()
        self.rows = rows

    def forward(self, ids):
        # The trainer first asks for the width, with its dummy of one token.
        if ids.shape[1] == 1:
            return torch.zeros(1, 1, self.rows.width)
        return next(self.rows)[None]


class Carrier(torch.nn.Module):
    """What the trainer needs of a language model."""

    device = torch.device("cpu")

    def __init__(self, rows):
        super().__init__()
        self.dummy_inputs = {"input_ids": torch.zeros(1, 1, dtype=torch.int64)}
        self.layer = Layer(rows)

    @property
    def base_model(self):
        return self

    def forward(self, input_ids):
        return self.layer(input_ids)


def train(job, rows):
    optimizer = job.options["optimizer"]
    with tempfile.TemporaryDirectory() as folder:
        config = TrainConfig(
            SparseCoderConfig(num_latents=job.m, k=job.k),
            batch_size=1,
            optimizer=optimizer,
            lr=job.lr if optimizer == "adam" else None,
            lr_warmup_steps=0,
            init_seeds=[job.seed],
            hookpoints=["layer"],
            log_to_wandb=False,
            save_every=10**9,
            save_dir=folder,
            run_name="run",
        )
        Trainer(config, Tokens(job.steps, rows.batch_size), Carrier(rows)).fit()
        sae = SparseCoder.load_from_disk(Path(folder) / "run" / "layer")
    weights = {
        "encoder": sae.encoder.weight,
        "encoder_bias": sae.encoder.bias - sae.encoder.weight @ sae.b_dec,
        "decoder": sae.W_dec,
        "decoder_bias": sae.b_dec,
    }
    return weights, lambda x: sae(x).sae_out
