"""Steering: its closed form on a linear network, its controls, what it refuses, its files."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from interp import load
from interp.errors import InputError, PointError, SAEError
from interp.interventions import Carrier, DoseResponse, estimate_steering, steer
from interp.interventions.clean import place_of, read_clean
from interp.interventions.handles import draw_directions, feature_lengths, make_change, make_handle
from interp.interventions.steering_measure import expect_largest, find_scales
from interp.models import Call
from interp.sae import TopK
from tests.interventions.linear_toy import (
    ATTRIBUTES,
    RECIPE,
    D,
    LinearNet,
    Toy,
    draw_rows,
    make_sae,
    make_toy,
)

CALL = Call(0, None, None, "hidden")
OTHER = replace(RECIPE, seed=RECIPE.n, n=64)


@pytest.fixture(scope="module")
def toy():
    return make_toy()


@pytest.fixture(scope="module")
def unit(toy) -> float:
    return read_clean(toy[0], place_of("hidden"), OTHER, ["hidden"])["hidden"].unit


def _steer(model, **more) -> DoseResponse:
    given = {"attributes": ATTRIBUTES, "n_random": 0, "later": ""} | more
    return steer(model, "hidden", RECIPE, **given)


def test_the_dose_response_of_a_linear_network_is_linear_with_the_projected_direction_as_slope(
    toy, unit
) -> None:
    model, weight = toy
    # Whole steps along e_2 keep all pixels whole.
    strengths = [step / unit for step in (-2, -1, 0, 1, 2)]
    found = _steer(model, sae=make_sae(), feature=2, strengths=strengths)
    slope = float(weight[:, 2].norm()) * unit
    for dose, row in zip(found.strengths, found.responses["pixels"], strict=True):
        want = dose * slope / found.scale["pixels"]
        assert row.along == pytest.approx(want, rel=1e-12, abs=1e-12)
        # Every seed moves alike: no spread, all of the change on the axis.
        assert row.size == pytest.approx(abs(want), rel=1e-12)
        assert row.along_low == pytest.approx(want, rel=1e-9, abs=1e-12)
        assert row.along_high == pytest.approx(want, rel=1e-9, abs=1e-12)
    assert found.unit == unit
    assert found.shifts == pytest.approx([abs(s) for s in strengths])


def test_at_the_neutral_strength_images_are_the_unedited_ones(toy) -> None:
    found = _steer(toy[0], direction=torch.randn(D, generator=torch.Generator().manual_seed(0)))
    at = found.strengths.index(0)
    assert np.array_equal(found.images[at], found.plain)
    assert found.responses["pixels"][at] == (0,) * 6
    assert found.off_target[at].value is None
    assert found.shown_seeds == (0, 1, 2, 3)


def test_suppressing_is_scaling_to_zero(toy) -> None:
    sae = make_sae()
    suppressed = _steer(toy[0], sae=sae, feature=1, mode="suppress", strengths=[0, 1])
    scaled = _steer(toy[0], sae=sae, feature=1, mode="scale", strengths=[0, 1])
    assert np.array_equal(suppressed.images[1], scaled.images[0])
    assert np.array_equal(suppressed.images[0], scaled.images[1])
    assert not np.array_equal(suppressed.images[1], suppressed.plain)
    assert suppressed.responses["pixels"][1].size == scaled.responses["pixels"][0].size


def test_the_error_term_is_kept(toy, unit) -> None:
    # An SAE that sees one coordinate only: what it cannot reconstruct stays.
    model, weight = toy
    sae = make_sae(k=1)
    found = _steer(model, sae=sae, feature=0, mode="scale", strengths=[1, 2])
    rows = draw_rows(range(4)).double()
    part = feature_lengths(make_handle(model, "hidden", sae=sae, feature=0), rows)
    want = (rows @ weight.T + part[:, None] * weight[:, 0] + 128).round()
    assert torch.equal(torch.from_numpy(found.images[1].copy()).double().flatten(1), want)


def test_clamping_to_the_present_value_changes_nothing(toy, unit) -> None:
    sae = make_sae()
    handle = make_handle(toy[0], "hidden", sae=sae, feature=0, mode="clamp")
    rows = torch.tensor([[3.0, -1, 2, 0, 1]])
    kept = make_change(handle, 3 / unit, unit)(rows, CALL)
    assert torch.allclose(kept, rows, rtol=0, atol=1e-6)
    moved = make_change(handle, 0, unit)(rows, CALL)
    assert torch.allclose(moved, torch.tensor([[0.0, -1, 2, 0, 1]]), atol=1e-6)


def test_isotropic_directions_project_one_over_d_and_matched_ones_follow_the_rows(toy) -> None:
    clean = read_clean(toy[0], place_of("hidden"), OTHER, ["hidden"])["hidden"]
    drawn = draw_directions(clean, 40_000, "isotropic", 0)
    assert torch.allclose(drawn.norm(dim=1), torch.ones(40_000, dtype=torch.float64))
    # Var of a squared projection is 2 (d - 1) / (d^2 (d + 2)): four standard errors.
    error = 4 * math.sqrt(2 * (D - 1) / (D**2 * (D + 2)) / 40_000)
    assert (drawn**2).mean(0).numpy() == pytest.approx(np.full(D, 1 / D), abs=error)
    rank_one = replace(clean, rows=torch.outer(torch.arange(8.0), torch.eye(D)[1]).double())
    along = draw_directions(rank_one, 10, "matched", 0)
    assert torch.allclose(along.abs(), torch.eye(D, dtype=torch.float64)[1].expand(10, D))


def test_the_random_control_of_a_linear_network_is_the_projected_draws(toy, unit) -> None:
    model, weight = toy
    dose = 8.0 / unit
    found = _steer(model, direction=torch.eye(D)[0], strengths=[dose], n_random=40, n_scanned=10)
    clean = read_clean(model, place_of("hidden"), OTHER, ["hidden"])["hidden"]
    for kind in ("isotropic", "matched"):
        drawn = draw_directions(clean, 40, kind, 0)
        sizes = 8 * (drawn @ weight.T).norm(dim=1).numpy() / found.scale["pixels"]
        control = getattr(found, kind)["pixels"][0]
        # Pixels are rounded: half a step of about 1/sqrt(12) each.
        assert control.size_mean == pytest.approx(sizes.mean(), rel=0.02)
        assert control.size == pytest.approx(expect_largest(sizes[:, None], 10)[0], rel=0.02)
        assert control.size > control.size_mean
    assert found.random_suffices


def test_the_expected_largest_is_the_mean_over_all_subsets() -> None:
    from itertools import combinations

    values = np.array([3.0, -1, 2, 7, 0.5])
    for n in (1, 2, 3, 5):
        want = np.mean([max(part) for part in combinations(values, n)])
        assert expect_largest(values[:, None], n)[0] == pytest.approx(want)
    assert expect_largest(values[:, None], 9)[0] == 7


def test_the_scale_is_the_distance_between_two_seeds() -> None:
    x = np.random.default_rng(0).standard_normal((7, 3))
    pairs = [((x[i] - x[j]) ** 2).sum() for i in range(7) for j in range(7) if i != j]
    assert find_scales({"a": x})["a"] == pytest.approx(math.sqrt(np.mean(pairs)))
    with pytest.raises(InputError, match="all 3 seeds are equal in a"):
        find_scales({"a": np.ones((3, 2))})


def test_a_mask_a_half_and_a_window_bound_the_edit(toy) -> None:
    whole = _steer(toy[0], direction=torch.eye(D)[0])
    same = steer(
        toy[0], Carrier(("hidden",), calls=(0,), cfg="both", mask=(True,)), RECIPE,
        attributes=ATTRIBUTES, direction=torch.eye(D)[0], n_random=0, later="",
    )  # fmt: skip
    assert np.array_equal(whole.images, same.images)
    assert same.settings["calls"] == [0]
    with pytest.raises(PointError, match="no activation of hidden was read"):
        steer(
            toy[0], Carrier(("hidden",), calls=(3,)), RECIPE,
            attributes=ATTRIBUTES, direction=torch.eye(D)[0],
        )  # fmt: skip


def test_distances_of_edited_rows_are_kept_at_the_point_and_at_a_later_one(toy) -> None:
    found = _steer(toy[0], direction=torch.eye(D)[0], later=None, strengths=[0, 20])
    assert set(found.off_distribution) == {"hidden", "later"}
    for rows in found.off_distribution.values():
        assert rows[1].mahalanobis > 3 * rows[0].mahalanobis
        assert rows[1].mahalanobis_clean == rows[0].mahalanobis_clean


@pytest.mark.parametrize(
    ("more", "error", "match"),
    [
        ({}, InputError, "give a direction, or an SAE"),
        ({"direction": torch.eye(D)[0], "mode": "clamp"}, InputError, "can be added only"),
        ({"direction": torch.zeros(D)}, InputError, "has the length 0.0"),
        ({"direction": torch.ones(3)}, InputError, r"shape \(3,\) at hidden of width 5"),
        ({"direction": torch.eye(D)[0], "mode": "push"}, InputError, "mode 'push' is not one of"),
        ({"direction": torch.eye(D)[0], "strengths": [0]}, InputError, "changes nothing"),
        ({"direction": torch.eye(D)[0], "strengths": [1, 1]}, InputError, "each once"),
        ({"direction": torch.eye(D)[0], "target": "mood"}, InputError, "'mood' is not one of"),
        ({"direction": torch.eye(D)[0], "later": "hidden"}, PointError, "does not come after"),
        ({"direction": torch.eye(D)[0], "attributes": {}}, InputError, "no attribute"),
        ({"direction": torch.eye(D)[0], "n_scanned": 0}, InputError, "n_scanned = 0"),
        ({"direction": torch.eye(D)[0], "reference": RECIPE}, InputError, "share 12"),
    ],
)
def test_what_makes_no_sense_is_refused(toy, more, error, match) -> None:
    with pytest.raises(error, match=match):
        _steer(toy[0], **more)


def test_an_sae_of_another_point_and_features_that_do_not_exist_are_refused(toy) -> None:
    with pytest.raises(SAEError, match="width 5 != SAE d_in 7"):
        _steer(toy[0], sae=TopK(7, 9, 2), feature=0)
    with pytest.raises(InputError, match="feature 10 does not exist: the SAE has 10 latents"):
        _steer(toy[0], sae=make_sae(), feature=10)
    with pytest.raises(InputError, match=r"strength -1\.0 of clamp"):
        _steer(toy[0], sae=make_sae(), feature=0, mode="clamp", strengths=[-1])
    with pytest.raises(InputError, match="9 seeds: a dose-response needs 10"):
        steer(
            toy[0], "hidden", replace(RECIPE, n=9), attributes=ATTRIBUTES, direction=torch.ones(D)
        )


def test_runs_that_do_not_repeat_are_refused(toy) -> None:
    calls = []

    class Drifting(Toy):
        def generate(self, root, batch):
            calls.append(1)
            return super().generate(root, batch) + len(calls)

    model = load(LinearNet(), adapter=Drifting())
    with pytest.raises(InputError, match="the runs are not repeatable"):
        _steer(model, direction=torch.ones(D))


def test_the_cost_is_what_a_run_makes(toy) -> None:
    made = []
    more = {"n_random": 2, "progress": lambda done, total: made.append((done, total))}
    _steer(toy[0], direction=torch.ones(D), **more)
    cost = estimate_steering(toy[0], RECIPE, n_random=2)
    assert made[-1] == (cost.images, cost.images)
    # 64 of the reference; unedited, identity and 7 strengths; 2 x 2 directions at 6 strengths.
    assert cost.images == 64 + 12 * (2 + 7 + 2 * 2 * 6)
    assert cost.seconds > 0


@pytest.fixture(scope="module")
def saved(toy, tmp_path_factory):
    found = _steer(toy[0], direction=torch.eye(D)[0], n_random=2, later=None, target="first")
    return found, found.save(tmp_path_factory.mktemp("steering") / "one")


def test_a_record_comes_back_as_it_was_saved(saved) -> None:
    found, folder = saved
    back = DoseResponse.load(folder)
    assert back.to_json() == json.loads(json.dumps(found.to_json()))
    assert np.array_equal(back.images, found.images)
    assert np.array_equal(back.plain, found.plain)
    assert back.images.dtype == np.uint8
    assert {p.name for p in folder.iterdir()} == {"steering.json", "steering.webp"}


def _altered(saved, tmp_path, change):
    folder = tmp_path / "altered"
    saved[0].save(folder)
    record = json.loads((folder / "steering.json").read_text())
    change(record)
    (folder / "steering.json").write_text(json.dumps(record))
    return folder


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda r: r.update(format="else"), "is not a record of"),
        (lambda r: r.update(version=9), "has version 9; this reads 1"),
        (lambda r: r.pop("responses"), "is damaged.*responses"),
        (lambda r: r.update(unit="a"), "is damaged.*no finite number"),
        (lambda r: r.update(strengths=[0, 1]), "claims|contradicts|not"),
        (lambda r: r.update(target="mood"), "contradicts itself in attributes"),
        (lambda r: r.update(mode="push"), "contradicts itself in mode"),
        (lambda r: r["sheet"].update(size=[10**9, 10**9]), "claims"),
        (lambda r: r["sheet"].update(size=[2, 2]), "pixels, not"),
        (lambda r: r["sheet"].update(sha256="0"), "missing, truncated or altered"),
        (lambda r: r.update(sheet=3), "is damaged"),
        (lambda r: r["responses"]["first"].pop(), "contradicts itself in strengths"),
        (lambda r: r["responses"]["first"][0].update(x=1), "is damaged"),
        (lambda r: r.update(settings=[]), "is damaged"),
        (lambda r: r.update(unit=10**400), "is damaged.*is no finite number"),
        (lambda r: r.update(n_seeds=-5), "is damaged.*-5 is below 0"),
    ],
)
def test_a_hostile_record_is_refused(saved, tmp_path, change, match) -> None:
    with pytest.raises(InputError, match=match):
        DoseResponse.load(_altered(saved, tmp_path, change))


def test_a_damaged_file_is_refused(saved, tmp_path) -> None:
    folder = saved[0].save(tmp_path / "x")
    (folder / "steering.webp").write_bytes(b"RIFF")
    with pytest.raises(InputError, match=r"4 bytes\) is missing, truncated or altered"):
        DoseResponse.load(folder)
    (folder / "steering.json").write_text("{" * 5000)
    with pytest.raises(InputError, match="is not JSON"):
        DoseResponse.load(folder)
    with pytest.raises(InputError, match="holds no dose-response"):
        DoseResponse.load(tmp_path)
    with pytest.raises(InputError, match="is a file; a dose-response needs a folder"):
        saved[0].save(folder / "steering.json")
