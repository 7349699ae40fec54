"""Prefix reuse computes less and changes nothing, to the last bit, in every family."""

import dataclasses
import gc
import weakref
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from cases import CASES, Case, batch_of, encode_batch, zoo
from torch import Tensor, nn

from interp.errors import InputError, PointError
from interp.models import (
    EncodeBatch,
    GenerateBatch,
    Model,
    editing,
    reading,
    recording,
    replaying,
    work_left,
)
from interp.models.recording import overriding

STEPS = 3
MAKERS = ("zoo-ddpm", "sd", "sdxl", "zoo-dit", "dit", "sd3", "flux", "pixart", "zoo-gan", "kl")
MAKERS = (*MAKERS, "zoo-vae-global", "ddpm")
SLOW = ("video", "animate", "zoo-ldm")


def shuffle(rows: Tensor, call: Any) -> Tensor:
    return rows.flip(2) + 0.5


@pytest.fixture(
    params=[*MAKERS, *(pytest.param(n, marks=[pytest.mark.slow]) for n in SLOW)], scope="module"
)
def case(request: pytest.FixtureRequest) -> Case:
    case = CASES[request.param]
    _ = case.build().points
    return case


@pytest.fixture
def model(case: Case) -> Model:
    return case.build()


def a_few(model: Model) -> list[str]:
    """Points of every kind and port: the first, middle and last of each."""
    sites = {name: model.sites[name] for name in model.points_in("generate")}
    groups: dict[tuple, list[str]] = {}
    for name, site in sites.items():
        key = (site.port, site.stream, site.kind, name.endswith(":main"), len(site.also))
        groups.setdefault(key, []).append(name)
    few = [n for g in groups.values() for n in {g[0]: 0, g[len(g) // 2]: 0, g[-1]: 0}]
    return [name for name in few if name != "x_T"]


def edited(model: Model, batch: GenerateBatch, name: str, calls: Any, cfg: str = "both") -> Tensor:
    with editing(model, {name: shuffle}, calls=calls, cfg=cfg), torch.no_grad():
        return model.render(batch)


def test_an_edit_makes_the_same_image_with_and_without_replaying(case: Case, model: Model) -> None:
    # The last call of PNDM, the tiny pipeline's own sampler, steps from t = 0 to itself.
    own = type(getattr(getattr(model, "host", None), "scheduler", None)).__name__
    other = {"scheduler": "ddim"} if own == "PNDMScheduler" else {}
    batch = batch_of(case, steps=STEPS, **other)
    few = a_few(model)
    with recording(model, few) as record:
        plain = model.generate(batch)
    with torch.no_grad():
        shown = model.render(batch)
    effects = 0
    assert torch.equal(plain, model.generate(batch))
    last = max(record.pages)
    for i, name in enumerate(few):
        # Early, middle and last calls in turn.
        start = (0, last // 2, last)[i % 3]
        calls = (range(start, last + 1), [start])[i % 2]
        expected = edited(model, batch, name, calls)
        with replaying(model, record):
            found = edited(model, batch, name, calls)
        assert torch.equal(found, expected), (name, calls)
        effects += not torch.equal(found, shown)
    assert effects > len(few) / 2
    with replaying(model, record):
        assert torch.equal(model.generate(batch), plain)


@pytest.mark.parametrize("name", ["zoo-ddpm", "sd", "zoo-dit", "dit"])
@pytest.mark.parametrize("guided", [True, False])
def test_guidance_halves_are_replayed_too(name: str, guided: bool) -> None:
    case = CASES[name]
    model = case.build()
    batch = batch_of(case, steps=2, **({} if guided else {"guidance": 1.0}))
    points = a_few(model)[::2]
    with recording(model, points, calls=[1]) as record:
        model.generate(batch)
    for point in points:
        expected = edited(model, batch, point, [1], "cond")
        with replaying(model, record):
            assert torch.equal(edited(model, batch, point, [1], "cond"), expected), point


def test_a_noisy_sampler_goes_on_from_where_it_was() -> None:
    model = zoo("ddpm")
    batch = batch_of(CASES["zoo-ddpm"], steps=3, scheduler="ddpm")
    with recording(model, ["mid_block.resnets.0"], calls=[1]) as record:
        model.generate(batch)
    expected = edited(model, batch, "mid_block.resnets.0", [1])
    with replaying(model, record):
        assert torch.equal(edited(model, batch, "mid_block.resnets.0", [1]), expected)


def test_free_u_that_writes_in_place_changes_nothing() -> None:
    case = CASES["sd"]
    model = case.build()
    batch = batch_of(case, steps=2, scheduler="ddim")
    points = ["up_blocks.0.resnets.1", "up_blocks.1.resnets.0", "up_blocks.1.attentions.1"]
    model.host.pipe.enable_freeu(s1=0.5, s2=0.5, b1=2.0, b2=2.0)  # pyright: ignore
    try:
        with recording(model, points, calls=[1]) as record:
            plain = model.generate(batch)
        for point in points * 2:
            expected = edited(model, batch, point, [1])
            with replaying(model, record):
                assert torch.equal(edited(model, batch, point, [1]), expected), point
        with replaying(model, record):
            assert torch.equal(model.generate(batch), plain)
    finally:
        model.host.pipe.disable_freeu()  # pyright: ignore


@contextmanager
def counting(model: Model) -> Iterator[Counter]:
    """Computations of convolutions and linear layers, by path; entered before `replaying`."""
    counts: Counter[str] = Counter()

    def count(path: str, own: Any, args: tuple, kwargs: dict) -> Any:
        counts[path] += 1
        return own(*args, **kwargs)

    leaves = (nn.Conv2d, nn.Linear)
    modules = {p: m for p, m in model.root.named_modules() if isinstance(m, leaves)}
    with overriding(modules, count):
        yield counts


def test_the_prefix_is_not_computed() -> None:
    model = zoo("ddpm")
    batch = batch_of(CASES["zoo-ddpm"], steps=4)
    point = "mid_block.resnets.1"
    with recording(model, [point], calls=[3]) as record:
        model.generate(batch)
    with counting(model) as counts, replaying(model, record):
        edited(model, batch, point, [3])
    assert counts["conv_out"] == 1
    assert set(counts.values()) == {1}
    owners = {path.split(".")[0] for path in counts}
    assert owners == {"up_blocks", "conv_out"}
    with counting(model) as counts:
        edited(model, batch, point, [3])
    assert counts["conv_in"] == counts["conv_out"] == 4


def test_text_encoders_are_not_run_again() -> None:
    case = CASES["sd"]
    model = case.build()
    batch = batch_of(case)
    encoder = model.host.pipe.text_encoder  # pyright: ignore
    runs: list[int] = []
    inner = encoder.get_submodule("embeddings" if hasattr(encoder, "embeddings") else "text_model")
    handle = inner.register_forward_pre_hook(lambda m, a: runs.append(1))
    try:
        with recording(model, ["conv_in"], calls=[0]) as record:
            model.generate(batch)
        assert runs
        runs.clear()
        with replaying(model, record):
            edited(model, batch, "conv_in", [0])
        assert not runs
    finally:
        handle.remove()


def test_a_reading_inside_the_prefix_sees_every_call() -> None:
    model = zoo("ddpm")
    batch = batch_of(CASES["zoo-ddpm"], steps=3)
    points = ["down_blocks.0.resnets.0", "mid_block.resnets.0", "up_blocks.1.resnets.0"]
    with recording(model, [points[1]], calls=[2]) as record:
        model.generate(batch)

    def values() -> list[Tensor]:
        with reading(model, points) as reader:
            edited(model, batch, points[1], [2])
        return [read.value for read in reader.calls]

    expected = values()
    with replaying(model, record):
        found = values()
    assert len(found) == 9
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


def test_several_edits_begin_where_the_first_of_them_does() -> None:
    model = zoo("ddpm")
    batch = batch_of(CASES["zoo-ddpm"], steps=3)
    late, early = "up_blocks.1.resnets.0", "down_blocks.1.resnets.0:delta"
    early = early if early in model.points else "down_blocks.1.resnets.0"

    def run() -> Tensor:
        with editing(model, {late: shuffle}, calls=[1]), editing(model, {early: shuffle}):
            return model.generate(batch)

    with recording(model, calls=[0, 1]) as record:
        model.generate(batch)
    expected = run()
    with replaying(model, record):
        assert torch.equal(run(), expected)
    # Entered in the other order, and at a call that was not kept whole.
    with editing(model, {late: shuffle}, calls=[2]):
        expected = model.generate(batch)
        with replaying(model, record):
            assert torch.equal(model.generate(batch), expected)


def test_an_encoding_is_replayed_too() -> None:
    for name in ("kl", "zoo-vae-global", "vq"):
        model = CASES[name].build()
        batch = encode_batch(model)
        points = [n for n in model.points_in("encode") if n.startswith("decoder")][::4]
        with recording(model, points) as record:
            model.encode(batch)
        for point in (*points, "code"):
            with editing(model, {point: shuffle}):
                expected = model.encode(batch)
            with replaying(model, record), editing(model, {point: shuffle}):
                found = model.encode(batch)
            assert expected is not None
            assert found is not None
            assert torch.equal(found, expected), (name, point)


def test_what_an_edit_returns_has_its_gradient_and_the_latents_have_none() -> None:
    model = zoo("ddpm")
    batch = batch_of(CASES["zoo-ddpm"])
    point = "mid_block.resnets.0"
    with recording(model, [point], calls=[1]) as record:
        model.generate(batch)
    shift = torch.zeros(model.points[point].width, requires_grad=True)

    def gradient() -> Tensor:
        with editing(model, {point: lambda rows, call: rows + shift}, calls=[1]):
            shown = model.render(batch)
        return torch.autograd.grad(shown.square().sum(), shift)[0]

    expected = gradient()
    with replaying(model, record):
        assert torch.equal(gradient(), expected)
    latents = model.draw_latents(batch)
    given = dataclasses.replace(batch, latents=latents)
    with recording(model, [point], calls=[1]) as record:
        model.generate(given)
    latents.requires_grad_()
    with (
        replaying(model, record),
        pytest.raises(InputError, match="gradient of latents passes through"),
    ):
        model.render(given)


def test_another_batch_model_or_weight_is_refused() -> None:
    model = zoo("gan")
    batch = batch_of(CASES["zoo-gan"])
    with recording(model, ["layers.3"]) as record:
        model.generate(batch)
    with replaying(model, record):
        with pytest.raises(InputError, match=r"had seeds=\(3, 4\), this one \(3, 5\)"):
            model.generate(dataclasses.replace(batch, seeds=(3, 5)))
        z = model.draw_latents(batch)
        with pytest.raises(InputError, match=r"latents=None, this one a tensor \(2, 128\)"):
            model.generate(dataclasses.replace(batch, latents=z))
        pixels = EncodeBatch(torch.zeros(1, 1, 1, 3).byte())
        message = "a GenerateBatch was recorded, not a EncodeBatch"
        with pytest.raises(InputError, match=message), model.clock.making(pixels, 1):
            pass
    other = zoo("vae-global")
    with pytest.raises(InputError, match="the record is of zoo:gan"), replaying(other, record):
        pass
    weight = model.root.layers[0].bias
    with torch.no_grad():
        weight.add_(0.0)
    with replaying(model, record), pytest.raises(InputError, match="zoo:gan has changed"):
        model.generate(batch)
    record.clear()
    with pytest.raises(InputError, match="the record is empty"), replaying(model, record):
        pass


def test_everything_is_as_it_was_afterwards() -> None:
    model = zoo("ddpm")
    batch = batch_of(CASES["zoo-ddpm"])
    before = [dict(module.__dict__) for module in model.root.modules()]
    with recording(model, ["conv_out"], calls=[1]) as record:
        model.generate(batch)
    with pytest.raises(RuntimeError, match="stop"), replaying(model, record):  # noqa: SIM117
        with editing(model, {"conv_out": lambda rows, call: (_ for _ in ()).throw(_stop())}):
            model.generate(batch)
    after = [dict(module.__dict__) for module in model.root.modules()]
    assert [list(a) for a in after] == [list(b) for b in before]
    assert not model.clock.around
    assert not model.clock.interests
    kept = weakref.ref(record.pages[1])
    assert record.nbytes > 0
    del record
    gc.collect()
    assert kept() is None


def _stop() -> RuntimeError:
    return RuntimeError("stop")


def test_the_work_left_falls_with_call_and_depth() -> None:
    model = zoo("ddpm")
    batch = batch_of(CASES["zoo-ddpm"], steps=4)
    with recording(model) as record:
        model.generate(batch)
    points = ["down_blocks.0.resnets.0", "mid_block.resnets.0", "up_blocks.3.resnets.1"]
    points = [name for name in points if name in model.points] + ["conv_out"]
    shares = [work_left(record, [name], [2]) for name in points]
    assert shares == sorted(shares, reverse=True)
    assert work_left(record, points, None) <= 1
    by_call = [work_left(record, ["mid_block.resnets.0"], [c]) for c in range(4)]
    assert by_call == sorted(by_call, reverse=True)
    assert 0 < by_call[-1] < 0.3
    assert work_left(record, ["x_t"]) > 0.9
    # A window after the last call edits nothing, so nothing may be left out.
    assert work_left(record, ["conv_out"], range(4, 9)) == 1
    with pytest.raises(PointError, match="closest"):
        work_left(record, ["mid"])
