"""interp: `train` of any variant on an iterable of batches; options: variant, options, config."""

import tempfile

from interp import Code, TrainConfig
from interp import train as train_sae

PACKAGE = None
# The first batches give mean and scale.
AHEAD = 17


def train(job, rows):
    config = TrainConfig(
        variant=job.options["variant"],
        n_latents=job.m,
        k=job.k,
        batch_size=rows.batch_size,
        steps=job.steps,
        seed=job.seed,
        checkpoint_every=0,
        options=job.options.get("options", {}),
        **job.options.get("config", {}),
    )
    with tempfile.TemporaryDirectory() as folder:
        sae = train_sae(rows, config, out=folder, progress=False).sae
    return (
        {"decoder": sae.dictionary()},
        lambda code: sae.decode(Code(code, None, job.m)),
        lambda x: sae.encode(x).dense(),
    )
