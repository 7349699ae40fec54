"""The best few rows of each latent in one pass: bounded memory, whatever the number of rows."""

from typing import NamedTuple

import numpy as np

_NONE = -np.inf


class Entries(NamedTuple):
    """Active entries of a code: row `row` activates `latent` by `value`."""

    latent: np.ndarray
    """[a] int64."""
    row: np.ndarray
    """[a] int64 row ids, ascending."""
    value: np.ndarray
    """[a] float32 > 0."""
    generation: np.ndarray
    """[a] int64."""

    def where(self, mask: np.ndarray) -> "Entries":
        """The entries of a mask."""
        return Entries(*(column[mask] for column in self))


def random_key(entries: Entries, seed: int) -> np.ndarray:
    """Uniform numbers [a] in (0, 1] that depend on (seed, row, latent) alone, not on the chunks.

    The finalizer of SplitMix64 (Steele, Lea & Flood 2014, figure 13) over a mixed key.
    """
    with np.errstate(over="ignore"):
        x = entries.row.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)
        x ^= (entries.latent.astype(np.uint64) + np.uint64(1)) * np.uint64(0xD1B54A32D192ED03)
        x += np.uint64(seed) * np.uint64(0x8CB92BA72F3D8DD7)
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        x ^= x >> np.uint64(31)
    return ((x >> np.uint64(11)).astype(np.float64) + 1) * 2.0**-53


class Kept:
    """The n rows with the largest scores of each of m latents, ties to the lower row.

    Args:
        n_latents: m.
        n: rows kept per latent.
        per_generation: keep at most one row of each generation, the one with the largest score.
    """

    def __init__(self, n_latents: int, n: int, *, per_generation: bool) -> None:
        self.per_generation = per_generation
        self.score = np.full((n_latents, n), _NONE)
        self.row = np.full((n_latents, n), -1, dtype=np.int64)
        self.value = np.full((n_latents, n), np.nan, dtype=np.float32)
        self.generation = np.full((n_latents, n), -1, dtype=np.int64)

    def add(self, entries: Entries, score: np.ndarray) -> None:
        """Consider the entries of the next rows, with one score each."""
        if not self.score.shape[1]:
            return
        # After a few chunks hardly any entry passes this.
        good = score > self.score[entries.latent, -1]
        entries, score = entries.where(good), score[good].astype(np.float64)
        if self.per_generation:
            entries, score = _best_per_generation(entries, score)
        order = np.lexsort((entries.row, -score, entries.latent))
        entries, score = entries.where(order), score[order]
        latents, first = np.unique(entries.latent, return_index=True)
        sizes = np.diff(np.append(first, len(score)))
        rank = np.arange(len(score)) - np.repeat(first, sizes)
        kept = rank < self.score.shape[1]
        place = np.repeat(np.arange(len(latents)), sizes)[kept]
        self._merge(latents, place, rank[kept], entries.where(kept), score[kept])

    def _merge(
        self, latents: np.ndarray, place: np.ndarray, rank: np.ndarray, entries: Entries, score
    ) -> None:
        n = self.score.shape[1]
        columns = {"score": score, "row": entries.row, "value": entries.value}
        columns["generation"] = entries.generation
        both = {}
        for name, new in columns.items():
            old = getattr(self, name)[latents]
            blank = _NONE if name == "score" else -1
            wide = np.concatenate([old, np.full_like(old, blank)], axis=1)
            wide[place, n + rank] = new
            both[name] = wide
        if self.per_generation:
            _drop_repeated(both["score"], both["generation"])
        # Stable: what was kept before has the lower rows and wins ties.
        order = np.argsort(-both["score"], axis=1, kind="stable")[:, :n]
        for name, wide in both.items():
            getattr(self, name)[latents] = np.take_along_axis(wide, order, axis=1)
        empty = self.score[latents] == _NONE
        for name, blank in (("row", -1), ("value", np.nan), ("generation", -1)):
            getattr(self, name)[latents] = np.where(empty, blank, getattr(self, name)[latents])


def _best_per_generation(entries: Entries, score: np.ndarray) -> tuple[Entries, np.ndarray]:
    """For each latent and generation the entry with the largest score, ties to the lower row."""
    order = np.lexsort((entries.row, -score, entries.generation, entries.latent))
    entries, score = entries.where(order), score[order]
    first = np.ones(len(score), dtype=bool)
    first[1:] = np.diff(entries.latent) != 0
    first[1:] |= np.diff(entries.generation) != 0
    return entries.where(first), score[first]


def _drop_repeated(score: np.ndarray, generation: np.ndarray) -> None:
    """Set to -inf, in place, all but the best score of each generation in a line."""
    order = np.argsort(-score, axis=1, kind="stable")
    ranked = np.take_along_axis(generation, order, axis=1)
    by_generation = np.argsort(ranked, axis=1, kind="stable")
    order = np.take_along_axis(order, by_generation, axis=1)
    ranked = np.take_along_axis(ranked, by_generation, axis=1)
    repeated = np.zeros(score.shape, dtype=bool)
    repeated[:, 1:] = ranked[:, 1:] == ranked[:, :-1]
    flat = np.zeros_like(repeated)
    np.put_along_axis(flat, order, repeated, axis=1)
    score[flat] = _NONE
