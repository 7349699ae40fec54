"""Every measure: identity, declared invariances, errors at the door, fast paths against slow."""

import itertools

import numpy as np
import pytest
import torch

from interp.errors import InputError
from interp.geometry import MEASURES
from interp.geometry.neighbors import count_neighbors
from interp.stats import make_folds
from tests.geometry.examples import SHAPES, draw, example, prepare, related

NAMES = sorted(MEASURES)
CHANGES = frozenset({"orthogonal", "scale", "translation", "linear", "permutation"})
TOLERANCE = 1e-8


def value(
    name: str, x: torch.Tensor, y: torch.Tensor, k: float = 0.1, label: str = "x", **more
) -> float:
    layers = prepare(name, x, k, **more), prepare(name, y, k, label, **more)
    return float(MEASURES[name].values(*([one] for one in layers))[0, 0])


def too_narrow(name: str, kind: str) -> bool:
    """Whether the example has fewer columns than the measure is defined for; then it says so."""
    x, least = example(kind), MEASURES[name].min_width
    if x.shape[1] >= least:
        return False
    with pytest.raises(InputError, match=rf"d = {x.shape[1]} .*d >= {least}"):
        prepare(name, x)
    return True


def parts_of(name: str, kept: torch.Tensor) -> dict:
    """The split of the rows that are left, where a measure splits them."""
    if not MEASURES[name].splits:
        return {}
    return {"split": prepare(name, draw(len(kept), 2)).split[kept.numpy()]}


def declared(name: str) -> tuple[frozenset[str], frozenset[str]]:
    measure = MEASURES[name]
    second = measure.invariances_y
    return measure.invariances, measure.invariances if second is None else second


def transform(invariance: str, x: torch.Tensor, scale: float, condition: float = 4) -> torch.Tensor:
    d = x.shape[1]
    if invariance == "orthogonal":
        return x @ torch.linalg.qr(draw(d, d, seed=9))[0]
    if invariance == "scale":
        return x * scale
    if invariance == "translation":
        return x + scale * draw(d, seed=9)
    if invariance == "permutation":
        return x[:, torch.randperm(d, generator=torch.Generator().manual_seed(9))]
    if invariance == "linear":
        # Well conditioned: what is tested is the invariance, not the arithmetic.
        stretch = torch.linspace(1, condition, d, dtype=torch.float64)
        return x @ torch.linalg.qr(draw(d, d, seed=9))[0] * stretch
    raise AssertionError(invariance)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("kind", SHAPES)
def test_a_representation_is_equal_to_itself(name: str, kind: str) -> None:
    x = example(kind)
    if too_narrow(name, kind):
        return
    if (equal := MEASURES[name].equal) is not None:
        assert value(name, x, x) == pytest.approx(equal, abs=1e-8)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("kind", SHAPES)
@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
def test_declared_invariances_hold(name: str, kind: str, scale: float) -> None:
    x = example(kind)
    y = related(x)
    if too_narrow(name, kind):
        return
    before = value(name, x, y)
    of_x, of_y = declared(name)
    for invariance in of_x:
        after = value(name, transform(invariance, x, scale), y)
        assert after == pytest.approx(before, abs=TOLERANCE), invariance
    for invariance in of_y:
        after = value(name, x, transform(invariance, y, scale))
        assert after == pytest.approx(before, abs=TOLERANCE), invariance


@pytest.mark.parametrize("name", NAMES)
def test_changes_that_are_not_declared_change_the_value(name: str) -> None:
    # Wider than every fixed rank, and either of the two the wider one.
    a = draw(60, 14)
    b = a @ draw(14, 15, seed=1) + draw(60, 15, seed=2)
    before = [value(name, x, y) for x, y in ((a, b), (b, a))]
    of_x, of_y = declared(name)
    for invariance in sorted(CHANGES - of_x):
        moved = [transform(invariance, x, 3.0, condition=100) for x in (a, b)]
        after = [value(name, moved[0], b), value(name, moved[1], a)]
        assert max(abs(np.subtract(after, before))) > 1e-6, invariance
    for invariance in sorted(CHANGES - of_y):
        moved = [transform(invariance, y, 3.0, condition=100) for y in (b, a)]
        after = [value(name, a, moved[0]), value(name, b, moved[1])]
        assert max(abs(np.subtract(after, before))) > 1e-6, invariance


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("kind", SHAPES)
def test_the_fast_path_equals_the_definition(name: str, kind: str) -> None:
    x = example(kind)
    y = related(x)
    if too_narrow(name, kind):
        return
    more = {"n_neighbors": 0.1} if MEASURES[name].uses_neighbors else {}
    slow = MEASURES[name].function(x, y, **more)
    assert value(name, x, y, label="y") == pytest.approx(slow, abs=1e-10)
    swapped = MEASURES[name].function(y, x, **more)
    assert value(name, y, x, label="y") == pytest.approx(swapped, abs=1e-10)
    # By cosine, the rows of one column are all tied.
    tied = kind == "repeated" or (kind == "narrow" and name == "mutual_knn_cosine")
    if not tied and MEASURES[name].symmetric:
        assert swapped == pytest.approx(slow, abs=1e-10)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("kind", ["tall", "wide", "narrow"])
