"""The decision rule: committed, hashed, three-valued, and closed without its controls."""

import dataclasses
import hashlib
import json

import numpy as np
import pytest

from interp.errors import InputError
from interp.interventions import (
    Bound,
    Check,
    Compactness,
    Controls,
    Effect,
    Excess,
    LayerShares,
    SourceEvidence,
    Specialization,
    decide,
    exceed_nothing,
    find_role,
    load_rule,
)
from interp.interventions import verdict as verdicts
from interp.models import HookPoint

FEW = Compactness(12, 100, 1.0, {12: 1.0})
MANY = Compactness(700, 768, 1.0, {700: 0.95})
SAID = Check("P1", "compact", "yes", "yes", 0, True)


def _controls(*checks):
    return Controls(checks or (SAID,), load_rule().sha256)


def _effect(value, lower, upper, carrier="z", role="source", n_tests=1):
    bound = Bound(value, lower, upper)
    return Effect(carrier, role, {}, bound, bound, 100, 100, n_tests, 0)


def _source(value=1.0, lower=0.95, upper=1.02, others=None, pca=FEW, **more):
    jacobian, image = more.pop("jacobian", FEW), more.pop("image", FEW)
    return SourceEvidence(_effect(value, lower, upper, **more), others, pca, jacobian, image)


def _shares(kind="additive", role="write", gap=0.02):
    still, wide = np.zeros((1, 2)), np.full((1, 2), gap)
    return LayerShares(
        layers=("a", "b"),
        attributes=("x",),
        role=role,
        first_in=still,
        last_in=still,
        shapley=still,
        shapley_low=-wide,
        shapley_high=wide,
        shapley_se=still,
        gap_low=-wide,
        gap_high=wide,
        total=still[:, 0],
        redundancy=still[:, 0],
        redundancy_low=-wide[:, 0],
        redundancy_high=wide[:, 0],
        interactions=None,
        kinds=(kind,),
        n_pairs=100,
    )


def _excess(value=0.5, half=0.1, sampling=0.05, twins=5):
    return Excess(value, value - half, value + half, sampling, (0.1,) * twins, 100, twins)


def _decide(sources=None, shares=None, excess=None, controls=None, bands=None):
    return decide(
        sources or [_source()],
        shares or _shares(),
        excess or _excess(),
        bands,
        controls=controls or _controls(),
    )


NOT_COMPACT = _source(0.2, 0.1, 0.3)
NOT_SPECIALIZED = _excess(0.0, 0.05)


@pytest.mark.parametrize(
    ("source", "excess", "corner"),
    [
        (_source(), NOT_SPECIALIZED, "strict"),
        (NOT_COMPACT, _excess(), "broad"),
        (_source(), _excess(), "compact and specialized: contradicts the dichotomy"),
        (NOT_COMPACT, NOT_SPECIALIZED, "neither compact nor specialized: contradicts the dich"),
    ],
)
def test_two_answers_name_one_of_four_corners(source, excess, corner):
    assert _decide([source], excess=excess).corner.startswith(corner)


def test_the_rule_is_a_committed_file_whose_hash_is_printed():
    rule = load_rule()
    data = verdicts.RULE_FILE.read_bytes()
    assert rule.sha256 == hashlib.sha256(data).hexdigest()
    assert rule.values == json.loads(data)
    found = _decide()
    assert found.rule_sha256 == rule.sha256
    assert rule.sha256 in str(found)
    assert "compact: yes. z: S = 1.000 [0.950, 1.020]" in str(found)


def test_a_rule_that_differs_from_the_code_is_refused(tmp_path, monkeypatch):
    changed = tmp_path / "rule.json"
    values = {**load_rule().values, "level": 0.9}
    changed.write_text(json.dumps(values))
    monkeypatch.setattr(verdicts, "RULE_FILE", changed)
    with pytest.raises(
        InputError, match=r"rule.json says level, keep, agreement, excess level.* = \(0.9"
    ):
        load_rule()


@pytest.mark.parametrize(("n_tests", "needed"), [(1, 29), (2, 36)])
def test_pairs_too_few_to_show_a_failure_are_undecided(n_tests, needed):
    # Every pair's swap works, as it does in .8^12 = 7 % of samples of 12 where S is .8.
    source = _source(1.0, 1.0, 1.0, n_tests=n_tests)
    for n, answer in ((12, "undecided"), (needed - 1, "undecided"), (needed, "yes")):
        effect = dataclasses.replace(source.effect, n_pairs=n)
        found = _decide([dataclasses.replace(source, effect=effect)]).compact
        assert found.answer == answer
        assert found.pairs_needed == (needed if answer == "undecided" else None)
    effect = dataclasses.replace(source.effect, n_pairs=12)
    few = dataclasses.replace(source, effect=effect, pca=MANY)
    assert _decide([few]).compact.pairs_needed is None


