"""Directions of codes: exact against closed forms, and what a boundary finds and refuses."""

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch

from interp import load
from interp.errors import InputError
from interp.interventions import (
    Directions,
    collect_codes,
    direction_edits,
    factorize,
    ganspace,
    interfacegan,
    project_out,
    sefa,
    style_channels,
)
from interp.models import Generation, editing, reading


@pytest.fixture(scope="module")
def gan():
    return load("zoo:gan")


@pytest.fixture(scope="module")
def ddpm():
    return load("zoo:ddpm")


def _effective(affine):
    return (affine.weight.detach().double() * affine.gain).numpy()


def _angle(x, y):
    """1 where every row is a row of the other up to sign."""
    return (x * y).sum(1).abs()


def test_factorize_is_numpys_eigendecomposition_by_falling_value(generator):
    weight = torch.randn(30, 7, generator=generator, dtype=torch.float64)
    values, vectors = factorize(weight)
    wanted, columns = np.linalg.eigh(weight.numpy().T @ weight.numpy())
    assert np.allclose(values, wanted[::-1], rtol=1e-12)
    assert torch.allclose(_angle(vectors, torch.tensor(columns.T[::-1].copy())), values * 0 + 1)
    assert torch.allclose(vectors @ vectors.T, torch.eye(7).double(), atol=1e-12)


def test_the_planted_singular_directions_come_back_in_order_with_a_positive_largest_entry():
    # A = U diag(3, 2, 1) V' with V known: rows -e1, e2, and (e3 - e0) / sqrt(2).
    v = torch.zeros(3, 5, dtype=torch.float64)
    v[0, 1], v[1, 2], v[2, 3], v[2, 0] = -1, 1, 0.5**0.5, -(0.5**0.5)
    u = torch.linalg.qr(torch.randn(9, 3, generator=torch.Generator().manual_seed(1)).double())[0]
    values, vectors = factorize(u * torch.tensor([3.0, 2.0, 1.0]).double() @ v)
    assert values.tolist() == pytest.approx([9, 4, 1, 0, 0], abs=1e-12)
    # Signs: the entry of largest size is positive, of equal sizes the first.
    wanted = v * torch.tensor([-1, 1, -1]).double()[:, None]
    assert torch.allclose(vectors[:3], wanted, atol=1e-12)


def test_sefa_on_planted_affines_of_a_generator_is_the_closed_form(gan):
    planted = copy.copy(gan)
    planted.root = copy.deepcopy(gan.root)
    g = torch.Generator().manual_seed(5)
    for layer in planted.root.layers:
        layer.affine.weight.data = torch.randn(layer.affine.weight.shape, generator=g)
    modules = [layer.affine for layer in planted.root.layers] + [planted.root.rgbs[-1].affine]
    a = np.concatenate([_effective(m) for m in modules])
    found = sefa(planted, n=50)
    wanted, columns = np.linalg.eigh(a.T @ a)
    assert np.allclose(found.value, wanted[::-1], rtol=1e-9)
    assert torch.allclose(
        _angle(found.vectors, torch.tensor(columns.T[::-1].copy())).min(),
        torch.ones(()).double(),
        atol=1e-6,
    )
    assert found.points == ("w",)


def test_the_first_direction_of_sefa_moves_the_styles_of_its_layers_most(gan):
    found = sefa(gan, layers=range(2), n=50)
    a = np.concatenate([_effective(gan.root.layers[i].affine) for i in range(2)])
    size = np.linalg.norm(a @ found.vectors[0].numpy())
    assert size**2 == pytest.approx(float(found.value[0]), rel=1e-6)
    g = torch.Generator().manual_seed(0)
    others = torch.nn.functional.normalize(torch.randn(200, 128, generator=g).double(), dim=1)
    assert size > np.linalg.norm(a @ others.numpy().T, axis=0).max()
    assert found.points == ("w_plus.0", "w_plus.1")


def test_the_released_normalization_gives_every_style_the_same_weight(gan):
    a = np.concatenate([_effective(m.affine) for m in gan.root.layers[:2]])
    a /= np.linalg.norm(a, axis=1, keepdims=True)
    found = sefa(gan, layers=(0, 1), normalize=True, n=50)
    assert np.allclose(found.value, np.linalg.eigvalsh(a.T @ a)[::-1], atol=1e-6)
    # A unit row each: the trace is the number of rows.
    assert float(found.value.sum()) == pytest.approx(len(a), rel=1e-6)


