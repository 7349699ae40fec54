"""The gate: its ends, its distances, and what it refuses, on the zoo's small models."""

import math

import pytest
import torch

from interp import load
from interp.errors import InputError, PointError, SAEError
from interp.interventions import (
    low_pass_distance,
    rms_distance,
    substitute,
    substitute_beside,
)
from interp.interventions.substitute import ablation
from interp.models import Generation, reading, to_rows
from interp.sae import SAE, Code, TopK
from interp.sae.split import unit_hash

RECIPE = Generation(n=3, seed=50, steps=2, batch_size=2)


@pytest.fixture(scope="module")
def gan():
    return load("zoo:gan")


@pytest.fixture(scope="module")
def ddpm():
    return load("zoo:ddpm")


@pytest.fixture(scope="module")
def vae():
    return load("zoo:vae")


def _fitted(model, point: str, source) -> SAE:
    """A small SAE, centered on the point's rows."""
    with reading(model, [point]) as reader:
        source(model)
    rows = torch.cat([to_rows(r.value, model.points[point]).flatten(0, 1) for r in reader.calls])
    sae = TopK(rows.shape[1], 32, 4)
    sae.fit(rows.double().mean(0), rows.double().var(0))
    return sae


def _generate(model):
    model.generate(RECIPE.batch(0, 2, n_classes=model.n_classes))


class Perfect(TopK):
    """An SAE that reconstructs everything: two latents, plus and minus, per coordinate."""

    def __init__(self, d: int) -> None:
        super().__init__(d, 2 * d, d)

    def encode(self, x):
        z = self.normalize(x)
        return Code(torch.cat([z.relu(), (-z).relu()], dim=1), None, self.n_latents)

    def dictionary(self):
        eye = torch.eye(self.d_in)
        return torch.cat([eye, -eye])


def _perfect(sae: SAE) -> SAE:
    perfect = Perfect(sae.d_in)
    perfect.load_state_dict({**perfect.state_dict(), "mean": sae.mean, "scale": sae.scale})
    return perfect


def _empty(sae: SAE) -> SAE:
    """The same SAE with biases so low that no latent fires: it returns the mean."""
    with torch.no_grad():
        sae.b_enc.fill_(-1e6)
    return sae


