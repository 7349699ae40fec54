"""Rows are keyed by (generation, call); time comes from the denoiser's own argument."""

import pytest
import torch
from cases import CASES, batch_of, encode_batch, images, zoo

from interp.errors import InputError, PointError
from interp.models import EncodeBatch, GenerateBatch, Model, editing, reading

POINT = "mid_block.resnets.0"


def sd() -> Model:
    return CASES["sd"].build()


def calls_of(model: Model, batch: GenerateBatch, point: str = POINT) -> list:
    with reading(model, [point]) as reader:
        model.generate(batch)
    return reader.calls


@pytest.mark.parametrize(("name", "n_calls"), [("pndm", 3), ("heun", 3), ("ddim", 2)])
def test_samplers_that_repeat_a_timestep_have_unique_calls(name: str, n_calls: int) -> None:
    calls = calls_of(sd(), batch_of(CASES["sd"], scheduler=name))
    assert [c.call for c in calls] == list(range(n_calls))
    assert len({c.t for c in calls}) == 2


def test_two_generations_both_start_at_call_0() -> None:
    model, batch = sd(), batch_of(CASES["sd"])
    with reading(model, [POINT]) as reader:
        model.generate(batch)
        model.generate(batch)
    assert [c.call for c in reader.calls] == [0, 1, 2, 0, 1, 2]
    assert torch.equal(reader.calls[0].value, reader.calls[3].value)


def test_a_run_that_broke_off_leaves_no_trace_in_the_next() -> None:
    model, batch = zoo("ddpm"), batch_of(CASES["zoo-ddpm"])

    def stop(rows: torch.Tensor, call: tuple) -> torch.Tensor:
        raise RuntimeError("stop")

    with reading(model, [POINT]) as reader:
        with pytest.raises(RuntimeError, match="stop"):  # noqa: SIM117
            with editing(model, {POINT: stop}, calls=(1,)):
                model.generate(batch)
        model.generate(batch)
    assert [(c.call, c.factor) for c in reader.calls] == [(0, 2), (1, 2), (0, 2), (1, 2)]


def test_the_grid_of_another_size_follows_the_image() -> None:
    case = CASES["sd"]
    names = ["conv_in", "mid_block.attentions.0.transformer_blocks.0"]
    with reading(case.build(), names) as reader:
        made = case.build().generate(batch_of(case, height=32, width=16, steps=1))
    assert made.shape == (2, 32, 16, 3)
    grids = {c.point: c.grid for c in reader.calls}
    assert grids == {"conv_in": (16, 8), names[1]: (8, 4)}


def test_x_T_is_the_noise_of_the_first_call_and_x_t_the_input_of_every_call() -> None:
    model, batch = zoo("ddpm"), batch_of(CASES["zoo-ddpm"])
    with reading(model, ["x_T", "x_t"]) as reader:
        model.generate(batch)
    assert [(c.point, c.call) for c in reader.calls] == [("x_T", 0), ("x_t", 0), ("x_t", 1)]
    noise = torch.randn(12, 16, 16, generator=torch.Generator().manual_seed(3))
    assert torch.allclose(reader.calls[0].value[0], noise)


@pytest.mark.parametrize("name", ["sd", "sdxl", "dit", "pixart", "sd3", "zoo-ddpm"])
def test_guidance_doubles_the_batch_only_when_it_does(name: str) -> None:
    case = CASES[name]
    model = case.build()
    assert {c.factor for c in calls_of(model, batch_of(case, guidance=3.0), "x_t")} == {2}
    assert {c.factor for c in calls_of(model, batch_of(case, guidance=1.0), "x_t")} == {1}


def test_distilled_guidance_does_not_double_the_batch() -> None:
    case = CASES["flux"]
    assert {c.factor for c in calls_of(case.build(), batch_of(case), "x_t")} == {1}


@pytest.mark.parametrize(
    ("name", "point"),
    [
        ("sd", POINT),
        ("dit", "transformer_blocks.0"),
        ("pixart", "transformer_blocks.0"),
        ("sd3", "transformer_blocks.0"),
        ("zoo-ddpm", POINT),
    ],
)
def test_the_second_half_has_the_condition(name: str, point: str) -> None:
    case = CASES[name]
    model = case.build()
    guided = calls_of(model, batch_of(case, guidance=3.0), point)[0].value
    alone = calls_of(model, batch_of(case, guidance=1.0), point)[0].value
    assert torch.allclose(guided[2:], alone, atol=1e-4)
    assert not torch.allclose(guided[:2], alone, atol=1e-4)