def test_ganspace_is_the_pca_of_all_codes_at_once(gan):
    found = ganspace(gan, n=100, components=5)
    codes = collect_codes(gan, "w", Generation(n=100))
    wanted = torch.linalg.svd(codes - codes.mean(0), full_matrices=False)
    assert torch.allclose(found.value, wanted.S[:5] ** 2 / 99, rtol=1e-9)
    assert torch.allclose(_angle(found.vectors, wanted.Vh[:5]), torch.ones(5).double(), atol=1e-9)
    assert torch.allclose(found.scale, (codes @ found.vectors.T).std(0), rtol=1e-9)
    assert found.facts["n"] == 100
    assert found.facts["share"] == pytest.approx(float(found.value.sum() / codes.var(0).sum()))


def test_ganspace_does_not_depend_on_the_size_of_its_batches(gan):
    one, many = (
        ganspace(gan, recipe=Generation(n=60, batch_size=b), components=3) for b in (60, 7)
    )
    assert torch.allclose(one.vectors, many.vectors, atol=1e-9)
    assert torch.allclose(one.value, many.value, rtol=1e-9)


def test_codes_without_images_are_those_of_a_full_generation(gan):
    recipe = Generation(n=3, seed=4)
    with reading(gan, ["w", "s.2"]) as reader:
        gan.generate(recipe.batch(0, 3))
    for read in reader.calls:
        quick = collect_codes(gan, read.point, recipe)
        assert torch.allclose(quick, read.value.double(), atol=1e-5)


def test_the_middle_block_of_a_unet_has_principal_directions_too(ddpm):
    recipe = Generation(n=3, steps=2, scheduler="ddim")
    found = ganspace(ddpm, "mid_block.resnets.1", recipe=recipe, components=2, calls={1})
    assert found.points == ("mid_block.resnets.1",)
    assert found.facts["n"] == 3
    assert found.vectors.shape == (2, ddpm.point("mid_block.resnets.1").width)


def test_a_style_channel_is_one_hot_with_the_spread_of_the_channel(gan):
    found = style_channels(gan, layers=[6], n=40)
    codes = collect_codes(gan, "s.6", Generation(n=40))
    channels = found["s.6"]
    assert torch.equal(channels.vectors, torch.eye(32).double())
    assert torch.allclose(channels.scale, codes.std(0))


def test_an_edit_moves_the_code_by_its_strength_in_standard_deviations(gan):
    found = ganspace(gan, n=50, components=2)
    batch = Generation(n=2).batch(0, 2)
    with reading(gan, ["w"]) as before:
        plain = gan.generate(batch)
    edits = direction_edits(found, 1, -2.0)
    with editing(gan, edits), reading(gan, ["w"]) as after:
        gan.generate(batch)
    moved = (after.calls[0].value - before.calls[0].value).double()
    wanted = -2 * found.scale[1] * found.vectors[1]
    assert torch.allclose(moved, wanted.expand(2, -1), atol=1e-5)
    with editing(gan, direction_edits(found, 1, 0.0)):
        assert torch.equal(gan.generate(batch), plain)


def test_a_direction_of_a_layer_range_reaches_these_layers_alone(gan):
    found = sefa(gan, layers=[2, 3], n=50)
    with (
        editing(gan, direction_edits(found, 0, 3.0)),
        reading(gan, ["s.1", "s.2", "s.3", "s.4"]) as after,
    ):
        gan.generate(Generation(n=1).batch(0, 1))
    with reading(gan, ["s.1", "s.2", "s.3", "s.4"]) as before:
        gan.generate(Generation(n=1).batch(0, 1))
    pairs = zip(before.calls, after.calls, strict=True)
    assert [torch.equal(a.value, b.value) for a, b in pairs] == [True, False, False, True]


@pytest.fixture(scope="module")
def planted():
    """Codes whose label is the sign of one coordinate, and another coordinate beside it."""
    g = torch.Generator().manual_seed(3)
    codes = torch.randn(400, 6, generator=g).double()
    return codes, codes[:, 2] + 0.5 * codes[:, 4]


@pytest.mark.parametrize("method", ["logistic", "svm"])
def test_a_boundary_finds_the_planted_normal_and_shuffled_labels_do_not(planted, method):
    codes, score = planted
    found = interfacegan(codes, score > 0, method=method, shuffles=5)
    truth = torch.tensor([0, 0, 1, 0, 0.5, 0]).double() / 1.25**0.5
    assert float(found.vectors[0] @ truth) > 0.99
    assert float(found.value[0]) > 0.95
    assert abs(found.facts["shuffled_mean"] - 0.5) < 0.1
    assert found.facts["shuffled_max"] < 0.7
    assert found.facts["n_train"] + found.facts["n_test"] == 400


