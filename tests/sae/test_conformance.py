"""What every variant in VARIANTS must do.

What does not apply to a variant is said by its class (`has_aux`, `unit_dictionary`, `encoders`,
`held`, `straight_through`) or by a literal table here, and then its opposite is tested.
"""

import pytest
import torch

from interp.errors import SAEError
from interp.sae import SAE, VARIANTS, Code, Context, TrainConfig, train
from interp.sae.synthetic import PlantedDictionary, recovery

D, M, K = 6, 24, 3
ALL = sorted(VARIANTS)
REVIVING = [name for name in ALL if VARIANTS[name].has_aux]
# Options of the small SAEs of this suite, beside aux_k = 4.
SMALL: dict[str, dict] = {}
# Parameters whose gradients are estimates, of variants with `straight_through`.
ESTIMATED = {"jumprelu": ("log_threshold",)}
# The bias that AuxK sees, where it is not b_enc.
AUX_BIAS = {"gated": "b_gate"}
# Variants whose loss of a row depends on the other rows of its batch.
BY_BATCH = {"batchtopk", "jumprelu", "matryoshka"}
# Options of the planted case, where the defaults are for longer runs.
# Matryoshka: the planted atoms know no hierarchy, so that the first group has room for them all.
PLANTED: dict[str, dict] = {"matryoshka": {"groups": [24, 8]}}
# Recovered atoms, FVU and dead latents that the benchmark dictionary must reach in 1500 steps.
# TopK: the best of eight libraries (.992, .1136, .002), all at rate 1e-3; ours is at its default,
# 2e-3: at 1e-3 it finds .98 of the atoms. ReLU: measured .988, .142, 0. The others, whose steps
# take longer, are judged on a small dictionary here, and all on eight dictionaries by
# `python -m benchmarks.run quality`.
BARS = {
    "relu": (0.97, 0.15, 0.005),
    "topk": (0.99, 0.115, 0.005),
}


def _build(variant: str, generator: torch.Generator) -> SAE:
    kind = VARIANTS[variant]
    options = {**({"aux_k": 4} if kind.has_aux else {}), **SMALL.get(variant, {})}
    sae = kind.build(D, TrainConfig(variant, M, K, options=options))
    sae.fit(torch.linspace(-3, 3, D).double(), torch.linspace(0.5, 2, D).double())
    with torch.no_grad():
        for parameter in sae.parameters():
            parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
    sae.after_step()
    return sae


@pytest.fixture(params=ALL)
def sae(request, generator) -> SAE:
    return _build(request.param, generator)


@pytest.fixture
def x(generator):
    return 3 * torch.randn(40, D, generator=generator)


def _dead(*latents: int, progress: float = 0.5) -> Context:
    dead = torch.zeros(M, dtype=torch.bool)
    dead[list(latents)] = True
    return Context(dead, progress)


def test_forward_is_decode_of_encode(sae, x):
    assert (sae(x) == sae.decode(sae.encode(x))).all()


def test_dense_and_sparse_decode_agree(sae, x):
    code = sae.encode(x)
    dense = Code(code.dense(), None, M)
    sparse = Code(*dense.values.sort(dim=1, descending=True), M)
    for other in (dense, sparse):
        torch.testing.assert_close(sae.decode(code), sae.decode(other))
    assert (sparse.fired() == dense.fired()).all()
    assert (code.fired() == dense.fired()).all()
    assert (code.fired() == (code.dense() > 0).any(0)).all()


def test_a_row_code_does_not_depend_on_other_rows(sae, x):
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(1))
    whole = sae.encode(x).dense()
    torch.testing.assert_close(sae.encode(x[order]).dense(), whole[order])
    torch.testing.assert_close(sae.encode(x[7:8]).dense(), whole[7:8])


def test_values_are_never_negative(sae, x):
    assert (sae.encode(x).values >= 0).all()


def test_raw_units_go_in_and_come_out(sae, x):
    z = sae.normalize(x)
    assert (z == (x - sae.mean) / sae.scale).all()
    torch.testing.assert_close(
        sae.decode(sae.encode(x)), sae.decode_normalized(sae.encode(x)) * sae.scale + sae.mean
    )