def test_whoever_runs_the_pipeline_says_how_many_samples_there_are() -> None:
    model = sd()
    run = {"prompt": ["a", "b"], "num_inference_steps": 2, "output_type": "latent"}
    for batch, factor in ((2, 2), (None, 1)):
        with reading(model, [POINT], batch=batch) as reader:
            model.host.pipe(**run, generator=torch.Generator().manual_seed(0))
        assert {c.factor for c in reader.calls} == {factor}


def test_a_reader_of_several_runs_can_say_where_one_begins() -> None:
    model = sd()
    run = {"prompt": "a", "num_inference_steps": 2, "output_type": "latent"}
    with reading(model, [POINT], batch=1) as reader:
        for _ in range(2):
            reader.begin(1)
            model.host.pipe(**run, generator=torch.Generator().manual_seed(0))
    assert [c.call for c in reader.calls] == [0, 1, 2, 0, 1, 2]


def test_an_encoded_batch_has_the_call_that_it_names_and_the_level_that_it_got() -> None:
    model = zoo("ddpm")
    with reading(model, [POINT]) as reader:
        for call, level in enumerate((2.0, 0.0, -2.0)):
            model.encode(encode_batch(model, log_snr=level, call=call))
    assert [c.call for c in reader.calls] == [0, 1, 2]
    assert [c.log_snr for c in reader.calls] == pytest.approx([2, 0, -2], abs=0.02)
    scheduler = model.host.scheduler
    products = scheduler.alphas_cumprod[[int(c.t) for c in reader.calls]]
    expected = torch.log(products / (1 - products)).tolist()
    assert [c.log_snr for c in reader.calls] == pytest.approx(expected, abs=1e-3)


@pytest.mark.parametrize("name", ["zoo-ddpm", "sd", "flux"])
def test_an_encoded_image_does_not_depend_on_its_batch(name: str) -> None:
    model = CASES[name].build()
    pictures = images(model)
    with reading(model, ["x_t"]) as reader:
        model.encode(encode_batch(model, images=pictures))
        model.encode(EncodeBatch(pictures[1:], noise_seeds=(6,), log_snr=0.0))
    both, alone = (c.value for c in reader.calls)
    assert torch.allclose(both[1:], alone, atol=1e-5)


def test_the_null_condition_is_the_null_class() -> None:
    model = zoo("ddpm")
    with reading(model, [POINT]) as reader:
        model.encode(encode_batch(model))
        model.encode(encode_batch(model, classes=(3, 3)))
        model.encode(encode_batch(model, classes=(0, 1)))
    null, named, classes = (c.value for c in reader.calls)
    assert torch.equal(null, named)
    assert not torch.equal(null, classes)


def test_a_class_that_does_not_exist_is_refused() -> None:
    with pytest.raises(InputError, match="class 9 of a model with 4 class embeddings"):
        zoo("ddpm").generate(GenerateBatch(seeds=(0,), classes=(9,)))


def test_a_diffusion_model_encodes_at_a_noise_level_only() -> None:
    model = zoo("ddpm")
    with pytest.raises(InputError, match="at a noise level: log_snr and noise_seeds"):
        model.encode(EncodeBatch(images(model)))


def test_a_model_says_what_it_cannot_do() -> None:
    with pytest.raises(InputError, match="zoo:gan cannot encode; it can generate"):
        zoo("gan").encode(EncodeBatch(images(zoo("gan"))))
    with pytest.raises(PointError, match="x_T of zoo:ddpm does not fire in encode"):
        zoo("ddpm").select(["x_T"], "encode")


def test_split_batches_are_refused() -> None:
    model = CASES["kl"].build()
    model.root.enable_slicing()
    try:
        with pytest.raises(PointError, match="slicing"), reading(model, ["decoder.conv_in"]):
            model.encode(encode_batch(model))
    finally:
        model.root.disable_slicing()


def test_windows_and_halves_of_an_edit() -> None:
    case = CASES["sd"]
    model, batch = case.build(), batch_of(case)
    seen: list = []

    def note(rows: torch.Tensor, call: tuple) -> torch.Tensor:
        seen.append((call.call, rows.shape[0]))
        return rows + 1

    plain = calls_of(model, batch)
    with editing(model, {POINT: note}, calls=range(1, 2), cfg="uncond"):
        edited = calls_of(model, batch)
    assert seen == [(1, 2)]
    assert torch.equal(plain[0].value, edited[0].value)
    assert torch.allclose(plain[1].value[:2] + 1, edited[1].value[:2])
    assert torch.equal(plain[1].value[2:], edited[1].value[2:])