def test_scores_give_the_classes_of_their_two_ends(planted):
    codes, score = planted
    found = interfacegan(codes, score, extremes=0.1, shuffles=0)
    assert found.facts == {"n_train": 56, "n_test": 24}
    assert float(found.vectors[0, 2]) > 0.8


def test_the_accuracy_of_a_rare_property_does_not_profit_from_its_rarity(planted):
    codes, _ = planted
    g = torch.Generator().manual_seed(0)
    rare = torch.rand(400, generator=g) < 0.08
    found = interfacegan(codes, rare, shuffles=10)
    assert float(found.value[0]) < 0.8
    assert abs(found.facts["shuffled_mean"] - 0.5) < 0.15


def test_a_conditional_direction_is_orthogonal_to_the_others_and_of_unit_norm(planted):
    codes, score = planted
    one = interfacegan(codes, score > 0, shuffles=0)
    other = interfacegan(codes, codes[:, 4] > 0, shuffles=0)
    found = project_out(one, other, codes)
    n1, n2 = one.vectors[0], other.vectors[0]
    wanted = n1 - (n1 @ n2) * n2
    assert torch.allclose(found.vectors[0], wanted / wanted.norm(), atol=1e-12)
    assert float((found.vectors @ n2).abs().max()) < 1e-12
    assert torch.allclose(found.scale, (codes @ found.vectors.T).std(0))
    with pytest.raises(InputError, match="lies in the span"):
        project_out(one, one, codes)


def test_a_subspace_is_orthonormal_and_keeps_what_already_is(gan):
    found = sefa(gan, n=50)
    assert torch.allclose(found.subspace(4), found.vectors[:4], atol=1e-10)
    skew = torch.tensor([[1.0, 0, 0], [0.6, 0.8, 0]]).double()
    two = Directions("two", ("w",), skew, torch.ones(2), torch.ones(2))
    assert torch.allclose(two.subspace(), torch.eye(3).double()[:2], atol=1e-12)
    same = replace(two, vectors=skew[[0, 0]])
    with pytest.raises(InputError, match="linearly dependent"):
        same.subspace()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda gan, ddpm: sefa(ddpm), "not a gan"),
        (lambda gan, ddpm: style_channels(ddpm), "not a gan"),
        (lambda gan, ddpm: sefa(gan, layers=[8]), r"entries of W\+ are 0\.\.7"),
        (lambda gan, ddpm: style_channels(gan, layers=[7]), r"convolutions are 0\.\.6"),
        (lambda gan, ddpm: ganspace(gan, "z", layers=[0]), "need the point 'w'"),
        (lambda gan, ddpm: ganspace(gan, n=1), "needs 2 or more"),
        (lambda gan, ddpm: interfacegan(torch.zeros(9, 2), [True] * 8), r"\[n, d\] and \[n\]"),
        (lambda gan, ddpm: interfacegan(torch.zeros(9, 2), [True] * 9), "0 without"),
        (
            lambda gan, ddpm: Directions(
                "x", ("w",), torch.ones(1, 4), torch.ones(1), torch.ones(1)
            ),
            "normalize it",
        ),
        (lambda gan, ddpm: sefa(gan, n=50).select([128]), r"directions 0\.\.127"),
    ],
)
def test_what_has_no_direction_is_refused(gan, ddpm, call, message):
    with pytest.raises(InputError, match=message):
        call(gan, ddpm)


def test_a_style_that_is_not_affine_in_w_has_no_closed_form(gan):
    bent = copy.copy(gan)
    bent.root = copy.deepcopy(gan.root)
    bent.root.layers[0].affine = torch.nn.Sequential(bent.root.layers[0].affine, torch.nn.Tanh())
    with pytest.raises(InputError, match="not affine in w"):
        sefa(bent, layers=[0], n=50)


@pytest.mark.slow
def test_a_category_of_the_box_has_a_boundary_in_w_that_is_better_than_shuffled_labels(gan):
    """InterFaceGAN with the labels of zoo:vit on the generator's own samples."""
    vit = load("zoo:vit")
    recipe = Generation(n=1200, seed=0)
    codes = collect_codes(gan, "w", recipe)
    batches = [recipe.batch(i, i + 100) for i in range(0, recipe.n, 100)]
    images = torch.cat([gan.generate(batch) for batch in batches])
    pixels = images.permute(0, 3, 1, 2).float() / 127.5 - 1
    with torch.no_grad():
        labels = torch.cat([vit.root(x).argmax(1) for x in pixels.split(200)])
    commonest = int(labels.bincount().argmax())
    found = interfacegan(codes, labels == commonest)
    assert float(found.value[0]) > found.facts["shuffled_max"]
