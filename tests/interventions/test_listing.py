"""The carriers of every family: sources, writes and cuts; players that share the writes out."""

import pytest

from interp.assets.dcgan import DCGAN, wrap
from interp.errors import InputError, PointError
from interp.interventions import (
    interchange,
    list_carriers,
    make_carrier,
    measure_layers,
    play_carriers,
    split_calls,
)
from interp.interventions.carriers import check_interchange
from interp.interventions.layers import EXACT
from interp.interventions.listing import LEVELS, find_writes
from interp.models import Generation
from tests.interventions import networks

pytestmark = [
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore:__array__:DeprecationWarning"),
]

TEXT = {"prompts": ("a", "b"), "guidance": 3.0}
FAMILIES = {
    "unet": (networks.unet, {"classes": (0, 1)}),
    "sd": (lambda: networks.pipe("sd"), TEXT),
    "video": (lambda: networks.pipe("video"), TEXT),
    "dit": (networks.dit, {"classes": (0, 1)}),
    "sd3": (lambda: networks.pipe("sd3"), TEXT),
    "flux": (lambda: networks.pipe("flux"), TEXT),
    "vae": (networks.vae, {}),
    "gan": (lambda: networks.zoo("gan"), {}),
}


@pytest.fixture(scope="module", autouse=True)
def _libraries():
    """Import what takes seconds before any test's clock runs."""
    networks.pipe("sd")


@pytest.fixture(params=FAMILIES)
def case(request):
    build, options = FAMILIES[request.param]
    return build(), Generation(n=12, steps=4, **options)


def _points(carriers):
    return [point for carrier in carriers for point in carrier.points]


def test_stages_share_all_writes_out_once_in_order_of_depth(case):
    model, recipe = case
    stages = list_carriers(model, recipe, "stages")
    writes = find_writes(model, "generate")
    assert 2 <= len(stages) <= EXACT
    assert tuple(_points(stages)) == writes
    assert len({stage.label for stage in stages}) == len(stages)
    other = Generation(**{**vars(recipe), "seed": 100})
    assert set(check_interchange(model, stages, recipe, other)) == {"write"}


def test_no_write_of_a_stage_lies_inside_another(case):
    model, _ = case
    modules = {model.points[name].module for name in find_writes(model, "generate")}
    assert not [(a, b) for a in modules for b in modules if a.startswith(f"{b}.")]


def test_every_delta_is_a_write_or_inside_one(case):
    model, _ = case
    modules = {model.points[name].module for name in find_writes(model, "generate")}
    deltas = [
        point.module
        for name, point in model.points.items()
        if point.kind == "delta" and "generate" in model.sites[name].modes
    ]
    for module in deltas:
        assert any(module == one or module.startswith(f"{one}.") for one in modules)


def test_kinds_are_disjoint_and_reach_into_every_write(case):
    model, recipe = case
    kinds = list_carriers(model, recipe, "kinds")
    points = _points(kinds)
    assert len(set(points)) == len(points)
    reached = {model.points[name].module for name in points}
    for name in find_writes(model, "generate"):
        module = model.points[name].module
        assert any(one == module or one.startswith(f"{module}.") for one in reached)


def test_blocks_hold_sources_writes_and_cuts_each_under_one_name(case):
    model, recipe = case
    carriers = list_carriers(model, recipe)
    names = [carrier.label for carrier in carriers]
    assert len(set(names)) == len(names)
    other = Generation(**{**vars(recipe), "seed": 100})
    roles = check_interchange(model, carriers, recipe, other)
    assert set(roles) == {"source", "write", "descendant"}
    sources = {n for n, role in zip(names, roles, strict=True) if role == "source"}
    assert sources == set(model.sources(recipe))
    assert set(find_writes(model, "generate")) <= set(names)
    assert set(names) <= {c.label for c in list_carriers(model, recipe, "branches")}


