"""Which features the demo's SAEs share, where they were judged on the same images."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

from interp.alignment.matching import match_features, read_latents
from interp.demo_report import plain


def match_saes(
    results: Sequence[Any], stores: Mapping[str, Any], out: Path, seed: int
) -> list[Any]:
    """Match every two SAEs of one sample set, one file per pair in `out/matches`.

    results: one per SAE, with the target that it was trained on. stores: under "<model> judge" the
    rows that judge it; every store is encoded once per SAE.
    """
    read = [
        read_latents(
            out / "saes" / f"{one.target.model}.{one.target.point}",
            stores[f"{one.target.model} judge"],
            model=one.target.model,
        )
        for one in results
    ]
    found = []
    for first, second in combinations(read, 2):
        if set(first.ids) == set(second.ids):
            found.append(match_features(first, second, n_folds=10, seed=seed))
            name = f"{first.model}.{first.point}-{second.model}.{second.point}.json"
            found[-1].save(out / "matches" / name)
    return found


def matches_record(matches: Sequence[Any]) -> list[dict[str, Any]]:
    """What `results.json` keeps of each match."""
    named = ("threshold", "mean", "low", "high", "null_mean", "p_mean", "n_pairs", "n_shared")
    return [
        {"a": one.first.name, "b": one.second.name}
        | {name: plain(getattr(one, name)) for name in named}
        for one in matches
    ]


def matches_table(matches: Sequence[Any]) -> Iterator[str]:
    """Lines of the closing table."""
    title = "features of two SAEs, matched on one half, scored on the other"
    yield f"\n{title:<70}{'pairs':>7}{'mean r':>8}{'null':>7}{'shared':>8}"
    for one in matches:
        line = f"{one.first.name} ~ {one.second.name}".ljust(70)
        yield line + f"{one.n_pairs:7d}{one.mean:8.3f}{one.null_mean:7.3f}{one.n_shared:8d}"
