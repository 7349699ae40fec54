"""The PRH recipe against its definition in plain loops, and its calibration."""

import numpy as np
import pytest
import torch

from interp.alignment.recipes import calibrate, critical_value, prh, score_models
from interp.alignment.representations import Representation
from interp.errors import InputError


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def by_hand(xs: list[np.ndarray], ys: list[np.ndarray], k: int) -> tuple[float, tuple | None]:
    """Clip, normalize, cosine neighbors, overlap, largest from 0 on: loops over everything."""

    def neighbors(layers: list[np.ndarray]) -> list[list[set[int]]]:
        sizes = sorted(abs(v) for layer in layers for v in layer.ravel())
        cut = sizes[int(0.95 * len(sizes))]
        out = []
        for layer in layers:
            rows = np.clip(layer, -cut, cut)
            rows = rows / np.linalg.norm(rows, axis=1, keepdims=True)
            cosine = rows @ rows.T
            np.fill_diagonal(cosine, -np.inf)
            out.append([set(np.argsort(-row)[:k].tolist()) for row in cosine])
        return out

    best, where = 0.0, None
    first, second = neighbors(xs), neighbors(ys)
    for i, a in enumerate(first):
        for j, b in enumerate(second):
            score = float(np.mean([len(p & q) / k for p, q in zip(a, b, strict=True)]))
            if score > best:
                best, where = score, (f"x/{i}", f"y/{j}")
    return best, where


def test_the_score_is_the_papers() -> None:
    latent = draw(50, 3, seed=9)
    xs = [(latent @ draw(3, 7, seed=i) + 0.5 * draw(50, 7, seed=20 + i)).numpy() for i in range(3)]
    ys = [(latent @ draw(3, 5, seed=5 + i) + draw(50, 5, seed=30 + i)).numpy() for i in range(2)]
    score = prh(xs, ys, k=6)
    value, best = by_hand(xs, ys, 6)
    assert score.value == pytest.approx(value, abs=1e-12)
    assert score.best == best
    assert (score.n_cells, score.n, score.k) == (6, 50, 6)
    assert score.chance == pytest.approx(6 / 49)
    assert score.p == 1 / 201
    assert score.calibrated == pytest.approx((value - score.tau) / (1 - score.tau))


def test_layers_may_come_as_one_array() -> None:
    x, y = draw(40, 3, 6), draw(40, 2, 6, seed=1)
    lists = prh(list(x.unbind(1)), list(y.unbind(1)), k=5)
    assert prh(x, y, k=5) == lists
    assert prh(x[:, 0], y[:, 0], k=5).n_cells == 1


def test_layers_of_several_widths_have_thresholds_of_their_own() -> None:
    xs = [draw(40, 6), 100 * draw(40, 3, seed=1)]
    y = draw(40, 5, seed=2)
    # A threshold shared by both would leave the first layer unclipped.
    alone = [prh([one], [y], k=5).value for one in xs]
    assert prh(xs, [y], k=5).value == max(alone)


def test_independent_features_score_above_chance_and_calibrate_to_nothing() -> None:
    calibrated, raw, chance, p = [], [], 0.0, []
    for seed in range(6):
        x, y = draw(60, 8, 4, seed=seed), draw(60, 8, 4, seed=100 + seed)
        score = prh(x, y, k=3)
        calibrated.append(score.calibrated)
        raw.append(score.value)
        p.append(score.p)
        chance = score.chance
        assert score.null_mean > 1.2 * score.chance
    # The search alone: about half above what one pair has by chance.
    assert min(raw) > 1.25 * chance
    assert np.mean(calibrated) < 0.01
    assert sorted(p)[1] > 0.05


def test_the_critical_value_is_where_p_reaches_alpha() -> None:
    maxima = np.random.default_rng(0).permutation(200) / 200.0
    tau = critical_value(maxima)
    p_at = (1 + (maxima >= tau).sum()) / 201
    p_above = (1 + (maxima >= tau + 1e-9).sum()) / 201
    assert p_above <= 0.05 < p_at
    assert critical_value(maxima[:19]) == maxima[:19].max()
    with pytest.raises(InputError, match="at least 19 are needed"):
        critical_value(maxima[:18])


def test_calibrated_values_run_from_chance_to_the_largest() -> None:
    assert calibrate(0.1, 0.2) == 0
    assert calibrate(1.0, 0.2) == 1
    assert calibrate(0.6, 0.2) == pytest.approx(0.5)
    with pytest.raises(InputError, match="leaves no room"):
        calibrate(1.0, 1.0)


def test_models_are_scored_pair_by_pair_beside_their_twins() -> None:
    ids = tuple(map(str, range(40)))
    latent = draw(40, 3, seed=7)

    def model(name: str, signal: float, seed: int) -> list[Representation]:
        x = signal * latent @ draw(3, 6, seed=seed) + draw(40, 6, seed=seed + 1)
        return [Representation(name, "mid", x, ids)]

    models = {m: model(m, 2, 10 * i) for i, m in enumerate("abc")}
    twins = {m: model(m, 0, 100 + 10 * i) for i, m in enumerate("ab")}
    scores = score_models(models, twins=twins, k=4)
    assert [(s.model_a, s.model_b) for s in scores] == [("a", "b"), ("a", "c"), ("b", "c")]
    assert all(s.value > s.tau > s.twin_value for s in scores)
    assert all(s.p_holm == 3 * s.p for s in scores)


def test_what_the_recipe_cannot_score_is_refused() -> None:
    x, y = draw(40, 6), draw(40, 5, seed=1)
    zero = x.clone()
    zero[3] = 0
    with pytest.raises(InputError, match="1 of 40 rows are zero"):
        prh(zero, y)
    with pytest.raises(InputError, match="k = 39 neighbors of n = 40"):
        prh(x, y, k=39)
    with pytest.raises(InputError, match=r"layers \[\(40, 6\), \(39, 6\)\]"):
        prh([x, x[1:]], y)
    with pytest.raises(InputError, match="x has 40 rows and y 39"):
        prh(x, y[1:])
    with pytest.raises(InputError, match="use n_permutations=200"):
        prh(x, y, n_permutations=50)
