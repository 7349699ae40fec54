"""The public experiment's protocol: prompts, swaps, sums as it makes them, and ours beside."""

import importlib.util
import json
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "models"))

from tiny_pipes import sd_pipe  # pyright: ignore

from interp.atlas.public import count_runs, draw_sets, list_blocks, public_protocol
from interp.atlas.public_facts import FLAWS, KEPT_BLOCKS
from interp.atlas.public_measures import (
    add_up_gains,
    bound_median,
    color_correlation,
    count_keypoint_matches,
    list_similarities,
    texture_correlation,
)
from interp.atlas.public_prompts import PROMPTS, Prompts, pair_prompts
from interp.atlas.public_record import PublicConfig
from interp.errors import InputError
from interp.loading import load

pytestmark = [
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore:__array__:DeprecationWarning"),
]


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("sd")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        sd_pipe().save_pretrained(place)
    return place


@pytest.fixture(scope="session")
def model(folder: Path) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found: Any = load(f"diffusers:{folder}")
        found.host.pipe.set_progress_bar_config(disable=True)
    return found


# The tokenizer of the tiny pipeline knows letters, and cuts a prompt at 16 of them.
SHORT = Prompts(
    ("ax", "be", "cu"), ("da", "et", "fo"), ("go", "hi", "ju"), "{object} {background} {style}"
)


def config(**more: Any) -> PublicConfig:
    small = {"prompts": SHORT, "n_pairs": 10, "n_sets": 2, "steps": 2, "guidance": 1.0}
    return PublicConfig(**{**small, "batch_size": 10, **more})


def noise_images(n: int, seed: int = 0, size: int = 16) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (n, size, size, 3), generator=generator, dtype=torch.uint8)


@pytest.mark.parametrize("name", sorted(PROMPTS))
def test_paired_prompts_differ_in_all_three_and_no_combination_is_in_two_pairs(name: str) -> None:
    prompts = PROMPTS[name]
    pairs, left = pair_prompts(prompts, 10, 3)
    used = [triple for pair in pairs for triple in pair]
    assert len({*used, *left}) == len(used) + len(left) == len(prompts.triples())
    for one, other in pairs:
        assert all(x != y for x, y in zip(one, other, strict=True))
    assert pairs == pair_prompts(prompts, 10, 3)[0] != pair_prompts(prompts, 10, 4)[0]


def test_the_large_lists_hold_five_hundred_disjoint_pairs() -> None:
    assert len(pair_prompts(PROMPTS["large"], 500, 42)[0]) == 500


def test_too_many_pairs_and_lists_of_one_entry_are_refused() -> None:
    with pytest.raises(InputError, match=r"14 pairs need 28 combinations .* have 27"):
        pair_prompts(PROMPTS["small"], 14, 0)
    with pytest.raises(InputError, match=r"styles .* two or more different entries"):
        pair_prompts(Prompts(("a", "b"), ("c", "d"), ("e",)), 1, 0)


def test_prompts_follow_the_public_template() -> None:
    prompts = PROMPTS["small"]
    text = prompts.write(prompts.triples()[0])
    assert text == "A high-resolution image of a lighthouse in the rain, watercolor"


def test_equal_images_correlate_fully_in_color_and_texture() -> None:
    x = noise_images(3)
    for measure in (color_correlation, texture_correlation):
        np.testing.assert_allclose(measure(x, x), 1.0)
        assert measure(x, noise_images(3, 1)).max() < 1


