"""Joined reading: what belongs together, what does not, and the same batches each time."""

import sys

import numpy as np
import pytest
import torch

from interp.errors import SAEError
from interp.sae import Site, TrainConfig, join, train
from tests.sae.stores import make_pair, make_store


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return make_pair(tmp_path_factory.mktemp("pair"))


@pytest.fixture(scope="module")
def pair(store):
    return join([(store, "early"), (store, "late")])


def _reversed(store, out, **changes):
    """The same images and rows in the opposite order, as another model's store."""
    from interp.store import write_store

    flipped = {}
    for name in ("early", "late"):
        at = store.coords(name)
        values = torch.empty(20, 2, 8, store.points[name].width)
        values[at["generation"], at["call"], at["token"]] = store.rows(name)
        flipped[name] = values.flip(0)
    images = [f"image{i}" for i in reversed(range(20))]
    columns = {"image_id": images, "cluster": [f"cluster{(19 - i) // 2}" for i in range(20)]}
    settings = {"shard_size": 8, "model": {"spec": "other", "weights_sha256": "cd" * 32}}
    return write_store(out, flipped, generations=columns, **{**settings, **changes})


def test_a_joined_row_is_the_sites_rows_side_by_side(store, pair):
    assert (pair.n_rows, pair.widths) == (320, (6, 4))
    expected = torch.cat([store.rows("early"), store.rows("late")], dim=1)
    assert (pair.rows() == expected).all()
    assert (pair.rows(np.array([7, 3])) == expected[[7, 3]]).all()


def test_calls_of_a_point_are_matched_by_image_and_position(store):
    joined = join([Site(store, "early", 1), (store, "early", 0)])
    coords = store.coords("early")
    assert joined.n_rows == 160
    for row in (0, 50, 159):
        late, early = joined.ids[:, row]
        assert (coords["call"][late], coords["call"][early]) == (1, 0)
        for name in ("generation", "y", "x", "token"):
            assert coords[name][late] == coords[name][early]
    assert (joined.rows()[:, :6] == store.rows("early", joined.ids[0])).all()


def test_stores_are_matched_by_image_whatever_their_order(store, tmp_path):
    other = _reversed(store, tmp_path)
    joined = join([(store, "early"), (other, "early")])
    x = joined.rows()
    assert (x[:, :6] == x[:, 6:]).all()
    assert (joined.ids[0] != joined.ids[1]).any()
    assert [site["model"]["spec"] for site in joined.describe()] == ["test", "other"]


def test_rows_without_partners_are_an_error_with_the_numbers(store, tmp_path):
    fewer = make_pair(tmp_path, n=12, seed=4)
    sites = [(store, "early"), (fewer, "late")]
    with pytest.raises(SAEError, match=r"192 rows are in all sites \(early 320, late 192 rows\)"):
        join(sites)
    assert join(sites, partial=True).n_rows == 192


def test_stores_of_other_images_have_nothing_in_common(store, tmp_path):
    other = make_pair(tmp_path, prefix="other ")
    with pytest.raises(SAEError, match=r"no row is in all sites .* image0, other image0"):
        join([(store, "early"), (other, "late")])


def test_other_grids_are_refused(store, tmp_path):
    other = make_store(tmp_path, positions=4)
    with pytest.raises(SAEError, match=r"positions do not correspond: early grid .*, mid grid"):
        join([(store, "early"), (other, "mid")])


@pytest.mark.parametrize(
    ("calls", "message"),
    [
        ((0, None), "give every site a call, or none"),
        ((0, 7), "early has no row of call 7; its calls are 0 to 1"),
        ((1, 1), "a site comes twice"),
        ((1,), "1 sites: two or more"),
    ],
)
def test_sites_that_make_no_sense_are_refused(store, calls, message):
    with pytest.raises(SAEError, match=message):
        join([(store, "early", call) for call in calls])


def _ids(reader, count):
    return [next(reader).row_ids.tolist() for _ in range(count)]


