"""Foreign checkpoints become our state dicts: names, transposes, order; and nothing is run."""

import io
import os
from typing import Any

import numpy as np
import pytest
import torch
from proto import model, node, tensor
from torch import nn

from interp.assets import dcgan, encoders, sentences, terrain
from interp.assets.archives import read_safetensors, read_torch
from interp.assets.onnx import read_onnx
from interp.errors import InputError


def saved(value: Any) -> bytes:
    file = io.BytesIO()
    torch.save(value, file)
    return file.getvalue()


class Trap:
    """What a hostile pickle would run."""

    def __reduce__(self) -> tuple:
        return os.mkdir, ("trapped",)


def test_a_pickle_that_would_run_code_is_refused_and_runs_nothing(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=r"no state dict of torch.save"):
        read_torch(saved({"weight": Trap()}))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("data", [b"", b"no zip", b"PK\x03\x04", saved({"a": torch.ones(3)})[:-60]])
def test_what_is_no_file_of_torch_is_refused(data: bytes) -> None:
    with pytest.raises(InputError, match=r"no state dict of torch.save"):
        read_torch(data)


@pytest.mark.parametrize("value", [{"a": 1}, [torch.ones(2)], torch.ones(2)])
def test_a_file_without_a_state_dict_is_refused(value: Any) -> None:
    with pytest.raises(InputError, match="holds no state dict"):
        read_torch(saved(value))
    with pytest.raises(InputError, match="under 'net'"):
        read_torch(saved({"other": {}}), "net")


@pytest.mark.parametrize("data", [b"", b"\xff" * 40, (2**40).to_bytes(8, "little") + b"{}"])
def test_what_is_no_safetensors_file_is_refused(data: bytes) -> None:
    with pytest.raises(InputError, match="no safetensors file"):
        read_safetensors(data)


def test_a_sequential_gan_becomes_ours_with_or_without_dropout() -> None:
    def block(a: int, b: int, stride: int, *more: nn.Module) -> list[nn.Module]:
        conv = nn.ConvTranspose2d(a, b, 4, stride, stride - 1, bias=False)
        return [conv, nn.BatchNorm2d(b), nn.ReLU(), *more]

    last = [nn.ConvTranspose2d(2, 3, 4, 2, 1, bias=False), nn.Tanh()]
    original = nn.Sequential(
        *block(dcgan.Z_WIDTH, 4, 1, nn.Dropout(0.2)), *block(4, 2, 2), *last
    ).eval()
    for part in original.modules():
        if isinstance(part, nn.BatchNorm2d):
            part.running_mean.uniform_(-1, 1)  # pyright: ignore
    state = {f"main.{name}": value for name, value in original.state_dict().items()}
    ours = dcgan.DCGAN((4, 2))
    ours.load_state_dict(dcgan.convert_faces(saved({"netG_state_dict": state})))
    z = torch.randn(3, dcgan.Z_WIDTH)
    with torch.no_grad():
        assert torch.equal(ours.eval()(z), original(z[:, :, None, None]))


@pytest.mark.parametrize("names", [["conv.weight"], ["main.x.weight"], ["main.1.bias"]])
def test_another_networks_state_dict_is_no_gan(names: list[str]) -> None:
    with pytest.raises(InputError, match=r"not the state dict of a DCGAN|no convolution"):
        dcgan.rename({name: torch.ones(2) for name in names})


def _norm(i: int, op: str = "Mul") -> list[bytes]:
    return [
        node("InstanceNormalization", f"norm{i}", ["a", "one", "zero"], [f"n{i}"]),
        node("Reshape", "", [f"n{i}", "shape"], [f"r{i}"]),
        node(op, "", [f"r{i}", f"scale{i}"], [f"m{i}"]),
        node("Add", "", [f"m{i}", f"shift{i}"], [f"out{i}"]),
    ]


def _values(i: int) -> list[bytes]:
    numbers = np.full((2, 1, 1), float(i), dtype="<f4")
    return [tensor(f"scale{i}", numbers), tensor(f"shift{i}", -numbers)]


def test_scale_and_shift_of_norms_are_found_in_the_order_of_execution() -> None:
    data = model([*_norm(2), *_norm(1)], [*_values(1), *_values(2)])
    found = list(terrain.norm_constants(read_onnx(data)))
    assert [(a.flatten()[0].item(), b.flatten()[0].item()) for a, b in found] == [(2, -2), (1, -1)]


