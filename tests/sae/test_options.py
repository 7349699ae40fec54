"""Options: sorted, checked, on the command line, and each doing what it says."""

import dataclasses
import json
import sys

import pytest
import torch

from interp.errors import SAEError
from interp.sae import SAE, VARIANTS, Job, TopK, TrainConfig, train, train_many
from interp.sae.initial import geometric_median, start_from, untie
from interp.sae.options import Common, names_of, options_of, split_options
from interp.sae.resample import is_due, resample_, starts_of
from interp.sae.step import BETAS, autograd_step, can_fuse
from interp.sae.synthetic import PlantedDictionary
from tests.sae.test_conformance import SMALL

CONFIG = TrainConfig(
    n_latents=24, k=3, batch_size=16, steps=30, checkpoint_every=5, log_every=10, dead_window=2
)
DATA = PlantedDictionary(12, 6, 2, batch_size=16, steps=30)
NAMED = [
    {"accumulate": 3},
    {"precision": "bfloat16"},
    {"clip": 0.1},
    {"dead": "resample", "resample_every": 4},
    {"dead": "none"},
    {"tied": False},
    {"center": "median"},
]


def _with(**changes) -> TrainConfig:
    return dataclasses.replace(CONFIG, **changes)


def _weights(sae: SAE) -> bytes:
    return b"".join(tensor.numpy().tobytes() for tensor in sae.state_dict().values())


