"""Carriers: windows, sources, parts of rows, per-layer prompts and codes; and what is refused."""

import math
from dataclasses import replace

import pytest
import torch

from interp import load
from interp.errors import InputError, PointError
from interp.interventions import Carrier, interchange, list_moments, put_latents, read_latents
from interp.interventions.carriers import check_interchange
from interp.interventions.parts import move_features, move_subspace
from interp.models import Generation, reading
from interp.models.pixels import to_uint8
from interp.sae import ReLU, TopK
from interp.sae.formats.imported import Imported
from tests.interventions import networks

pytestmark = [
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    # Schedulers hand tensors to np.array, whose protocol numpy 2 deprecates.
    pytest.mark.filterwarnings("ignore:__array__:DeprecationWarning"),
]

DONOR = Generation(n=2, seed=0, steps=3, classes=(0,))
RECIPIENT = Generation(n=2, seed=100, steps=3, classes=(0,))
TEXT = {"n": 2, "steps": 2, "guidance": 3.0}
BLOCK = ("mid_block.resnets.0",)


@pytest.fixture(scope="module", autouse=True)
def _libraries():
    """Import what takes seconds before any test's clock runs."""
    networks.pipe("sd")


@pytest.fixture(scope="module")
def unet():
    return networks.unet()


@pytest.fixture(scope="module")
def gan():
    return networks.zoo("gan")


def _moments(model, batch):
    found = list_moments(model, batch)
    assert found is not None
    return found


def _swap(model, carriers, donor=DONOR, recipient=RECIPIENT):
    found = interchange(model, carriers, donor, recipient)
    assert all(one.rerender == 0 for one in found)
    return [one.swapped for one in found]


PIPES = {
    "sd": {"prompts": ("a", "b"), "guidance": 3.0},
    "sdxl": {"prompts": ("a", "b")},
    "sd3": {"prompts": ("a", "b"), "guidance": 3.0},
    "flux": {"prompts": ("a", "b")},
    "pixart": {"prompts": ("a", "b")},
    "dit": {"classes": (1, 2), "guidance": 2.0},
    "video": {"prompts": ("a", "b")},
    "animate": {"prompts": ("a", "b")},
}


@pytest.mark.parametrize("name", PIPES)
def test_the_calls_of_a_pipeline_are_known_before_it_runs(name):
    model = networks.pipe(name)
    batch = Generation(n=2, steps=3, **PIPES[name]).batch(0, 2)
    expected = _moments(model, batch)
    with reading(model, ["x_t"]) as reader:
        model.generate(batch)
    assert [read.call for read in reader.calls] == [moment.call for moment in expected]
    for read, moment in zip(reader.calls, expected, strict=True):
        assert moment.t == pytest.approx(read.t, rel=1e-5)
        assert moment.log_snr == pytest.approx(read.log_snr, rel=1e-4, abs=1e-5)


@pytest.mark.parametrize("sampler", ["pndm", "heun", "euler", "dpm++", "unipc"])
def test_samplers_that_call_more_often_than_they_step_are_known_too(unet, sampler):
    # PNDM's first steps take four.
    batch = replace(DONOR, scheduler=sampler, steps=4).batch(0, 1)
    expected = _moments(unet, batch)
    with reading(unet, ["x_t"]) as reader:
        unet.generate(batch)
    assert [read.t for read in reader.calls] == pytest.approx([one.t for one in expected])


def test_dynamic_shifting_of_flow_pipelines_is_known_too():
    from diffusers.schedulers import scheduling_flow_match_euler_discrete as flow

    for name in ("sd3", "flux"):
        pipe = networks.builders("tiny_pipes").PIPES[name].__wrapped__()
        pipe.set_progress_bar_config(disable=True)
        pipe.scheduler = flow.FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True)
        model = load(pipe)
        batch = Generation(n=1, steps=3, prompts=("a",)).batch(0, 1)
        with reading(model, ["x_t"]) as reader:
            model.generate(batch)
        times = [moment.t for moment in _moments(model, batch)]
        assert [read.t for read in reader.calls] == pytest.approx(times, rel=1e-5)


