"""A spec becomes a model; twins are built anew without touching the caller's random state."""

import json
from pathlib import Path

import pytest
import tiny
import tiny_pipes
import torch
from cases import TwoLayers, two_layers
from torch import nn

from interp.errors import InputError
from interp.loading import load, rebuild
from interp.models import VAE, Encoder, Transformer, UNet, points_table
from interp.zoo import MODELS


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("zoo:dppm", "no model 'zoo:dppm'; nearest: zoo:ddpm"),
        ("zo:gan", "nearest: zoo:gan"),
        ("gan", "nearest: "),
        ("zoo:gan/x", "seed 'x' in 'zoo:gan/x'"),
        ("diffuser:a/b", "nearest: diffusers:"),
    ],
)
def test_an_unknown_spec_names_the_nearest(spec: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        load(spec)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("pipe")
    tiny_pipes.dit_pipe().save_pretrained(path)
    return path


def test_a_pipelines_folder_gives_its_denoiser_or_the_network_that_is_named(folder: Path) -> None:
    assert type(load(f"diffusers:{folder}")) is Transformer
    assert type(load(f"diffusers:{folder}#transformer")) is Transformer
    vae = load(f"diffusers:{folder}#vae")
    assert type(vae) is VAE
    assert vae.name == f"diffusers:{folder}#vae"
    with pytest.raises(InputError, match="no usable network 'unet' in DiTPipeline; there are"):
        load(f"diffusers:{folder}#unet")


def test_a_networks_own_folder_is_enough(folder: Path) -> None:
    model = load(f"diffusers:{folder}/vae")
    assert type(model) is VAE
    state = tiny.kl().state_dict()
    assert all(torch.equal(v, state[k]) for k, v in model.root.state_dict().items())


@pytest.mark.parametrize("name", MODELS)
def test_the_zoo_loads_by_name_and_its_twin_too(name: str) -> None:
    model, twin = load(f"zoo:{name}"), load(f"zoo:{name}", untrained=True, seed=1)
    assert model.name == f"zoo:{name}"
    assert list(model.points) == list(twin.points)
    assert model.identity()["weights_sha256"] != twin.identity()["weights_sha256"]
    assert model.capabilities


def test_a_folder_without_a_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="neither model_index"):
        load(f"diffusers:{tmp_path}")
    (tmp_path / "config.json").write_text(json.dumps({"_class_name": "Nothing"}))
    with pytest.raises(InputError, match="names no class of diffusers: 'Nothing'"):
        load(f"diffusers:{tmp_path}")


@pytest.mark.parametrize("name", ["ddpm", "sd", "kl", "dit", "vq"])
def test_a_twin_is_a_function_of_its_seed_and_leaves_the_random_state_alone(name: str) -> None:
    net = tiny.NETS[name]()
    before = torch.get_rng_state()
    one, same, other = (load(net, untrained=True, seed=s) for s in (1, 1, 2))
    assert torch.equal(before, torch.get_rng_state())
    assert one.identity()["weights_sha256"] == same.identity()["weights_sha256"]
    assert one.identity()["weights_sha256"] != other.identity()["weights_sha256"]
    assert one.identity()["untrained"] is True
    assert one.identity()["init_seed"] == 1
    assert list(one.points) == list(load(net).points)


def test_a_twin_of_a_pipeline_has_fresh_weights_in_its_denoiser_alone(folder: Path) -> None:
    trained = load(f"diffusers:{folder}").identity()["components"]
    twin = load(f"diffusers:{folder}", untrained=True, seed=3)
    assert twin.host.pipe.transformer is twin.root
    digests = twin.identity()["components"]
    assert digests["vae"] == trained["vae"]
    assert digests["transformer"] != trained["transformer"]


def test_the_callers_pipeline_keeps_its_own_network() -> None:
    pipe = tiny_pipes.dit_pipe()
    twin = load(pipe, untrained=True, seed=3)
    assert pipe.transformer is tiny.dit_net()
    assert twin.host.pipe.transformer is twin.root


def test_a_module_of_the_users_is_reset_where_it_can_be() -> None:
    twin = load(two_layers().root, adapter=TwoLayers(), untrained=True, seed=1)
    assert not torch.equal(twin.root[0].weight, two_layers().root[0].weight)

    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.ones(3))

    with pytest.raises(InputError, match=r"the root \(Odd\) has parameters but no reset"):
        rebuild(Odd(), 0)


