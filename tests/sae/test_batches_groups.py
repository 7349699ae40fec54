"""Which rows share a budget: the coordinates of a store's rows, or what an iterable says."""

import numpy as np
import pytest
import torch

from interp.errors import SAEError
from interp.sae import BatchTopK, Job, TrainConfig, train, train_many
from interp.sae.batches import Batch, IterableBatches, StoreBatches
from tests.sae.stores import make_store


@pytest.fixture
def store(tmp_path):
    return make_store(tmp_path / "store", n=8, calls=3)


def _config(budget, **changes):
    settings = {"batch_size": 32, "steps": 6, "checkpoint_every": 2, "options": {"budget": budget}}
    return TrainConfig("batchtopk", 16, 2, **{**settings, **changes})


def _open(store, budget):
    mask = np.ones(store.n_rows("mid"), dtype=bool)
    return StoreBatches.open(store, "mid", _config(budget), mask)


@pytest.mark.parametrize(("budget", "column"), [("image", "generation"), ("timestep", "call")])
def test_rows_of_a_store_belong_to_their_image_or_call(store, budget, column):
    batches = _open(store, budget)
    for step in range(3):
        batch = batches.take(step)
        expected = store.coords("mid", batch.row_ids, [column])[column]
        assert batch.groups is not None
        assert batch.groups.dtype == torch.int64
        assert batch.groups.tolist() == expected.tolist()


def test_a_budget_of_the_batch_looks_up_nothing(store):
    assert _open(store, "batch").take(0).groups is None


@pytest.mark.parametrize("budget", ["image", "timestep"])
def test_a_run_with_groups_resumes_to_the_last_bit(store, budget, tmp_path, monkeypatch):
    whole = train(store, _config(budget), point="mid", out=tmp_path / "a").sae
    taken = StoreBatches.take

    def killed(self, step):
        if step == 5:
            raise KeyboardInterrupt
        return taken(self, step)

    monkeypatch.setattr(StoreBatches, "take", killed)
    with pytest.raises(KeyboardInterrupt):
        train(store, _config(budget), point="mid", out=tmp_path / "b")
    monkeypatch.undo()
    again = train(store, _config(budget), point="mid", out=tmp_path / "b").sae
    assert again.digest == whole.digest
    assert isinstance(again, BatchTopK)
    assert isinstance(whole, BatchTopK)
    assert again.threshold == whole.threshold > 0


def test_the_budgets_lead_to_different_weights(store, tmp_path):
    found = {
        budget: train(store, _config(budget), point="mid", out=tmp_path / budget).sae
        for budget in ("batch", "image", "timestep")
    }
    for a, b in (("batch", "image"), ("batch", "timestep"), ("image", "timestep")):
        assert found[a].digest != found[b].digest


def test_jobs_with_different_budgets_each_get_their_own_groups(store, tmp_path):
    jobs = {name: Job(_config(name), "mid") for name in ("batch", "image", "timestep")}
    runs = train_many(store, jobs, out=tmp_path / "many")
    for name, job in jobs.items():
        alone = train(store, job.config, point="mid", out=tmp_path / name).sae
        for mine, theirs in zip(runs[name].sae.parameters(), alone.parameters(), strict=True):
            torch.testing.assert_close(mine, theirs)


def test_an_iterable_of_rows_has_no_groups_and_one_of_batches_has_its_own():
    rows = [torch.randn(4, 3, generator=torch.Generator().manual_seed(i)) for i in range(3)]
    assert IterableBatches(rows).take(0).groups is None
    owner = torch.tensor([5, 5, 1, 1])
    source = IterableBatches([Batch(x, None, owner) for x in rows])
    for step, x in enumerate(rows):
        batch = source.take(step)
        assert (batch.x == x).all()
        assert (batch.groups == owner).all()
    expected = torch.cat(rows).double().mean(dim=0)
    torch.testing.assert_close(source.statistics().mean, expected)


@pytest.mark.parametrize("groups", [torch.zeros(3, dtype=torch.int64), torch.zeros(4)])
def test_groups_that_are_not_one_number_per_row_are_refused(groups):
    with pytest.raises(SAEError, match="one whole number per row is needed"):
        IterableBatches([Batch(torch.ones(4, 3), None, groups)])
