"""The one ordered pass: everything that is a sum, a largest value or a sample."""

from dataclasses import dataclass

import numpy as np
import torch

from interp.errors import SAEError
from interp.features.kept import Entries, Kept, random_key
from interp.sae import SAE, Code
from interp.store import ActivationStore
from interp.store.coords import row_ids

# log10 of the activation: ten bins per decade over ten decades around the rows' own length.
EDGES = np.linspace(-7.0, 3.0, 101)
# Rows whose codes are kept for co-activation: 13 rows of a latent with density 1e-4.
SAMPLE = 1 << 17
CHUNK = 8192


@dataclass(frozen=True)
class RowTable:
    """What the scan needs to know of every row of the point."""

    mask: np.ndarray
    """[n] bool, rows to read."""
    generation: np.ndarray
    """[n] int64."""
    call: np.ndarray
    """[n] int64."""
    category: np.ndarray
    """[n] int64, -1 where the image has none."""
    sampled: np.ndarray
    """[n] bool, rows whose codes are kept."""
    n_calls: int
    n_categories: int


class Scan:
    """Sums and samples over the rows seen so far; `finish` is not needed."""

    def __init__(self, sae: SAE, table: RowTable, kept: dict[str, int], seed: int) -> None:
        m = sae.n_latents
        self.sae, self.table, self.seed = sae, table, seed
        self.count = np.zeros(m, dtype=np.int64)
        self.total = np.zeros(m)
        self.maximum = np.zeros(m, dtype=np.float32)
        self.histogram = np.zeros((m, len(EDGES) - 1), dtype=np.int64)
        self.by_call = np.zeros((m, table.n_calls))
        self.by_category = np.zeros((m, table.n_categories))
        self.top = Kept(m, kept["top"], per_generation=True)
        self.pool = Kept(m, kept["pool"], per_generation=False)
        self.random = Kept(m, kept["random"], per_generation=False)
        self.sampled_latents: list[np.ndarray] = []
        self.sampled_sizes: list[np.ndarray] = []

    def run(self, store: ActivationStore, point: str, progress: bool = False) -> "Scan":
        """Read the point's chunks once, in order; a bar shows them where stderr is a terminal."""
        from tqdm import tqdm

        total, off = store.n_rows(point), None if progress else True
        with torch.no_grad(), tqdm(total=total, desc="describe", unit="row", disable=off) as bar:
            for ids, x in store.chunks(point, CHUNK):
                bar.update(len(ids))
                wanted = self.table.mask[ids]
                if not wanted.any():
                    continue
                ids, x = ids[wanted], x[torch.from_numpy(wanted)]
                if not bool(torch.isfinite(x.sum())):
                    raise SAEError(
                        f"rows {ids[0]} to {ids[-1]} of {point} hold NaN or infinity: "
                        "leave them out with rows="
                    )
                self.add(ids, self.sae.encode(x))
        return self

    def add(self, ids: np.ndarray, code: Code) -> None:
        """Take in the code of the next rows."""
        local, latent, value = active_entries(code)
        row = ids[local]
        entries = Entries(latent, row, value, self.table.generation[row])
        np.add.at(self.count, latent, 1)
        np.add.at(self.total, latent, value.astype(np.float64))
        np.maximum.at(self.maximum, latent, value)
        place = np.searchsorted(EDGES, np.log10(value.astype(np.float64)), side="right") - 1
        np.add.at(self.histogram, (latent, place.clip(0, len(EDGES) - 2)), 1)
        np.add.at(self.by_call, (latent, self.table.call[row]), value)
        category = self.table.category[row]
        known = category >= 0
        np.add.at(self.by_category, (latent[known], category[known]), value[known])
        self.top.add(entries, value)
        self.pool.add(entries, random_key(entries, 2 * self.seed))
        self.random.add(entries, random_key(entries, 2 * self.seed + 1))
        self._sample(ids, local, latent)

    def _sample(self, ids: np.ndarray, local: np.ndarray, latent: np.ndarray) -> None:
        chosen = self.table.sampled[ids]
        self.sampled_latents.append(latent[chosen[local]].astype(np.int32))
        sizes = np.bincount(local, minlength=len(ids))
        self.sampled_sizes.append(sizes[chosen])


def active_entries(code: Code) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Positive entries of a code as (row in the batch, latent, value), rows ascending."""
    values = code.values.detach()
    local, slot = (values > 0).nonzero(as_tuple=True)
    value = values[local, slot].float().numpy()
    latent = slot if code.indices is None else code.indices[local, slot].long()
    return local.numpy(), latent.numpy(), value


def row_table(
    store: ActivationStore, point: str, rows: np.ndarray | None, seed: int
) -> tuple[RowTable, list[str]]:
    """Look up every row's generation, call and category; also returns the categories, sorted."""
    columns = store.coords(point, columns=["generation", "call"])
    n = len(columns["call"])
    mask = np.ones(n, dtype=bool)
    if rows is not None:
        mask = np.zeros(n, dtype=bool)
        mask[row_ids(rows, n, point)] = True
    if not mask.any():
        raise SAEError(f"none of the {n} rows of {point} is selected by rows=")
    sampled = mask.copy()
    ids = np.flatnonzero(mask)
    if len(ids) > SAMPLE:
        chosen = np.random.default_rng(seed).choice(ids, SAMPLE, replace=False)
        sampled = np.zeros(n, dtype=bool)
        sampled[chosen] = True
    names = np.array([str(name) for name in store.generations["category"]], dtype=object)
    categories = sorted(set(names) - {""})
    number = {name: i for i, name in enumerate(categories)}
    of_generation = np.array([number.get(name, -1) for name in names], dtype=np.int64)
    place = np.searchsorted(store.generations["generation"], columns["generation"])
    table = RowTable(
        mask=mask,
        generation=columns["generation"].astype(np.int64),
        call=columns["call"].astype(np.int64),
        category=of_generation[place],
        sampled=sampled,
        n_calls=int(columns["call"].max()) + 1,
        n_categories=len(categories),
    )
    return table, categories
