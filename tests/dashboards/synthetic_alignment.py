"""A synthetic alignment of three models and pixels, built from the real records."""

import numpy as np

from interp.alignment import Alignment, Cell, Comparison, Family, Layer

MEASURES = ("cka", "mutual_knn")


def layer(model: str, point: str, depth: float, log_snr: float | None = None) -> Layer:
    """One layer; diffusion layers have a call and a noise level."""
    call = None if log_snr is None else int((2 - log_snr) / 2)
    reference = model == "pixels"
    return Layer(model, point, call, None, log_snr, depth, 64, not reference, reference)


def layers(n_blocks: int) -> tuple[Layer, ...]:
    """Blocks of a U-Net at two noise levels, of a VAE and of an encoder, and the pixels."""
    names = [f"down_blocks.{i // 3}.resnets.{i % 3}" for i in range(n_blocks)]
    depth = np.linspace(0, 1, n_blocks)
    unet = [
        layer("zoo:ddpm", name, float(x), snr)
        for snr in (2.0, -2.0)
        for name, x in zip(names, depth, strict=True)
    ]
    vae = [layer("zoo:vae", f"encoder.down_blocks.{i}", i / 3) for i in range(4)]
    vit = [layer("zoo:vit", f"blocks.{i}", i / 5) for i in range(6)]
    return (*unet, *vae, *vit, layer("pixels", "rgb16", 0.0))


def alignment(
    *, sample_set: str = "real images", n_blocks: int = 9, seed: int = 0, n: int = 512
) -> Alignment:
    """Values rise where depths agree; the best pair of models is known: middle blocks."""
    rng = np.random.default_rng(seed)
    rows = layers(n_blocks)
    models = tuple(dict.fromkeys(one.model for one in rows if not one.reference))
    cells = tuple(
        _cell(rng, rows, i, j, measure, n)
        for measure in MEASURES
        for i in range(len(rows))
        for j in range(i + 1, len(rows))
    )
    families = tuple(
        Family(a, b, measure, 1, (0, 1), 0.00498, 0.0299)
        for measure in MEASURES
        for k, a in enumerate(models)
        for b in models[k + 1 :]
    )
    return Alignment(
        sample_set=sample_set,
        sample_hash="0123456789ab",
        models=models,
        layers=rows,
        measures=MEASURES,
        cells=cells,
        families=families,
        n=n,
        n_permutations=200,
        n_folds=20,
        seed=0,
        strata="within source, whole clusters",
        preprocessing="mean over positions",
        note="p: step-down max-T over the cells of a model pair and measure.",
    )


def _cell(rng, rows, i: int, j: int, measure: str, n: int) -> Cell:
    a, b = rows[i], rows[j]
    level = np.exp(-((a.depth - b.depth) ** 2) / 0.12) * (0.5 + 0.5 * np.sin(np.pi * a.depth))
    noise = sum(0.12 for one in (a, b) if one.log_snr == -2.0)
    value = float(np.clip(0.12 + 0.6 * level - noise + rng.normal(0, 0.02), 0, 1))
    if a.model == b.model:
        cell = Comparison(measure, min(1.0, value + 0.3), *[None] * 6, n, None, 0, 0, "pooled")
        return Cell(i, j, cell)
    twin = float(np.clip(0.1 + 0.25 * level, 0, 1))
    k = 10 if measure == "mutual_knn" else None
    z = (value - 0.01) / 0.02
    p = 1 / 201 if z > 4 else float(min(1.0, 0.9 / (1 + z * z)))
    test = not (a.reference or b.reference)
    null = (0.01, 0.02, z, p) if test else (None, None, None, None)
    bounds = (value - 0.05, value + 0.05)
    one = Comparison(measure, value, *null, *bounds, n, k, 200 if test else 0, 0, "pooled")
    d = value - twin
    return Cell(i, j, one, twin, d, d - 0.06, d + 0.06)
