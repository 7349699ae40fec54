"""What an edit reaches: main path, skip, delta, every taker of one tensor; and what it refuses."""

from typing import Any

import pytest
import tiny
import tiny_pipes
import torch
from cases import CASES, batch_of, encode_batch, zoo
from torch import Tensor

from interp.errors import InputError, PointError
from interp.loading import load
from interp.models import Model, editing, reading


def plus(rows: Tensor, call: Any) -> Tensor:
    return rows + 1


def encoded(model: Model, points: list[str]) -> dict[str, Tensor]:
    with reading(model, points) as reader:
        model.encode(encode_batch(model))
    return {c.point: c.value for c in reader.calls}


UP = "up_blocks.0.resnets.0"
NEXT = "down_blocks.1.resnets.0"


@pytest.mark.parametrize("name", ["zoo-ddpm", "ddpm", "sd", "sdxl"])
def test_every_skip_is_the_output_of_the_block_that_pushed_it(name: str) -> None:
    model = CASES[name].build()
    owners = [owner for owner, _ in model.skip_owners]
    skips = [n for n in model.points if n.startswith("skip.")]
    assert len(skips) == len(owners)
    values = encoded(model, [*owners, *skips, *(f"{o}:main" for o in owners)])
    for i, owner in enumerate(owners):
        assert torch.equal(values[owner], values[f"skip.{i}"])
        assert torch.equal(values[owner], values[f"{owner}:main"])


@pytest.mark.parametrize("name", ["video", "animate", "svd"])
@pytest.mark.slow
def test_every_skip_of_a_video_network_too(name: str) -> None:
    from cases import run

    case = CASES[name]
    model = case.build()
    owners = [owner for owner, _ in model.skip_owners]
    pairs = [n for i, o in enumerate(owners) for n in (o, f"{o}:main", f"skip.{i}")]
    with reading(model, pairs) as reader:
        run(case, model)
    first = {c.point: c.value for c in reversed(reader.calls)}
    for i, owner in enumerate(owners):
        assert torch.equal(first[owner], first[f"skip.{i}"])
        assert torch.equal(first[owner], first[f"{owner}:main"])


def test_main_skip_and_both_are_three_interventions() -> None:
    model = zoo("ddpm")
    owner = "down_blocks.0.resnets.0"
    seen = [f"{owner}:main", "skip.1"]
    plain = encoded(model, seen)
    expected = {owner: (True, True), f"{owner}:main": (True, False), "skip.1": (False, True)}
    for point, changes in expected.items():
        with editing(model, {point: plus}):
            values = encoded(model, seen)
        for name, changed in zip(seen, changes, strict=True):
            target = plain[name] + 1 if changed else plain[name]
            if changed or name == f"{owner}:main":
                assert torch.allclose(values[name], target, atol=1e-6), (point, name)
        if not changes[1]:
            assert torch.equal(values["skip.1"], plain["skip.1"])


def test_a_delta_edit_writes_the_input_plus_the_edited_delta() -> None:
    model = zoo("ddpm")
    block = "mid_block.attentions.0"
    seen = ["mid_block.resnets.0", block, f"{block}:delta"]
    plain = encoded(model, seen)
    assert torch.equal(plain[f"{block}:delta"], plain[block] - plain["mid_block.resnets.0"])
    with editing(model, {f"{block}:delta": lambda rows, call: rows * 0}):
        values = encoded(model, [block])
    assert torch.equal(values[block], plain["mid_block.resnets.0"])


def test_a_delta_is_undefined_where_the_shape_changes() -> None:
    with pytest.raises(PointError, match=r"undefined: down_blocks\.1\.resnets\.0 does not add"):
        zoo("ddpm").point("down_blocks.1.resnets.0:delta")


def test_a_read_is_a_copy_that_free_u_cannot_change() -> None:
    pipe = tiny_pipes.sd_pipe()
    model = load(pipe)
    points = ["mid_block.resnets.1", "up_blocks.0.resnets.1", "skip.2", "skip.3"]
    batch = batch_of(CASES["sd"], steps=1, scheduler="ddim")
    with reading(model, points) as reader:
        model.generate(batch)
    plain = {c.point: c.value for c in reader.calls}
    pipe.enable_freeu(s1=0.5, s2=0.5, b1=2.0, b2=2.0)
    try:
        with reading(model, points) as reader:
            model.generate(batch)
    finally:
        pipe.disable_freeu()
    freed = {c.point: c.value for c in reader.calls}
    for name in ("mid_block.resnets.1", "skip.2", "skip.3"):
        assert torch.equal(plain[name], freed[name]), name


def test_an_edit_may_change_its_rows_in_place() -> None:
    model = zoo("vit")

    def erase(rows: Tensor, call: Any) -> Tensor:
        return rows.zero_()

    plain = encoded(model, ["blocks.1"])
    with editing(model, {"blocks.2": erase}):
        values = encoded(model, ["blocks.1", "blocks.2"])
    assert torch.equal(values["blocks.1"], plain["blocks.1"])
    assert not values["blocks.2"].any()


def test_one_entry_of_w_plus_reaches_every_layer_that_takes_it() -> None:
    model = zoo("gan")
    batch = batch_of(CASES["zoo-gan"])
    seen = ["s.3", "s_rgb.1", "s.4", "s_rgb.2"]

    def styles() -> dict[str, Tensor]:
        with reading(model, seen) as reader:
            model.generate(batch)
        return {c.point: c.value for c in reader.calls}

    plain, n_edits = styles(), []

    def count(rows: Tensor, call: Any) -> Tensor:
        n_edits.append(call.point)
        return rows + 1

    with editing(model, {"w_plus.3": count}):
        edited = styles()
    assert [n for n in seen if not torch.equal(plain[n], edited[n])] == ["s.3", "s_rgb.1"]
    assert n_edits == ["w_plus.3"]


