"""Training over several ranks: equal to one process, continued by any number, stopped clearly."""

import os
import re
import shutil
import subprocess
import sys

import pytest
import torch

from interp.errors import SAEError
from interp.sae import SAE, train
from interp.sae.checkpoint import CHECKPOINT, load_checkpoint
from interp.sae.distributed import share
from interp.sae.sharded_checkpoint import newest_shards
from interp.sae.sharded_mesh import parse_layout, span_of
from tests.sae.ranks import CASES, CONFIG, DATA, LAYOUTS, Stop, timeless

# Seconds; a machine busy with other work has needed a third of it.
LIMIT = 300
ALL_LAYOUTS = [(world, layout) for world, layouts in LAYOUTS.items() for layout in layouts]

slow = pytest.mark.slow


class Breaking:
    """The batches, until a crash before a step; 16 and later, the first are read at once."""

    def __init__(self, stop):
        self.stop = stop

    def __iter__(self):
        for step, x in enumerate(DATA):
            if step == self.stop:
                raise Stop
            yield x


def environment(root):
    path = os.pathsep.join(map(str, [root, root / "kernels"]))
    return {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}


def launch(root, folder, world, *names):
    """Run scenarios of ranks.py in `world` processes; their results, None for a killed one."""
    ranks = []
    for rank in range(world):
        command = [
            sys.executable,
            "-W",
            "error",
            "-m",
            "tests.sae.ranks",
            str(rank),
            str(world),
            str(folder),
        ]
        with (folder / f"stderr-{rank}").open("w") as errors:
            ranks.append(
                subprocess.Popen([*command, *names], cwd=root, env=environment(root), stderr=errors)
            )
    try:
        codes = [process.wait(LIMIT) for process in ranks]
    finally:
        for process in ranks:
            process.kill()
    said = [(folder / f"stderr-{rank}").read_text() for rank in range(world)]
    assert all(code <= 0 for code in codes), "\n".join(said)
    results = [folder / f"results-{'-'.join(names)}-{world}-{rank}.pt" for rank in range(world)]
    return [torch.load(path, weights_only=True) if path.exists() else None for path in results]


@pytest.fixture(scope="module")
def one(tmp_path_factory):
    """The run of one process."""
    return train(DATA, CONFIG, out=tmp_path_factory.mktemp("one"))


@pytest.fixture(scope="module")
def jobs(tmp_path_factory, root):
    """Results of 2 and of 4 ranks, by world and rank, and their folder."""
    folder = tmp_path_factory.mktemp("ranks")
    with pytest.raises(Stop):
        train(Breaking(18), CONFIG, out=folder / "from-one")
    both = "gradients", "fused", "selection", "runs", "replicas", "relay"
    two = launch(root, folder, 2, *both, "from_one", "each")
    shutil.copytree(folder / "relay", folder / "relay-of-two")
    return {2: two, 4: launch(root, folder, 4, *both, "refusals"), "folder": folder}


def close(found, expected):
    """Weights within the rounding of 24 steps in float32; measured: 4e-7."""
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, rtol=0, atol=5e-6)


def same_lines(found, expected):
    assert [line["step"] for line in found] == [line["step"] for line in expected]
    for one, other in zip(found, timeless(expected), strict=True):
        assert {**one, "seconds": 0} == pytest.approx({**other, "seconds": 0}, abs=3e-6)


def bits(state):
    return b"".join(tensor.numpy().tobytes() for tensor in state.values())


@slow
@pytest.mark.parametrize("world", [2, 4])
def test_losses_gradients_and_fired_latents_are_those_of_one_process(jobs, world):
    for result in jobs[world]:
        assert len(result["gradients"]) == len(CASES) * len(LAYOUTS[world])
        wrong = {case: error for case, error in result["gradients"].items() if not error < 1e-12}
        assert not wrong


