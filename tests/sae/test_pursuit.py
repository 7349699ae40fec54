"""Matching pursuit against a loop over rows in float64, and its gradients against autograd."""

from itertools import pairwise

import pytest
import torch

from interp.errors import SAEError
from interp.sae import Context, pursuit
from interp.sae.losses import unit_rows
from interp.sae.pursuit import (
    Pursuit,
    choose_greedily,
    dead_pursuit_loss,
    merge_repeated,
    project_in_order,
)

D, M, K = 5, 17, 4


@pytest.fixture
def atoms():
    return unit_rows(M, D, 3).double()


@pytest.fixture
def rows(generator):
    return torch.randn(23, D, generator=generator, dtype=torch.float64)


def _loop(row, atoms, k):
    """Dense code of one row, by the definition."""
    code, residual = torch.zeros(len(atoms), dtype=row.dtype), row
    for _ in range(k):
        products = atoms @ residual
        best = int(products.argmax())
        value = products[best].clamp(min=0)
        code = code + torch.eye(len(atoms), dtype=row.dtype)[best] * value
        residual = residual - value * atoms[best]
    return code


def _sae(k: int = K) -> Pursuit:
    return Pursuit(D, M, k, seed=3).double()


def test_the_code_is_that_of_the_definition_row_by_row(atoms, rows):
    expected = torch.stack([_loop(row, atoms, K) for row in rows])
    torch.testing.assert_close(_sae().encode(rows).dense(), expected)


@pytest.mark.parametrize("limit", [0, 10**6])
def test_products_with_and_without_the_table_choose_the_same(atoms, rows, limit, monkeypatch):
    monkeypatch.setattr(pursuit, "MAX_GRAM", limit)
    chosen = choose_greedily(rows, atoms, K)
    values, residual = project_in_order(rows, atoms, chosen)
    expected = torch.stack([_loop(row, atoms, K) for row in rows])
    found = torch.zeros(len(rows), M, dtype=rows.dtype).scatter_add(1, chosen, values)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(residual, rows - expected @ atoms)


def test_more_steps_never_leave_more(rows):
    left = [(rows - _sae(k)(rows)).square().sum(dim=1) for k in (1, 2, 4, 8)]
    assert all((after <= before + 1e-12).all() for before, after in pairwise(left))


def test_a_latent_chosen_twice_has_one_value():
    values = torch.tensor([[3.0, 2.0, 1.0, 0.5]])
    indices = torch.tensor([[4, 2, 4, 2]])
    assert merge_repeated(values, indices).tolist() == [[4.0, 2.5, 0.0, 0.0]]


def test_repeats_happen_and_no_slot_pair_of_a_row_holds_the_same_latent(rows):
    code = _sae(12).encode(rows)
    assert code.indices is not None
    for latents, values in zip(code.indices, code.values, strict=True):
        active = latents[values > 0].tolist()
        assert len(set(active)) == len(active)
    chosen = choose_greedily(rows, unit_rows(M, D, 3).double(), 12)
    assert any(len(set(row)) < 12 for row in chosen.tolist())


def test_nothing_points_away_from_every_atom():
    sae = Pursuit(2, 1, 1).double()
    with torch.no_grad():
        sae.W_dec.copy_(torch.tensor([[1.0, 0.0]]))
    code = sae.encode(torch.tensor([[-2.0, 1.0], [3.0, 1.0]], dtype=torch.float64))
    assert code.values.tolist() == [[0.0], [3.0]]


def test_gradients_go_through_all_steps_as_in_the_loop(atoms, rows):
    sae = _sae()
    context = Context(torch.zeros(M, dtype=torch.bool))
    loss = sae.loss_terms(rows, context).reconstruction
    found = torch.autograd.grad(loss, [sae.W_dec, sae.b_dec])
    atoms, offset = atoms.clone().requires_grad_(), torch.zeros(D).double().requires_grad_()
    codes = torch.stack([_loop(row - offset, atoms, K) for row in rows])
    twin = (rows - offset - codes @ atoms).square().sum(dim=1).mean()
    torch.testing.assert_close(loss, twin)
    for mine, theirs in zip(found, torch.autograd.grad(twin, [atoms, offset]), strict=True):
        torch.testing.assert_close(mine, theirs)


def test_dead_atoms_pursue_what_is_left_and_learn_alone(atoms, rows):
    dead = torch.zeros(M, dtype=torch.bool)
    dead[[1, 5, 16]] = True
    atoms.requires_grad_()
    loss = dead_pursuit_loss(rows, atoms, dead, 2)
    expected = torch.stack([row - _loop(row, atoms[dead], 2) @ atoms[dead] for row in rows])
    torch.testing.assert_close(loss, expected.square().sum(dim=1).mean())
    (gradient,) = torch.autograd.grad(loss, [atoms])
    assert (gradient[~dead] == 0).all()
    assert (gradient[dead].abs().sum(dim=1) > 0).all()


def test_without_dead_atoms_the_aux_loss_is_an_exact_zero(atoms, rows):
    loss = dead_pursuit_loss(rows, atoms.requires_grad_(), torch.zeros(M, dtype=torch.bool), 2)
    assert loss.item() == 0
    assert not loss.requires_grad


@pytest.mark.parametrize(
    ("k", "aux_k", "message"), [(0, 0, r"k = 0 is not in 1\.\.17"), (2, -1, "aux_k = -1")]
)
def test_impossible_numbers_of_steps_are_refused(k, aux_k, message):
    with pytest.raises(SAEError, match=message):
        Pursuit(D, M, k, aux_k=aux_k)
