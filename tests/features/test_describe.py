"""describe() against its brute-force twin, and what it refuses."""

import dataclasses

import numpy as np
import pytest
import torch

from interp.errors import InputError, PointError, SAEError
from interp.features import Features, describe, maps, scan, summary
from interp.features.record import ARRAYS, RECORD
from interp.sae import TopK
from interp.store import write_store
from tests.features.twin import brute_force, make_store

N_TOP = 5


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return make_store(tmp_path_factory.mktemp("store"))


@pytest.fixture(scope="module")
def sae(store):
    sae = TopK(8, 32, 3, seed=1)
    statistics = store.statistics("mid")
    sae.fit(statistics.mean, statistics.var)
    with torch.no_grad():
        # One latent that never fires.
        sae.b_enc[7] = -100
    return sae


@pytest.fixture(scope="module")
def features(sae, store):
    return describe(sae, store, "mid", n_top=N_TOP, n_quantile=8, n_random=4, umap=False, seed=3)


@pytest.fixture(scope="module")
def twin(sae, store):
    return brute_force(sae, store, "mid", n_top=N_TOP, seed=3)


@pytest.mark.parametrize(
    "name",
    ["density", "mean_active", "maximum", "dead", "profile_calls", "category_profile"],
)
def test_statistics_equal_those_of_dense_codes(features, twin, name):
    np.testing.assert_allclose(getattr(features, name), getattr(twin, name), rtol=2e-6, atol=1e-7)


def test_the_histogram_counts_every_active_row_in_its_bin(features, twin):
    for latent in range(32):
        values = np.log10(twin.code[:, latent][twin.code[:, latent] > 0])
        expected = np.histogram(values, features.edges)[0]
        assert abs(expected - features.histogram[latent]).sum() <= 2
    assert features.histogram.sum() == (twin.code > 0).sum()


def test_top_examples_are_the_largest_rows_of_different_generations(features, twin):
    for latent in range(32):
        expected = twin.top[latent] + [-1] * (N_TOP - len(twin.top[latent]))
        assert features.example_row[latent, :N_TOP].tolist() == expected


def test_random_examples_are_a_uniform_sample_by_key(features, twin):
    for latent in range(32):
        expected = twin.random[latent] + [-1] * (4 - len(twin.random[latent]))
        assert features.example_row[latent, -4:].tolist() == expected


def test_quantile_examples_lie_in_their_quarter(features, twin):
    for latent in np.flatnonzero(~features.dead):
        values = np.sort(twin.code[:, latent][twin.code[:, latent] > 0])
        for slot in np.flatnonzero(features.example_kind[latent] == Features.QUANTILE):
            if features.example_row[latent, slot] < 0:
                continue
            rank = np.searchsorted(values, features.example_value[latent, slot]) / len(values)
            # The pool of 64 estimates quarters to .06 (one standard error).
            quarter = features.example_bin[latent, slot]
            assert quarter / 4 - 0.25 <= rank <= (quarter + 1) / 4 + 0.25


def test_example_coordinates_are_those_of_their_rows(features, store):
    there = features.example_row >= 0
    coords = store.coords("mid", features.example_row[there])
    assert (features.example_generation[there] == coords["generation"]).all()
    assert (features.example_call[there] == coords["call"]).all()
    assert (features.example_half[there] == coords["cfg_half"]).all()
    assert (features.example_y[there] == coords["y"]).all()
    assert (features.example_x[there] == coords["x"]).all()
    assert (features.example_generation[~there] == -1).all()


def test_maps_show_the_activation_over_the_example_own_map(features, twin, store):
    coords = store.coords("mid")
    own = coords["generation"].astype(int) * 2 + coords["call"]
    for latent, slot in zip(*np.nonzero(features.example_row >= 0), strict=True):
        ids = np.flatnonzero(own == own[features.example_row[latent, slot]])
        expected = twin.code[ids, latent].reshape(4, 4)
        np.testing.assert_allclose(features.maps[latent, slot], expected, rtol=2e-3, atol=1e-4)
    assert np.isnan(features.maps[features.example_row < 0]).all()


