"""One rank of test_distributed.py: `python -m tests.sae.ranks RANK WORLD FOLDER SCENARIO ...`."""

import dataclasses
import itertools
import os
import signal
import sys
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist

from interp.errors import SAEError
from interp.sae import Context, TopK, TrainConfig, distributed, train
from interp.sae.losses import normalize_rows_
from interp.sae.sharded import Dead, DeadLatents, ShardedTopK, keep_largest, keep_largest_reference
from interp.sae.sharded_mesh import open_mesh
from interp.sae.sharded_step import fused_step
from interp.sae.step import BETAS, autograd_step, open_stack
from interp.sae.synthetic import PlantedDictionary

D, M, K = 8, 31, 4
CONFIG = TrainConfig(
    n_latents=M, k=K, batch_size=15, steps=24, checkpoint_every=5, log_every=10, dead_window=2
)
DATA = PlantedDictionary(12, D, 2, batch_size=15, steps=24)
LAYOUTS = {2: ("latents", "2x1"), 4: ("latents", "2x2", "4x1")}


class Stop(Exception):
    """Stands for a crash."""


def whole_sae(m=M, aux_k=0):
    """A TopK in float64 whose biases are not zero and whose latents 3 and m - 2 are always tied."""
    g = torch.Generator().manual_seed(1)
    sae = TopK(D, m, K, aux_k=aux_k)
    for parameter in sae.parameters():
        parameter.data += 0.1 * torch.randn(parameter.shape, generator=g)
    sae.fit(torch.randn(D, generator=g).double(), 1 + torch.rand(D, generator=g).double())
    # One coordinate times a power of 2: the same bits in products of every shape. Above most others
    # in many rows, so that ties stand at the threshold too.
    tied = [3, m - 2]
    sae.W_enc.data[tied] = 2 * torch.eye(D)[0]
    sae.b_enc.data[tied] = 0.3
    normalize_rows_(sae.W_dec)
    return sae.double()


DEAD = {
    "none": lambda m: torch.zeros(m, dtype=torch.bool),
    "few": lambda m: torch.arange(m) % 11 == 1,
    "first part": lambda m: torch.arange(m) < 7,
    "last": lambda m: torch.arange(m) == m - 1,
    "all": lambda m: torch.ones(m, dtype=torch.bool),
}
CASES = list(itertools.product((M, 32), (0, 3), DEAD))


def gradients_of_one(m, aux_k, dead):
    """Losses and tangential gradients of one process."""
    sae = whole_sae(m, aux_k)
    losses = sae.loss_terms(rows(), Context(DEAD[dead](m)))
    (losses.reconstruction + losses.aux / 32).backward()
    sae.before_step()
    return {
        "reconstruction": losses.reconstruction.detach(),
        "aux": losses.aux.detach(),
        "fired": losses.code.fired(),
        **{name: parameter.grad for name, parameter in sae.named_parameters()},
    }


def rows(n=37):
    return 2 * torch.randn(n, D, generator=torch.Generator().manual_seed(5)).double()


def gradients(folder, world):
    """The largest difference from one process, by layout and case."""
    worst = {}
    for layout in LAYOUTS[world]:
        grid = open_mesh(layout, "cpu")
        for case in CASES:
            worst[(layout, *case)] = _difference(grid, *case, spare=case[1])
    return worst


def _difference(grid, m, aux_k, dead, spare):
    one = gradients_of_one(m, aux_k, dead)
    sae = ShardedTopK(whole_sae(m, aux_k), grid)
    part = slice(*sae.span)
    x = rows().tensor_split(grid.layout.data)[grid.data_rank]
    own = DEAD[dead](m)[part]
    # More room than there are dead latents stands for the upper bounds of a GPU.
    counts = [c + spare for c in grid.gather(own.sum(), "latents").tolist()]
    losses = sae.loss_terms(x, 37, Dead(own, counts, DEAD[dead](m).any()))
    (losses.reconstruction + losses.aux / 32).backward()
    sae.finish_gradients()
    found = {
        "reconstruction": grid.sum_(losses.reconstruction.detach().clone(), "data"),
        "aux": grid.sum_(losses.aux.detach().clone(), "data"),
        "fired": sae.fired(losses.code),
        **{name: parameter.grad for name, parameter in sae.named_parameters()},
    }
    shared = {"reconstruction", "aux", "b_dec"}
    expected = {name: one[name] if name in shared else one[name][part] for name in one}
    return max(float((found[name].double() - expected[name].double()).abs().max()) for name in one)


