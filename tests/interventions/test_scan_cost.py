"""What a scan costs is known before it starts: runs, blocks that reuse leaves, time, memory."""

import pytest

from interp.interventions import estimate_scan, list_carriers, split_calls
from interp.interventions.swapping import read_carriers
from interp.models import Generation
from tests.interventions import networks

DONOR = Generation(n=12, seed=0, steps=2, classes=(0, 1))
RECIPIENT = Generation(n=12, seed=100, steps=2, classes=(1, 2))
ATTRIBUTES = {"color": lambda x: x.double().mean((1, 2)) / 255}
NAMES = ("x_T", "classes", "mid_block.resnets.0:delta", "skip.1", "up_blocks.0.resnets.0")


@pytest.fixture(scope="module")
def unet():
    return networks.unet()


@pytest.fixture(scope="module")
def carriers(unet):
    return [carrier for carrier in list_carriers(unet, DONOR) if carrier.label in NAMES]


def test_the_cost_counts_runs_and_the_blocks_that_reuse_leaves(unet, carriers):
    early, late = (part[-1] for part in split_calls(unet, DONOR, carriers, 2))
    block = carriers[-1]
    costs = [
        estimate_scan(unet, [one], DONOR, RECIPIENT, batch_size=8, probe=False)
        for one in (block, early, late)
    ]
    assert [cost.runs for cost in costs] == [12, 12, 12]
    assert {cost.seconds for cost in costs} == {None}
    blocks = costs[0].block_runs // 24
    assert costs[0].block_runs == 24 * blocks
    whole, first, second = (cost.block_runs_left for cost in costs)
    assert whole == first < costs[0].block_runs
    # Four edited runs and two checks of reuse are each without the first of two calls.
    assert first - second == 6 * blocks
    source = estimate_scan(unet, carriers[:1], DONOR, RECIPIENT, batch_size=8, probe=False)
    assert (source.runs, source.n_parts) == (8, 4)
    assert source.block_runs_left == source.block_runs


def test_the_cost_in_seconds_is_that_of_a_timed_run(unet, carriers):
    cost = estimate_scan(unet, carriers, DONOR, RECIPIENT, ATTRIBUTES, batch_size=8)
    assert (cost.seconds or 0) > 0
    assert cost.bytes > 0
    assert "5 carriers x 12 pairs" in str(cost)


def test_the_estimated_memory_is_that_of_the_cached_rows(unet, carriers):
    some = [carrier for carrier in carriers if carrier.points]
    cost = estimate_scan(unet, some, DONOR, RECIPIENT, batch_size=12, probe=False)
    names = [name for carrier in some for name in carrier.points]
    _, cache = read_carriers(unet, names, DONOR.batch(0, 12, n_classes=3))
    assert cost.bytes == 2 * sum(rows.nbytes for rows in cache.values())