def test_options_are_sorted_into_common_and_own():
    common, own = split_options(VARIANTS["relu"], {"l1": 1, "clip": 2, "dead": "none"})
    assert (own.l1, own.p_end) == (1.0, 1.0)
    assert (common.clip, common.dead, common.accumulate) == (2.0, "none", 1)
    assert split_options(TopK, {})[0] == dataclasses.replace(Common(), dead="auxk")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"l2": 1}, "relu has no option l2; its own are l1, ramp, .* the common ones aux_k, dead"),
        ({"l1": "much"}, "option l1 = 'much' must be a finite number"),
        ({"l1": True}, "option l1 = True must be a finite number"),
        ({"l1": -1}, "option l1 = -1.0 must be at least 0"),
        ({"ramp": 1.0}, r"option ramp = 1.0 must be a share in \[0, 1\)"),
        ({"p_end": 0}, r"option p_end = 0.0 must be in \(0, 1\]"),
        ({"accumulate": 2.5}, "option accumulate = 2.5 must be a whole number"),
        ({"accumulate": 0}, "option accumulate = 0 must be at least 1"),
        ({"tied": "no"}, "option tied = 'no' must be true or false"),
        ({"dead": "ghost"}, "option dead = 'ghost' is none of auto, auxk, resample, none"),
        ({"precision": "int8"}, "is none of float32, bfloat16"),
    ],
)
def test_impossible_options_are_refused_at_the_door(options, message, tmp_path):
    config = TrainConfig("relu", 24, 3, options=options)
    with pytest.raises(SAEError, match=message):
        train([torch.eye(6)] * 9, config, out=tmp_path / "run")
    with pytest.raises(SAEError, match=message):
        train_many([torch.eye(6)] * 9, {"a": Job(config)}, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_what_a_variant_lacks_is_no_option_of_it():
    class Bare(TopK):
        has_aux, encoders, lacks = False, (), ("precision",)

    assert not {"aux_k", "tied", "resample_every", "precision"} & set(names_of(Bare)[0])
    assert split_options(Bare, {})[0].dead == "none"
    with pytest.raises(SAEError, match="topk has no dead = 'auxk'; there is none"):
        split_options(Bare, {"dead": "auxk"})


def test_options_that_are_no_json_values_are_refused():
    assert _with(options={"groups": (1, 2)}).options == {"groups": [1, 2]}
    for wrong in (3, {1: 2}, {"a": torch.ones(1)}, {"a": float("nan")}):
        with pytest.raises(SAEError, match="options = "):
            _with(options=wrong)


def test_a_config_with_options_survives_its_file_and_can_be_hashed(tmp_path):
    config = _with(variant="relu", options={"l1": 0.02, "dead": "none"})
    (tmp_path / "config.json").write_text(json.dumps(config.as_dict()))
    assert TrainConfig.load(tmp_path) == config != CONFIG
    assert len({config, dataclasses.replace(config), CONFIG}) >= 2


def test_a_config_of_the_time_when_aux_k_was_a_field_is_read(tmp_path):
    old = {**CONFIG.as_dict(), "aux_k": 7}
    del old["options"]
    assert TrainConfig.from_dict(old).options == {"aux_k": 7}
    assert TrainConfig.from_dict({**old, "aux_k": 0}) == CONFIG
    run = train(DATA, CONFIG, out=tmp_path)
    path = tmp_path / "config.json"
    found = json.loads(path.read_text())
    for table in (found["config"], found["provenance"]["recipe"]):
        table["aux_k"] = 0
        del table["options"]
    path.write_text(json.dumps(found))
    assert train(DATA, CONFIG, out=tmp_path).sae.digest == run.sae.digest


def test_only_plain_options_go_by_the_fused_step():
    sae = TopK(6, 24, 3)
    for options in ({}, {"aux_k": 4}, {"tied": False}, {"center": "median"}):
        assert can_fuse(sae, split_options(TopK, options)[0])
    for options in NAMED[:5]:
        assert not can_fuse(sae, split_options(TopK, options)[0])


@pytest.mark.parametrize("options", NAMED, ids=str)
def test_each_option_changes_what_is_learned(options, tmp_path):
    config = _with(options=options, log_every=1)
    plain = train(DATA, _with(log_every=1), out=tmp_path / "plain")
    other = train(DATA, config, out=tmp_path / "other")
    assert _weights(plain.sae) != _weights(other.sae)
    assert other.log[-1]["fvu"] < other.log[0]["fvu"]


@pytest.mark.parametrize(
    "config",
    [_with(options=options) for options in NAMED]
    + [_with(variant=name, options=SMALL.get(name, {})) for name in sorted(VARIANTS)]
    + [_with(variant="relu", options={"p_end": 0.5, "dead": "resample", "resample_every": 3})],
    ids=lambda config: f"{config.variant} {config.options}",
)
@pytest.mark.parametrize("stop", [7, 14])
def test_a_stopped_run_with_any_option_continues_to_the_same_bits(
    config, stop, tmp_path, monkeypatch
):
    whole = train(DATA, config, out=tmp_path / "whole")
    module = sys.modules["interp.sae.train"]
    step = module._step

    def crash(state, batch, config):
        if state.step == stop:
            raise ZeroDivisionError
        step(state, batch, config)

    monkeypatch.setattr(module, "_step", crash)
    with pytest.raises(ZeroDivisionError):
        train(DATA, config, out=tmp_path / "run")
    monkeypatch.undo()
    resumed = train(DATA, config, out=tmp_path / "run")
    assert _weights(resumed.sae) == _weights(whole.sae)
    assert [line["penalty"] for line in resumed.log] == [line["penalty"] for line in whole.log]


@pytest.mark.parametrize("name", ["relu", "gated", "topk"])
@pytest.mark.parametrize("options", NAMED, ids=str)
def test_many_take_every_option_as_one_does(name, options, tmp_path):
    config = _with(variant=name, options=options)
    alone = train(DATA, config, out=tmp_path / "alone")
    jobs = {"a": Job(config), "b": Job(dataclasses.replace(config, seed=1))}
    runs = train_many(DATA, jobs, out=tmp_path / "many")
    for mine, other in zip(runs["a"].sae.parameters(), alone.sae.parameters(), strict=True):
        torch.testing.assert_close(mine, other, rtol=0, atol=1e-4)


def _step_of(sae: SAE, x: torch.Tensor, common: Common, config: TrainConfig = CONFIG):
    optimizer = torch.optim.Adam(sae.parameters(), lr=1e-2, betas=BETAS)
    silent = torch.arange(24) % 5
    terms = autograd_step(sae, optimizer, silent, x, config, 3, common=common)
    return terms, silent, [parameter.grad for parameter in sae.parameters()]


@pytest.mark.parametrize("variant", ["topk", "relu", "gated"])
@pytest.mark.parametrize("parts", [2, 3, 16])
def test_micro_batches_add_up_to_one_batch(variant, parts):
    x = next(iter(DATA)).double()
    config = _with(variant=variant, options={"p_end": 0.3} if variant != "topk" else {})
    found = []
    for count in (1, parts):
        sae = VARIANTS[variant].build(6, config).double()
        common = dataclasses.replace(options_of(config)[0], accumulate=count)
        found.append(_step_of(sae, x, common, config))
    (terms, silent, grads), (others, counters, gradients) = found
    torch.testing.assert_close(terms, others, rtol=1e-6, atol=1e-12)
    assert (silent == counters).all()
    for mine, other in zip(grads, gradients, strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-6, atol=1e-9)


def test_more_parts_than_rows_are_refused():
    common = Common(accumulate=17, dead="auxk")
    with pytest.raises(SAEError, match="a batch of 16 rows cannot be accumulated in 17 parts"):
        _step_of(TopK(6, 24, 3), next(iter(DATA)), common)


def test_the_gradient_is_no_longer_than_the_clip():
    for clip in (0.0, 1e-3):
        common = Common(clip=clip, dead="auxk")
        grads = _step_of(TopK(6, 24, 3), next(iter(DATA)), common)[2]
        norm = torch.cat([grad.flatten() for grad in grads]).norm()
        assert (norm > 1e-2) if not clip else norm == pytest.approx(clip, rel=1e-3)


@pytest.mark.parametrize("variant", ["topk", "relu", "gated"])
def test_autocast_lowers_the_products_and_nothing_else(variant):
    config, x = _with(variant=variant), next(iter(DATA))
    common = dataclasses.replace(options_of(config)[0], precision="bfloat16")
    low, high = (VARIANTS[variant].build(6, config) for _ in range(2))
    terms, _, grads = _step_of(low, x, common, config)
    others = _step_of(high, x, options_of(config)[0], config)[0]
    assert all(grad.dtype == torch.float32 for grad in grads)
    assert all(parameter.dtype == torch.float32 for parameter in low.parameters())
    assert (terms != others)[0, 0]
    torch.testing.assert_close(terms[:, 0], others[:, 0], rtol=0.05, atol=0)


def test_the_geometric_median_of_points_with_a_known_one():
    # A square with one far corner: the median of four convex points is where the diagonals cross.
    square = torch.tensor([[0.0, 0], [2, 0], [0, 2], [50, 50]])
    torch.testing.assert_close(geometric_median(square), torch.ones(2).double(), atol=1e-6, rtol=0)
    # On a line it is the median; here it falls on a row.
    line = torch.tensor([[0.0], [1], [2], [3], [1000]])
    torch.testing.assert_close(geometric_median(line)[0].item(), 2.0, atol=1e-5, rtol=0)
    same = torch.full((4, 3), 7.0)
    assert (geometric_median(same) == 7).all()
    # The mean is a row that is not the median.
    pair = torch.tensor([[0.0], [0], [0], [2], [8], [2]])
    assert abs(float(geometric_median(pair))) <= 2


def test_the_center_is_the_median_of_the_first_batch():
    sae = TopK(6, 24, 3)
    sae.fit(torch.linspace(-1, 1, 6).double(), torch.ones(6).double())
    x = next(iter(DATA))
    start_from(sae, x, Common(center="mean"))
    assert (sae.b_dec == 0).all()
    start_from(sae, x, Common(center="median"))
    torch.testing.assert_close(sae.b_dec * sae.scale + sae.mean, geometric_median(x).float())


def test_an_untied_encoder_has_directions_of_its_own():
    for variant in ("topk", "relu", "gated"):
        tied = VARIANTS[variant].build(6, _with(variant=variant))
        torch.testing.assert_close(
            tied.W_enc / tied.W_enc.norm(dim=1, keepdim=True), tied.W_dec, rtol=0, atol=1e-6
        )
        norms = tied.W_enc.norm(dim=1)
        untie(tied, 0)
        cosine = (tied.W_enc * tied.W_dec).sum(1) / norms
        torch.testing.assert_close(tied.W_enc.norm(dim=1), norms)
        assert cosine.abs().mean() < 0.6


def test_resampling_falls_into_the_plateau_of_the_rate():
    common = Common(dead="resample", resample_every=10)
    config = _with(steps=100, decay=0.2)
    assert [s for s in range(100) if is_due(config, common, s)] == [9, 19, 29, 39, 49, 59, 69]
    own = dataclasses.replace(common, resample_every=0)
    assert len([s for s in range(100) if is_due(config, own, s)]) == 6
    assert not is_due(config, Common(dead="auxk"), 9)


@pytest.mark.parametrize("variant", ["topk", "relu", "gated"])
def test_resampled_latents_point_at_badly_explained_rows(variant):
    config = _with(variant=variant)
    sae = VARIANTS[variant].build(6, config)
    starts = starts_of(sae)
    optimizer = torch.optim.Adam(sae.parameters(), lr=0.1)
    x = next(iter(DATA))
    common = dataclasses.replace(options_of(config)[0], dead="none")
    for step in range(4):
        autograd_step(sae, optimizer, torch.zeros(24).long(), x, config, step, common=common)
    before = {name: value.clone() for name, value in sae.state_dict().items()}
    dead = torch.arange(24) % 6 == 1
    # All but two rows are far better explained.
    with torch.no_grad():
        rows = sae(x)
    rows[3:5] += 10 * torch.randn(2, 6, generator=torch.Generator().manual_seed(0))
    latents = resample_(sae, optimizer, dead, rows, starts, 5)
    assert len(latents) == 4
    assert dead[latents].all()
    units = torch.nn.functional.normalize(sae.normalize(rows) - sae.b_dec, dim=1)
    cosine = sae.W_dec[latents] @ units.T
    assert (cosine.amax(1) > 0.9999).all()
    assert set(cosine.argmax(1)[:2].tolist()) == {3, 4}
    alive = before["W_enc"][~dead].norm(dim=1).mean()
    torch.testing.assert_close(sae.W_enc[latents], 0.2 * alive * sae.W_dec[latents])
    for name, parameter in sae.named_parameters():
        if parameter.shape[0] != 24:
            continue
        assert (parameter[~dead] == before[name][~dead]).all()
        assert (optimizer.state[parameter]["exp_avg"][latents] == 0).all()
        assert (optimizer.state[parameter]["exp_avg_sq"][latents] == 0).all()
        assert name not in starts or (parameter[latents] == starts[name][latents]).all()
    again = resample_(sae, optimizer, dead, rows, starts, 5)
    assert (again == latents).all()


def test_a_split_run_refuses_what_it_does_not_know():
    from interp.sae.options import check_plain

    check_plain(split_options(TopK, {"aux_k": 9})[0])
    with pytest.raises(SAEError, match=r"does not know accumulate = 2, clip = 1.0: leave it out"):
        check_plain(split_options(TopK, {"accumulate": 2, "clip": 1})[0])


def test_options_come_from_the_command_line(tmp_path, capsys):
    from interp.cli.main import _parse, main
    from interp.cli.saes import read_options, write_options

    words = ["l1=0.01", "dead=resample", "tied=false", "groups=[1, 2]"]
    options = {"l1": 0.01, "dead": "resample", "tied": False, "groups": [1, 2]}
    assert read_options(words) == options
    assert write_options(options) == words
    command = _parse(["train", "s", "p", "--variant", "relu", "--options", "l1=0.01", "clip=1"])
    assert command.config.options == {"l1": 0.01, "clip": 1}
    assert _parse(["train", "s", "p"]).config == TrainConfig()
    assert main(["train", "s", "p", "--options", "l1"]) == 2
    assert "'l1' must be NAME=VALUE" in capsys.readouterr().err