def fused(folder, world):
    """The largest difference of weights and moments from two steps of one process by autograd."""
    grid = open_mesh("latents", "cpu")
    return {case: _fused_difference(grid, *case) for case in CASES}


def _fused_difference(grid, m, aux_k, dead):
    config = dataclasses.replace(CONFIG, n_latents=m, options={"aux_k": aux_k})
    one = whole_sae(m, aux_k)
    sae = ShardedTopK(whole_sae(m, aux_k), grid)
    part = slice(*sae.span)
    optimizers = [torch.optim.Adam(s.parameters(), betas=BETAS, fused=True) for s in (one, sae)]
    counters = torch.where(DEAD[dead](m), 9, 0)
    silent = counters[part].clone()
    stack = open_stack([sae], [optimizers[1]], [silent])
    for step in range(2):
        x = rows(30 + step)
        autograd_step(one, optimizers[0], counters, x, config, step)
        record = DeadLatents(grid, config.window, silent).pop()
        fused_step(sae, stack, x, record, (config.lr_at(step), config.aux_coefficient))
    worst = float((silent - counters[part]).abs().max())
    for name, parameter in sae.named_parameters():
        theirs = dict(one.named_parameters())[name]
        for mine, other in zip(
            (parameter, *optimizers[1].state[parameter].values()),
            (theirs, *optimizers[0].state[theirs].values()),
            strict=True,
        ):
            own = other[part] if other.ndim and name != "b_dec" else other
            worst = max(worst, float((mine - own).detach().abs().max()))
    return worst


def selection(folder, world):
    """Whether every row keeps exactly what a stable sort of all values keeps, ties included."""
    grid = open_mesh("latents", "cpu")
    agree = []
    for seed, levels in itertools.product(range(5), (2, 5, 1000)):
        g = torch.Generator().manual_seed(seed)
        slots = [min(K, 1 + (seed + rank) % 5) for rank in range(world)]
        blocks = [
            torch.randint(levels, (50, s), generator=g).sort(dim=1, descending=True).values.double()
            for s in slots
        ]
        if sum(slots) < K:
            continue
        kept = keep_largest(blocks[grid.rank], K, grid)
        expected = keep_largest_reference(torch.cat(blocks, dim=1), K)[0].split(slots, dim=1)
        # A value of 0 adds nothing, kept or not.
        positive = blocks[grid.rank] > 0
        agree.append(bool((kept & positive).equal(expected[grid.rank] & positive)))
    return agree


def runs(folder, world):
    """Train in every layout, stopped and continued as well: weights and logs."""
    results = {}
    for layout in LAYOUTS[world]:
        whole = train(DATA, CONFIG, out=folder / f"{world}-{layout}", layout=layout)
        for stop in (3, 13):
            out = folder / f"{world}-{layout}-{stop}"
            stopped_at(stop, out, layout)
            again = train(DATA, CONFIG, out=out, layout=layout)
            results[layout, stop] = again.sae.state_dict(), timeless(again.log)
        results[layout, None] = whole.sae.state_dict(), timeless(whole.log)
        results[layout, "parts"] = sorted(path.name for path in whole.path.iterdir())
    return results


def stopped_at(step, out, layout, config=CONFIG):
    """Train until a crash before a step."""
    real = distributed._step

    def crash(state, *rest):
        if state.step == step:
            raise Stop
        real(state, *rest)

    distributed._step = crash
    try:
        train(DATA, config, out=out, layout=layout)
    except Stop:
        return
    finally:
        distributed._step = real
    raise AssertionError(f"step {step} was never reached")


def timeless(log):
    return [{key: line[key] for key in line if key != "seconds"} for line in log]


