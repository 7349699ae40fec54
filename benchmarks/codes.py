"""How often the latents of trained SAEs fire: `codes.json`, by which gates draw "real" latents.

    python -m benchmarks.codes      # half a minute on two cores; writes benchmarks/codes.json

A TopK SAE is trained on a block of each of two networks of the zoo; its latents' firing rates on
held-out images, sorted, are kept at fixed quantiles. A machine with a GPU then needs neither
diffusers nor the zoo to draw latents that are as uneven as those of real codes.
"""

import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

import interp

FILE = Path(__file__).parent / "codes.json"
POINTS = {"zoo:ddpm": "up_blocks.1.attentions.1", "zoo:vae": "decoder.up_blocks.0.resnets.0"}
N_LATENTS, K, STEPS = 1024, 16, 600
# From the rarest latent to the most frequent one.
QUANTILES = torch.linspace(0, 1, 129, dtype=torch.float64)


def firing_rates(name: str, point: str) -> torch.Tensor:
    """Share of held-out rows [m] on which each latent of a freshly trained SAE fires, sorted."""
    model = interp.load(name)
    with TemporaryDirectory() as folder:
        stores = [
            interp.capture(model, [point], interp.Encoding(f"glyphs/{split}", limit=n), out=folder)
            for split, n in (("train", 512), ("heldout", 128))
        ]
        config = interp.TrainConfig(
            n_latents=N_LATENTS, k=K, steps=STEPS, held_out=0.0, checkpoint_every=0
        )
        sae = interp.train(stores[0], config, point=point, out=Path(folder) / "run").sae
        fired, rows = torch.zeros(N_LATENTS, dtype=torch.float64), 0
        with torch.no_grad():
            for _, x in stores[1].chunks(point, 8192):
                code = sae.encode(x)
                assert code.indices is not None
                active = code.indices[code.values > 0].long()
                fired += torch.bincount(active, minlength=N_LATENTS)
                rows += len(x)
    return (fired / rows).sort().values


def main() -> None:
    """Measure every point and write the file."""
    found: dict[str, Any] = {}
    for name, point in POINTS.items():
        rates = firing_rates(name, point)
        kept = torch.quantile(rates, QUANTILES)
        found[f"{name} {point}"] = {
            "rates": [float(f"{rate:.4g}") for rate in kept],
            "l0": round(float(rates.sum()), 3),
        }
    about = {"n_latents": N_LATENTS, "k": K, "steps": STEPS, "points": {}}
    text = json.dumps(about, indent=1)
    lines = ",\n".join(f"  {json.dumps(key)}: {json.dumps(one)}" for key, one in found.items())
    FILE.write_text(text.replace("{}", "{\n" + lines + "\n }") + "\n")


if __name__ == "__main__":
    main()
