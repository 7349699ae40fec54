"""The crosscoder: its sites' normalization, sparsity by decoder norms, shared latents found."""

import pytest
import torch

from interp.errors import SAEError
from interp.sae import SAE, Context, Crosscoder, TrainConfig, join, train
from tests.sae.stores import make_pair

WIDTHS, D, M, K = (4, 2, 3), 9, 24, 3


def _dead(*latents: int) -> torch.Tensor:
    dead = torch.zeros(M, dtype=torch.bool)
    dead[list(latents)] = True
    return dead


@pytest.fixture(params=["topk", "l1"])
def coder(request, generator) -> Crosscoder:
    sae = Crosscoder(D, M, K, widths=WIDTHS, sparsity=request.param, l1=0.1, aux_k=2).double()
    sae.fit(torch.linspace(-3, 3, D).double(), torch.linspace(0.5, 40, D).double())
    with torch.no_grad():
        for parameter in sae.parameters():
            parameter += 0.2 * torch.randn(parameter.shape, generator=generator).double()
    sae.after_step()
    return sae


@pytest.fixture
def x(generator):
    return 3 * torch.randn(40, D, generator=generator, dtype=torch.float64)


def test_every_site_has_an_equal_share_of_the_variance(coder, x):
    coder.fit(x.mean(0), x.var(0, unbiased=False))
    shares = [part.square().sum(1).mean() for part in coder.normalize(x).split(WIDTHS, dim=1)]
    assert [share.item() for share in shares] == [pytest.approx(1 / 3)] * 3


def test_the_loss_is_the_mean_of_the_sites_unexplained_variance(coder, x):
    coder.fit(x.mean(0), x.var(0, unbiased=False))
    loss = coder.loss_terms(x, Context(_dead())).reconstruction
    parts = zip(x.split(WIDTHS, dim=1), coder(x).split(WIDTHS, dim=1), strict=True)
    fvu = [(a - b).square().sum() / (a - a.mean(0)).square().sum() for a, b in parts]
    torch.testing.assert_close(loss, torch.stack(fvu).mean())


def test_the_code_is_the_definition(coder, x):
    z = coder.normalize(x)
    pre = ((z - coder.b_dec) @ coder.W_enc.T + coder.b_enc).relu()
    norms = torch.stack([part.norm(dim=1) for part in coder.W_dec.split(WIDTHS, dim=1)], dim=1)
    if coder.own.sparsity == "topk":
        weighted = pre * norms.sum(dim=1)
        pre = torch.where(weighted >= weighted.sort(descending=True).values[:, K - 1 : K], pre, 0.0)
    torch.testing.assert_close(coder.encode(x).dense(), pre)


def test_the_penalty_weights_every_latent_by_its_norms_over_sites(coder, x):
    context = Context(_dead(), progress=0.5)
    penalty = coder.loss_terms(x, context).penalty
    if coder.own.sparsity == "topk":
        assert penalty == 0
        return
    weight = sum(part.norm(dim=1) for part in coder.W_dec.split(WIDTHS, dim=1))
    torch.testing.assert_close(penalty, 0.1 * (coder.encode(x).values * weight).sum(1).mean())
    early = coder.loss_terms(x, Context(_dead(), progress=0.0125)).penalty
    torch.testing.assert_close(early, penalty / 4)


def test_losses_pass_gradcheck(coder, x):
    def loss(*_):
        terms = coder.loss_terms(x[:3], Context(_dead(), 0.5))
        return terms.reconstruction + terms.penalty

    assert torch.autograd.gradcheck(loss, list(coder.parameters()))


def test_relative_norms_tell_to_which_sites_a_latent_belongs(coder):
    with torch.no_grad():
        coder.W_dec[0] = torch.tensor([0, 0, 0, 0, 0.6, 0.8, 0, 0, 0])
        coder.W_dec[1] = torch.tensor([1.0, 0, 0, 0, 0, 1, 0, 0, 1])
    shares = coder.relative_norms()
    assert shares[0].tolist() == [0, 1, 0]
    assert shares[1].tolist() == [pytest.approx(1 / 3)] * 3
    torch.testing.assert_close(shares.sum(dim=1), torch.ones(M).double())


