"""Train one library on prepared batches: `python worker.py ADAPTER.py`, in its own environment.

Standard library, numpy, torch and the library itself; nothing of interp. The adapter is a file with
PACKAGE, AHEAD and `train(job, rows) -> (weights, reconstruct)`, or where no weights in the common
form below make the library's code, `-> ({"decoder": [m, d]}, decode, encode)` with its own encode
to dense codes [n, m] and decode of them. It is imported once, then "ready"
is written; for each line on stdin, the path of a job, a fresh process is forked, and its exit
status is written when it has ended. A job is a JSON object:

    options    of the adapter
    batches    .npy, float32 [b, n, d]; repeated from the start where the steps outlast it
    held_out   .npy, float32 [r, d], or null
    m, k, steps, lr, seed, threads, timed
    out        folder for result.json and weights.npz, or output.npz (decoder; of the held-out rows
               which latents fired, as packed bits, and x_hat) of an adapter with its own encode

A step's time is the gap between the library's own requests for batches: from when a batch was
handed over until the next one is asked for. So its bookkeeping counts, and making data does not.
`ms_*` are medians of the last `timed` gaps; `AHEAD` batches are asked for before the first step.
`seconds_*` are the steps times the mean gap without the first ones: what starting costs is left
out, what happens now and then is not.

The weights are those of the same function in one form, p = x encoder' + encoder_bias, code = the k
largest max(p, 0), x_hat = code decoder + decoder_bias, so that one program judges all.
"""

import importlib.util
import json
import os
import resource
import statistics
import sys
import time
import traceback
import types
from importlib import metadata
from pathlib import Path

import numpy as np
import torch

WARM = 3
CHUNK = 2048


class Rows:
    """Batches [n, d], with a clock that stands still while a batch is made."""

    def __init__(self, path, steps):
        self.data = np.load(path, mmap_mode="r")
        self.steps = steps
        self.width = self.data.shape[2]
        self.batch_size = self.data.shape[1]
        self.entered, self.left = [], []

    def __len__(self):
        return self.steps

    def __iter__(self):
        return self

    def __next__(self):
        self.entered.append(clock())
        if len(self.left) == self.steps:
            raise StopIteration
        x = torch.from_numpy(np.array(self.data[len(self.left) % len(self.data)]))
        self.left.append(clock())
        return x

    def gaps(self):
        """Wall and CPU seconds between requests."""
        return [
            tuple(later[i] - earlier[i] for i in (0, 1))
            for earlier, later in zip(self.left, self.entered[1:], strict=False)
        ]


def clock():
    return time.perf_counter(), time.process_time()


def load(path):
    """The adapter's module."""
    spec = importlib.util.spec_from_file_location("adapter", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def work(adapter, job):
    """Train and measure; raises what the library raises."""
    torch.set_num_threads(job.threads)
    torch.manual_seed(job.seed)
    ahead = adapter.AHEAD
    rows = Rows(job.batches, job.steps)
    before = peak_memory()
    weights, reconstruct, *coded = adapter.train(job, rows)
    if len(rows.left) != job.steps:
        raise RuntimeError(f"asked for {len(rows.left)} batches, not for {job.steps}")
    gaps = rows.gaps()[ahead:]
    steady = gaps[WARM:] or gaps
    gaps = gaps[-job.timed :]
    result = {
        "ms_wall": round(1000 * statistics.median(wall for wall, _ in gaps), 3),
        "ms_cpu": round(1000 * statistics.median(cpu for _, cpu in gaps), 3),
        "timed": len(gaps),
        "seconds_wall": round(job.steps * statistics.mean(wall for wall, _ in steady), 3),
        "seconds_cpu": round(job.steps * statistics.mean(cpu for _, cpu in steady), 3),
        "steps": job.steps,
        "peak_megabytes": round(peak_memory() - before, 1),
        "versions": {
            name: metadata.version(name)
            for name in ("torch", "numpy", adapter.PACKAGE)
            if name is not None
        },
        "notes": list(getattr(adapter, "NOTES", [])),
    }
    out = Path(job.out)
    if coded:
        save_output(out / "output.npz", weights["decoder"], reconstruct, coded[0], job.held_out)
        return result
    if job.held_out is not None:
        result["own_fvu"] = own_fvu(reconstruct, np.load(job.held_out))
    np.savez(
        out / "weights.npz",
        **{name: value.detach().numpy() for name, value in weights.items()},
    )
    return result


def save_output(path, decoder, decode, encode, held_out):
    """What the library's own encode and decode make of the held-out rows."""
    fired, x_hat = [], []
    with torch.no_grad():
        for part in torch.from_numpy(np.load(held_out)).split(CHUNK):
            code = encode(part)
            fired.append(np.packbits((code != 0).numpy(), axis=1))
            x_hat.append(decode(code).numpy())
    np.savez(
        path,
        decoder=decoder.detach().numpy(),
        fired=np.concatenate(fired),
        x_hat=np.concatenate(x_hat),
    )


def own_fvu(reconstruct, rows):
    """Unexplained share of the variance, by the library's own forward pass."""
    x = torch.from_numpy(rows)
    with torch.no_grad():
        guess = torch.cat([reconstruct(part) for part in x.split(CHUNK)]).double()
    x = x.double()
    return float((x - guess).square().sum() / (x - x.mean(0)).square().sum())


def peak_memory():
    """Largest resident size so far, in MB; Linux counts KiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6


def run_job(adapter, path):
    """Do one job and write its result.json; never returns."""
    job = types.SimpleNamespace(**json.loads(Path(path).read_text()))
    try:
        if isinstance(adapter, Exception):
            raise adapter
        result = work(adapter, job)
    except Exception as error:
        traceback.print_exc()
        result = {"error": f"{type(error).__name__}: {error}"}
    (Path(job.out) / "result.json").write_text(json.dumps(result))
    sys.stderr.flush()
    # Threads of trackers and data sets would hold the process.
    os._exit(0)


def main():
    # Progress bars and greetings go to stderr: the real stdout belongs to the protocol.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    try:
        adapter = load(sys.argv[1])
    except Exception as error:
        adapter = error
    # The first optimizer of a process imports much. No backward pass here: its threads would not
    # survive the fork.
    torch.optim.Adam([torch.zeros(1, requires_grad=True)])
    print("ready", file=answers, flush=True)
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            run_job(adapter, line.strip())
        print(os.waitpid(child, 0)[1], file=answers, flush=True)


if __name__ == "__main__":
    main()