def test_w_reaches_all_layers_and_z_reaches_w() -> None:
    model = zoo("gan")
    batch = batch_of(CASES["zoo-gan"])
    for point in ("z", "w"):
        with editing(model, {point: lambda rows, call: rows * 0 + 1}):  # noqa: SIM117
            with reading(model, ["w", "w_plus.0", "w_plus.7"]) as reader:
                model.generate(batch)
        w, first, last = (c.value for c in reader.calls)
        assert torch.equal(w[0], w[1])
        assert torch.equal(w, first)
        assert torch.equal(first, last)


def test_the_noise_of_a_layer_is_the_samples_own_and_can_be_silenced() -> None:
    model = zoo("gan")
    batch = batch_of(CASES["zoo-gan"])
    with reading(model, ["z", "noise.0", "noise.6"]) as reader:
        model.generate(batch)
    z, first, _ = (c.value for c in reader.calls)
    assert not torch.equal(z[0, :16], first[0].flatten())
    with editing(model, {"noise.6": lambda rows, call: rows * 0}):
        model.generate(batch)


def test_tuples_keep_their_structure() -> None:
    case = CASES["sd3"]
    model = case.build()
    shapes: list = []
    names = ["transformer_blocks.0:text", "transformer_blocks.1", "transformer_blocks.2"]

    def note(module: Any, args: tuple, output: tuple) -> None:
        shapes.append([None if o is None else tuple(o.shape) for o in output])

    with editing(model, dict.fromkeys(names, plus)):
        handles = [b.register_forward_hook(note) for b in model.root.transformer_blocks]
        model.encode(encode_batch(model))
    for handle in handles:
        handle.remove()
    assert [s[0] is None for s in shapes] == [False, False, True]
    assert all(s[1] == (2, 16, 16) for s in shapes)


def test_text_and_image_streams_are_told_apart() -> None:
    model = CASES["flux"].build()
    block = "single_transformer_blocks.0"
    values = encoded(model, [block, f"{block}:text"])
    assert model.points[block].stream == "image"
    assert model.points[f"{block}:text"].stream == "text"
    assert values[block].shape[1] == 16
    assert values[f"{block}:text"].shape[1] == 512


def test_a_context_can_be_edited_in_one_layer_alone() -> None:
    model = CASES["sd"].build()
    contexts = [n for n in model.points if n.startswith("context.")]
    assert len(contexts) == 4
    plain = encoded(model, contexts)
    with editing(model, {contexts[1]: plus}):
        values = encoded(model, contexts)
    changed = [n for n in contexts if not torch.equal(values[n], plain[n])]
    assert changed == [contexts[1]]


def test_edits_entered_first_are_seen_by_reads_entered_later() -> None:
    model = zoo("vit")
    plain = encoded(model, ["blocks.0"])["blocks.0"]
    with editing(model, {"blocks.0": plus}), editing(model, {"blocks.0": plus}):
        assert torch.allclose(encoded(model, ["blocks.0"])["blocks.0"], plain + 2)


def test_rows_that_do_not_fit_are_refused() -> None:
    model = zoo("vit")
    with pytest.raises(PointError, match=r"blocks.0: rows of shape \(2, 64, 95\) do not fit"):  # noqa: SIM117
        with editing(model, {"blocks.0": lambda rows, call: rows[..., 1:]}):
            model.encode(encode_batch(model))
    with pytest.raises(PointError, match="returned NoneType, not a tensor"):  # noqa: SIM117
        with editing(model, {"blocks.0": lambda rows, call: None}):
            model.encode(encode_batch(model))


def test_an_unknown_half_is_refused() -> None:
    with pytest.raises(InputError, match="cfg = 'left'"):  # noqa: SIM117
        with editing(zoo("vit"), {"blocks.0": plus}, cfg="left"):
            pass


def test_fused_projections_that_never_fire_are_an_error() -> None:
    from diffusers import UNet2DConditionModel

    net = UNet2DConditionModel.from_config(tiny.sd_unet().config)
    path = "mid_block.attentions.0.transformer_blocks.0.attn1.to_q"
    model = load(net, extra_points=[path])
    assert model.points[path].kind == "contrib"
    net.fuse_qkv_projections()
    with pytest.raises(PointError, match="to_q never fired"), reading(model, [path]):  # noqa: SIM117
        with torch.no_grad():
            model.run_reference()


@pytest.mark.slow
def test_a_compiled_root_is_refused_or_works() -> None:
    net = load(tiny.NETS["adm"]()).root
    point = "mid_block.resnets.0"
    fresh = load(type(net).from_config(net.config))
    _ = fresh.points
    fresh.root.compile(backend="eager")
    with pytest.raises(PointError, match=r"compiled.*skip_nnmodule_hook_guards"):  # noqa: SIM117
        with reading(fresh, [point]):
            pass
    with torch._dynamo.config.patch(skip_nnmodule_hook_guards=False), torch.no_grad():
        fresh.run_reference()
        with reading(fresh, [point]) as reader:
            fresh.run_reference()
    assert len(reader.calls) == 1


def test_a_compiled_copy_beside_the_root_is_found_out() -> None:
    model = zoo("vit")

    def elsewhere() -> None:
        """Stands for a compiled wrapper that ignores the hooks."""

    with pytest.raises(PointError, match="never fired"), reading(model, ["blocks.0"]):
        elsewhere()
