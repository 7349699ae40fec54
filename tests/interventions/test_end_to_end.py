"""Training through the rest of a denoiser: exact gradients, losses that fall, what is refused."""

import pytest
import torch

from interp import load
from interp.errors import InputError, PointError, SAEError
from interp.interventions.end_to_end import (
    EndToEndConfig,
    end_to_end_terms,
    frozen,
    record_calls,
    train_end_to_end,
)
from interp.models import Generation, reading, to_rows
from interp.sae import SAE, Context, Crosscoder, ReLU, TopK, Transcoder

RECIPE = Generation(n=2, seed=50, steps=2, batch_size=2)
POINT, LATER = "mid_block.resnets.0", "mid_block.resnets.1"


@pytest.fixture(scope="module")
def model():
    import copy
    from typing import Any

    from diffusers.pipelines.ddpm.pipeline_ddpm import DDPMPipeline
    from diffusers.schedulers.scheduling_ddpm import DDPMScheduler

    from tests.models.tiny import ddpm_net

    unet: Any = copy.deepcopy(ddpm_net())
    return load(DDPMPipeline(unet, DDPMScheduler()))


@pytest.fixture(scope="module")
def recorded(model):
    return record_calls(model, RECIPE.batch(0, 2, n_classes=model.n_classes))


def _fitted(model, kind: type[SAE] = TopK, **settings):
    settings = settings or ({"k": 3} if kind is TopK else {})
    with reading(model, [POINT]) as reader:
        model.generate(RECIPE.batch(0, 2, n_classes=model.n_classes))
    rows = torch.cat([to_rows(r.value, model.points[POINT]).flatten(0, 1) for r in reader.calls])
    sae = kind(rows.shape[1], 24, **settings)
    sae.fit(rows.double().mean(0), rows.double().var(0))
    return sae


def _alive(sae) -> Context:
    return Context(torch.zeros(sae.n_latents, dtype=torch.bool))


def test_every_call_is_recorded_with_what_it_was_given(model, recorded):
    assert [(one.call, one.n) for one in recorded] == [(0, 2), (1, 2)]
    with torch.no_grad():
        again = model.root(*recorded[1].args, **recorded[1].kwargs).sample
    seen = []
    handle = model.root.register_forward_hook(
        lambda *given: seen.append(given[2]), with_kwargs=False
    )
    model.generate(RECIPE.batch(0, 2, n_classes=model.n_classes))
    handle.remove()
    found = seen[1].sample if hasattr(seen[1], "sample") else seen[1][0]
    assert (again == found).all()


def test_the_gradient_equals_finite_differences_in_float64(model, recorded):
    sae = _fitted(model).double()
    model.root.double()
    call = recorded[0]._replace(args=tuple(_double(a) for a in recorded[0].args))
    names = dict(sae.named_parameters())
    draws = torch.Generator().manual_seed(1)
    direction = {n: torch.randn(p.shape, generator=draws).double() for n, p in names.items()}

    def loss():
        terms = end_to_end_terms(model, sae, POINT, call, _alive(sae), (LATER,))
        return terms.output + terms.downstream

    try:
        with frozen(model):
            gradient = torch.autograd.grad(loss(), list(names.values()))
            slope = sum((g * v).sum() for g, v in zip(gradient, direction.values(), strict=True))
            ends = []
            for step in (1e-6, -1e-6):
                with torch.no_grad():
                    for name, parameter in names.items():
                        parameter += step * direction[name]
                    ends.append(loss())
                    for name, parameter in names.items():
                        parameter -= step * direction[name]
    finally:
        model.root.float()
    assert slope != 0
    torch.testing.assert_close(slope, (ends[0] - ends[1]) / 2e-6, rtol=1e-5, atol=1e-9)


def _double(value):
    return value.double() if torch.is_tensor(value) and value.is_floating_point() else value


def test_the_loss_falls_and_the_network_and_the_old_sae_stay(model):
    sae = _fitted(model)
    before = sae.digest, {k: v.clone() for k, v in model.root.state_dict().items()}
    config = EndToEndConfig(steps=24, lr=5e-3, downstream=(LATER,))
    found = train_end_to_end(model, sae, POINT, RECIPE, config)
    first, last = (sum(line["output"] for line in part) for part in (found.log[:6], found.log[-6:]))
    assert last < 0.7 * first
    assert len(found.log) == 24
    assert sae.digest == before[0] != found.sae.digest
    assert all((before[1][k] == v).all() for k, v in model.root.state_dict().items())
    assert all(p.requires_grad for p in model.root.parameters())
    assert found.sae.provenance["end_to_end"]["steps"] == 24
    assert len(found.sae.trained_units) == 4


def test_any_variant_is_trained_with_its_penalty(model):
    sae = _fitted(model, ReLU, l1=0.1)
    found = train_end_to_end(model, sae, POINT, RECIPE, EndToEndConfig(steps=2))
    assert all(line["penalty"] > 0 for line in found.log)
    assert found.sae.digest != sae.digest


def test_the_same_seed_gives_the_same_sae(model):
    sae, config = _fitted(model), EndToEndConfig(steps=3)
    runs = [train_end_to_end(model, sae, POINT, RECIPE, config) for _ in range(2)]
    assert runs[0].sae.digest == runs[1].sae.digest


def test_what_does_not_reconstruct_one_point_is_refused(model):
    d = model.points[POINT].width
    for sae in (Transcoder(d, 24, 3, d_out=5), Crosscoder(d, 24, 3, widths=(d - 2, 2))):
        with pytest.raises(SAEError, match="does not reconstruct one point's rows"):
            train_end_to_end(model, sae, POINT, RECIPE)


def test_an_sae_of_another_width_and_an_unknown_point_are_refused(model):
    with pytest.raises(SAEError, match="width 16 != SAE d_in 5"):
        train_end_to_end(model, TopK(5, 24, 3), POINT, RECIPE)
    with pytest.raises(PointError, match="nowhere"):
        train_end_to_end(model, TopK(16, 24, 3), "nowhere", RECIPE)


def test_networks_that_run_in_parts_are_refused():
    with pytest.raises(InputError, match="not its root as a whole"):
        record_calls(load("zoo:vae"), RECIPE.batch(0, 1))


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"steps": 0}, "must be positive"), ({"local": -1.0}, "must be at least 0")],
)
def test_impossible_settings_are_refused(settings, message):
    with pytest.raises(InputError, match=message):
        EndToEndConfig(**settings)