def test_coactive_latents_have_the_largest_jaccard_index(features, twin):
    for latent in range(32):
        expected = np.sort(twin.jaccard[latent])[::-1][: features.coactive.shape[1]]
        score = np.nan_to_num(features.coactive_score[latent])
        np.testing.assert_allclose(score, expected, rtol=1e-6)
        found = features.coactive[latent][features.coactive[latent] >= 0]
        np.testing.assert_allclose(twin.jaccard[latent, found], score[: len(found)], rtol=1e-6)


def test_neighbors_are_the_nearest_live_decoder_directions(features, sae):
    rows = torch.nn.functional.normalize(sae.W_dec.detach(), dim=1)
    cosine = (rows @ rows.T).numpy()
    np.fill_diagonal(cosine, -np.inf)
    cosine[:, features.dead] = -np.inf
    expected = np.argsort(-cosine, axis=1, kind="stable")[:, :8]
    assert (features.neighbors == expected).all()


def test_dead_latents_have_no_examples_and_no_place_on_the_map(features):
    assert features.dead[7]
    assert (features.example_row[7] == -1).all()
    assert np.isnan(features.umap[7]).all()
    assert np.isfinite(features.umap[~features.dead]).all()


@pytest.mark.parametrize("size", [16, 100, 1000])
def test_nothing_depends_on_the_size_of_the_chunks(features, sae, store, monkeypatch, size):
    monkeypatch.setattr(scan, "CHUNK", size)
    other = describe(sae, store, "mid", n_top=N_TOP, n_quantile=8, n_random=4, umap=False, seed=3)
    assert (other.example_row == features.example_row).all()
    assert (other.histogram == features.histogram).all()
    np.testing.assert_allclose(other.profile_calls, features.profile_calls, rtol=1e-5)


def test_the_store_is_scanned_once_and_in_order(sae, store, monkeypatch):
    seen = []
    chunks = type(store).chunks

    def spy(self, point, size):
        for ids, x in chunks(self, point, size):
            seen.append(ids)
            yield ids, x

    monkeypatch.setattr(type(store), "chunks", spy)
    describe(sae, store, "mid", umap=False)
    assert (np.concatenate(seen) == np.arange(store.n_rows("mid"))).all()


def test_rows_restrict_everything_but_the_maps(sae, store):
    mask = store.coords("mid")["call"] == 1
    features = describe(sae, store, "mid", rows=mask, umap=False)
    assert features.n_rows == mask.sum()
    assert set(np.unique(features.example_call)) <= {-1, 1}
    assert (features.profile_calls[:, 0] == 0).all()
    assert features.calls[0]["n_rows"] == 0


def test_a_sample_of_rows_estimates_coactivation(features, sae, store, monkeypatch):
    monkeypatch.setattr(scan, "SAMPLE", 400)
    monkeypatch.setattr(summary, "SAMPLE", 400)
    sampled = describe(sae, store, "mid", umap=False)
    assert any("random sample of 400 rows" in note for note in sampled.notes)
    both = ~np.isnan(sampled.coactive_score[:, 0]) & ~np.isnan(features.coactive_score[:, 0])
    assert abs(sampled.coactive_score - features.coactive_score)[both, 0].mean() < 0.1


def test_large_maps_are_max_pooled(sae, store, features):
    small = describe(sae, store, "mid", n_top=N_TOP, umap=False, map_side=2, seed=3)
    pooled = features.maps.reshape(*features.maps.shape[:2], 2, 2, 2, 2).max((3, 5))
    there = features.example_row[:, :N_TOP] >= 0
    np.testing.assert_array_equal(small.maps[:, :N_TOP][there], pooled[:, :N_TOP][there])
    assert "maps are max-pooled by 2 in height and width" in small.notes


def test_vector_points_have_maps_of_one_position(tmp_path):
    g = torch.Generator().manual_seed(0)
    x = torch.randn(6, 1, 1, 8, generator=g)
    store = write_store(tmp_path, {"w": x}, generations={"image_id": list("abcdef")})
    features = describe(TopK(8, 16, 2), store, "w", umap=False)
    assert features.maps.shape[2:] == (1, 1)
    there = features.example_row >= 0
    np.testing.assert_allclose(
        features.maps[there][:, 0, 0], features.example_value[there], rtol=1e-3
    )


