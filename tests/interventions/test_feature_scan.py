"""The scan of features: closed-form effects, disjoint seeds, winners measured again, its cost."""

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from interp.errors import InputError, SAEError
from interp.interventions import Carrier, estimate_scan_features, scan_features
from interp.interventions.clean import place_of, read_clean
from interp.interventions.feature_activity import correlate
from interp.interventions.steering_measure import find_scales
from interp.sae import TopK
from tests.interventions.linear_toy import ATTRIBUTES, RECIPE, D, draw_rows, make_sae, make_toy

REPORT = replace(RECIPE, seed=100)
DEAD = 7


@pytest.fixture(scope="module")
def toy():
    return make_toy()


@pytest.fixture(scope="module")
def sae():
    found = make_sae()
    with torch.no_grad():
        found.W_enc[DEAD] = 0
    return found


@pytest.fixture(scope="module")
def unit(toy) -> float:
    reference = replace(RECIPE, seed=112, n=64)
    return read_clean(toy[0], place_of("hidden"), reference, ["hidden"])["hidden"].unit


@pytest.fixture(scope="module")
def scan(toy, sae, unit):
    model = toy[0]
    return scan_features(model, sae, "hidden", RECIPE, REPORT, ATTRIBUTES, strength=2 / unit, top=4)


def _effects(weight, recipe, part=slice(None)):
    """Closed form: 2 |W e_i| over the distance between two seeds' images."""
    images = draw_rows(range(recipe.seed, recipe.seed + recipe.n)).double() @ weight[part].T
    return 2 * weight[part].norm(dim=0).numpy() / find_scales({"x": images.numpy()})["x"]


def test_effects_are_the_lengths_of_the_projected_decoder_directions(toy, scan) -> None:
    assert scan.features.tolist() == [f for f in range(2 * D) if f != DEAD]
    assert scan.n_firing == 2 * D - 1
    # Plus and minus a coordinate move images equally far.
    for name, part in (("pixels", slice(None)), ("first", slice(0, 6))):
        want = _effects(toy[1], RECIPE, part)[scan.features % D]
        assert scan.effects[name] == pytest.approx(want, rel=1e-9)
    both = np.stack(list(scan.effects.values()))
    assert scan.scores == pytest.approx(np.sqrt((both**2).mean(0)))


def test_winners_are_measured_again_on_the_other_seeds(toy, scan) -> None:
    assert [one.feature for one in scan.reported] == scan.features[
        np.argsort(-scan.scores, kind="stable")
    ][:4].tolist()
    for one in scan.reported:
        want = _effects(toy[1], REPORT)[one.feature % D]
        assert one.attributes["pixels"].size == pytest.approx(want, rel=1e-9)
        assert one.ranked == scan.scores[scan.features.tolist().index(one.feature)]
    assert scan.reported[0].label == f"feature {scan.reported[0].feature}"


def test_as_many_random_directions_of_each_kind_are_drawn_as_features_scanned(scan) -> None:
    assert {kind: len(x) for kind, x in scan.random.items()} == {"isotropic": 9, "matched": 9}
    assert scan.random_suffices
    for kind, one in scan.random_reported.items():
        assert one.feature is None
        assert one.label.startswith(f"{kind} direction")
        assert one.ranked == scan.random[kind].max()


def test_activation_is_the_mean_over_rows_and_density_the_share_that_fires(scan) -> None:
    rows = draw_rows(range(RECIPE.n)).double()
    both = torch.cat([rows, -rows], 1).clamp_min(0).numpy()[:, scan.features]
    assert scan.activation == pytest.approx(both.mean(0))
    assert scan.density == pytest.approx((both > 0).mean(0))


def test_the_correlation_with_activation_is_spearmans() -> None:
    rng = np.random.default_rng(0)
    x = rng.standard_normal(60)
    y = np.round(x + rng.standard_normal(60), 1)
    from scipy.stats import rankdata

    # Equal values share a rank.
    ranks = np.corrcoef(rankdata(x), rankdata(y))[0, 1]
    found = {}
    for name, other in (("up", np.exp(3 * x)), ("down", -x), ("some", y)):
        found[name] = correlate(x, other)
        assert found[name] is not None
    assert [found[name].value for name in found] == pytest.approx([1, -1, ranks])
    assert found["some"].low < found["some"].value < found["some"].high
    assert correlate(x[:9], y[:9]) is None
    assert correlate(x, np.ones(60)) is None


