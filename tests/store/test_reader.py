"""The shuffled reader: once per epoch, the same for the same seed, resumable anywhere."""

import itertools
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from interp.errors import InputError
from interp.store import ActivationStore, ShuffledReader, write_store
from interp.store import reader as reader_module


@pytest.fixture
def numbered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ActivationStore:
    """A store of 1,001 rows, row i holding the number i, in blocks of 16."""
    monkeypatch.setattr(reader_module, "BLOCK", 16)
    x = torch.arange(1001.0).reshape(143, 1, 7, 1).expand(143, 1, 7, 2).contiguous()
    return write_store(tmp_path, {"x": x}, shard_size=30)


def _ids(reader: ShuffledReader) -> list[list[int]]:
    return [batch.row_ids.tolist() for batch in reader]


@pytest.mark.parametrize("reservoir", [1, 100, 128, 1001, 65536])
@pytest.mark.parametrize("batch_size", [1, 37, 64, 1001, 2000])
def test_an_epoch_visits_every_row_once(
    numbered: ActivationStore, batch_size: int, reservoir: int
) -> None:
    reader = numbered.read("x", batch_size, seed=3, reservoir=reservoir)
    batches = _ids(reader)
    assert sorted(itertools.chain(*batches)) == list(range(1001))
    assert len(batches) == reader.batches_per_epoch
    assert {len(batch) for batch in batches[:-1]} <= {batch_size}


def test_rows_belong_to_their_ids_and_are_float32(numbered: ActivationStore) -> None:
    for ids, x in numbered.read("x", 50, reservoir=200):
        assert x.dtype == torch.float32
        assert torch.equal(x[:, 0], torch.from_numpy(ids).float())


def test_the_order_depends_on_the_seed_and_the_epoch_alone(numbered: ActivationStore) -> None:
    first = _ids(numbered.read("x", 50, seed=1, epochs=2, reservoir=200))
    assert first == _ids(numbered.read("x", 50, seed=1, epochs=2, reservoir=200))
    assert first[:21] != first[21:]
    assert first != _ids(numbered.read("x", 50, seed=2, epochs=2, reservoir=200))
    assert sorted(itertools.chain(*first[21:])) == list(range(1001))


def test_no_epochs_means_no_end(numbered: ActivationStore) -> None:
    reader = numbered.read("x", 500, epochs=None)
    assert len(list(itertools.islice(reader, 10))) == 10


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("position", [0, 1, 7, 20, 21, 30, 62])
def test_reading_resumes_anywhere_with_the_same_bits(
    numbered: ActivationStore, position: int, masked: bool
) -> None:
    rows = np.arange(1001) % 3 > 0 if masked else None

    def read() -> ShuffledReader:
        return numbered.read("x", 50, seed=5, epochs=3, reservoir=160, rows=rows)

    whole = list(read())
    reader = read()
    for _ in range(position):
        next(reader, None)
    state = json.loads(json.dumps(reader.state_dict()))
    other = read()
    next(other)
    other.load_state_dict(state)
    rest = list(other)
    assert len(rest) == max(0, len(whole) - position)
    for (ids, x), (ids2, x2) in zip(whole[position:], rest, strict=True):
        assert np.array_equal(ids, ids2)
        assert torch.equal(x, x2)


def test_a_mask_selects_rows(numbered: ActivationStore) -> None:
    mask = np.random.default_rng(0).random(1001) < 0.1
    seen = sorted(itertools.chain(*_ids(numbered.read("x", 16, rows=mask, reservoir=40))))
    assert seen == np.flatnonzero(mask).tolist()
    by_ids = numbered.read("x", 16, rows=np.flatnonzero(mask)[::-1], reservoir=40)
    assert sorted(itertools.chain(*_ids(by_ids))) == seen


def test_batches_mix_rows_from_all_over_the_store(numbered: ActivationStore) -> None:
    # Row i of a random order of n is n / 3 away from i on average: 334 here.
    ids = np.concatenate([b.row_ids for b in numbered.read("x", 50, reservoir=400)])
    assert np.abs(ids - np.arange(1001)).mean() > 280
    neighbours = np.abs(np.diff(ids)) == 1
    assert neighbours.mean() < 0.03


@pytest.mark.parametrize(
    "change",
    [
        lambda s: s.read("x", 50, seed=6),
        lambda s: s.read("x", 51, seed=5),
        lambda s: s.read("x", 50, seed=5, reservoir=100),
        lambda s: s.read("x", 50, seed=5, rows=np.arange(1001)),
    ],
)
def test_a_state_of_another_reader_is_refused(
    numbered: ActivationStore, change: Callable[[ActivationStore], ShuffledReader]
) -> None:
    state = numbered.read("x", 50, seed=5).state_dict()
    with pytest.raises(InputError, match="the reader's state comes from"):
        change(numbered).load_state_dict(state)


def test_no_rows_and_no_batch_are_refused(numbered: ActivationStore) -> None:
    with pytest.raises(InputError, match="0 rows of x in batches of 8"):
        numbered.read("x", 8, rows=np.zeros(1001, dtype=bool))
    with pytest.raises(InputError, match="1001 rows of x in batches of 0"):
        numbered.read("x", 0)