def test_every_epoch_has_every_row_once_in_an_order_of_the_seed(pair):
    first = _ids(pair.read(32, seed=1), 10)
    assert sorted(row for batch in first for row in batch) == list(range(320))
    assert _ids(pair.read(32, seed=1), 10) == first != _ids(pair.read(32, seed=2), 10)


@pytest.mark.parametrize("stop", [1, 4, 13])
def test_a_reader_continues_where_another_stood(pair, stop):
    whole = _ids(pair.read(32, seed=1, epochs=None, reservoir=80), 20)
    reader = pair.read(32, seed=1, epochs=None, reservoir=80)
    _ids(reader, stop)
    again = pair.read(32, seed=1, epochs=None, reservoir=80)
    again.load_state_dict(reader.state_dict())
    assert _ids(again, 20 - stop) == whole[stop:]


def test_rows_from_the_disk_are_those_from_memory(store, pair):
    disk = join([(store, "early"), (store, "late")], memory=0)
    for mine, theirs in zip(disk.read(32, seed=3), pair.read(32, seed=3), strict=True):
        assert (mine.row_ids == theirs.row_ids).all()
        assert (mine.x == theirs.x).all()


def test_random_reading_is_refused_beyond_the_memory(store, tmp_path):
    from interp.store import write_store

    order = torch.randperm(20, generator=torch.Generator().manual_seed(0)).tolist()
    columns = {"image_id": [f"image{i}" for i in order], "cluster": [str(i) for i in order]}
    sites = []
    for i, names in enumerate([columns, {k: sorted(v) for k, v in columns.items()}]):
        values = {"early": torch.randn(20, 1, 1, 6)}
        one = write_store(tmp_path / str(i), values, generations=names, shard_size=8)
        sites.append((one, "early"))
    assert join(sites).n_rows == 20
    with pytest.raises(SAEError, match=r"lie in runs of 1\..* more than memory = 0\.00 GiB"):
        join(sites, memory=0)


def test_statistics_are_those_of_all_joined_rows(store, pair):
    found = pair.statistics()
    x = pair.rows().double()
    torch.testing.assert_close(found.mean, x.mean(dim=0))
    torch.testing.assert_close(found.var, x.var(dim=0, unbiased=False))


def test_whole_clusters_are_held_out_in_every_store(store, tmp_path):
    from interp.sae.split import seen_generations

    other = _reversed(store, tmp_path)
    joined = join([(store, "early"), (other, "early")])
    mask, units = joined.training_rows(0.2, 0)
    assert mask.sum() == 256
    trained = set(joined.generation()[mask].tolist())
    seen = seen_generations(store.generations, units)
    assert set(store.generations["generation"][seen].tolist()) == trained
    assert seen_generations(other.generations, units).sum() == len(trained)


def test_chosen_rows_train(pair, tmp_path):
    mask = np.arange(320) < 64
    assert (pair.training_rows(0.1, 0, mask)[0] == mask).all()
    with pytest.raises(SAEError, match="none of the 320 joined rows may train"):
        pair.training_rows(0.1, 0, np.zeros(320, dtype=bool))


class Stop(Exception):
    """Stands for a crash."""


@pytest.mark.parametrize("variant", ["transcoder", "crosscoder"])
def test_a_stopped_run_continues_to_the_same_bits(pair, tmp_path, monkeypatch, variant):
    config = TrainConfig(variant, 24, 3, batch_size=16, steps=20, checkpoint_every=5)
    whole = train(pair, config, out=tmp_path / "whole").sae
    module = sys.modules["interp.sae.train"]
    step = module._step

    def crash(state, batch, config):
        if state.step == 12:
            raise Stop
        step(state, batch, config)

    monkeypatch.setattr(module, "_step", crash)
    with pytest.raises(Stop):
        train(pair, config, out=tmp_path / "run")
    monkeypatch.undo()
    resumed = train(pair, config, out=tmp_path / "run").sae
    assert resumed.digest == whole.digest
    assert resumed.provenance["split"]["rows"] == 288