def test_color_ignores_places_and_texture_ignores_brightness() -> None:
    x = noise_images(2)
    moved = x.flip(1)
    np.testing.assert_allclose(color_correlation(x, moved), 1.0)
    dark = (x // 2) * 2
    np.testing.assert_allclose(texture_correlation(dark, dark // 2), 1.0)


def test_hue_saturation_and_value_of_pure_colors_fall_into_their_own_bins() -> None:
    red, green, gray = (
        torch.tensor(c, dtype=torch.uint8).expand(1, 4, 4, 3)
        for c in ((255, 0, 0), (0, 255, 0), (99, 99, 99))
    )
    for one, other in ((red, green), (red, gray), (green, gray)):
        assert color_correlation(one, other)[0] < 0
        np.testing.assert_allclose(color_correlation(one, one), 1.0)


def test_images_of_another_type_or_too_small_are_refused() -> None:
    with pytest.raises(InputError, match="uint8"):
        color_correlation(torch.zeros(1, 4, 4, 3), torch.zeros(1, 4, 4, 3))
    with pytest.raises(InputError, match="2 x 2 pixels have no inner pixel"):
        texture_correlation(noise_images(1, size=2), noise_images(1, size=2))


def test_keypoints_are_offered_only_where_their_package_is() -> None:
    here = importlib.util.find_spec("cv2") is not None
    assert ("keypoints" in list_similarities()) == here
    if not here:
        with pytest.raises(InputError, match="opencv"):
            count_keypoint_matches(noise_images(1), noise_images(1))


def test_gains_are_cut_at_zero_and_what_the_cut_adds_is_said() -> None:
    gain = add_up_gains(np.array([0.5, 0.1, 0.3, 0.1]), np.array([0.2, 0.2, 0.2, 0.2]))
    assert gain.mean == pytest.approx(0.1)
    assert gain.unclipped == pytest.approx(0.05)
    assert gain.clipped == 0.5
    assert gain.mean_low < gain.mean < gain.mean_high
    assert gain.median_low <= gain.median <= gain.median_high


def test_pure_noise_gains_something_by_the_cut_alone() -> None:
    rng = np.random.default_rng(0)
    gain = add_up_gains(rng.normal(size=400), np.zeros(400))
    # E max(x, 0) = 1 / sqrt(2 pi) of a standard normal.
    assert gain.mean == pytest.approx(0.399, abs=0.06)
    assert gain.mean_low > 0.3
    assert abs(gain.unclipped) < 0.1


def test_the_interval_of_a_median_covers_as_often_as_it_says_and_holds_constants() -> None:
    rng = np.random.default_rng(1)
    hits = 0
    for seed in range(100):
        low, high = bound_median(rng.exponential(size=41), 300, seed)
        hits += low <= np.log(2) <= high
    # Binomial 95 % of 100, three standard deviations and the discreteness of a median.
    assert 0.87 <= hits / 100 <= 1
    assert bound_median(np.full(5, 0.25), 50, 0) == (0.25, 0.25)


def test_sums_of_unequal_lengths_or_odd_values_are_refused() -> None:
    with pytest.raises(InputError, match="two equal lengths"):
        add_up_gains(np.zeros(3), np.zeros(4))
    with pytest.raises(InputError, match="NaN"):
        add_up_gains(np.array([0, np.nan]), np.zeros(2))


def test_blocks_are_real_ones_and_hold_no_container(model: Any) -> None:
    blocks = list_blocks(model)
    assert "mid_block.attentions.0" in blocks
    assert all(name.split(".")[-2] in ("resnets", "attentions") for name in blocks)
    modules = dict(model.root.named_modules())
    assert not any(isinstance(modules[name], torch.nn.ModuleList) for name in blocks)


def test_sets_are_drawn_per_pair_without_repeats() -> None:
    blocks = [f"b{i}" for i in range(6)]
    sets = draw_sets(blocks, 4, 50, (2, 3), 0)
    assert [len(some) for some in sets] == [50] * 4
    assert {len(one) for some in sets for one in some} == {2, 3}
    assert all(len(set(one)) == len(one) for some in sets for one in some)
    assert sets[0] != sets[1]
    assert sets == draw_sets(blocks, 4, 50, (2, 3), 0)
    with pytest.raises(InputError, match="sets of 3 from 2 blocks"):
        draw_sets(blocks[:2], 1, 1, (2, 3), 0)


@pytest.fixture(scope="session")
def result(model: Any) -> Any:
    told: list[tuple[int, int]] = []
    blocks = ("mid_block.attentions.0", "up_blocks.1.resnets.0")
    some = config(
        blocks=blocks,
        n_sets=1,
        set_sizes=(2,),
        windows=((1000.0, 0.0), (1000.0, 400.0)),
        control=False,
    )
    found = public_protocol(model, some, progress=lambda done, n: told.append((done, n)))
    assert told[-1] == (found.runs, count_runs(model, some))
    assert found.runs == count_runs(model, some)
    return found


def test_every_block_window_and_arm_has_both_kinds_of_numbers(result: Any) -> None:
    keys = {(cell.block, cell.window, cell.noise) for cell in result.singles}
    assert len(keys) == len(result.singles) == 2 * 2 * 2 == len(result.sets)
    for cell in result.singles:
        assert set(cell.effect.attributes) == set(cell.tau) == {"composition", "surface"}
        assert cell.effect.role == "descendant"
        assert cell.random is None
        assert {"ssim", "color", "texture"} <= set(cell.likeness)
    assert result.flaws == FLAWS
    assert len(FLAWS) > 8


def test_a_narrower_window_swaps_less(result: Any) -> None:
    by = {(c.block, c.window[1], c.noise): c for c in result.singles}
    block = "up_blocks.1.resnets.0"
    wide, narrow = (by[block, last, "independent"].likeness["ssim"] for last in (0.0, 400.0))
    assert wide.to_recipient < narrow.to_recipient < 1
    assert wide.between == narrow.between


def test_shared_noise_makes_donor_and_recipient_alike(result: Any) -> None:
    between = {
        noise: np.mean([c.likeness["ssim"].between for c in result.singles if c.noise == noise])
        for noise in ("shared", "independent")
    }
    assert between["shared"] > between["independent"]


def test_results_are_json(result: Any) -> None:
    values = json.loads(json.dumps(result.as_dict()))
    assert values["config"]["prompts"]["objects"] == ["ax", "be", "cu"]
    assert values["singles"][0]["effect"]["attributes"]["surface"]["alpha"] is not None
    assert len(values["flaws"]) == len(FLAWS)


def test_a_model_without_prompts_is_refused() -> None:
    from tiny_pipes import ddpm_pipe  # pyright: ignore

    with pytest.raises(InputError, match="takes no prompts"):
        public_protocol(load(ddpm_pipe()), config())


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"prompts": "huge"}, "prompts 'huge'"),
        ({"noise": ("own",)}, "noise"),
        ({"n_pairs": 9}, "at least 10 pairs"),
        ({"windows": ((0.0, 1000.0),)}, "first > last"),
        ({"set_sizes": (1,)}, "two or more blocks"),
    ],
)
def test_settings_that_make_no_sense_are_refused(more: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        config(**more)


@pytest.mark.slow
def test_the_latent_diffusion_model_of_the_zoo_runs_on_words_of_the_glyphs() -> None:
    some = config(prompts="glyphs", n_sets=0, windows=((1000.0, 0.0),), noise=("independent",))
    ldm = load("zoo:ldm")
    found = public_protocol(ldm, some)
    assert {cell.block for cell in found.singles} == set(list_blocks(ldm))


def test_the_kept_blocks_are_names_of_blocks() -> None:
    for roles in KEPT_BLOCKS.values():
        for names in roles.values():
            assert all(name.split(".")[-2] in ("resnets", "attentions") for name in names)
