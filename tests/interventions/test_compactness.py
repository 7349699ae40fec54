"""d* on carriers whose directions are known."""

import numpy as np
import pytest

from interp.errors import InputError
from interp.interventions import (
    make_gradient_basis,
    make_jacobian_basis,
    make_pairs,
    make_pca_basis,
    make_random_basis,
    measure_compactness,
    measure_kept,
)

RNG = np.random.default_rng(0)
MAP = RNG.standard_normal((9, 4))


def _embed(values):
    return {"a": values @ MAP}


def _study(n=50):
    a, b, other = (RNG.standard_normal((n, 9)) for _ in range(3))
    return make_pairs(_embed(a), _embed(b), reference=_embed(other)), a, b, other


def test_only_the_directions_that_act_are_counted():
    pairs, a, b, other = _study()
    basis = make_jacobian_basis(lambda _: {"a": MAP.T}, other[:2])
    found = measure_compactness(pairs, a, b, basis, _embed)
    assert found.d_star is not None
    assert found.d_star <= 4
    assert found.full == pytest.approx(1, abs=1e-12)
    assert found.kept[found.d_star] >= 0.95
    assert found.d_star == 1 or found.kept[found.d_star - 1] < 0.95


def test_bisection_agrees_with_trying_every_number():
    pairs, a, b, other = _study()
    basis = make_pca_basis(other)
    found = measure_compactness(pairs, a, b, basis, _embed)
    kept = [
        measure_compactness(pairs, a, b, basis[:d], _embed).kept[d] for d in range(1, len(basis))
    ]
    assert found.d_star == 1 + sum(k < 0.95 for k in kept)


def test_a_basis_that_is_too_small_does_not_reach_it():
    pairs, a, b, other = _study()
    found = measure_compactness(pairs, a, b, make_pca_basis(other[:4]), _embed)
    assert found.d_star is None
    assert found.rank == 3
    assert found.kept[3] < 0.95


def test_a_carrier_that_moves_nothing_has_no_d_star():
    pairs, a, b, other = _study()
    found = measure_compactness(pairs, a, b, make_pca_basis(other), lambda _: _embed(b))
    assert found.d_star is None
    assert found.kept == {}


def test_pca_is_by_falling_variance_and_both_routes_agree():
    x = RNG.standard_normal((40, 6)) * np.arange(6, 0, -1)
    wide, tall = make_pca_basis(x[:6]), make_pca_basis(x)
    assert wide.shape == (5, 6)
    variance = ((x - x.mean(0)) @ tall.T).var(0)
    assert (np.diff(variance) < 0).all()
    full = np.linalg.svd(x - x.mean(0), full_matrices=False)[2]
    assert np.abs((full * tall).sum(1)) == pytest.approx(np.ones(6), abs=1e-9)


def test_units_of_an_attribute_do_not_reorder_the_jacobian_basis():
    eye = np.eye(3)
    jacobian = {"a": 5 * eye[:1], "b": 3 * eye[1:2]}
    plain = make_jacobian_basis(lambda _: jacobian, np.zeros((1, 3)))
    scaled = make_jacobian_basis(lambda _: jacobian, np.zeros((1, 3)), {"a": 5.0, "b": 1.0})
    assert abs(plain[0]) == pytest.approx(eye[0])
    assert abs(scaled[0]) == pytest.approx(eye[1])


def test_bases_and_shapes_that_do_not_fit_are_refused():
    pairs, a, b, other = _study()
    with pytest.raises(InputError, match="rows of the basis are not orthonormal"):
        measure_compactness(pairs, a, b, other[:3], _embed)
    with pytest.raises(InputError, match=r"carrier values \(49, 9\)"):
        measure_compactness(pairs, a[1:], b, np.eye(9), _embed)
    with pytest.raises(InputError, match="PCA needs samples"):
        make_pca_basis(a[:1])
    with pytest.raises(InputError, match=r"Jacobian of a is \(9, 4\), not \[d_k, 9\]"):
        make_jacobian_basis(lambda _: {"a": MAP}, other[:1])


def test_gradients_of_random_projections_span_what_the_jacobian_spans():
    exact = make_jacobian_basis(lambda _: {"a": MAP.T}, np.zeros((1, 9)))[:4]
    rng = np.random.default_rng(1)
    few = make_gradient_basis(rng.standard_normal((3, 4)) @ MAP.T)
    many = make_gradient_basis(rng.standard_normal((4000, 4)) @ MAP.T)
    assert len(few) == 3
    assert len(many) == 4
    assert np.allclose(many.T @ many, exact.T @ exact, atol=1e-9)
    # Direction by direction only in the limit of many gradients.
    assert (np.abs((many * exact).sum(1)) > 0.9).all()


def test_gradients_that_say_nothing_are_refused():
    for rows in (np.zeros((5, 9)), np.full((5, 9), np.nan), np.ones((1, 9))):
        with pytest.raises(InputError, match="finite rows"):
            make_gradient_basis(rows)


def test_a_random_subspace_keeps_its_share_of_the_dimensions_on_average():
    _, a, b, _ = _study(400)

    def run(values):
        return {"a": values}

    pairs = make_pairs(run(a), run(b), reference=run(a * 0))
    kept = [measure_kept(pairs, a, b, make_random_basis(3, 9, seed), run) for seed in range(40)]
    assert np.mean(kept) == pytest.approx(3 / 9, abs=0.02)
    assert measure_kept(pairs, a, b, make_random_basis(9, 9, 0), run) == pytest.approx(1)
    with pytest.raises(InputError, match="10 random directions of 9"):
        make_random_basis(10, 9, 0)