@pytest.mark.parametrize("point", ["w", "w_plus.2", "s.3"])
def test_the_ends_are_zero_and_one_on_a_gan(gan, point):
    sae = _fitted(gan, point, _generate)
    perfect = substitute(gan, _perfect(sae), point, RECIPE)
    assert perfect.identity == 0
    assert perfect.damage == pytest.approx(0, abs=0.02)
    assert substitute(gan, _empty(sae), point, RECIPE).damage == pytest.approx(1, abs=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("suffix", ["", ":delta"])
def test_the_ends_are_zero_and_one_in_every_call_of_a_unet(ddpm, suffix):
    name = next(n for n in ddpm.points if n.endswith(":delta")).removesuffix(":delta") + suffix
    sae = _fitted(ddpm, name, _generate)
    perfect = substitute(ddpm, _perfect(sae), name, RECIPE)
    assert (perfect.identity, perfect.n) == (0, 3)
    assert perfect.damage == pytest.approx(0, abs=0.02)
    assert substitute(ddpm, _empty(sae), name, RECIPE).damage == pytest.approx(1, abs=1e-6)


@pytest.mark.slow
def test_a_window_of_calls_edits_those_calls_only(ddpm):
    point = "mid_block.resnets.0"
    sae = _fitted(ddpm, point, _generate)
    seen = []
    forward = sae.forward

    def spy(x):
        seen.append(len(x))
        return forward(x)

    sae.forward = spy
    late = substitute(ddpm, sae, point, RECIPE, calls=range(1, 2))
    assert len(seen) == 2, "one call in each of two batches"
    whole = substitute(ddpm, sae, point, RECIPE)
    assert len(seen) == 2 + 4
    assert late.reconstruction < whole.reconstruction
    with pytest.raises(PointError, match="no edit took place"):
        substitute(ddpm, sae, point, RECIPE, calls=range(9, 10))


def _pictures(n: int = 3):
    return torch.randint(
        0, 256, (n, 32, 32, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )


def test_the_ends_are_zero_and_one_on_reconstructions(vae):
    from interp.models import EncodeBatch

    sae = _fitted(vae, "code", lambda model: model.encode(EncodeBatch(_pictures())))
    perfect = substitute(vae, _perfect(sae), "code", _pictures(), batch_size=2)
    assert perfect.identity == 0
    assert perfect.damage == pytest.approx(0, abs=0.02)
    assert substitute(vae, _empty(sae), "code", _pictures()).damage == pytest.approx(1, abs=1e-6)


@pytest.fixture(scope="module")
def w_sae(gan):
    return _fitted(gan, "w", _generate)


def test_the_record_holds_each_image_and_its_sums(gan, w_sae):
    found = substitute(gan, w_sae, "w", RECIPE)
    assert len(found.per_image) == len(found.per_image_ablation) == found.n == 3
    assert found.damage == pytest.approx(sum(found.per_image) / sum(found.per_image_ablation))
    assert found.low < found.damage < found.high
    assert (found.point, found.sae) == ("w", w_sae.digest)
    assert found.distance == "rms_distance"


def test_a_distance_of_the_user_is_used(gan, w_sae):
    def channel_mean(x, y):
        return (x.double().mean((1, 2)) - y.double().mean((1, 2))).norm(dim=1)

    assert substitute(gan, w_sae, "w", RECIPE, distance=channel_mean).distance == "channel_mean"


def test_a_distance_of_the_wrong_shape_is_refused(gan, w_sae):
    with pytest.raises(InputError, match=r"the distance gave \(\) for 2 images"):
        substitute(gan, w_sae, "w", RECIPE, distance=lambda x, y: torch.zeros(()))


def test_one_image_has_no_interval(gan, w_sae):
    found = substitute(gan, w_sae, "w", Generation(n=1, seed=9))
    assert found.low is None
    assert found.high is None


def test_seeds_of_trained_images_are_refused_with_the_way_out(gan, w_sae):
    trained = TopK(w_sae.d_in, 32, 4)
    trained.fit(w_sae.mean, torch.ones(w_sae.d_in))
    trained.trained_units = torch.tensor(
        [unit_hash("image", f"{gan.identity()['weights_sha256'][:12]}@seed51")]
    )
    with pytest.raises(SAEError, match=r"1 of the 3 seeds, such as 51: .* allow_train=True"):
        substitute(gan, trained, "w", RECIPE)
    assert substitute(gan, trained, "w", RECIPE, allow_train=True).n == 3


def test_an_sae_of_another_point_model_or_width_is_refused(gan):
    sae = TopK(7, 32, 4)
    with pytest.raises(SAEError, match=r"width \d+ != SAE d_in 7 at w"):
        substitute(gan, sae, "w", RECIPE)
    sae = TopK(gan.points["w"].width, 32, 4)
    sae.provenance = {"point": {"name": "z"}}
    with pytest.raises(SAEError, match="trained on z, not on w"):
        substitute(gan, sae, "w", RECIPE)
    sae.provenance = {"point": {"name": "w"}, "model": {"spec": "x", "weights_sha256": "0" * 64}}
    with pytest.raises(SAEError, match="trained on x with weights 000000000000"):
        substitute(gan, sae, "w", RECIPE)


def test_an_unknown_point_is_refused(gan, w_sae):
    with pytest.raises(PointError, match="closest"):
        substitute(gan, w_sae, "ww", RECIPE)


def test_the_model_is_left_as_it_was(gan, w_sae):
    batch = RECIPE.batch(0, 2, n_classes=gan.n_classes)
    before = gan.generate(batch)
    substitute(gan, w_sae, "w", RECIPE)
    assert (gan.generate(batch) == before).all()
    assert w_sae.mean.device.type == "cpu"


def test_rms_distance_is_that_of_pixels_in_0_to_1():
    x = torch.zeros(2, 4, 4, 3, dtype=torch.uint8)
    y = x.clone()
    y[1] = 255
    y[0, 0, 0] = 51
    assert rms_distance(x, y).tolist() == pytest.approx([math.sqrt(0.04 / 16), 1.0])


def test_low_pass_distance_ignores_what_averages_out():
    x = torch.full((1, 6, 8, 3), 100, dtype=torch.uint8)
    y = x.clone()
    y[:, ::2], y[:, 1::2] = 120, 80
    assert low_pass_distance(x, y).tolist() == [0.0]
    assert low_pass_distance(x, x + 51).tolist() == pytest.approx([0.2])


# Beside other codes


def test_every_code_is_measured_on_the_same_images_and_scale(gan):
    sae = _fitted(gan, "w", _generate)
    second, d = TopK(sae.d_in, 32, 4, seed=1), sae.d_in
    second.load_state_dict({**second.state_dict(), "mean": sae.mean, "scale": sae.scale})
    rows = torch.randn(3 * d, d, generator=torch.Generator().manual_seed(0)) + sae.mean
    twin = load("zoo:gan", untrained=True)
    other = _perfect(_fitted(twin, "w", _generate))
    found = substitute_beside(gan, sae, "w", RECIPE, rows, second=second, twin=(twin, other))
    assert list(found) == [
        "sae",
        "SAE of a second seed",
        "k-sparse PCA",
        "random dictionary",
        "SAE of the untrained twin",
    ]
    assert found["sae"] == substitute(gan, sae, "w", RECIPE)
    assert found["SAE of a second seed"] == substitute(gan, second, "w", RECIPE)
    assert found["SAE of the untrained twin"] == substitute(twin, other, "w", RECIPE)
    assert found["k-sparse PCA"].sae == "k-sparse PCA"
    assert found["k-sparse PCA"].per_image_ablation == found["sae"].per_image_ablation
    assert found["random dictionary"].damage > 0


def test_a_code_of_all_components_does_no_damage(gan):
    sae = _fitted(gan, "w", _generate)
    rows = torch.randn(3 * sae.d_in, sae.d_in, generator=torch.Generator().manual_seed(0))
    perfect = _perfect(sae)
    perfect.encode = lambda x: Code(  # type: ignore[method-assign]
        torch.ones(len(x), perfect.n_latents), None, perfect.n_latents
    )
    found = substitute_beside(gan, perfect, "w", RECIPE, rows)
    assert found["k-sparse PCA"].damage == pytest.approx(0, abs=0.02)
    assert found["random dictionary"].damage == pytest.approx(0, abs=0.02)


def test_too_few_fitting_rows_are_refused(gan):
    sae = _fitted(gan, "w", _generate)
    with pytest.raises(InputError, match=r"shape \(3, 128\): give at least 256 rows of width 128"):
        substitute_beside(gan, sae, "w", RECIPE, torch.zeros(3, sae.d_in))


def test_an_sae_without_a_mean_is_ablated_to_what_it_makes_of_nothing():
    sae = TopK(4, 8, 2)
    with torch.no_grad():
        sae.b_dec += torch.arange(4.0)
    rows = torch.ones(3, 4)
    assert (ablation(sae)(rows, None) == torch.arange(4.0)).all()
    sae.fit(torch.full((4,), 2.0).double(), torch.ones(4).double())
    assert (ablation(sae)(rows, None) == 2).all()