def test_the_kinds_of_networks_are_named():
    def kinds(name):
        build, options = FAMILIES[name]
        return {c.label: c.points for c in list_carriers(build(), Generation(**options), "kinds")}

    assert set(kinds("unet")) == {"resnet", "self-attention"}
    found = kinds("sd")
    assert set(found) == {"resnet", "self-attention", "cross-attention", "feed-forward"}
    assert all(point.endswith("attn2") for point in found["cross-attention"])
    assert set(kinds("dit")) == {"self-attention", "feed-forward"}
    assert set(kinds("flux")) == {"joint attention", "feed-forward", "single-stream block"}
    assert set(kinds("gan")) == {"style", "noise"}


def test_skips_main_paths_and_contexts_are_listed_and_block_outputs_once():
    build, options = FAMILIES["sd"]
    names = [c.label for c in list_carriers(build(), Generation(**options))]
    assert sum(name.startswith("skip.") for name in names) == 4
    assert sum(name.startswith("context.") for name in names) == 4
    assert "down_blocks.0.attentions.0:main" in names
    assert "x_t" not in names
    inner = [n for n in names if "transformer_blocks" in n and not n.startswith("context.")]
    assert not inner


def test_an_autoencoder_is_listed_for_images_too():
    model = networks.vae()
    carriers = list_carriers(model, _images())
    assert carriers[0].label == "code"
    assert any(carrier.label == "encoder.mid_block.resnets.0:delta" for carrier in carriers)


def _images():
    import torch

    return torch.zeros(2, 16, 16, 3, dtype=torch.uint8)


def test_a_chain_without_writes_is_shared_out_by_its_outputs_as_graph_cuts():
    model = wrap(DCGAN((8, 8, 4)), "chain", (), None)
    stages = list_carriers(model, Generation(n=12), "stages")
    assert [(one.label, one.role) for one in stages] == [
        (f"layers.{i}", "descendant") for i in range(3)
    ]
    sides = (Generation(n=12, seed=s) for s in (0, 1000))
    colors = {"colors": lambda x: x.float().mean((1, 2))}
    reference = model.generate(Generation(n=40, seed=5000).batch(0, 40))
    game = play_carriers(model, stages, *sides, colors, reference)
    assert game.role == "descendant"
    shares = measure_layers(game, n_resamples=20)
    assert shares.first_in == pytest.approx(1, abs=1e-9)
    assert shares.last_in == pytest.approx(0, abs=1e-9)
    single = wrap(DCGAN((8,)), "one layer", (), None)
    with pytest.raises(InputError, match="has 1 writes and 1 block outputs"):
        list_carriers(single, Generation(n=12), "stages")


def test_windows_split_the_calls_of_every_carrier():
    model, recipe = networks.unet(), Generation(n=2, steps=5, classes=(0,))
    carriers = [make_carrier(model, ["mid_block.*:delta"], name="mid")]
    carriers += list_carriers(model, recipe)[:2]
    windows = split_calls(model, recipe, carriers, 3)
    assert [[c.label for c in part] for part in windows] == [
        ["mid @ 0-1"],
        ["mid @ 2-3"],
        ["mid @ 4-4"],
    ]
    with pytest.raises(InputError, match="6 windows of 5 calls"):
        split_calls(model, recipe, carriers, 6)
    with pytest.raises(InputError, match="bound to some calls already"):
        split_calls(model, recipe, windows[0], 3)


def test_all_stages_of_a_unet_run():
    model, recipe = networks.unet(), Generation(n=2, steps=2, classes=(0,))
    other = Generation(n=2, steps=2, classes=(0,), seed=100)
    found = interchange(model, list_carriers(model, recipe, "stages"), recipe, other)
    assert [one.rerender for one in found] == [0] * len(found)


def test_unknown_levels_and_globs_are_refused():
    model = networks.vae()
    with pytest.raises(InputError, match="level 'layers' is not one of blocks"):
        list_carriers(model, Generation(), "layers")
    with pytest.raises(PointError, match="closest"):
        make_carrier(model, ["decoder.nothing.*"])
    assert LEVELS[0] == "blocks"
