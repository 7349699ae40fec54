"""A grid of settings over one pass of the data, and a table of what came of it."""

import csv
import dataclasses
import io
import itertools
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from jaxtyping import Float
from torch import Tensor

from interp.errors import SAEError
from interp.sae.atomic import write_atomic
from interp.sae.config import TrainConfig
from interp.sae.evaluate import evaluate
from interp.sae.many import Job, train_many
from interp.sae.metrics import recovery
from interp.sae.train import Run
from interp.store import ActivationStore

__all__ = ["Result", "expand", "sweep"]

FIELDS = tuple(field.name for field in dataclasses.fields(TrainConfig) if field.name != "options")
# One pass has one length: these are the same for all runs of a grid.
SHARED = ("steps", "checkpoint_every")


class Result(NamedTuple):
    """One run of a sweep: a row of its table."""

    name: str
    """Of the run, and of its directory."""
    settings: dict[str, Any]
    """What the grid set for it."""
    fvu: float
    """Share of variance not explained, as in `evaluate`."""
    l0: float
    """Mean number of active latents per row."""
    dead: float
    """Share of latents that never fired."""
    recovered: float | None
    """Share of the true atoms with |cosine| above .9 to some latent; None: no truth was given."""
    judged: str
    """"held out": on rows of images that trained nothing; "training": means of the log's last line,
    where there are no such rows."""


def expand(grid: Mapping[str, Sequence[Any]], config: TrainConfig) -> dict[str, TrainConfig]:
    """Return one config per point of a grid, by run name such as "k=8,n_latents=512".

    Args:
        grid: field of `TrainConfig`, or name of an option -> its values.
        config: all other settings.

    Returns:
        Run name -> config, the last name of the grid varying fastest.

    Raises:
        SAEError: an empty grid, a value twice, a setting that all runs of one pass share, or values
            out of range.
    """
    if not grid or not all(grid.values()):
        raise SAEError(f"grid {dict(grid)}: give values to at least one setting, such as k=8,16")
    for name, values in grid.items():
        if name in SHARED:
            raise SAEError(f"{name} is one for all runs of a pass: set it beside the grid")
        if len({json.dumps(value) for value in values}) < len(values):
            raise SAEError(f"{name} has a value twice in {list(values)}")
    configs = {}
    for values in itertools.product(*grid.values()):
        chosen = dict(zip(grid, values, strict=True))
        name = ",".join(f"{key}={_word(value)}" for key, value in chosen.items())
        fields = {key: value for key, value in chosen.items() if key in FIELDS}
        options = {key: value for key, value in chosen.items() if key not in FIELDS}
        options = {**config.options, **options}
        configs[name] = dataclasses.replace(config, **fields, options=options)
    return configs


def _word(value: Any) -> str:
    """Return a value as a part of a folder's name."""
    text = value if isinstance(value, str) else json.dumps(value)
    return "".join(c if c.isalnum() or c in "._-+" else "_" for c in text)


def sweep(
    source: ActivationStore | Iterable[Tensor],
    grid: Mapping[str, Sequence[Any]],
    config: TrainConfig,
    *,
    point: str | None = None,
    out: str | Path,
    judge: ActivationStore | None = None,
    atoms: Float[Tensor, "a d"] | None = None,
    resume: bool = True,
    progress: bool = True,
    device: str = "cpu",
) -> list[Result]:
    """Train an SAE for every point of a grid over one pass of the data, and compare them.

    All runs read one order of rows, drawn once (runs of another batch size, or with budgets per
    image or timestep, read a stream of their own, in the same pass). TopK runs that differ in their
    seed alone step as one stack; all others take their steps one after the other on each batch.
    `out` gets a run directory for each, and `sweep.json` and `sweep.csv`, best FVU first. A rerun
    continues; a rerun with a larger grid keeps the finished runs and trains the new ones.

    Args:
        source: a store, or an iterable of batches, as in `train`.
        grid: see `expand`.
        config: settings that the grid does not set.
        point: the store's hook point.
        out: the parent of the run directories.
        judge: store whose rows judge the runs; None: the rows of `source` that were held out.
        atoms: true directions [a, d], for planted data; adds `recovered`.
        resume: continue what `out` holds; False starts again.
        progress: show a progress bar where stderr is a terminal.
        device: of the training.

    Returns:
        One result per run, best FVU first.

    Raises:
        SAEError: as `expand` and `train_many`.
    """
    out, configs = Path(out), expand(grid, config)
    jobs = {name: Job(one, point) for name, one in configs.items()}
    done = {n: job for n, job in jobs.items() if resume and (out / n / "sae/config.json").exists()}
    more = {"order_seed": config.seed, "resume": resume, "progress": progress, "device": device}
    runs: dict[str, Run] = {}
    # Apart: finished runs are only read, also where the grid has grown since.
    for part in (done, {n: job for n, job in jobs.items() if n not in done}):
        runs |= train_many(source, part, out=out, **more) if part else {}
    store = judge if judge is not None else source
    results = []
    for name, one in configs.items():
        chosen = {key: one.options[key] if key not in FIELDS else getattr(one, key) for key in grid}
        quality = _judge(runs[name], store, one, judge is not None)
        found = (
            None
            if atoms is None
            else recovery(runs[name].sae.dictionary().detach(), atoms).recovered
        )
        results.append(Result(name, chosen, *quality[:3], found, quality[3]))
    results.sort(key=lambda result: result.fvu)
    _write(out, results)
    return results


def _judge(
    run: Run, store: ActivationStore | Iterable[Tensor], config: TrainConfig, other: bool
) -> tuple[float, float, float, str]:
    """Return fvu, l0, dead, and on which rows."""
    split = run.sae.provenance.get("split", {})
    if isinstance(store, ActivationStore) and (other or split.get("rows_held_out")):
        point = run.sae.provenance["point"]["name"]
        record = evaluate(run.sae, store, point, baselines=False)
        return record.fvu, record.l0, record.dead, "held out"
    last = run.log[-1]
    return last["fvu"], last["l0"], last["dead"], "training"


def _write(out: Path, results: Sequence[Result]) -> None:
    """Write the table as JSON and as CSV."""
    rows = [result._asdict() for result in results]
    write_atomic(out / "sweep.json", (json.dumps(rows, indent=1) + "\n").encode())
    text = io.StringIO()
    settings = list(results[0].settings)
    numbers = ["fvu", "l0", "dead", "recovered", "judged"]
    table = csv.writer(text, lineterminator="\n")
    table.writerow(["name", *settings, *numbers])
    for row in rows:
        values = [row["settings"][key] for key in settings]
        table.writerow([row["name"], *values, *(row[key] for key in numbers)])
    write_atomic(out / "sweep.csv", text.getvalue().encode())