@slow
@pytest.mark.parametrize("world", [2, 4])
def test_the_fused_step_leaves_the_weights_of_autograd_in_one_process(jobs, world):
    for result in jobs[world]:
        assert len(result["fused"]) == len(CASES)
        # The fused step's learning rate is a float32.
        wrong = {case: error for case, error in result["fused"].items() if not error < 1e-8}
        assert not wrong


@slow
@pytest.mark.parametrize("world", [2, 4])
def test_the_selection_is_that_of_a_stable_sort_of_all_latents(jobs, world):
    for result in jobs[world]:
        assert len(result["selection"]) >= 12
        assert all(result["selection"])


@slow
@pytest.mark.parametrize(("world", "layout"), ALL_LAYOUTS)
def test_a_run_ends_where_one_process_ends(jobs, one, world, layout):
    for result in jobs[world]:
        state, log = result["runs"][layout, None]
        close(state, one.sae.state_dict())
        same_lines(log, one.log)
        assert result["runs"][layout, "parts"] == ["config.json", "log.jsonl", "sae"]
    out = jobs["folder"] / f"{world}-{layout}"
    assert (out / "config.json").read_text() == (one.path / "config.json").read_text()
    saved = SAE.load(out / "sae")
    assert bits(saved.state_dict()) == bits(state)
    assert saved.provenance == one.sae.provenance
    assert saved.trained_units.equal(one.sae.trained_units)


@slow
@pytest.mark.parametrize(("world", "layout"), ALL_LAYOUTS)
@pytest.mark.parametrize("stop", [3, 13])
def test_a_stopped_run_continues_to_the_same_bits(jobs, world, layout, stop):
    for result in jobs[world]:
        whole, whole_log = result["runs"][layout, None]
        again, log = result["runs"][layout, stop]
        assert bits(again) == bits(whole)
        assert log == whole_log


@slow
@pytest.mark.parametrize("world", [2, 4])
def test_replicas_hold_the_same_bits_and_the_parts_make_the_whole(jobs, world):
    ranks = [result["replicas"] for result in jobs[world]]
    sae = SAE.load(jobs["folder"] / f"replicas-{world}" / "sae").state_dict()
    for held in ranks:
        span = held.pop("span")
        assert held["b_dec"].equal(sae["b_dec"])
        for name in ("W_enc", "b_enc", "W_dec"):
            assert held[name].equal(sae[name][slice(*span)])
    if world == 4:
        assert all(ranks[0][name].equal(ranks[2][name]) for name in ranks[0])
        assert all(ranks[1][name].equal(ranks[3][name]) for name in ranks[1])


@slow
def test_two_ranks_then_four_then_one_make_the_run_of_one(jobs, one, tmp_path):
    folder = jobs["folder"]
    assert newest_shards(folder / "relay-of-two").name == "shards-000000005"
    assert newest_shards(folder / "relay").name == "shards-000000015"
    shutil.copytree(folder / "relay", tmp_path / "relay")
    run = train(DATA, CONFIG, out=tmp_path / "relay")
    close(run.sae.state_dict(), one.sae.state_dict())
    same_lines(timeless(run.log), one.log)
    assert sorted(path.name for path in run.path.iterdir()) == ["config.json", "log.jsonl", "sae"]


@slow
def test_a_checkpoint_of_four_ranks_is_that_of_one_process(jobs, tmp_path):
    with pytest.raises(Stop):
        train(Breaking(17), CONFIG, out=tmp_path)
    expected = load_checkpoint(tmp_path)
    found = load_checkpoint(jobs["folder"] / "relay")
    assert found["silent"].equal(expected["silent"])
    assert found["silent"].max() >= CONFIG.window
    assert found["step"] == expected["step"] == 15
    assert found["batches"] == expected["batches"]
    # A TopK has no penalty, and its ranks do not add one up.
    assert {"penalty": 0.0, **found["sums"]} == pytest.approx(expected["sums"], abs=1e-5)
    close(found["sae"], expected["sae"])
    for mine, theirs in zip(found["optimizer"], expected["optimizer"], strict=True):
        close(mine, theirs)