def test_a_target_alone_ranks_and_given_features_alone_are_scanned(toy, sae, unit) -> None:
    found = scan_features(
        toy[0], sae, Carrier(("hidden",)), RECIPE, REPORT, ATTRIBUTES, strength=2 / unit,
        target="first", features=(3, 1), n_random=0, top=1,
    )  # fmt: skip
    assert found.features.tolist() == [1, 3]
    assert found.scores == pytest.approx(found.effects["first"])
    assert found.random_reported == {}
    assert not found.random_suffices
    assert found.correlation is None


def test_a_limit_draws_features_at_random_by_seed(toy, sae) -> None:
    more: dict[str, Any] = {"limit": 3, "n_random": 0, "top": 1}
    one, same = (
        scan_features(toy[0], sae, "hidden", RECIPE, REPORT, ATTRIBUTES, **more) for _ in "ab"
    )
    assert len(one.features) == 3
    assert one.features.tolist() == same.features.tolist()


def test_suppression_moves_images_by_what_the_feature_wrote(toy, sae) -> None:
    found = scan_features(
        toy[0], sae, "hidden", RECIPE, REPORT, ATTRIBUTES, mode="suppress", n_random=0, top=1
    )
    rows = draw_rows(range(RECIPE.n)).double()
    active = torch.cat([rows, -rows], 1).clamp_min(0)[:, found.features].square().mean(0).sqrt()
    want = _effects(toy[1], RECIPE)[found.features % D] / 2 * active.numpy()
    assert found.effects["pixels"] == pytest.approx(want, rel=1e-9)


def test_the_cost_is_what_a_scan_makes(toy, sae) -> None:
    made = []
    scan_features(
        toy[0], sae, "hidden", RECIPE, REPORT, ATTRIBUTES, n_random=2, top=3,
        progress=lambda done, total: made.append((done, total)),
    )  # fmt: skip
    cost = estimate_scan_features(toy[0], sae, "hidden", RECIPE, REPORT, n_random=2, top=3)
    assert made[-1] == (cost.images, cost.images)
    # 64 clean; 9 features and 2 x 2 draws on the ranking seeds; 3 and 2 winners on the others.
    assert cost.images == 64 + 12 * (3 + 9 + 4) + 12 * (2 + 3 + 2)
    assert cost.seconds > 0


def test_a_scan_is_saved_as_json(scan, tmp_path) -> None:
    record = json.loads(scan.save(tmp_path / "new" / "scan.json").read_text())
    assert record["features"] == scan.features.tolist()
    assert record["reported"][0]["attributes"]["pixels"]["size"] > 0


@pytest.mark.parametrize(
    ("more", "error", "match"),
    [
        ({"source_report": replace(RECIPE, seed=5)}, InputError, "share 7: they have to be disj"),
        ({"reference": replace(RECIPE, seed=105)}, InputError, "share 7"),
        ({"source_rank": replace(RECIPE, n=4)}, InputError, "4 seeds: ranking and reporting need"),
        ({"features": (DEAD,)}, InputError, r"features \[7\]: each once, from 0 to 9, and active"),
        ({"features": (1, 1)}, InputError, "each once"),
        ({"target": "mood"}, InputError, "'mood' is not one of"),
        ({"mode": "push"}, InputError, "'push' is not one of"),
        ({"strength": 0.0}, InputError, "changes nothing"),
        ({"sae": TopK(7, 9, 2)}, SAEError, "width 5 != SAE d_in 7"),
    ],
)
def test_what_makes_no_sense_is_refused(toy, sae, more, error, match) -> None:
    given = {"sae": sae, "source_rank": RECIPE, "source_report": REPORT} | more
    names = ("sae", "source_rank", "source_report")
    one, rank, report = (given.pop(name) for name in names)
    with pytest.raises(error, match=match):
        scan_features(toy[0], one, "hidden", rank, report, ATTRIBUTES, **given)
