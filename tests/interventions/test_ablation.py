"""Ablation: its closed forms on a linear network, its bounds on a denoiser, what it refuses."""

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch

from interp import load
from interp.errors import InputError, PointError
from interp.interventions import ABLATIONS, Carrier, ablate
from interp.interventions.ablation import _replace
from interp.interventions.clean import run_edited, select_rows
from interp.models import Call, Generation, reading, to_rows
from tests.interventions.linear_toy import ATTRIBUTES, RECIPE, SIDE, D, draw_rows, make_toy

OTHER = replace(RECIPE, seed=RECIPE.n, n=64)


@pytest.fixture(scope="module")
def toy():
    return make_toy()


def _ablate(model, kind, point="hidden", **more):
    (found,) = ablate(model, point, RECIPE, attributes=ATTRIBUTES, kind=kind, **more)
    return found


def test_zero_leaves_what_the_network_adds_by_itself(toy) -> None:
    found = _ablate(toy[0], "zero")
    assert bool((found.images == 128).all())
    assert found.attributes["pixels"].low < found.attributes["pixels"].size
    assert set(found.off_distribution) == {"hidden"}
    assert str(found).startswith("zero ablation of hidden: change of pixels ")
    assert len(str(found)) < 200


def test_mean_is_the_mean_of_other_seeds(toy) -> None:
    model, weight = toy
    found = _ablate(model, "mean", reference=OTHER)
    mean = draw_rows(range(OTHER.seed, OTHER.seed + OTHER.n)).double().mean(0)
    want = (weight.float() @ mean.float() + 128).round().to(torch.uint8)
    assert torch.equal(found.images.flatten(1), want.expand(RECIPE.n, -1))


def test_resample_gives_the_images_of_the_reference_where_the_point_is_a_cut(toy) -> None:
    model, _ = toy
    found = _ablate(model, "resample", reference=OTHER)
    donors = [model.generate(OTHER.batch(i, i + 1)) for i in range(RECIPE.n)]
    assert torch.equal(found.images, torch.cat(donors))
    # A new image is one seed's distance away, but for chance.
    assert found.attributes["pixels"].size == pytest.approx(1, abs=0.3)


def test_random_keeps_the_distance_of_each_row_from_the_mean() -> None:
    rows = torch.randn(6, 3, 40, generator=torch.Generator().manual_seed(0)).double()
    mean = torch.linspace(-1, 1, 40).double().expand(1, 3, 40)
    new = _replace("random", {("p", 0): mean}, "both", (0, 0), rows, Call(0, None, None, "p"))
    assert torch.allclose((new - mean).norm(dim=-1), (rows - mean).norm(dim=-1))
    assert (((new - mean) * (rows - mean)).sum(-1) / (rows - mean).square().sum(-1)).abs().max() < 1
    again = _replace("random", {("p", 0): mean}, "both", (0, 0), rows, Call(0, None, None, "p"))
    assert torch.equal(new, again)


def test_the_change_is_in_units_of_the_distance_between_seeds(toy) -> None:
    model, weight = toy
    found = _ablate(model, "zero")
    moved = draw_rows(range(RECIPE.n)).double() @ weight.T
    centered = moved - moved.mean(0)
    scale = (2 * centered.square().sum() / (RECIPE.n - 1)).sqrt()
    want = float(moved.square().sum(1).mean().sqrt() / scale)
    assert found.attributes["pixels"].size == pytest.approx(want, rel=1e-9)


@pytest.fixture(scope="module")
def ddpm():
    return load("zoo:ddpm", untrained=True)


def test_only_the_masked_positions_of_the_chosen_calls_and_half_are_edited(ddpm) -> None:
    model = ddpm
    name = next(n for n in model.points if model.points[n].kind == "resid")
    size = int(np.prod(model.points[name].grid))
    mask = tuple(i % 3 == 0 for i in range(size))
    batch = Generation(n=1, steps=2, scheduler="ddim", guidance=2.0, classes=(1,)).batch(0, 1)
    with reading(model, [name]) as plain:
        model.generate(batch)
    edited = []
    place = Carrier((name,), calls=(1,), cfg="cond", mask=mask)
    zero = partial(_replace, "zero", {}, "cond", (0, 0))
    run_edited(model, place, zero, batch, read=[name], callback=edited.append)
    rows, base = ([to_rows(r.value, model.point(name)) for r in x] for x in (edited, plain.calls))
    keep = torch.tensor(mask)
    assert torch.equal(rows[0], base[0])
    assert torch.equal(rows[1][0], base[1][0])
    assert bool((rows[1][1][keep] == 0).all())
    assert torch.equal(rows[1][1][~keep], base[1][1][~keep])
    chosen = select_rows(model, place, edited[1])
    assert chosen is not None
    assert chosen.shape[1] == sum(mask)
    assert select_rows(model, place, edited[0]) is None


def test_several_places_share_their_clean_runs(toy) -> None:
    made = []
    model, _ = toy
    generate = model.adapter.generate
    model.adapter.generate = lambda root, batch: made.append(1) or generate(root, batch)
    found = ablate(model, ["hidden", "later"], RECIPE, attributes=ATTRIBUTES, reference=OTHER)
    model.adapter.generate = generate
    assert [one.carrier.label for one in found] == ["hidden", "later"]
    # 13 batches of reference; 3 of the source: unedited, and per place identity and ablation.
    assert len(made) == 13 + 3 * (1 + 2 * 2)


@pytest.mark.parametrize("kind", ABLATIONS)
def test_every_kind_is_measured(toy, kind) -> None:
    found = _ablate(toy[0], kind)
    assert found.kind == kind
    assert found.images.shape == (RECIPE.n, SIDE, SIDE, 3)
    assert all(low < size < high for size, low, high in found.attributes.values())


@pytest.mark.parametrize(
    ("more", "error", "match"),
    [
        ({"kind": "half"}, InputError, "kind 'half' is not one of zero, mean"),
        ({"attributes": {}}, InputError, "at least one attribute"),
        ({"carriers": []}, InputError, "at least one attribute and one carrier"),
        ({"carriers": "hiden"}, PointError, "closest: hidden"),
        ({"source": replace(RECIPE, n=3)}, InputError, "3 seeds: an interval over seeds needs 10"),
        ({"reference": RECIPE}, InputError, "share 12: they have to be disjoint"),
        ({"reference": replace(OTHER, n=11), "kind": "resample"}, InputError, "needs one for each"),
        ({"reference": replace(OTHER, steps=3)}, InputError, "steps is 20 here and 3"),
        ({"carriers": Carrier(("hidden",), mask=(True, True))}, InputError, "mask has 2 positions"),
        ({"carriers": Carrier(fields=("seeds",))}, InputError, "seeds: fields; an edit of"),
        ({"reference": replace(OTHER, n=12)}, InputError, "6 and 6 clean rows of hidden"),
    ],
)
def test_what_makes_no_sense_is_refused(toy, more, error, match) -> None:
    given = {"carriers": "hidden", "source": RECIPE, "attributes": ATTRIBUTES} | more
    with pytest.raises(error, match=match):
        ablate(toy[0], given.pop("carriers"), given.pop("source"), **given)


def test_the_toy_is_what_it_says(toy) -> None:
    assert toy[0].point("hidden").width == D