@pytest.mark.parametrize("kind", ["vit", "clip", "dinov2", "siglip"])
def test_vision_encoders_of_transformers_have_their_stream(kind: str, tmp_path: Path) -> None:
    import transformers as t

    common = {
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 16,
        "image_size": 16,
        "patch_size": 4,
    }
    with torch.random.fork_rng(devices=[]):
        net = {
            "vit": lambda: t.ViTModel(t.ViTConfig(**common)),
            "clip": lambda: t.CLIPVisionModel(t.CLIPVisionConfig(**common)),
            "dinov2": lambda: t.Dinov2Model(t.Dinov2Config(**common)),
            "siglip": lambda: t.SiglipVisionModel(t.SiglipVisionConfig(**common)),
        }[kind]()
    net.save_pretrained(tmp_path)
    norm = {"image_mean": [0.1, 0.2, 0.3], "image_std": [0.4, 0.5, 0.6]}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(norm))
    model = load(f"transformers:{tmp_path}")
    assert type(model) is Encoder
    assert len(model.blocks) == 2
    resid = [p for p in model.points.values() if p.kind == "resid"]
    n_tokens = 16 if kind == "siglip" else 17
    assert [p.grid for p in resid] == [(4, 4) if n_tokens == 16 else (17,)] * 3
    assert model.mean == (0.1, 0.2, 0.3)
    assert model.identity()["pixels"] == {"mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 0.6]}


def test_a_type_is_applied_to_every_network_of_the_pipeline(folder: Path) -> None:
    model = load(f"diffusers:{folder}", dtype="bfloat16")
    assert model.dtype is torch.bfloat16
    assert next(model.host.pipe.vae.parameters()).dtype is torch.bfloat16
    assert model.identity()["dtype"] == "bfloat16"
    with pytest.raises(InputError, match="dtype 'int8' is not one of"):
        load(f"diffusers:{folder}", dtype="int8")


def test_an_unknown_object_is_refused_with_the_way_out() -> None:
    with pytest.raises(InputError, match=r"Linear is unknown: give interp.load\(module, adapter"):
        load(nn.Linear(2, 2))
    with pytest.raises(InputError, match="an adapter belongs to a module"):
        load("zoo:gan", adapter=TwoLayers())


def test_an_extra_point_must_be_a_module() -> None:
    with pytest.raises(Exception, match="extra point 'nowhere' is not a module of"):
        _ = load(tiny.ddpm_net(), extra_points=["nowhere"]).points


def test_the_table_has_a_line_per_point() -> None:
    model = load(tiny.ddpm_net())
    assert type(model) is UNet
    lines = points_table(model).splitlines()
    assert len(lines) == 1 + len(model.points)
    assert lines[0].split() == ["name", "stream", "kind", "width", "grid", "depth"]
    assert lines[1].split() == ["x_T", "entry", "entry", "3", "8x8", "0.00"]


def test_the_example_of_the_adapters_docstring_runs() -> None:
    import inspect

    import interp
    from interp.models import Adapter, Custom

    text = inspect.getdoc(Adapter) or ""
    code = inspect.cleandoc(text[text.index("    class TwoLayers") : text.index("Attributes:")])
    names = {"torch": torch, "nn": nn, "interp": interp}
    exec(code, names)
    assert type(names["model"]) is Custom
    assert list(names["model"].points) == ["hidden", "out"]
    assert code.count("\n") < 30


@pytest.mark.parametrize("scheme", ["diffusers", "transformers", "lens"])
def test_a_folder_that_is_not_there_is_said_in_one_line(scheme: str) -> None:
    for untrained in (False, True):
        with pytest.raises(InputError, match=f"{scheme}:/nonexistent: there is no folder"):
            load(f"{scheme}:/nonexistent", untrained=untrained)


@pytest.mark.parametrize("scheme", ["diffusers", "transformers"])
def test_an_id_that_no_hub_can_have_is_refused(scheme: str) -> None:
    with pytest.raises(InputError, match=f"{scheme}:a b cannot be loaded: "):
        load(f"{scheme}:a b")