@pytest.mark.parametrize(
    "controls",
    [
        _controls(dataclasses.replace(SAID, passed=False)),
        Controls((), load_rule().sha256),
        Controls((SAID,), "another"),
        Controls((SAID,), load_rule().sha256, missing=("P5",)),
    ],
)
def test_no_verdict_without_all_controls(controls):
    with pytest.raises(InputError, match="no verdict: the planted controls did not pass"):
        _decide(controls=controls)


def test_a_failed_control_is_named():
    with pytest.raises(InputError, match="failed: P1 compact"):
        _decide(controls=_controls(SAID, dataclasses.replace(SAID, passed=False)))


def test_an_interval_around_the_threshold_is_undecided_and_says_what_would_decide():
    answer = _decide([_source(0.92, 0.84, 0.99)]).compact
    assert answer.answer == "undecided"
    assert answer.smallest_effect == pytest.approx(0.98)
    # A half-width of .08 has to shrink to .02: sixteen times the pairs.
    assert answer.pairs_needed == pytest.approx(1600, abs=1)
    below = _decide([_source(0.85, 0.7, 0.95)]).compact
    assert below.pairs_needed == pytest.approx(400, abs=1)
    assert "pairs that would decide it" in str(_decide([_source(0.92, 0.84, 0.99)]))


def test_bases_that_disagree_are_undecided_at_any_number_of_pairs():
    answer = _decide([_source(pca=MANY)]).compact
    assert answer.answer == "undecided"
    assert "the two bases disagree" in answer.reason
    assert answer.pairs_needed is None
    assert "no number of pairs" in str(_decide([_source(pca=MANY)]))
    assert _decide([_source(pca=MANY, jacobian=MANY)]).compact.answer == "no"
    out_of_reach = Compactness(None, 99, 1.0, {99: 0.5})
    assert _decide([_source(pca=out_of_reach, jacobian=out_of_reach)]).compact.answer == "no"
    unknown = Compactness(None, 5, 1.0, {5: 0.5})
    assert _decide([_source(pca=unknown, jacobian=unknown)]).compact.answer == "undecided"


@pytest.mark.parametrize(
    ("others", "expected"), [((0.02, 0.0, 0.05), "yes"), ((0.3, 0.2, 0.4), "no")]
)
def test_the_other_sources_together_must_not_matter(others, expected):
    z = _source(others=_effect(*others), n_tests=2)
    noise = _source(0.01, 0.0, 0.02, others=_effect(0.99, 0.98, 1.0), carrier="noise", n_tests=2)
    assert _decide([z, noise]).compact.answer == expected


def test_other_sources_near_their_threshold_are_undecided():
    answer = _decide([_source(others=_effect(0.06, 0.03, 0.14))]).compact
    assert answer.answer == "undecided"
    assert answer.smallest_effect == pytest.approx(0.13)
    assert answer.pairs_needed == pytest.approx(400, abs=1)


def test_only_sources_decide_about_a_compact_latent():
    with pytest.raises(InputError, match="'z' is a descendant, not a source"):
        _decide([_source(role="descendant")])
    with pytest.raises(InputError, match="lacks the joint swap of the 1 other sources"):
        _decide([_source(n_tests=2), _source(n_tests=2)])
    with pytest.raises(InputError, match="pass n_tests=2"):
        _decide([_source(others=_effect(0, 0, 0)), _source(others=_effect(0, 0, 0))])
    with pytest.raises(InputError, match="no source was tested"):
        decide([], _shares(), _excess(), None, controls=_controls())


@pytest.mark.parametrize("kind", ["redundant", "synergistic", "mixed"])
def test_shares_that_do_not_add_up_support_no_specialization(kind):
    answer = _decide(shares=_shares(kind)).specialized
    assert answer.answer == "undecided"
    assert kind in answer.reason


def test_graph_cuts_support_no_specialization():
    answer = _decide(shares=_shares(role="descendant")).specialized
    assert answer.answer == "undecided"
    assert "graph cuts" in answer.reason


def test_redundant_layers_may_be_unspecialized_but_synergy_has_no_shares():
    found = {
        kind: _decide(shares=_shares(kind), excess=NOT_SPECIALIZED).specialized.answer
        for kind in ("redundant", "synergistic", "mixed")
    }
    assert found == {"redundant": "no", "synergistic": "undecided", "mixed": "undecided"}


def test_an_undecided_excess_says_how_many_pairs_unless_twins_differ_too_much():
    answer = _decide(excess=_excess(0.2, 0.25, 0.2)).specialized
    assert answer.answer == "undecided"
    assert answer.smallest_effect == pytest.approx(0.25)
    # Twins: .15 of the half-width; pairs have to bring theirs to sqrt(.2^2 - .15^2).
    assert answer.pairs_needed == int(np.ceil(100 * 0.2**2 / (0.2**2 - 0.15**2)))
    assert _decide(excess=_excess(0.2, 0.25, 0.05)).specialized.pairs_needed is None


def test_kinds_that_noise_leaves_open_say_how_many_pairs():
    answer = _decide(shares=_shares("undecided", gap=0.2)).specialized
    assert answer.answer == "undecided"
    assert answer.smallest_effect == pytest.approx(0.2)
    assert answer.pairs_needed == pytest.approx(400, abs=1)