def test_positions_without_a_row_are_nan(tmp_path):
    store = make_store(tmp_path, n=6)
    kept = np.arange(16) % 3 == 0
    where = maps.places(store, "mid")
    rows = np.array([[17]])
    y = np.where(np.tile(kept, 12), where.y, -1)
    one = TopK(8, 1, 1)
    full = maps.example_maps(one, store, "mid", where, rows, 1)
    some = maps.example_maps(one, store, "mid", where._replace(y=y), rows, 1)
    assert np.isnan(some.reshape(-1)[~kept]).all()
    np.testing.assert_array_equal(some.reshape(-1)[kept], full.reshape(-1)[kept])


def test_saving_and_loading_keeps_everything(features, tmp_path):
    features.save(tmp_path)
    loaded = Features.load(tmp_path)
    for field in dataclasses.fields(Features):
        before, after = getattr(features, field.name), getattr(loaded, field.name)
        if isinstance(before, np.ndarray):
            assert before.dtype == after.dtype
            np.testing.assert_array_equal(before, after)
        else:
            assert before == after


@pytest.mark.parametrize("name", [RECORD, ARRAYS])
def test_truncated_files_are_refused(features, tmp_path, name):
    features.save(tmp_path)
    file = tmp_path / name
    file.write_bytes(file.read_bytes()[:-7])
    with pytest.raises(InputError, match="describe again"):
        Features.load(tmp_path)


def test_a_flipped_bit_is_refused(features, tmp_path):
    features.save(tmp_path)
    payload = bytearray((tmp_path / ARRAYS).read_bytes())
    payload[len(payload) // 2] ^= 4
    (tmp_path / ARRAYS).write_bytes(payload)
    with pytest.raises(InputError, match="altered"):
        Features.load(tmp_path)


def test_a_folder_without_features_is_refused(tmp_path):
    with pytest.raises(InputError, match="holds no features"):
        Features.load(tmp_path)


def test_an_sae_of_another_width_is_refused(store):
    with pytest.raises(SAEError, match="width 8 != SAE d_in 5 at mid"):
        describe(TopK(5, 16, 2), store, "mid")


def test_an_unknown_point_is_refused(sae, store):
    with pytest.raises(PointError, match=r"has no (hook )?point 'mod'"):
        describe(sae, store, "mod")


@pytest.mark.parametrize(
    ("counts", "message"),
    [
        ({"n_quantile": 6}, "multiple of 4"),
        ({"n_top": -1}, "-1 top"),
        ({"n_neighbors": 0}, "must be positive"),
    ],
)
def test_counts_out_of_range_are_refused(sae, store, counts, message):
    with pytest.raises(InputError, match=message):
        describe(sae, store, "mid", **counts)


def test_nan_rows_are_named_and_can_be_left_out(tmp_path, monkeypatch):
    x = torch.randn(4, 1, 4, 8, generator=torch.Generator().manual_seed(0))
    store = write_store(tmp_path, {"mid": x}, generations={"image_id": list("abcd")})
    poisoned = store.rows("mid").clone()
    poisoned[5] = torch.nan
    monkeypatch.setattr(store, "chunks", lambda *_: iter([(np.arange(16), poisoned)]))
    sae = TopK(8, 16, 2)
    with pytest.raises(SAEError, match="rows 0 to 15 of mid hold NaN"):
        describe(sae, store, "mid", umap=False)
    mask = np.arange(16) != 5
    assert describe(sae, store, "mid", rows=mask, umap=False).n_rows == 15


@pytest.mark.slow
def test_umap_is_reproducible(sae, store):
    first = describe(sae, store, "mid", seed=3).umap
    second = describe(sae, store, "mid", seed=3).umap
    np.testing.assert_array_equal(first, second)
    assert np.isfinite(first[np.arange(32) != 7]).all()


def test_few_live_latents_are_laid_out_by_principal_components(store):
    sae = TopK(8, 6, 2)
    features = describe(sae, store, "mid")
    assert any("too few for UMAP" in note for note in features.notes)
