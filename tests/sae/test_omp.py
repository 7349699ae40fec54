"""Non-negative orthogonal matching pursuit against scipy's least squares, in float64."""

import pytest
import torch

from interp.sae import Context
from interp.sae.losses import unit_rows
from interp.sae.omp import OMP, choose_orthogonally, refit
from interp.sae.pursuit import Pursuit

D, M, K = 6, 20, 4


@pytest.fixture
def rows(generator):
    return torch.randn(31, D, generator=generator, dtype=torch.float64)


@pytest.fixture
def atoms():
    return unit_rows(M, D, 3).double()


def _sae(k: int = K) -> OMP:
    return OMP(D, M, k, seed=3).double()


def _loop(row, atoms, k):
    """Dense code of one row: a latent more per step, all values by scipy, the zeros leave."""
    from scipy.optimize import nnls

    support, code = [], torch.zeros(len(atoms), dtype=row.dtype)
    for _ in range(k):
        products = atoms @ (row - code @ atoms)
        products[support] = -torch.inf
        best = int(products.argmax())
        if products[best] <= 0:
            break
        support.append(best)
        values, _ = nnls(atoms[support].T.numpy(), row.numpy())
        code = torch.zeros(len(atoms), dtype=row.dtype)
        code[support] = torch.from_numpy(values)
        support = [latent for latent in support if code[latent] > 0]
    return code


@pytest.mark.parametrize("k", [1, 2, 4, 6, 9])
def test_the_code_is_that_of_the_definition_row_by_row(rows, atoms, k):
    expected = torch.stack([_loop(row, atoms, k) for row in rows])
    torch.testing.assert_close(_sae(k).encode(rows).dense(), expected)


def test_values_are_the_best_non_negative_ones_of_their_latents(rows, atoms):
    code = _sae().encode(rows)
    residual = rows - code.dense() @ atoms
    products = residual @ atoms.T
    active = code.dense() > 0
    torch.testing.assert_close(products[active], torch.zeros_like(products[active]))


def test_a_latent_that_would_turn_negative_leaves(rows, atoms):
    _, active = choose_orthogonally(rows, atoms, 6)
    left = ~active[:, :-1] & active.flip(1).cumsum(dim=1).flip(1)[:, 1:].bool()
    assert left.any(), "an empty slot before a positive one"
    expected = torch.stack([_loop(row, atoms, 6) for row in rows[left.any(dim=1)]])
    assert ((expected > 0).sum(dim=1) < 6).all()


def test_equal_atoms_and_empty_rows_do_no_harm(atoms):
    twice = torch.cat([atoms[:4], atoms[:4]]).float()
    rows = torch.cat([atoms[:2].float() * 3, torch.zeros(1, D)])
    chosen, active = choose_orthogonally(rows, twice, 4)
    values = refit(rows, twice, chosen, active)
    assert torch.isfinite(values).all()
    found = torch.zeros(3, 8).scatter_add(1, chosen, values) @ twice
    torch.testing.assert_close(found, rows, atol=1e-5, rtol=0)


def test_gradients_are_those_of_least_squares_on_the_chosen_latents(rows, atoms):
    sae = _sae()
    context = Context(torch.zeros(M, dtype=torch.bool))
    found = torch.autograd.grad(sae.loss_terms(rows, context).reconstruction, [sae.W_dec])[0]
    code = sae.encode(rows).dense().detach()
    atoms.requires_grad_()
    parts = []
    for row, values in zip(rows, code, strict=True):
        own = atoms[values > 0]
        parts.append(row - own.T @ torch.linalg.lstsq(own.T, row[:, None]).solution[:, 0])
    twin = torch.stack(parts).square().sum(dim=1).mean()
    torch.testing.assert_close(found, torch.autograd.grad(twin, [atoms])[0])


def test_values_pass_gradcheck_with_respect_to_rows_and_dictionary(rows, atoms):
    chosen, active = choose_orthogonally(rows[:4], atoms, K)

    def values(target, table):
        return refit(target, table, chosen, active)

    assert torch.autograd.gradcheck(values, [rows[:4].requires_grad_(), atoms.requires_grad_()])


def test_orthogonal_pursuit_leaves_no_more_than_plain_pursuit_of_the_same_steps(rows):
    plain = Pursuit(D, M, 2, seed=3).double()
    left = [(rows - sae(rows)).square().sum(dim=1) for sae in (_sae(2), plain)]
    assert (left[0] <= left[1] + 1e-12).all()