@slow
def test_ranks_go_on_from_the_file_of_one_process(jobs, one):
    for result in jobs[2]:
        state, log = result["from_one"]
        close(state, one.sae.state_dict())
        same_lines(log, one.log)


@slow
def test_each_rank_trains_seeds_of_its_own(jobs):
    first, second = (result["each"] for result in jobs[2])
    assert (list(first), list(second)) == ([0, 2, 4], [1, 3])
    saved = {seed: SAE.load(jobs["folder"] / f"seed{seed}" / "sae").digest for seed in range(5)}
    assert saved == first | second
    assert len(set(saved.values())) == 5


@slow
@pytest.mark.parametrize(
    ("attempt", "message"),
    [
        ("unknown", "unknown layout 'rows'; known are 'auto', 'latents', 'each', and data x"),
        ("misfit", "layout 3x2 needs 6 ranks, but 4 run: start it with torchrun"),
        ("configs", "different arguments: config.steps = 25 on rank 1, 24 on rank 0"),
        ("folders", "different arguments: out = "),
        ("variant", "variant 'batchtopk' cannot be split over 4 ranks"),
        ("too few", "n_latents = 5 over 4 ranks in parts of 2 leaves the last rank none"),
        ("small", "the batch of step 0 has 1 rows for 2 data ranks"),
        ("nan", "step 19: 1 of 15 rows hold NaN"),
        ("another run", "holds another run (config.seed: 0 there, 7 asked"),
        ("jobs", "4 ranks share 3 jobs: start at most 3"),
    ],
)
def test_what_cannot_be_is_refused_on_every_rank(jobs, attempt, message):
    said = [result["refusals"][attempt] for result in jobs[4]]
    if attempt == "nan":
        assert all("rank 0 could not read the batch of step 19" in text for text in said[1:])
        said = said[:1]
    if attempt == "small":
        said = said[::2]
    assert all(message in text for text in said), said


@slow
def test_nan_leaves_the_last_checkpoint(jobs):
    assert newest_shards(jobs["folder"] / "nan").name == "shards-000000015"


@slow
def test_a_killed_rank_ends_the_others_and_loses_nothing(root, one, tmp_path):
    survivor, dead = launch(root, tmp_path, 2, "killed")
    assert dead is None
    assert re.match(
        r"rank 0 of 2: another rank stopped or does not answer \(.*\w\)", survivor["killed"]
    )
    assert "the last checkpoint is kept: start the same command again" in survivor["killed"]
    assert newest_shards(tmp_path / "killed").name == "shards-000000010"
    run = train(DATA, CONFIG, out=tmp_path / "killed")
    close(run.sae.state_dict(), one.sae.state_dict())


@slow
def test_a_checkpoint_without_metadata_does_not_count(jobs, one, tmp_path):
    shutil.copytree(jobs["folder"] / "relay", tmp_path / "relay")
    (tmp_path / "relay" / "shards-000000020").mkdir()
    (tmp_path / "relay" / "shards-000000020" / "__0_0.distcp").write_bytes(b"half")
    assert newest_shards(tmp_path / "relay").name == "shards-000000015"
    run = train(DATA, CONFIG, out=tmp_path / "relay")
    close(run.sae.state_dict(), one.sae.state_dict())
    assert not list((tmp_path / "relay").glob("shards-*"))


@slow
@pytest.mark.parametrize("victim", [".metadata", "__1_0.distcp"])
def test_damaged_parts_are_refused_with_the_way_out(jobs, tmp_path, victim):
    shutil.copytree(jobs["folder"] / "relay", tmp_path / "relay")
    file = tmp_path / "relay" / "shards-000000015" / victim
    file.write_bytes(file.read_bytes()[:20])
    with pytest.raises(SAEError, match=r"shards-000000015 is damaged .* delete it to start"):
        train(DATA, CONFIG, out=tmp_path / "relay")
    again = train(DATA, CONFIG, out=tmp_path / "relay", resume=False)
    assert again.log[-1]["step"] == CONFIG.steps


