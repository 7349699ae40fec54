"""The bundle as files: bytes, escaping, wrong inputs."""

import base64
import hashlib
import json
import re
from pathlib import Path

import numpy as np
import pytest

from interp.dashboards import atlas, build_dashboard, bundle, live
from interp.dashboards.encode import array_record, plain, to_script_json
from interp.dashboards.shards import category_summary, highlights, previews, quantize
from interp.errors import InputError
from tests.dashboards.synthetic import HOSTILE, SyntheticStore, edited, features
from tests.dashboards.synthetic_alignment import alignment


def digest(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def payload(path: Path) -> dict:
    return json.loads(re.fullmatch(r'INTERP\.receive\("[^"]*",(.*)\);\n', path.read_text())[1])


def array(record: dict) -> np.ndarray:
    data = np.frombuffer(base64.b64decode(record["data"]), "<" + record["dtype"])
    return data.reshape(record["shape"])


def small(**options) -> tuple:
    store = SyntheticStore(n=32, size=16)
    return features(20, store=store, n_examples=8, grid=(4, 4), **options), store


def test_the_same_input_gives_the_same_bytes(tmp_path):
    for name in ("a", "b"):
        one, store = small()
        build_dashboard(tmp_path / name, [one], {store.hash: store}, alignments=[alignment()])
    assert digest(tmp_path / "a") == digest(tmp_path / "b")


def test_no_file_names_this_machine_or_the_day(tmp_path):
    one, store = small()
    build_dashboard(tmp_path, [one], [store], provenance={"config": Path("/home/someone/x.json")})
    meta = (tmp_path / "bundle/data/meta.js").read_text()
    assert "someone" not in meta
    assert payload(tmp_path / "bundle/data/meta.js")["provenance"] == {"config": "x.json"}


def test_shards_hold_what_features_hold(tmp_path):
    one, store = small()
    build_dashboard(tmp_path, [one], [store])
    shard = payload(tmp_path / "bundle/data/sae0/shard00000.js")
    np.testing.assert_array_equal(array(shard["row"]), one.example_row)
    np.testing.assert_array_equal(array(shard["histogram"]), one.histogram)
    np.testing.assert_allclose(array(shard["value"]), one.example_value)
    maps = array(shard["maps"]).astype(float) / 254 * array(shard["scale"])[:, None, None, None]
    alive = ~one.dead
    np.testing.assert_allclose(maps[alive], one.maps[alive], atol=float(one.maximum.max()) / 254)
    assert (array(shard["maps"])[one.dead] == 255).all()
    table = payload(tmp_path / "bundle/data/sae0/table.js")
    np.testing.assert_allclose(array(table["density"]), one.density, rtol=1e-6)


def test_every_shown_picture_is_there(tmp_path):
    one, store = small()
    build_dashboard(tmp_path, [one], [store])
    shown = np.unique(one.example_generation[one.example_row >= 0])
    files = {int(p.stem) for p in (tmp_path / f"bundle/thumbs/{store.hash[:12]}").iterdir()}
    assert files == set(shown.tolist())


def test_small_pictures_are_kept_exactly(tmp_path):
    from PIL import Image

    one, store = small()
    build_dashboard(tmp_path, [one], [store])
    path = next((tmp_path / f"bundle/thumbs/{store.hash[:12]}").iterdir())
    with Image.open(path) as image:
        pixels = np.asarray(image.convert("RGB"))
    np.testing.assert_array_equal(pixels, store.images([int(path.stem)])[0])


def test_scripts_carry_hostile_text_inert():
    text = to_script_json({"caption": HOSTILE + "\u2029<!--"})
    assert not set("<>&\u2028\u2029") & set(text)
    assert text.isascii()
    assert json.loads(text)["caption"] == HOSTILE + "\u2029<!--"


def test_a_hostile_title_stays_text_in_the_page(tmp_path):
    page = build_dashboard(tmp_path, alignments=[alignment()], title=HOSTILE + "{{scripts}}")
    text = page.read_text()
    assert "<img" not in text
    assert text.count('<script src="bundle/assets/core.js">') == 1


@pytest.mark.parametrize(
    ("values", "dtype"),
    [
        (np.array([0, 255]), "u1"),
        (np.array([-1, 90]), "i1"),
        (np.array([-1, 40_000]), "i4"),
        (np.array([0, 2**40]), "f8"),
        (np.array([True, False]), "u1"),
        (np.array([0.5], np.float16), "f4"),
        (np.zeros((0, 3), int), "u1"),
    ],
)
def test_arrays_shrink_to_the_smallest_exact_type(values, dtype):
    record = array_record(values)
    assert record["dtype"] == dtype
    np.testing.assert_array_equal(array(record), values)


def test_numbers_that_json_lacks_become_null():
    assert plain({"a": float("nan"), "b": np.float32("inf"), "c": (1, np.int64(2))}) == {
        "a": None,
        "b": None,
        "c": [1, 2],
    }


def test_maps_share_one_scale_and_mark_what_was_not_captured():
    maps = np.array([[[[0.0, 1.0], [2.0, np.nan]]]], np.float16)
    levels, scale = quantize(maps, np.array([[4.0]]))
    assert scale.tolist() == [4.0]
    assert levels.tolist() == [[[[0, 64], [127, 255]]]]


def test_category_summary_on_known_profiles():
    top, share, entropy = category_summary(np.array([[0, 3, 0, 0], [1, 1, 1, 1], [0, 0, 0, 0]]))
    assert top.tolist() == [1, 0, -1]
    np.testing.assert_allclose(share, [1, 0.25, 0])
    np.testing.assert_allclose(entropy, [0, 2, np.nan])


def test_previews_name_each_top_generation_once():
    one, _ = small()
    generation = one.example_generation.copy()
    generation[0, :4] = [5, 5, 6, 5]
    found = previews(edited(one, example_generation=generation))
    assert found[0].tolist()[:3] == [5, 6, -1]
    assert (found[one.dead] == -1).all()


def test_highlights_follow_their_rule():
    one, _ = small()
    found = highlights(one)
    ids = [latent["id"] for latent in found]
    assert len(set(ids)) == len(ids) == 6
    assert not one.dead[ids].any()
    assert (one.density[ids] <= 0.1).all()
    assert len({latent["category"] for latent in found}) == 6


def test_other_files_in_the_folder_stay(tmp_path):
    (tmp_path / "results.json").write_text("{}")
    one, store = small()
    for _ in range(2):
        build_dashboard(tmp_path, [one], [store])
    assert sorted(p.name for p in tmp_path.iterdir()) == ["bundle", "index.html", "results.json"]


def test_a_failed_build_leaves_the_old_page(tmp_path):
    one, store = small()
    build_dashboard(tmp_path, [one], [store])
    before = digest(tmp_path)
    bad = edited(one, example_generation=one.example_generation + 1000)
    with pytest.raises(Exception, match="10"):
        build_dashboard(tmp_path, [bad], [store])
    assert digest(tmp_path) == before


def test_someone_elses_page_is_not_overwritten(tmp_path):
    (tmp_path / "index.html").write_text("<h1>mine</h1>")
    with pytest.raises(InputError, match="not a dashboard of this library"):
        build_dashboard(tmp_path, alignments=[alignment()])


def test_nothing_to_show_is_an_error(tmp_path):
    with pytest.raises(InputError, match="nothing to show"):
        build_dashboard(tmp_path)


def test_features_of_another_store_are_refused(tmp_path):
    one, _ = small()
    with pytest.raises(InputError, match=r"on store 5f0c0ffee123; .*given are: feedbeef"):
        build_dashboard(tmp_path, [one], [SyntheticStore(hash="feedbeef")])


def test_fields_of_unequal_length_are_refused(tmp_path):
    one, store = small()
    with pytest.raises(InputError, match="maximum has 19 rows, density has 20"):
        build_dashboard(tmp_path, [edited(one, maximum=one.maximum[:-1])], [store])
    with pytest.raises(InputError, match="example_value has shape"):
        build_dashboard(tmp_path, [edited(one, example_value=one.example_value[:, :-1])], [store])
    with pytest.raises(InputError, match="edges has 40 entries; expected 41"):
        build_dashboard(tmp_path, [edited(one, edges=one.edges[:-1])], [store])
    with pytest.raises(InputError, match="5 calls but profile_calls has 6"):
        build_dashboard(tmp_path, [edited(one, calls=one.calls[:-1])], [store])


def test_features_without_latents_are_refused(tmp_path):
    one, store = small()
    with pytest.raises(InputError, match="hold no latent"):
        build_dashboard(tmp_path, [edited(one, density=one.density[:0])], [store])


def test_nan_densities_are_refused(tmp_path):
    one, store = small()
    density = np.where(np.arange(20) == 3, np.nan, one.density)
    with pytest.raises(InputError, match="density holds NaN"):
        build_dashboard(tmp_path, [edited(one, density=density)], [store])


def test_evaluations_of_an_unknown_sae_are_refused(tmp_path):
    one, store = small()
    with pytest.raises(InputError, match="'other' is none of"):
        build_dashboard(tmp_path, [one], [store], evaluations={"other": {"fvu": 0.1}})
    with pytest.raises(InputError, match="2 substitutions for 1 features"):
        build_dashboard(tmp_path, [one], [store], substitutions=[None, None])


def test_a_store_with_odd_images_is_refused(tmp_path):
    one, store = small()
    store.images = lambda g: np.zeros((len(g), 16, 16, 3), np.float32)
    with pytest.raises(InputError, match="expected uint8"):
        build_dashboard(tmp_path, [one], [store])


def test_cards_mark_undertrained_models_and_their_saes(tmp_path):
    one, store = small(model="zoo:gan")
    card = {"name": "zoo:gan", "verdict": {"undertrained": True, "reasons": ["far"]}}
    build_dashboard(tmp_path, [one], [store], cards=[card])
    meta = payload(tmp_path / "bundle/data/meta.js")
    assert meta["cards"][0]["undertrained"]
    assert meta["saes"][0]["undertrained"]


def test_the_strongest_cells_leave_references_and_single_models_out(tmp_path):
    build_dashboard(tmp_path, alignments=[alignment()])
    found = payload(tmp_path / "bundle/data/meta.js")["alignments"][0]["strongest"]
    pairs = {tuple(layer["model"] for layer in cell["layers"]) for cell in found}
    assert pairs == {("zoo:ddpm", "zoo:vae"), ("zoo:ddpm", "zoo:vit"), ("zoo:vae", "zoo:vit")}
    assert all(cell["p_holm"] is not None and cell["n_cells"] > 1 for cell in found)


def test_alignment_files_hold_every_cell(tmp_path):
    one = alignment(n_blocks=3)
    build_dashboard(tmp_path, alignments=[one])
    data = payload(tmp_path / "bundle/data/alignment0.js")
    assert array(data["cells"]["value"]).shape == (len(one.cells),)
    assert array(data["cells"]["value"])[7] == one.cells[7].comparison.value
    assert np.isnan(array(data["cells"]["p"])).any()


def test_the_bundle_names_no_other_host(tmp_path):
    one, store = small()
    build_dashboard(tmp_path, [one], [store])
    for path in tmp_path.rglob("*"):
        if path.is_file() and path.suffix != ".webp" and path.name != "plotly.min.js":
            hosts = re.findall(r"(?:https?:)?//[a-z0-9.-]+\.[a-z]{2,}", path.read_text())
            assert not [host for host in hosts if "www.w3.org" not in host], path.name


def test_every_asset_is_used_and_has_at_most_400_lines():
    folder = Path(bundle.__file__).parent / "assets"
    used = {*bundle.SCRIPTS, *bundle.STYLES, *atlas.STYLES, atlas.SCRIPT, "index.html"}
    used |= {file for file, _ in live.FILES.values()}
    assert {p.name for p in folder.iterdir()} == used
    lengths = {p.name: len(p.read_text().splitlines()) for p in folder.iterdir()}
    assert not {name: n for name, n in lengths.items() if n > 400}


def test_the_page_knows_how_many_permutations_and_families_bound_its_p(tmp_path):
    build_dashboard(tmp_path, alignments=[alignment()])
    found = payload(tmp_path / "bundle/data/meta.js")["alignments"][0]
    assert (found["n_permutations"], found["n_families"]) == (200, 6)