@pytest.mark.parametrize("term", ["reconstruction", "penalty"])
def test_a_loss_passes_gradcheck_in_float64(sae, x, term):
    sae, rows = sae.double(), x[:3].double()
    estimated = ESTIMATED.get(sae.variant, ())
    assert bool(estimated) == sae.straight_through
    held = {*estimated, *(sae.held if term == "penalty" else ())}
    free = [value for name, value in sae.named_parameters() if name not in held]
    assert free

    def loss(*_):
        return getattr(sae.loss_terms(rows, _dead()), term)

    # A penalty that is a plain 0 has no gradient to check.
    if loss().requires_grad:
        assert torch.autograd.gradcheck(loss, free)
    else:
        assert term == "penalty"
        assert loss() == 0


def test_the_code_passes_gradcheck_in_float64(sae, x):
    sae, rows = sae.double(), x[:3].double().requires_grad_()
    estimated = ESTIMATED.get(sae.variant, ())
    weights = [value for name, value in sae.named_parameters() if name not in estimated]
    assert torch.autograd.gradcheck(lambda rows, *_: sae.encode(rows).values, [rows, *weights])


@pytest.mark.parametrize("variant", REVIVING)
def test_aux_gradients_reach_the_encoder_rows_of_dead_latents_and_no_others(variant, x, generator):
    sae, context = _build(variant, generator), _dead(0, 3, 11, 17, 18, 23)
    losses = sae.loss_terms(x, context)
    names, parameters = zip(*sae.named_parameters(), strict=True)
    found = torch.autograd.grad(losses.aux, parameters, allow_unused=True)
    touched = set()
    for name, gradient in zip(names, found, strict=True):
        if gradient is None or gradient.shape[0] != M:
            assert gradient is None or (gradient == 0).all()
            continue
        per_latent = gradient.reshape(M, -1).abs().sum(1)
        assert (per_latent[~context.dead] == 0).all()
        assert (per_latent[context.dead] > 0).all()
        touched.add(name)
    assert touched >= ({*sae.encoders, "W_dec"} & {*names})
    assert touched


def test_a_variant_without_aux_has_none_and_refuses_it(x, generator):
    for variant in sorted(set(ALL) - set(REVIVING)):
        losses = _build(variant, generator).loss_terms(x, _dead(0, 3, 11))
        assert losses.aux.item() == 0
        assert not losses.aux.requires_grad
        with pytest.raises(SAEError, match="aux_k"):
            VARIANTS[variant].build(D, TrainConfig(variant, M, K, options={"aux_k": 4}))


@pytest.mark.parametrize("variant", [v for v in REVIVING if VARIANTS[v].encoders == ("W_enc",)])
def test_aux_gradient_equals_that_of_a_dense_twin(variant, x, generator):
    sae, context = _build(variant, generator).double(), _dead(0, 3, 11, 17, 18, 23)
    rows, bias = x.double(), sae.get_parameter(AUX_BIAS.get(variant, "b_enc"))
    parameters = [sae.W_enc, bias, sae.W_dec]
    losses = sae.loss_terms(rows, context)
    found = torch.autograd.grad(losses.aux, parameters)
    z = sae.normalize(rows)
    residual = (z - sae.decode_normalized(losses.code)).detach()
    pre = z @ sae.W_enc.T + bias - sae.W_enc @ sae.b_dec.detach()
    pre = torch.where(context.dead, pre, -torch.inf)
    kept = pre >= pre.sort(dim=1, descending=True).values[:, 3:4]
    estimate = torch.where(kept, pre.relu(), 0.0) @ sae.W_dec
    twin = (residual - estimate).square().sum(1).mean()
    for mine, theirs in zip(found, torch.autograd.grad(twin, parameters), strict=True):
        torch.testing.assert_close(mine, theirs)


def test_without_dead_latents_aux_is_zero(sae, x):
    losses = sae.loss_terms(x, _dead())
    assert losses.aux.item() == 0
    assert not losses.aux.requires_grad


def test_reconstruction_loss_is_the_fraction_of_variance_unexplained(sae, x):
    sae.fit(x.double().mean(0), x.double().var(0, unbiased=False))
    losses = sae.loss_terms(x, _dead())
    error = (x - sae.decode(losses.code)).square().sum() / (x - x.mean(0)).square().sum()
    torch.testing.assert_close(losses.reconstruction, error)


def test_losses_of_rows_are_the_means_of_those_of_halves_unless_the_batch_decides(sae, x):
    sae, rows = sae.double(), x.double()
    whole, *halves = (sae.loss_terms(part, _dead(0, 3)) for part in (rows, rows[:20], rows[20:]))
    means = [sum(term) / 2 for term in zip(*(half[:3] for half in halves), strict=True)]
    equal = [torch.allclose(w, m, rtol=1e-10) for w, m in zip(whole[:3], means, strict=True)]
    assert all(equal) == (sae.variant not in BY_BATCH)


