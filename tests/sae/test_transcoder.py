"""The transcoder: two normalizations, the skip, its losses against a dense twin, training."""

import pytest
import torch

from interp.errors import SAEError
from interp.sae import SAE, Context, TrainConfig, train
from interp.sae.joined import join
from interp.sae.transcoder import Transcoder, aux_transcoder_loss
from tests.sae.stores import make_pair

D, E, M, K = 6, 4, 24, 3


def _dead(*latents: int) -> torch.Tensor:
    dead = torch.zeros(M, dtype=torch.bool)
    dead[list(latents)] = True
    return dead


@pytest.fixture(params=[False, True], ids=["plain", "skip"])
def coder(request, generator) -> Transcoder:
    sae = Transcoder(D, M, K, d_out=E, skip=request.param, aux_k=2).double()
    ones = torch.ones(E).double()
    sae.fit(torch.linspace(-3, 3, D).double(), torch.ones(D).double(), 5 * ones, 4 * ones)
    with torch.no_grad():
        for parameter in sae.parameters():
            parameter += 0.1 * torch.randn(parameter.shape, generator=generator).double()
    sae.after_step()
    return sae


@pytest.fixture
def rows(generator):
    x = 3 * torch.randn(40, D, generator=generator, dtype=torch.float64)
    return x, torch.randn(40, E, generator=generator, dtype=torch.float64) + 5


def test_the_output_is_the_definition_in_raw_units_of_the_target(coder, rows):
    x, _ = rows
    z = (x - coder.mean) / coder.scale
    out = coder.encode(x).dense() @ coder.W_dec + coder.b_dec
    if coder.skip:
        out = out + z @ coder.W_skip.T
    torch.testing.assert_close(coder(x), coder.target_mean + coder.target_scale * out)
    assert coder(x).shape == (40, E)


def test_input_and_target_have_their_own_normalization(coder):
    assert coder.scale.item() == pytest.approx(D**0.5)
    assert coder.target_scale.item() == pytest.approx((4 * E) ** 0.5)
    assert coder.target_mean.tolist() == [5] * E


def test_the_loss_is_the_share_of_the_targets_variance(coder, rows):
    x, y = rows
    coder.fit(x.mean(0), x.var(0, unbiased=False), y.mean(0), y.var(0, unbiased=False))
    loss = coder.loss_terms(x, Context(_dead(), target=y)).reconstruction
    torch.testing.assert_close(loss, (y - coder(x)).square().sum() / (y - y.mean(0)).square().sum())


def test_losses_pass_gradcheck(coder, rows):
    x, y = (part[:3] for part in rows)

    def loss(*_):
        return coder.loss_terms(x, Context(_dead(), target=y)).reconstruction

    assert torch.autograd.gradcheck(loss, list(coder.parameters()))


def test_aux_reaches_dead_rows_of_both_spaces_and_equals_its_definition(coder, rows):
    x, y = rows
    dead = _dead(0, 3, 17)
    losses = coder.loss_terms(x, Context(dead, target=y))
    weights = [coder.W_enc, coder.b_enc, coder.W_dec]
    found = torch.autograd.grad(losses.aux, weights)
    residual = (coder.normalize_target(y) - coder.normalize_target(coder(x))).detach()
    pre = coder.normalize(x) @ coder.W_enc.T + coder.b_enc
    pre = torch.where(dead, pre, -torch.inf)
    kept = pre >= pre.sort(dim=1, descending=True).values[:, 1:2]
    twin = (residual - torch.where(kept, pre.relu(), 0.0) @ coder.W_dec).square().sum(1).mean()
    torch.testing.assert_close(losses.aux, twin)
    for mine, theirs in zip(found, torch.autograd.grad(twin, weights), strict=True):
        torch.testing.assert_close(mine, theirs)
        assert (mine[~dead] == 0).all()
        assert (mine[dead] != 0).any(dim=-1).all()


def test_aux_takes_no_more_latents_than_are_dead(generator):
    normal = [torch.randn(5, 3, generator=generator), torch.randn(5, 2, generator=generator)]
    encoder, bias, decoder = torch.randn(M, 3), torch.zeros(M), torch.randn(M, 2)
    x, residual = normal
    loss = aux_transcoder_loss(x, residual, encoder, bias, decoder, _dead(2), 100)
    assert torch.isfinite(loss)


def test_without_a_target_the_input_is_the_target(rows):
    x, _ = rows
    sae = Transcoder(D, M, K)
    sae.fit(x.mean(0), x.var(0, unbiased=False))
    x = x.float()
    loss = sae.loss_terms(x, Context(_dead())).reconstruction
    torch.testing.assert_close(loss, (x - sae(x)).square().sum() / (x - x.mean(0)).square().sum())


def test_the_skip_starts_at_zero_and_saving_keeps_every_bit(tmp_path, rows):
    sae = Transcoder(D, M, K, d_out=E, skip=True)
    assert (sae.W_skip == 0).all()
    ones = torch.ones(E).double()
    sae.fit(torch.zeros(D).double(), torch.ones(D).double(), ones, ones)
    loaded = SAE.load(sae.save(tmp_path))
    assert loaded.digest == sae.digest
    assert (loaded(rows[0].float()) == sae(rows[0].float())).all()
    assert loaded.d_out == E


def test_a_target_of_another_width_is_refused(coder, rows):
    with pytest.raises(SAEError, match=r"\(40, 6\) do not fit d_out 4"):
        coder.loss_terms(rows[0], Context(_dead(), target=rows[0]))


def test_constant_targets_are_refused():
    ones = torch.ones(E).double()
    with pytest.raises(SAEError, match=r"target.* constant"):
        Transcoder(D, M, K, d_out=E).fit(
            torch.zeros(D).double(), torch.ones(D).double(), ones, 0 * ones
        )


SETTINGS = {"batch_size": 32, "steps": 120, "lr": 1e-2, "checkpoint_every": 50}


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return make_pair(tmp_path_factory.mktemp("pair"))


def test_it_trains_on_two_points_of_a_store_and_knows_them(store, tmp_path):
    config = TrainConfig("transcoder", M, K, **SETTINGS)
    run = train(join([(store, "early"), (store, "late")]), config, out=tmp_path)
    sae = run.sae
    assert (sae.d_in, sae.d_out) == (6, 4)
    assert sae.point == store.points["early"].as_dict()
    assert sae.provenance["target"] == store.points["late"].as_dict()
    assert run.log[-1]["fvu"] < 0.5 * run.log[0]["fvu"]
    assert len(sae.trained_units) > 0


def test_the_skip_takes_what_is_linear(store, tmp_path):
    fvu = {}
    for skip in (False, True):
        config = TrainConfig("transcoder", M, 1, **SETTINGS, options={"skip": skip})
        run = train(join([(store, "early"), (store, "late")]), config, out=tmp_path / str(skip))
        fvu[skip] = run.log[-1]["fvu"]
    assert fvu[True] < 0.7 * fvu[False]


def test_one_point_is_not_enough(store, tmp_path):
    with pytest.raises(SAEError, match="transcoder reads two points"):
        train(store, TrainConfig("transcoder", M, K, **SETTINGS), point="early", out=tmp_path)
    pair = join([(store, "early"), (store, "late")])
    with pytest.raises(SAEError, match="topk reads one point"):
        train(pair, TrainConfig("topk", M, K, **SETTINGS), out=tmp_path)