def test_saving_keeps_every_bit_and_the_widths(coder, tmp_path, x):
    sae = coder.float()
    loaded = SAE.load(sae.save(tmp_path))
    assert loaded.digest == sae.digest
    assert loaded.widths == WIDTHS
    assert (loaded(x.float()) == sae(x.float())).all()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"widths": (4, 4)}, r"widths \(4, 4\) add up to 8, not to d_in 9"),
        ({"widths": (9, 0)}, "must be positive"),
        ({"l1": -1.0}, "out of range"),
        ({"sparsity": "l0"}, "sparsity = 'l0'"),
    ],
)
def test_impossible_settings_are_refused(settings, message):
    with pytest.raises(SAEError, match=message):
        Crosscoder(D, M, K, **settings)


def test_a_constant_site_is_named():
    variance = torch.tensor([1.0, 1, 1, 1, 0, 0, 1, 1, 1]).double()
    with pytest.raises(SAEError, match=r"of site 1 are constant"):
        Crosscoder(D, M, K, widths=WIDTHS).fit(torch.zeros(D).double(), variance)


def test_the_default_penalty_is_relus_for_latents_that_all_sites_share():
    options = {"widths": [4, 5], "sparsity": "l1"}
    sae = Crosscoder.build(D, TrainConfig("crosscoder", M, 8, options=options))
    assert sae.spec()["l1"] == pytest.approx(0.3 / 4)


@pytest.mark.parametrize("sparsity", ["topk", "l1"])
def test_it_trains_on_two_points_of_a_store_and_knows_them(tmp_path, sparsity):
    store = make_pair(tmp_path / "store")
    settings = {"batch_size": 32, "steps": 150, "lr": 1e-2, "checkpoint_every": 0}
    config = TrainConfig("crosscoder", M, K, **settings, options={"sparsity": sparsity, "l1": 0.02})
    run = train(join([(store, "early"), (store, "late")]), config, out=tmp_path / "run")
    assert run.log[-1]["fvu"] < 0.3
    assert run.sae.widths == (6, 4)
    assert [site["point"]["name"] for site in run.sae.provenance["sites"]] == ["early", "late"]


def test_shared_and_private_atoms_are_told_apart(tmp_path):
    # Atoms 0-3 are in both sites, 4-7 in the first, 8-11 in the second.
    g = torch.Generator().manual_seed(0)
    atoms = torch.nn.functional.normalize(torch.randn(12, 2, 16, generator=g), dim=2)
    atoms[4:8, 1], atoms[8:, 0] = 0, 0
    active = (torch.rand(60 * 128, 12, generator=g) < 0.12) * (
        0.5 + torch.rand(60 * 128, 12, generator=g)
    )
    rows = torch.einsum("na,asd->nsd", active, atoms).reshape(60, 128, 32)
    options = {"widths": [16, 16]}
    settings = {"batch_size": 128, "steps": 300, "lr": 1e-2, "checkpoint_every": 0}
    config = TrainConfig("crosscoder", 12, 2, **settings, options=options)
    sae = train(list(rows) * 5, config, out=tmp_path).sae
    planted = torch.nn.functional.normalize(atoms.reshape(12, 32), dim=1)
    cosine, best = (planted @ sae.dictionary().detach().T).max(dim=1)
    assert (cosine > 0.9).sum() >= 10
    assert isinstance(sae, Crosscoder)
    shares = sae.relative_norms()[best, 0]
    good = cosine > 0.9
    assert ((shares[:4] - 0.5).abs() < 0.15)[good[:4]].all()
    assert (shares[4:8] > 0.85)[good[4:8]].all()
    assert (shares[8:] < 0.15)[good[8:]].all()