def relay(folder, world):
    """Carry the same run on, whatever the number of ranks before: two, then four, then one."""
    stopped_at({2: 8, 4: 17}[world], folder / "relay", LAYOUTS[world][-2])


def from_one(folder, world):
    """Go on from the file of one process, to the end."""
    run = train(DATA, CONFIG, out=folder / "from-one", layout="2x1")
    return run.sae.state_dict(), timeless(run.log)


def each(folder, world):
    """Every rank trains its share of five seeds, without the others."""
    seeds = distributed.share(range(5))
    configs = [dataclasses.replace(CONFIG, seed=seed, steps=6) for seed in seeds]
    return {
        config.seed: train(
            DATA, config, out=folder / f"seed{config.seed}", layout="each"
        ).sae.digest
        for config in configs
    }


def refusals(folder, world):
    """Messages of what cannot be."""
    rank = dist.get_rank()
    two = dataclasses.replace(CONFIG, steps=24 + (rank == 1))
    empty = dataclasses.replace(CONFIG, n_latents=5)
    poisoned = list(DATA)
    poisoned[19] = poisoned[19].index_fill(0, torch.tensor([3]), torch.nan)
    other = dataclasses.replace(CONFIG, seed=7)
    small = [batch[:1] for batch in DATA]
    attempts = {
        "unknown": lambda: train(DATA, CONFIG, out=folder / "bad", layout="rows"),
        "misfit": lambda: train(DATA, CONFIG, out=folder / "bad", layout="3x2"),
        "configs": lambda: train(DATA, two, out=folder / "bad"),
        "folders": lambda: train(DATA, CONFIG, out=folder / f"bad{rank}"),
        "variant": lambda: train(
            DATA, dataclasses.replace(CONFIG, variant="batchtopk"), out=folder / "bad"
        ),
        "too few": lambda: train(DATA, empty, out=folder / "bad", layout="1x4"),
        "small": lambda: train(small, CONFIG, out=folder / "small", layout="2x2"),
        "nan": lambda: train(poisoned, CONFIG, out=folder / "nan"),
        "another run": lambda: train(DATA, other, out=folder / "nan"),
        "jobs": lambda: distributed.share([1, 2, 3]),
    }
    return {name: _message(attempt) for name, attempt in attempts.items()}


def _message(attempt):
    try:
        attempt()
    except SAEError as error:
        return str(error)
    return "no error"


def killed(folder, world):
    """The last rank dies at step 13, in the middle of a step of the others."""
    real = distributed._step

    def dying(state, *rest):
        if state.step == 13 and dist.get_rank() == world - 1:
            os.kill(os.getpid(), signal.SIGKILL)
        real(state, *rest)

    distributed._step = dying
    return _message(lambda: train(DATA, CONFIG, out=folder / "killed"))


def replicas(folder, world):
    """What each rank holds at the end of a run, to compare bit by bit."""
    seen = {}
    real = distributed._save

    def spy(state, *rest):
        seen.update({name: value.clone() for name, value in state.sae.state_dict().items()})
        seen["silent"], seen["span"] = state.silent.clone(), tuple(state.sae.span)
        real(state, *rest)

    distributed._save = spy
    try:
        train(DATA, CONFIG, out=folder / f"replicas-{world}", layout=LAYOUTS[world][-2])
    finally:
        distributed._save = real
    return seen


SCENARIOS = (gradients, fused, selection, runs, relay, from_one, each, refusals, killed, replicas)


def main(rank, world, folder, *names):
    torch.set_num_threads(1)
    folder = Path(folder)
    dist.init_process_group(
        "gloo",
        init_method=f"file://{folder}/{'-'.join(names)}-{world}",
        rank=int(rank),
        world_size=int(world),
        timeout=timedelta(seconds=60),
    )
    scenarios = {scenario.__name__: scenario for scenario in SCENARIOS}
    results = {name: scenarios[name](folder, int(world)) for name in names}
    torch.save(results, folder / f"results-{'-'.join(names)}-{world}-{rank}.pt")
    if "killed" in names:
        # Leaving the group waits for the dead.
        os._exit(0)
    dist.destroy_process_group()


if __name__ == "__main__":
    main(*sys.argv[1:])