def test_no_total_no_specialization_and_too_few_twins():
    nothing = Excess(None, None, None, None, (0.1,) * 5, 100, 5)
    answer = _decide(excess=nothing).specialized
    assert answer.answer == "undecided"
    assert "total share is near 0" in answer.reason
    with pytest.raises(InputError, match="4 untrained twins: the rule asks for 5"):
        _decide(excess=_excess(twins=4))


@pytest.mark.parametrize(
    ("name", "stream", "kind", "role"),
    [
        ("z", "entry", "entry", "source"),
        ("x_T", "entry", "entry", "source"),
        ("code", "entry", "entry", "source"),
        ("noise.3", "entry", "entry", "source"),
        ("w", "entry", "entry", "descendant"),
        ("x_t", "entry", "entry", "descendant"),
        ("w_plus.2", "entry", "entry", "write"),
        ("s.2", "entry", "entry", "write"),
        ("s_rgb.1", "entry", "entry", "write"),
        ("b.attn2:context", "context", "entry", "write"),
        ("mid_block:delta", "image", "delta", "write"),
        ("rgbs.0", "image", "contrib", "write"),
        ("mid_block", "image", "resid", "descendant"),
        ("skip.0", "skip", "resid", "descendant"),
    ],
)
def test_a_point_is_a_source_a_write_or_a_descendant(name, stream, kind, role):
    assert find_role(HookPoint(name, "", stream, kind, 8, (), "bc", 0.5)) == role


def test_without_a_level_of_twins_specialization_is_undecided():
    none = Excess(None, None, None, None, (), 40, 3)
    answer = _decide([_source()], excess=none).specialized
    assert answer.answer == "undecided"
    assert "3 untrained twins were played: specialization has no level" in answer.reason


def test_yes_needs_both_kinds_of_twins_and_no_the_untrained_ones():
    wide, near = _excess(), _excess(0.0, 0.05)
    assert _decide(excess=wide, bands=wide).specialized.answer == "yes"
    assert _decide(excess=near, bands=wide).specialized.answer == "no"
    # Not beyond what sizes explain: that is no finding that layers do all alike.
    answer = _decide(excess=wide, bands=_excess(-0.3, 0.05)).specialized
    assert answer.answer == "undecided"
    assert "sizes alone may explain it" in answer.reason
    answer = _decide(excess=wide, bands=_excess(0.2, 0.25, 0.2)).specialized
    assert answer.answer == "undecided"
    assert answer.smallest_effect == pytest.approx(0.25)
    assert "excess over 5 band twins 0.200 [-0.050, 0.450]" in answer.reason
    assert _decide(excess=_excess(0.05, 0.04), bands=wide).specialized.answer == "yes"


def test_where_nothing_moves_untrained_twins_the_model_itself_is_held_against_0():
    def itself(value, n_tried=5):
        found = Specialization(value, value - 0.02, value + 0.02, 0.01, 40)
        return exceed_nothing(found, n_tried)

    answer = _decide(excess=itself(0.4), bands=_excess()).specialized
    assert answer.answer == "yes"
    assert "specialization 0.400 [0.374, 0.426], for swaps move none of 5" in answer.reason
    assert _decide(excess=itself(0.05), bands=_excess(0.0, 0.05)).specialized.answer == "no"
    assert _decide(excess=itself(0.4), bands=_excess(0.0, 0.05)).specialized.answer == "undecided"
    # Two that move are too few to be a level, and too many to be left out.
    two = Excess(None, None, None, None, (0.1, 0.2), 40, 10)
    answer = _decide(excess=two, bands=_excess()).specialized
    assert answer.answer == "undecided"
    assert "swaps move 2 of 10 untrained twins" in answer.reason
    with pytest.raises(InputError, match="4 untrained twins: the rule asks for 5"):
        _decide(excess=itself(0.4, n_tried=4), bands=_excess())
    nothing = Excess(None, None, None, None, (0.1,) * 5, 40, 5)
    undefined = exceed_nothing(Specialization(None, None, None, None, 40), 5)
    for one in (itself(0.4), undefined):
        found = _decide(excess=one, bands=nothing).specialized
        assert "total share is near 0" in found.reason


def test_band_twins_that_could_not_be_played_leave_it_undecided():
    none = Excess(None, None, None, None, (), 40, 0)
    answer = _decide(excess=_excess(), bands=none).specialized
    assert answer.answer == "undecided"
    assert "0 band twins have a specialization" in answer.reason


@pytest.mark.parametrize(
    "numbers",
    [(np.nan, 0.1, 0.3, 0.1), (0.2, 0.3, 0.1, 0.1), (0.2, 0.1, np.inf, 0.1), (0.2, None, 0.3, 0.1)],
)
def test_an_excess_is_finite_numbers_in_order_or_none(numbers):
    with pytest.raises(InputError, match="finite numbers in order are needed"):
        Excess(*numbers, (0.1,) * 5, 40, 5)