@pytest.mark.parametrize("counts", [(2, 3), (3, 2)])
def test_permuted_pairs_equal_recomputing(name: str, kind: str, counts: tuple[int, int]) -> None:
    x = example(kind)
    first = [related(x, seed=s) for s in range(counts[0])]
    second = [related(x, seed=10 + s) for s in range(counts[1])]
    rng = np.random.default_rng(0)
    orders = np.stack([rng.permutation(len(x)) for _ in range(3)])
    fast = MEASURES[name].permuted(
        *([prepare(name, z) for z in part] for part in (first, second)), orders
    )
    for b, (i, p), (j, q) in itertools.product(range(3), enumerate(first), enumerate(second)):
        assert float(fast[b, i, j]) == pytest.approx(value(name, p, q[orders[b]]), abs=2e-6)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("kind", ["tall", "wide", "repeated"])
def test_leaving_a_fold_out_equals_recomputing_without_it(name: str, kind: str) -> None:
    if MEASURES[name].uses_neighbors and kind == "repeated":
        # Ties: test_a_fold_left_out_leaves_the_order_of_ties.
        return
    x = example(kind)
    first, second = [x, related(x, seed=3)], [related(x), related(x, seed=5), x]
    folds = make_folds([str(i // 2) for i in range(len(x))], 5)
    k = count_neighbors(len(x), 0.1)
    fast = MEASURES[name].deleted(
        *([prepare(name, z) for z in part] for part in (first, second)), folds
    )
    for f, (i, p), (j, q) in itertools.product(range(5), enumerate(first), enumerate(second)):
        kept = torch.as_tensor(folds != f)
        slow = value(name, p[kept], q[kept], k / int(kept.sum()), **parts_of(name, kept))
        assert float(fast[f, i, j]) == pytest.approx(slow, abs=1e-7)


@pytest.mark.parametrize("name", NAMES)
def test_the_same_input_gives_the_same_bits(name: str) -> None:
    x = example("tall")
    assert value(name, x, related(x)) == value(name, x, related(x))


@pytest.mark.parametrize("name", NAMES)
def test_float32_input_gives_the_float64_value(name: str) -> None:
    x = example("tall")
    y = related(x)
    assert value(name, x.float(), y.float()) == pytest.approx(value(name, x, y), abs=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_bad_features_are_refused_with_the_numbers(name: str) -> None:
    x = example("tall")
    broken = x.clone()
    broken[5, 2] = torch.nan
    with pytest.raises(InputError, match=r"1 NaN or infinite values of 240, the first in row 5"):
        prepare(name, broken)
    with pytest.raises(InputError, match=r"n = 3 rows; the measures need n >= 4"):
        prepare(name, x[:3])
    with pytest.raises(InputError, match=r"constant: all 40 rows are equal"):
        prepare(name, torch.ones(40, 6) * 0.1)
    with pytest.raises(InputError, match=r"constant"):
        prepare(name, torch.zeros(40, 6))
    with pytest.raises(InputError, match=r"shape \(40,\)"):
        prepare(name, x[:, 0])
    with pytest.raises(InputError, match=r"dtype complex64"):
        MEASURES[name].prepare(np.ones((5, 2), dtype=np.complex64), "x")
    with pytest.raises(InputError, match=r"x has 40 rows and y has 30"):
        MEASURES[name].values([prepare(name, x)], [prepare(name, x[:30])])
