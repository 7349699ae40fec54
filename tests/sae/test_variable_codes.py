"""Codes in which rows have different numbers of latents, through everything that reads codes."""

import numpy as np
import pytest
import torch
from interp_kernels import CSR

from interp.dashboards import build_dashboard
from interp.features import describe
from interp.sae import BatchTopK, Code, JumpReLU, Matryoshka, evaluate
from interp.sae.ragged import Entries, code_of, encode_entries, entries_of, pad, positive
from tests.features.twin import brute_force, make_store

D, M, K = 8, 64, 3


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return make_store(tmp_path_factory.mktemp("store"))


@pytest.fixture(scope="module", params=["batchtopk", "jumprelu", "matryoshka", "dense"])
def sae(request, store):
    made = {
        "batchtopk": lambda: BatchTopK(D, M, K),
        "jumprelu": lambda: JumpReLU(D, M, float(K)),
        "matryoshka": lambda: Matryoshka(D, M, K, groups=(8, 56)),
        # So many latents are active that the code is dense.
        "dense": lambda: BatchTopK(D, M, K),
    }
    sae = made[request.param]()
    statistics = store.statistics("mid")
    sae.fit(statistics.mean, statistics.var)
    with torch.no_grad():
        if request.param in ("batchtopk", "matryoshka"):
            sae.threshold.fill_(0.6)
        sae.b_enc[7] = -100
    code = sae.encode(store.rows("mid").float())
    numbers = (code.dense() > 0).sum(dim=1)
    assert len(numbers.unique()) > 3, "rows differ in their number of latents"
    assert (code.indices is None) == (request.param == "dense")
    return sae


def test_describe_equals_its_twin_on_dense_codes(sae, store):
    features = describe(sae, store, "mid", n_top=4, n_quantile=4, n_random=4, umap=False, seed=3)
    twin = brute_force(sae, store, "mid", n_top=4, seed=3)
    for name in ("density", "mean_active", "maximum", "dead", "profile_calls", "category_profile"):
        found, expected = getattr(features, name), getattr(twin, name)
        np.testing.assert_allclose(found, expected, rtol=2e-6, atol=1e-7)
    assert features.dead[7]
    assert features.histogram.sum() == (twin.code > 0).sum()


def test_evaluate_counts_the_latents_of_each_row(sae, store):
    found = evaluate(sae, store, "mid", allow_train=True, baselines=False)
    x = store.rows("mid").float()
    with torch.no_grad():
        code = Code(sae.encode(x).dense(), None, M)
        error = (x - sae.decode(code)).double().square().sum()
    spread = (x.double() - x.double().mean(dim=0)).square().sum()
    assert found.l0 == pytest.approx(float((code.values > 0).sum() / len(x)), rel=1e-6)
    assert found.fvu == pytest.approx(float(error / spread), rel=1e-5)
    assert found.dead == pytest.approx(float((~code.fired()).double().mean()))
    assert all(0 <= call.l0 <= M for call in found.per_call)


def test_baselines_take_the_mean_number_of_latents(sae, store):
    found = evaluate(sae, store, "mid", allow_train=True)
    assert {one.k for one in found.baselines} == {max(1, round(found.l0))}


def test_a_dashboard_is_built_from_its_features(sae, store, tmp_path):
    features = describe(sae, store, "mid", n_top=2, n_quantile=4, n_random=2, umap=False)
    found = evaluate(sae, store, "mid", allow_train=True, baselines=False)
    page = build_dashboard(tmp_path, [features], [store], evaluations=[found])
    assert page.exists()


@pytest.mark.parametrize("kind", ["batchtopk", "jumprelu"])
def test_a_model_runs_on_its_reconstructions(kind):
    from interp import load
    from interp.interventions import substitute
    from interp.models import Generation, reading, to_rows

    gan, recipe = load("zoo:gan"), Generation(n=2, seed=50, steps=2, batch_size=2)
    with reading(gan, ["w"]) as reader:
        gan.generate(recipe.batch(0, 2, n_classes=gan.n_classes))
    rows = torch.cat([to_rows(r.value, gan.points["w"]).flatten(0, 1) for r in reader.calls])
    d = rows.shape[1]
    sae = BatchTopK(d, 2 * d, 4) if kind == "batchtopk" else JumpReLU(d, 2 * d, 4.0)
    sae.fit(rows.double().mean(0), rows.double().var(0))
    found = substitute(gan, sae, "w", recipe)
    assert found.identity == 0
    assert np.isfinite(found.damage)
    assert found.damage > 0


def test_padding_keeps_every_entry_in_its_row(generator):
    dense = torch.randn(9, 12, generator=generator).relu()
    dense[4] = 0
    rows, latents = dense.nonzero(as_tuple=True)
    values, indices = pad(Entries(rows, latents, dense[rows, latents]), 9)
    assert values.shape[1] == (dense > 0).sum(dim=1).max()
    assert (Code(values, indices, 12).dense() == dense).all()
    assert pad(Entries(rows[:0], latents[:0], values.flatten()[:0]), 9)[0].shape == (9, 1)
    assert pad(Entries(rows[:0], latents[:0], values.flatten()[:0]), 0)[0].shape == (0, 1)


def test_padded_values_pass_their_gradient_to_the_entries(generator):
    dense = torch.randn(5, 12, generator=generator).relu()
    rows, latents = dense.nonzero(as_tuple=True)
    values = dense[rows, latents].double().requires_grad_()

    def padded(values):
        return pad(Entries(rows, latents, values), 5)[0]

    assert torch.autograd.gradcheck(padded, [values])


def test_a_code_is_dense_where_that_takes_less_memory(generator):
    rows, latents = torch.arange(4), torch.zeros(4, dtype=torch.int64)
    few = code_of(Entries(rows, latents, torch.ones(4)), 4, 12)
    assert few.indices is not None
    many = torch.rand(4, 12, generator=generator)
    rows, latents = many.nonzero(as_tuple=True)
    code = code_of(Entries(rows, latents, many.flatten()), 4, 12)
    assert code.indices is None
    assert (code.values == many).all()


def test_entries_of_a_csr_code_know_their_rows():
    found = entries_of(CSR(torch.tensor([0, 2, 2, 3]), torch.tensor([1, 4, 0]), torch.arange(3.0)))
    assert found.rows.tolist() == [0, 0, 2]
    assert positive(found).latents.tolist() == [4, 0]


@pytest.mark.parametrize("backend", ["dense", "eager"])
def test_selected_values_have_the_gradient_of_their_product(generator, backend):
    from interp_kernels import using_backend

    z, weight = (torch.randn(n, 5, generator=generator).double() for n in (6, 30))
    bias = torch.randn(30, generator=generator).double()
    given = [tensor.requires_grad_() for tensor in (z, weight, bias)]
    with torch.no_grad():
        pre = z @ weight.T + bias
        rows, latents = (pre > 1.5).nonzero(as_tuple=True)
        values, indices = pad(Entries(rows, latents, pre[rows, latents]), 6)
    with using_backend(backend):
        found = encode_entries(z, weight, bias, values, indices)
        upstream = torch.randn(found.shape, generator=generator).double()
        mine = torch.autograd.grad((found * upstream).sum(), given)
    twin = (z @ weight.T + bias).gather(1, indices) * (values > 0)
    theirs = torch.autograd.grad((twin * upstream).sum(), given)
    for one, other in zip(mine, theirs, strict=True):
        torch.testing.assert_close(one, other)