def test_a_window_is_the_calls_that_it_holds_on_every_axis(unet):
    moments = _moments(unet, DONOR.batch(0, 1))
    t, level = moments[1].t, moments[1].log_snr
    assert t is not None
    calls = [
        {"calls": (1, 2)},
        {"window": (1, 3)},
        {"window": (-math.inf, t + 1), "axis": "t"},
        {"window": (level, math.inf), "axis": "log_snr"},
        {"calls": (0, 1, 2), "window": (1, 9)},
    ]
    images = _swap(unet, [Carrier(BLOCK, **more) for more in calls])
    assert all(torch.equal(one, images[0]) for one in images[1:])
    (whole,) = _swap(unet, [Carrier(BLOCK)])
    assert not torch.equal(whole, images[0])


def test_windows_that_meet_share_no_call(unet):
    halves = [Carrier(BLOCK, window=w) for w in ((0, 2), (2, 3))]
    assert [_calls(unet, half) for half in halves] == [(0, 1), (2,)]


def _calls(model, carrier):
    from interp.interventions.scheduling import select_calls

    batch = DONOR.batch(0, 1)
    return select_calls(model, batch, carrier.calls, carrier.window, carrier.axis)


def test_the_sources_of_a_gan_apart_and_together(gan):
    donor, recipient = replace(DONOR, classes=()), replace(RECIPIENT, classes=())
    carriers = [Carrier(fields=f) for f in (("z",), ("noise",), ("z", "noise"), ("seeds",))]
    z, noise, both, seeds = _swap(gan, carriers, donor, recipient)
    assert torch.equal(both, gan.generate(donor.batch(0, 2)))
    assert torch.equal(both, seeds)
    code, maps = gan.inputs((0, 1))[0], gan.inputs((100, 101))[1]
    with torch.no_grad():
        assert torch.equal(z, to_uint8(gan.root(code, noise=maps)))
    # The same as the point.
    assert torch.equal(z, _swap(gan, [Carrier(("z",))], donor, recipient)[0])
    # Without training the noise has strength 0.
    assert torch.equal(noise, gan.generate(recipient.batch(0, 2)))


def test_the_sources_of_a_sampler_with_noise_apart_and_together(unet):
    donor, recipient = (replace(r, scheduler="ddpm") for r in (DONOR, RECIPIENT))
    donor = replace(donor, classes=(2,))
    names = (("x_T",), ("step_noise",), ("classes",), ("x_T", "step_noise", "classes"), ("seeds",))
    *single, together, noise = _swap(unet, [Carrier(fields=f) for f in names], donor, recipient)
    assert torch.equal(together, unet.generate(donor.batch(0, 2)))
    assert not any(torch.equal(one, together) for one in single)
    assert not torch.equal(noise, together)
    alone = _swap(unet, [Carrier(fields=("x_T", "step_noise"))], donor, recipient)[0]
    assert torch.equal(noise, alone)


def test_latents_put_by_hand_are_the_swap_of_the_source(unet):
    values = read_latents(unet, DONOR)
    assert torch.equal(put_latents(unet, DONOR, values, batch_size=1)[1:], _made(unet, 1))
    (swapped,) = _swap(unet, [Carrier(fields=("x_T",))])
    assert torch.equal(put_latents(unet, RECIPIENT, values), swapped)
    basis = torch.linalg.qr(torch.randn(values.shape[1], 7, generator=_rng()))[0].T
    (part,) = _swap(unet, [Carrier(fields=("x_T",), subspace=basis)])
    rows = move_subspace(read_latents(unet, RECIPIENT), values, basis)
    assert torch.equal(put_latents(unet, RECIPIENT, rows), part)
    with pytest.raises(InputError, match=r"latents \(2, 5\): 2 samples .* need \(2, 192\)"):
        put_latents(unet, RECIPIENT, values[:, :5])


def _made(model, index):
    return model.generate(DONOR.batch(index, index + 1))


def _rng():
    return torch.Generator().manual_seed(0)


def test_a_mask_swaps_positions_of_the_initial_noise(unet):
    left = tuple(column < 4 for _ in range(8) for column in range(8))
    (half,) = _swap(unet, [Carrier(fields=("x_T",), mask=left)])
    a, b = (unet.draw_latents(r.batch(0, 2)) for r in (DONOR, RECIPIENT))
    mixed = torch.cat([a[..., :4], b[..., 4:]], dim=-1)
    assert torch.equal(half, put_latents(unet, RECIPIENT, mixed.flatten(1)))


