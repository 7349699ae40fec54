"""The planted controls give their numbers and verdicts, and each can fail."""

import numpy as np
import pytest

from interp.errors import InputError
from interp.interventions import PLANTED, Study, check_controls, make_pairs, measure_effect
from interp.interventions.linear import ATTRIBUTES, LAYERS, PIXELS


def _failed(name):
    return [check for check in check_controls([name]).checks if not check.passed]


@pytest.mark.parametrize("name", ["exact"])
def test_the_ends_are_exact(name):
    controls = check_controls([name])
    assert not _failed(name)
    assert not controls.passed
    assert "P1" in controls.missing
    assert {c.tolerance for c in controls.checks if "garbage" not in c.quantity} == {0}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["P1", "P2", "P3", "P4", "P5", "P6", "P7", "synergy"])
def test_a_planted_control_gives_its_stated_numbers_and_verdict(name):
    assert not _failed(name)


def _small(name, **more):
    return Study(name, n_pairs=60, **more)


def test_strict_maps_are_redundant_graph_cuts():
    study = _small("P1")
    assert study.generator.role == "descendant"
    assert study.shares.first_in == pytest.approx(np.ones((3, 6)), abs=1e-9)
    assert study.shares.last_in == pytest.approx(np.zeros((3, 6)), abs=1e-9)
    assert study.shares.redundancy == pytest.approx(np.full(3, 5), abs=1e-9)
    assert study.specialization.value == pytest.approx(0, abs=1e-9)


def test_half_of_each_attribute_comes_from_each_of_its_two_layers():
    study = _small("P3")
    own = np.kron(np.eye(3), [[0.5, 0.5]])
    for found in (study.shares.first_in, study.shares.last_in, study.shares.shapley):
        assert found == pytest.approx(own, abs=1e-9)
    assert study.specialization.value == pytest.approx(1, abs=1e-9)


def test_both_products_together_are_the_donor():
    study = _small("synergy")
    assert study.shares.total == pytest.approx(np.ones(3), abs=1e-9)
    assert study.shares.kinds == ("synergistic",) * 3


@pytest.mark.slow
def test_a_random_network_is_not_called_specialized_more_often_than_the_bound_allows():
    answers = [Study("P5", seed, 100).verdict.specialized.answer for seed in range(20, 40)]
    assert answers.count("yes") <= 2


@pytest.mark.parametrize("name", sorted(PLANTED))
def test_a_generator_is_what_it_says(name):
    for twin in (False, True):
        generator = PLANTED[name](3, twin=twin)
        u = generator.directions
        assert u.shape == (PIXELS, 12)
        assert u.T @ u == pytest.approx(np.eye(12), abs=1e-12)
        values = generator.draw(5, np.random.default_rng(0))
        run = generator.run(values)
        assert run.images.shape == (5, PIXELS)
        assert sorted(run.layers) == list(range(len(generator.layers)))
        phi = generator.embed(run.images)
        assert [phi[name].shape for name in ATTRIBUTES] == [(5, 4)] * 3
        # Nothing of the image lies outside the three attributes, but of P7's.
        shown = sum(np.linalg.norm(part) ** 2 for part in phi.values())
        whole = np.linalg.norm(run.images) ** 2
        assert shown < 0.5 * whole if generator.grids else shown == pytest.approx(whole)
        assert np.array_equal(PLANTED[name](3, twin=twin).run(values).images, run.images)
        # Putting back a run's own layers changes no bit.
        assert np.array_equal(generator.run(values, run.layers).images, run.images)


@pytest.mark.parametrize("name", ["P1", "P3", "P6"])
def test_the_jacobian_is_that_of_the_generator(name):
    generator = PLANTED[name](0)
    ((source, _),) = generator.sources.items()
    values = generator.draw(3, np.random.default_rng(0))
    phi = generator.embed(generator.run(values).images)
    for attribute, j in generator.jacobian(source).items():
        assert values[source] @ j.T == pytest.approx(phi[attribute], abs=1e-9)


def test_a_wrong_engine_fails_its_controls(monkeypatch):
    # An engine that swaps only half of what it should.
    whole = Study.swap_layers

    def half(self, players):
        a, b = whole(self, players), self.generator.embed(self._runs[1].images)
        return {k: (a[k] + b[k]) / 2 for k in a}

    monkeypatch.setattr(Study, "swap_layers", half)
    controls = check_controls(["exact"])
    assert not controls.passed
    failed = {check.quantity: check.found for check in controls.checks if not check.passed}
    assert failed["alpha of full state"] == pytest.approx(0.5)


def test_shared_sources_are_one_carrier():
    study = _small("P2")
    swapped = study.swap_sources(study.generator.sources)
    effect = measure_effect(study.pairs, swapped, carrier="all", n_resamples=20)
    assert effect.sufficiency.value == 1
    assert len(study.generator.sources) == LAYERS


def test_an_unknown_control_is_named():
    with pytest.raises(InputError, match=r"no planted control \['P8'\]; there are P1, P2"):
        check_controls(["P8"])
    with pytest.raises(InputError, match="no planted control 'P8'"):
        _ = Study("P8").generator


def test_an_attribute_is_one_line_more():
    # The engine takes any embedding: raw pixels beside the planted attributes.
    study = _small("P3")
    sides = [{**study.generator.embed(r.images), "raw": r.images} for r in study._runs]
    pairs = make_pairs(sides[0], sides[1], reference=sides[2])
    effect = measure_effect(pairs, sides[0], carrier="image", n_resamples=20)
    assert effect.attributes["raw"].alpha == 1
