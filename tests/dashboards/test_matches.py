"""Matched features in the bundle: pairs as columns, maps as bytes, pictures of the images."""

import dataclasses

import numpy as np
import pytest

from interp.dashboards import build_dashboard
from interp.errors import InputError
from tests.dashboards.synthetic import SyntheticStore, features
from tests.dashboards.synthetic_alignment import alignment
from tests.dashboards.synthetic_matches import FIRST, N_IMAGES, N_PAIRS, matches
from tests.dashboards.test_bundle import array, payload


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    store = SyntheticStore(n=64, size=16)
    one = features(20, store=store, n_examples=8, grid=(4, 4))
    found = matches(store)
    folder = tmp_path_factory.mktemp("page")
    saved = found.save(folder / "matches.json")
    aligned = [alignment(n_blocks=4), alignment(n_blocks=4, sample_set="samples")]
    build_dashboard(folder, [one], [store], alignments=aligned, matches=[saved])
    return folder / "bundle", found, store


def test_a_match_is_written_as_columns_and_examples(built):
    bundle, found, store = built
    record = payload(bundle / "data/matches0.js")
    np.testing.assert_allclose(array(record["r"]), np.array(found.r), atol=1e-6)
    assert array(record["latent_second"]).tolist() == list(found.latent_second)
    assert np.isnan(array(record["cosine"])).all()
    assert record["n_shared"] == found.n_shared == 9
    generation = array(record["generation"])
    assert generation.shape == (N_PAIRS, N_IMAGES)
    names = [store.generations["image_id"][g] for g in generation[0]]
    assert tuple(names) == found.examples[0].ids
    assert array(record["maps_first"]).shape == (N_PAIRS, N_IMAGES, 8, 8)
    assert "maps_second" not in record


def test_every_picture_of_a_match_is_there(built):
    bundle, _, store = built
    record = payload(bundle / "data/matches0.js")
    folder = bundle / "thumbs" / store.hash[:12]
    assert all((folder / f"{g}.webp").is_file() for g in np.unique(array(record["generation"])))
    known = payload(bundle / f"data/store/{store.hash[:12]}.js")
    assert set(array(record["generation"]).ravel()) <= set(array(known["generation"]))


def test_a_match_belongs_to_the_alignments_on_its_images_and_to_its_sae(built):
    (meta,) = payload(built[0] / "data/meta.js")["matches"]
    assert meta["alignments"] == [0]
    assert (meta["first"]["model"], meta["first"]["point"]) == FIRST
    assert meta["first"]["sae"] == 0
    assert meta["second"]["sae"] is None


def test_matches_without_their_store_or_an_alignment_are_refused(tmp_path):
    store = SyntheticStore(n=64, size=16)
    found = matches(store)
    with pytest.raises(InputError, match="1 matches without an alignment"):
        build_dashboard(tmp_path, matches=[found])
    with pytest.raises(InputError, match=r"were matched on stores .*the stores given are: none"):
        build_dashboard(tmp_path, alignments=[alignment()], matches=[found])
    fewer = SyntheticStore(n=8, size=16)
    with pytest.raises(InputError, match="lacks image"):
        build_dashboard(tmp_path, stores=[fewer], alignments=[alignment()], matches=[found])


def test_matches_of_matrices_need_no_pictures(tmp_path):
    bare = dataclasses.replace(matches(SyntheticStore(n=64, size=16)), examples=())
    build_dashboard(tmp_path, alignments=[alignment(n_blocks=4)], matches=[bare])
    record = payload(tmp_path / "bundle/data/matches0.js")
    assert array(record["generation"]).shape == (0, 0)