def test_a_subspace_and_its_complement_make_the_whole(gan):
    basis = torch.linalg.qr(torch.randn(128, 128, generator=_rng()))[0]
    donor, recipient = replace(DONOR, classes=()), replace(RECIPIENT, classes=())
    parts = [Carrier(("w",), subspace=b) for b in (basis, basis[:9], basis[9:])]
    whole, few, rest = _swap(gan, parts, donor, recipient)
    full = gan.generate(donor.batch(0, 2))
    assert (whole.int() - full.int()).abs().max() <= 1
    assert not torch.equal(few, rest)
    x, a = torch.randn(2, 3, 5, 128, generator=_rng())
    moved = move_subspace(move_subspace(x, a, basis[:9]), a, basis[9:])
    assert moved == pytest.approx(a, abs=1e-5)
    assert torch.equal(move_subspace(x, x, basis[:9]), x)


def _saes(d):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        made = [TopK(d, 24, 5), ReLU(d, 24)]
        for sae in made:
            sae.fit(torch.randn(d).double(), torch.rand(d).double() + 0.5)
        return made


def test_features_of_the_donor_replace_the_recipients_and_the_error_stays():
    x, a = torch.randn(2, 3, 4, 6, generator=_rng())
    chosen = (1, 7, 20)
    for sae in _saes(6):
        new = move_features(x, a, sae, chosen)
        flat, given = x.reshape(-1, 6), a.reshape(-1, 6)
        code, other = (sae.encode(rows) for rows in (flat, given))
        values = code.dense().clone()
        values[:, list(chosen)] = other.dense()[:, list(chosen)]
        mixed = sae.decode(code._replace(values=values, indices=None))
        expected = mixed + (flat - sae.decode(code))
        assert new.reshape(-1, 6).detach() == pytest.approx(expected.detach(), abs=1e-5)
        assert not torch.equal(new, x)
        assert torch.equal(move_features(x, x, sae, chosen), x)
        every = move_features(x, a, sae, tuple(range(24)))
        whole = sae.decode(other) + (flat - sae.decode(code))
        assert every.reshape(-1, 6).detach() == pytest.approx(whole.detach(), abs=1e-5)


def test_a_carrier_of_features_is_swapped_in_the_model_and_controlled_at_its_own_size(gan):
    donor, recipient = replace(DONOR, classes=()), replace(RECIPIENT, classes=())
    sae = _saes(128)[0]
    carriers = [Carrier(("w",), sae=sae, features=f) for f in ((0, 3, 5), tuple(range(24)))]
    carriers.append(Carrier(("w",)))
    few, most, whole = interchange(gan, carriers, donor, recipient)
    assert [one.rerender for one in (few, most, whole)] == [0, 0, 0]

    def far(images, one):
        return (images.double() - one.recipient.double()).square().mean()

    assert 0 < far(few.swapped, few) < far(whole.swapped, whole)
    assert far(few.random, few) < far(whole.random, whole)
    assert not torch.equal(few.swapped, most.swapped)


def test_a_prompt_of_its_own_for_every_layer_is_the_prompt_of_all():
    model = networks.pipe("sd")
    donor = Generation(seed=0, prompts=("ab", "cd"), **TEXT)
    # Shared noise: the text alone differs.
    recipient = replace(donor, prompts=("xyz", "q"))
    names = model.select(["context.*"], "generate")
    assert len(names) > 1
    carriers = [Carrier(fields=("prompts",)), Carrier(names, cfg="cond")]
    carriers += [Carrier((name,), cfg="cond") for name in names]
    text, layers, *single = _swap(model, carriers, donor, recipient)
    assert torch.equal(text, model.generate(donor.batch(0, 2)))
    assert torch.equal(layers, text)
    plain = model.generate(recipient.batch(0, 2))
    assert not any(torch.equal(one, text) or torch.equal(one, plain) for one in single)


def test_layer_mixing_is_the_generator_called_with_mixed_codes(gan):
    donor, recipient = replace(DONOR, classes=()), replace(RECIPIENT, classes=())
    carriers = [Carrier(tuple(f"w_plus.{i}" for i in range(a, b))) for a, b in ((0, 3), (3, 8))]
    images = _swap(gan, carriers, donor, recipient)
    (z_a, _), (z_b, noise) = gan.inputs((0, 1)), gan.inputs((100, 101))
    with torch.no_grad():
        codes = [gan.root.mapping(z)[:, None].repeat(1, 8, 1) for z in (z_a, z_b)]
        for image, (start, stop) in zip(images, ((0, 3), (3, 8)), strict=True):
            mixed = codes[1].clone()
            mixed[:, start:stop] = codes[0][:, start:stop]
            assert torch.equal(image, to_uint8(gan.root(w_plus=mixed, noise=noise)))