def test_dictionary_rows_stay_on_the_unit_sphere_where_the_class_says_so(sae, x):
    optimizer = torch.optim.Adam(sae.parameters(), lr=0.1)
    losses = sae.loss_terms(x, _dead())
    losses.reconstruction.backward()
    sae.before_step()
    if sae.unit_dictionary:
        along = (sae.dictionary().grad * sae.dictionary()).sum(1)
        torch.testing.assert_close(along, torch.zeros(M), atol=1e-5, rtol=0)
    optimizer.step()
    sae.after_step()
    found = torch.allclose(sae.dictionary().norm(dim=1), torch.ones(M))
    assert found == sae.unit_dictionary


def test_the_spec_rebuilds_the_same_sae(sae):
    again = type(sae)(**sae.spec())
    assert again.spec() == sae.spec()
    assert {k: v.shape for k, v in again.state_dict().items()} == {
        k: v.shape for k, v in sae.state_dict().items()
    }


def test_saving_and_loading_keeps_every_bit(sae, x, tmp_path):
    sae.provenance = {"point": {"name": "mid"}, "recipe": {"k": K}, "model": {}}
    sae.trained_units = torch.tensor([-5, 9])
    loaded = SAE.load(sae.save(tmp_path))
    assert type(loaded) is type(sae)
    assert loaded.digest == sae.digest
    assert loaded.provenance == sae.provenance
    assert loaded.trained_units.tolist() == [-5, 9]
    assert (loaded(x) == sae(x)).all()
    assert all(parameter.requires_grad for parameter in loaded.parameters())


def test_the_same_seed_gives_the_same_sae_and_leaves_the_global_generator_alone(sae):
    state = torch.get_rng_state()
    again, other = type(sae)(**sae.spec()), type(sae)(**{**sae.spec(), "seed": 5})
    assert (torch.get_rng_state() == state).all()
    first = type(sae)(**sae.spec())
    assert first.digest == again.digest != other.digest


def test_rows_of_another_width_are_refused(sae):
    sae.provenance = {"point": {"name": "mid"}}
    with pytest.raises(SAEError, match=r"\(4, 9\) do not fit d_in 6 of the SAE trained on 'mid'"):
        sae.encode(torch.zeros(4, 9))


def test_a_code_of_another_size_is_refused(sae):
    with pytest.raises(SAEError, match="code has 7 latents, the SAE 24"):
        sae.decode(Code(torch.zeros(2, 7), None, 7))


@pytest.mark.parametrize(
    ("mean", "variance", "message"),
    [
        (torch.zeros(5), torch.ones(5), "do not fit d_in 6"),
        (torch.full((6,), torch.nan), torch.ones(6), "not finite"),
        (torch.zeros(6), torch.zeros(6), "constant"),
    ],
)
def test_unusable_statistics_are_refused(sae, mean, variance, message):
    with pytest.raises(SAEError, match=message):
        sae.fit(mean, variance)


@pytest.mark.parametrize("variant", ALL)
def test_a_small_planted_dictionary_is_recovered(variant, tmp_path):
    data = PlantedDictionary(20, 16, 2, batch_size=128, steps=300)
    settings = {"batch_size": 128, "steps": 300, "lr": 1e-2, "checkpoint_every": 0}
    config = TrainConfig(variant, 32, 2, **settings, options=PLANTED.get(variant, {}))
    sae = train(data, config, out=tmp_path).sae
    assert recovery(sae.dictionary().detach(), data.atoms).recovered >= 0.9


@pytest.mark.slow
@pytest.mark.parametrize("variant", BARS)
def test_the_benchmark_dictionary_is_recovered(variant, tmp_path):
    data = PlantedDictionary()
    sae = train(data, TrainConfig(variant, 512, 8, checkpoint_every=0), out=tmp_path).sae
    x = data.held_out()
    with torch.no_grad():
        code = sae.encode(x)
        fvu = (x - sae.decode(code)).square().sum() / (x - x.mean(0)).square().sum()
    recovered, most_fvu, most_dead = BARS[variant]
    assert recovery(sae.dictionary().detach(), data.atoms).recovered >= recovered
    assert fvu <= most_fvu
    assert (~code.fired()).double().mean() <= most_dead