@slow
def test_metadata_that_would_run_code_are_refused(jobs, tmp_path):
    shutil.copytree(jobs["folder"] / "relay", tmp_path / "relay")
    victim = tmp_path / "victim"
    file = tmp_path / "relay" / "shards-000000015" / ".metadata"
    file.write_bytes(f"cos\nmkdir\n(V{victim}\ntR.".encode())
    with pytest.raises(SAEError, match=r"damaged \(it names \w+\.mkdir, no record"):
        train(DATA, CONFIG, out=tmp_path / "relay")
    assert not victim.exists()


@slow
def test_the_newer_of_two_kinds_of_checkpoint_counts(jobs, tmp_path):
    shutil.copytree(jobs["folder"] / "relay", tmp_path / "relay")
    with pytest.raises(Stop):
        train(Breaking(17), CONFIG, out=tmp_path / "one")
    state = torch.load(tmp_path / "one" / CHECKPOINT)
    torch.save({**state, "step": 10}, tmp_path / "relay" / CHECKPOINT)
    assert load_checkpoint(tmp_path / "relay")["step"] == 15
    torch.save({**state, "step": 16}, tmp_path / "relay" / CHECKPOINT)
    assert load_checkpoint(tmp_path / "relay")["step"] == 16
    with pytest.raises(Stop):
        train(Breaking(22), CONFIG, out=tmp_path / "relay")
    assert load_checkpoint(tmp_path / "relay")["step"] == 20
    assert not list((tmp_path / "relay").glob("shards-*"))


@pytest.mark.parametrize(
    ("layout", "world", "sizes"),
    [
        ("auto", 4, (1, 4)),
        ("latents", 3, (1, 3)),
        ("2x2", 4, (2, 2)),
        ("4x1", 4, (4, 1)),
        ("each", 4, None),
        ("auto", 1, None),
        ("latents", 1, None),
        ("1x1", 1, None),
    ],
)
def test_a_layout_is_a_grid_of_ranks(layout, world, sizes):
    assert parse_layout(layout, world) == sizes


@pytest.mark.parametrize("layout", ["", "2", "2x", "0x4", "2x2x1", "data", "-1x4"])
def test_a_layout_that_is_none_is_refused(layout):
    with pytest.raises(SAEError, match=f"unknown layout '{layout}'; known are 'auto'"):
        parse_layout(layout, 4)


def test_a_grid_needs_its_number_of_ranks(tmp_path):
    with pytest.raises(SAEError, match=r"layout 2x2 needs 4 ranks, but 1 run: .*-node 4"):
        train(DATA, CONFIG, out=tmp_path, layout="2x2")


@pytest.mark.parametrize(("m", "ranks"), [(32, 4), (31, 4), (29, 4), (7, 4), (5, 3), (1, 1)])
def test_spans_are_those_of_chunk(m, ranks):
    spans = [span_of(m, ranks, rank) for rank in range(ranks)]
    chunks = torch.arange(m).chunk(ranks)
    assert [list(range(*span)) for span in spans] == [chunk.tolist() for chunk in chunks]


@pytest.mark.parametrize(("m", "ranks", "most"), [(5, 4, 3), (3, 4, 3), (9, 8, 5)])
def test_a_split_without_latents_for_a_rank_is_refused(m, ranks, most):
    with pytest.raises(SAEError, match=f"n_latents = {m} over {ranks} .* at most {most} ranks"):
        span_of(m, ranks, 0)
    assert span_of(m, most, most - 1).high == m


def test_jobs_are_shared_without_rest():
    parts = [share(range(7), rank=rank, world=3) for rank in range(3)]
    assert parts == [[0, 3, 6], [1, 4], [2, 5]]
    assert share(["a"]) == ["a"]
    with pytest.raises(SAEError, match="3 ranks share 2 jobs: start at most 2"):
        share([1, 2], rank=0, world=3)