def test_carriers_are_equal_where_all_is_and_tensors_by_identity():
    basis, sae = torch.eye(3), TopK(3, 4, 2)
    assert Carrier(("a",), fields=("z",)) == Carrier(("a",), fields=("z",))
    assert Carrier(("a",), subspace=basis) == Carrier(("a",), subspace=basis)
    assert Carrier(("a",), subspace=basis) != Carrier(("a",), subspace=basis.clone())
    assert Carrier(("a",), sae=sae, features=(1,)) != Carrier(("a",), sae=sae, features=(2,))
    assert len({Carrier(("a",), sae=sae), Carrier(("a",), sae=sae), Carrier(("a",))}) == 2


def _wrong_sae():
    sae = TopK(16, 24, 5)
    sae.provenance = {"point": {"name": "up_blocks.0.resnets.0"}}
    return sae


REFUSED = {
    "empty window": (Carrier(BLOCK, window=(2, 2)), r"the window \(2, 2\) of call is empty"),
    "unknown axis": (Carrier(BLOCK, window=(0, 1), axis="step"), "axis 'step' is not one of"),
    "no call inside": (
        Carrier(BLOCK, window=(0.1, 0.2), axis="t"),
        r"holds none of the 3 calls, whose t goes from 6\d+ to 0",
    ),
    "no guidance": (Carrier(BLOCK, cfg="uncond"), "there is no guidance"),
    "calls of a source": (Carrier(fields=("x_T",), window=(0, 2)), "bound hook points"),
    "no source": (Carrier(fields=("z",)), r"have to be of \('seeds', 'x_T', 'classes'\)"),
    "no SAE": (Carrier(BLOCK, features=(1,)), "features need an SAE"),
    "width": (Carrier(BLOCK, sae=TopK(5, 9, 2), features=(1,)), "width 16 != SAE d_in 5"),
    "point": (Carrier(BLOCK, sae=_wrong_sae(), features=(1,)), "was trained on up_blocks.0.resn"),
    "latent": (Carrier(BLOCK, sae=TopK(16, 9, 2), features=(9,)), "numbers from 0 to 8"),
    "subspace": (Carrier(BLOCK, subspace=torch.eye(4)), r"subspace is \(4, 4\), .* has width 16"),
    "latents": (Carrier(fields=("x_T",), subspace=torch.eye(4)), "latents has width 192"),
    "not orthonormal": (Carrier(BLOCK, subspace=torch.ones(2, 16)), "are not orthonormal"),
    "no latents": (Carrier(fields=("classes",), subspace=torch.eye(4)), "here is neither"),
    "mask": (Carrier(fields=("x_T",), mask=(True,) * 9), r"9 positions, the latents .* have 64"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_is_refused_before_anything_runs(unet, monkeypatch, case):
    def run(*_):
        raise AssertionError("the model ran")

    monkeypatch.setattr(unet.root, "forward", run)
    carrier, message = REFUSED[case]
    with pytest.raises(InputError, match=message):
        interchange(unet, carrier, DONOR, RECIPIENT)


def test_calls_outside_the_schedule_and_windows_without_times_are_refused(unet, gan):
    with pytest.raises(PointError, match="no edit takes place: the 3 calls of the recipe are 0 to"):
        interchange(unet, Carrier(BLOCK, (7, 8)), DONOR, RECIPIENT)
    donor, recipient = replace(DONOR, classes=()), replace(RECIPIENT, classes=())
    with pytest.raises(InputError, match="has no t here: give the window by axis='call'"):
        interchange(gan, Carrier(("w",), window=(0, 9), axis="t"), donor, recipient)
    assert check_interchange(gan, [Carrier(("w",), window=(0, 1))], donor, recipient) == [
        "descendant"
    ]


def test_rows_that_an_sae_normalizes_by_themselves_keep_the_recipients_scale():
    sae = _framed()
    x, a = torch.randn(2, 10, 6, generator=_rng()) * 3 + 1
    new = move_features(x, a, sae, (0, 2))
    code, other = sae.encode(x), sae.encode(a)
    values = code.dense().clone()
    values[:, [0, 2]] = other.dense()[:, [0, 2]]
    expected = sae.decode(code._replace(values=values, indices=None)) + x - sae.decode(code)
    assert new.detach() == pytest.approx(expected.detach(), rel=1e-4, abs=1e-4)


def _framed():
    sae = Imported(6, 24, "relu", rows="layer")
    for parameter in sae.parameters():
        parameter.data.normal_(generator=_rng())
    return sae