def test_a_norm_with_something_else_behind_it_is_refused() -> None:
    with pytest.raises(InputError, match="no Mul follows"):
        list(terrain.norm_constants(read_onnx(model(_norm(1, "Div"), _values(1)))))
    with pytest.raises(InputError, match="no constant scale and shift"):
        list(terrain.norm_constants(read_onnx(model(_norm(1), _values(1)[:1]))))
    with pytest.raises(InputError, match="1 norms, the terrain U-Net 139"):
        terrain.convert(model(_norm(1), _values(1)))


@pytest.mark.parametrize(
    ("name", "ours"),
    [
        ("network.time_embed.2.bias", "embedding.time.2.bias"),
        ("network.label_emb.0.weight", "embedding.label.0.weight"),
        ("network.input_blocks.0.0.weight", "input_blocks.0.weight"),
        ("network.input_blocks.5.0.in_layers.2.weight", "input_blocks.5.res.conv_in.weight"),
        ("network.input_blocks.11.1.qkv.bias", "input_blocks.11.attention.qkv.bias"),
        ("network.middle_block.2.emb_layers.1.bias", "middle.res_out.embed.bias"),
        ("network.middle_block.1.proj_out.bias", "middle.attention.out.bias"),
        ("network.output_blocks.4.2.out_layers.3.bias", "output_blocks.4.up.conv_out.bias"),
        ("network.output_blocks.19.1.in_layers.2.bias", "output_blocks.19.up.conv_in.bias"),
        ("network.output_blocks.3.0.skip_connection.bias", "output_blocks.3.res.skip.bias"),
        ("network.out.2.weight", "out.weight"),
    ],
)
def test_names_of_the_terrain_net_become_ours(name: str, ours: str) -> None:
    assert terrain.rename(name) == ours
    with torch.device("meta"):
        assert ours in dict(terrain.build().named_parameters())


def test_unnamed_weights_of_the_vision_transformer_are_named_by_their_bias_and_transposed() -> None:
    weight = np.arange(6, dtype="<f4").reshape(2, 3)
    bias = "backbone.encoder.layer.0.attention.attention.query.bias"
    nodes = [node("MatMul", "q", ["x", "onnx::1"], ["q"]), node("Add", "a", [bias, "q"], ["b"])]
    places = [np.zeros((1, n, 384), dtype="<f4") + n for n in (1, 37 * 37)]
    tensors = [tensor(bias, weight[0]), tensor("onnx::1", weight)]
    tensors += [tensor(f"onnx::p{i}", x) for i, x in enumerate(places)]
    state = encoders.convert_dino(model(nodes, [*tensors, tensor("head.bias", weight)]))
    query = "encoder.layer.0.attention.q_proj"
    assert torch.equal(state[f"{query}.weight"], torch.from_numpy(weight).T)
    assert torch.equal(state[f"{query}.bias"], torch.from_numpy(weight[0]))
    assert state["embeddings.position_embeddings"][0, :2, 0].tolist() == [1, 37 * 37]
    assert not any("head" in name for name in state)
    with pytest.raises(InputError, match=r"0 constants of shape \(1, 1, 384\)"):
        encoders.convert_dino(model(nodes, tensors[:2]))


def test_names_of_the_efficient_net_become_ours() -> None:
    names = ["_conv_stem.weight", "_bn0.bias", "_blocks.3._bn0.running_var", "_fc.bias"]
    names += ["_blocks.12._depthwise_conv.weight", "_blocks.0._project_conv.weight", "_bn1.weight"]
    state = encoders.convert_lite0(saved({name: torch.ones(1) for name in names}))
    with torch.device("meta"):
        assert set(state) <= set(encoders.build_lite0().state_dict())


def test_a_sentence_encoder_leaves_the_unused_layers_out() -> None:
    from safetensors.torch import save

    names = ("embeddings.position_ids", "pooler.dense.bias", "encoder.layer.0.output.dense.bias")
    state = sentences.convert(save({name: torch.ones(1) for name in names}))
    assert list(state) == ["bert.encoder.layer.0.output.dense.bias"]
