"""Matryoshka: prefixes that reconstruct by themselves, at the price of one decoding."""

import pytest
import torch

from interp.errors import SAEError
from interp.sae import SAE, Code, Context, TrainConfig, train
from interp.sae.matryoshka import GROUPS, Matryoshka, group_sizes, prefix_errors
from interp.sae.synthetic import PlantedDictionary

D, M, K = 6, 24, 3
SIZES = (4, 8, 12)
NONE_DEAD = torch.zeros(M, dtype=torch.bool)


@pytest.fixture(params=["batchtopk", "topk"])
def sae(request, generator):
    sae = Matryoshka(D, M, K, groups=SIZES, selection=request.param)
    with torch.no_grad():
        for parameter in sae.parameters():
            parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
    sae.after_step()
    return sae.double()


@pytest.fixture
def x(generator):
    return torch.randn(40, D, generator=generator).double()


def _repeated_decoding(sae, code, z):
    """Mean squared error of each prefix, by one full decoding each: the definition."""
    dense, losses = code.dense(), []
    for stop in (4, 12, 24):
        estimate = dense[:, :stop] @ sae.W_dec[:stop] + sae.b_dec
        losses.append((z - estimate).square().sum(dim=1).mean())
    return torch.stack(losses)


def test_the_loss_is_the_mean_over_the_prefixes(sae, x):
    losses = sae.loss_terms(x, Context(NONE_DEAD))
    each = _repeated_decoding(sae, losses.code, sae.normalize(x))
    torch.testing.assert_close(losses.reconstruction + losses.penalty, each.mean())


def test_the_reported_reconstruction_is_that_of_the_whole_dictionary(sae, x):
    losses = sae.loss_terms(x, Context(NONE_DEAD))
    each = _repeated_decoding(sae, losses.code, sae.normalize(x))
    torch.testing.assert_close(losses.reconstruction, each[-1])


def test_gradients_equal_those_of_decoding_every_prefix_anew(sae, x):
    parameters = list(sae.parameters())
    losses = sae.loss_terms(x, Context(NONE_DEAD))
    z = sae.normalize(x)
    pre = (z - sae.b_dec) @ sae.W_enc.T + sae.b_enc
    code = Code(torch.where(losses.code.dense() > 0, pre, 0.0), None, M)
    twin = _repeated_decoding(sae, code, z).mean()
    found = torch.autograd.grad(losses.reconstruction + losses.penalty, parameters)
    for mine, theirs in zip(found, torch.autograd.grad(twin, parameters), strict=True):
        torch.testing.assert_close(mine, theirs)


def test_every_active_latent_is_decoded_once(generator):
    values = torch.rand(10, 4, generator=generator)
    indices = torch.rand(10, M, generator=generator).topk(4, dim=1).indices
    code = Code(values, indices, M)
    target, dictionary = torch.zeros(10, D), torch.eye(M)[:, :D]
    errors = prefix_errors(target, code, dictionary, SIZES)
    for error, stop in zip(errors, (4, 12, 24), strict=True):
        torch.testing.assert_close(error, -(code.dense()[:, :stop] @ dictionary[:stop]))


def test_a_prefix_without_an_active_latent_reconstructs_the_offset(sae, x):
    with torch.no_grad():
        sae.b_enc[:4] = -100
    losses = sae.loss_terms(x, Context(NONE_DEAD))
    z = sae.normalize(x)
    errors = prefix_errors(z - sae.b_dec, losses.code, sae.W_dec, SIZES)
    torch.testing.assert_close(errors[0], z - sae.b_dec)


def test_prefixes_decode_by_themselves_and_the_last_is_the_whole(sae, x):
    code = sae.encode(x)
    dense = Code(code.dense(), None, M)
    torch.testing.assert_close(sae.decode_prefix(code, 3), sae.decode(code))
    for n, stop in ((1, 4), (2, 12)):
        expected = code.dense()[:, :stop] @ sae.W_dec[:stop] + sae.b_dec
        torch.testing.assert_close(sae.decode_prefix(code, n), expected * sae.scale + sae.mean)
        torch.testing.assert_close(sae.decode_prefix(dense, n), sae.decode_prefix(code, n))
    with pytest.raises(SAEError, match=r"n_groups = 4 is not in 1\.\.3"):
        sae.decode_prefix(code, 4)


def test_groups_are_shares_or_sizes():
    assert group_sizes(GROUPS, 65536) == (2048, 4096, 8192, 16384, 34816)
    assert group_sizes(GROUPS, 512) == (16, 32, 64, 128, 272)
    assert sum(group_sizes((1 / 3, 1 / 3, 1 / 3), 100)) == 100
    assert group_sizes((1, 2, 4), 7) == (1, 2, 4)
    assert group_sizes((1,), 9) == (9,)


@pytest.mark.parametrize(
    ("groups", "message"),
    [
        ((4, 8), r"add up to 12: neither shares that make 1 nor sizes that make 24"),
        ((0.5, 0.4), "add up to 0.9"),
        ((), "must be positive sizes"),
        ((0.0, 1.0), "must be positive sizes"),
        ((0.001, 0.999), r"leave a group of 24 latents empty: \(0, 24\)"),
    ],
)
def test_groups_that_do_not_add_up_are_refused(groups, message):
    with pytest.raises(SAEError, match=message):
        Matryoshka(D, M, K, groups=groups)


def test_an_unknown_selection_is_refused():
    with pytest.raises(SAEError, match="selection = 'all' is neither batchtopk nor topk"):
        Matryoshka(D, M, K, groups=SIZES, selection="all")


def test_groups_and_threshold_are_saved_with_the_weights(x, tmp_path):
    sae = Matryoshka(D, M, K, groups=SIZES)
    sae.threshold.fill_(0.2)
    loaded = SAE.load(sae.save(tmp_path))
    assert isinstance(loaded, Matryoshka)
    assert loaded.groups == SIZES
    assert loaded.threshold == sae.threshold
    assert (loaded.encode(x.float()).dense() == sae.encode(x.float()).dense()).all()


def test_topk_selection_has_k_latents_in_each_row_and_no_threshold(x):
    sae = Matryoshka(D, M, K, groups=SIZES, selection="topk")
    assert sae.encode(x.float()).values.shape == (40, K)
    sae.loss_terms(x.float(), Context(NONE_DEAD))
    sae.after_step()
    assert sae.threshold == 0


@pytest.mark.slow
def test_the_first_group_explains_more_than_as_many_latents_of_a_plain_dictionary(tmp_path):
    data = PlantedDictionary(24, 16, 3, batch_size=128, steps=150)
    x, left = data.held_out(1000), {}
    for variant, options in (("matryoshka", {"groups": [6, 18]}), ("batchtopk", {})):
        config = TrainConfig(
            variant, 24, 3, batch_size=128, steps=150, lr=1e-2, checkpoint_every=0, options=options
        )
        sae = train(data, config, out=tmp_path / variant).sae
        dense = sae.encode(x).dense().detach()
        order = torch.arange(6) if variant == "matryoshka" else dense.sum(0).topk(6).indices
        best = torch.linalg.lstsq(dense[:, order], x - x.mean(0)).solution
        left[variant] = (x - x.mean(0) - dense[:, order] @ best).square().sum()
    assert left["matryoshka"] < left["batchtopk"]