def test_halves_of_a_host_that_puts_the_condition_first() -> None:
    case = CASES["dit"]
    model, batch = case.build(), batch_of(case)
    point = "transformer_blocks.0"
    plain = calls_of(model, batch, point)
    with editing(model, {point: lambda rows, call: rows + 1}, cfg="cond"):
        edited = calls_of(model, batch, point)
    assert torch.equal(plain[0].value[:2], edited[0].value[:2])
    assert torch.allclose(plain[0].value[2:] + 1, edited[0].value[2:])


def test_an_edit_that_selects_nothing_is_an_error() -> None:
    case = CASES["sd"]
    model = case.build()
    edits = {POINT: lambda rows, call: rows}
    with pytest.raises(PointError, match="no edit took place: calls=range"):  # noqa: SIM117
        with editing(model, edits, calls=range(9, 12)):
            model.generate(batch_of(case))
    with pytest.raises(PointError, match=r"no edit took place: .*'uncond'"):  # noqa: SIM117
        with editing(model, edits, cfg="uncond"):
            model.generate(batch_of(case, guidance=1.0))


def test_halves_need_the_number_of_samples() -> None:
    model = sd()
    with pytest.raises(PointError, match="needs the number of samples"):  # noqa: SIM117
        with editing(model, {POINT: lambda rows, call: rows}, cfg="cond"):
            model.host.pipe("a", num_inference_steps=1, output_type="latent")


@pytest.mark.parametrize(
    "name", ["ddim", "ddpm", "euler", "euler_ancestral", "heun", "pndm", "dpm++", "unipc"]
)
def test_an_image_of_a_batch_is_the_image_of_its_seed_alone(name: str) -> None:
    case = CASES["ddpm"]
    model = case.build()
    # Pndm's warm-up takes four steps.
    pair = calls_of(model, batch_of(case, scheduler=name, steps=4))[-1].value
    single = calls_of(model, batch_of(case, scheduler=name, steps=4, seeds=(4,)))[-1].value
    assert torch.allclose(pair[1:], single, atol=1e-3, rtol=1e-3)
    assert not torch.allclose(pair[:1], single, atol=1e-1)


def test_guided_samples_do_not_depend_on_their_batch() -> None:
    case = CASES["zoo-ddpm"]
    model = case.build()
    pair = calls_of(model, batch_of(case, scheduler="ddpm"))[-1].value
    one = batch_of(case, scheduler="ddpm", seeds=(4,), classes=(2,))
    # The guided batch is [uncond 3, uncond 4, cond 3, cond 4].
    assert torch.allclose(pair[1::2], calls_of(model, one)[-1].value, atol=1e-4)


def test_a_sampler_that_diverges_is_an_error() -> None:
    # Its root of a difference of squares turns negative under a cosine schedule.
    case = CASES["zoo-ddpm"]
    with pytest.raises(InputError, match="EulerAncestralDiscreteScheduler diverged"):
        case.build().generate(batch_of(case, scheduler="euler_ancestral", steps=3))


@pytest.mark.parametrize("name", ["zoo-gan", "kl", "sd", "dit", "sd3", "flux"])
def test_every_generator_makes_an_image_from_its_own_seed(name: str) -> None:
    case = CASES[name]
    model = case.build()
    both = batch_of(case)
    per_sample = {"prompts": both.prompts[1:], "classes": both.classes[1:]}
    one = batch_of(case, seeds=(4,), **per_sample)
    pair, single = model.generate(both).int(), model.generate(one).int()
    assert (pair[1:] - single).abs().max() <= 1
    assert (pair[0] - single[0]).abs().max() > 1


def test_a_stochastic_sampler_in_dits_pipeline_still_has_one_noise_per_seed() -> None:
    case = CASES["dit"]
    model = case.build()
    batch = batch_of(case, scheduler="ddpm", steps=3)
    again = batch_of(case, scheduler="ddpm", steps=3, seeds=(4,), classes=(7,))
    pair, single = model.generate(batch).int(), model.generate(again).int()
    assert (pair[1:] - single).abs().max() <= 1


def test_noise_from_the_global_state_is_refused() -> None:
    case = CASES["sd"]
    model = case.build()

    def careless(rows: torch.Tensor, call: tuple) -> torch.Tensor:
        return rows + torch.randn_like(rows)

    with pytest.raises(InputError, match="drew from the global random state"):  # noqa: SIM117
        with editing(model, {POINT: careless}):
            model.generate(batch_of(case))
