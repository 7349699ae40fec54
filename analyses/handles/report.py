"""Tables and the figure of the committed results."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

# Okabe and Ito: apart for the color-blind.
COLORS = {
    "sae": "#0072B2",
    "pca": "#E69F00",
    "sefa": "#009E73",
    "channels": "#009E73",
    "matched": "#555555",
    "isotropic": "#AAAAAA",
    "random": "#AAAAAA",
}
WORDS = {
    "sae": "SAE",
    "pca": "PCA",
    "sefa": "SeFa",
    "channels": "style channels",
    "matched": "random, matched to the covariance",
    "isotropic": "random, isotropic",
    "random": "random dictionary",
}
# Rank at which subspaces are drawn.
RANK = "16"


def name_of(row: Mapping[str, Any]) -> str:
    return f"`{row['model']}` `{row['point']}`"


def number(value: float | None, digits: int = 2) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def interval(values: Sequence[float] | None, digits: int = 2) -> str:
    if values is None:
        return "-"
    value, low, high = (number(v, digits) for v in values)
    return f"{value} [{low}, {high}]"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Markdown; the first column is text."""
    lines = [f"| {' | '.join(head)} |", f"|---|{'---:|' * (len(head) - 1)}"]
    return "\n".join(lines + [f"| {' | '.join(row)} |" for row in rows])


def code_table(results: Mapping[str, Any]) -> str:
    """FVU against k, and the k at which it falls to .2."""
    ks = [str(k) for k in results["config"]["k"]]
    head = ["point", "d", "m", "rows / m", *(f"SAE / PCA, k = {k}" for k in ks), "k at FVU .2"]
    rows = []
    for one in results["codes"]:
        fvu, reached = one["fvu"], one["k_at_fvu_0.2"]
        cells = [
            f"{number((fvu['sae'].get(k) or [None])[0])} / "
            f"{number((fvu['pca'].get(k) or [None])[0])}"
            for k in ks
        ]
        first = [name_of(one), str(one["d"]), str(one["n_latents"])]
        least = min(map(int, ks))
        at = " / ".join(reach(reached[c], least) if fvu[c] else "-" for c in ("sae", "pca"))
        rows.append([*first, number(one["rows_per_latent"], 0), *cells, at])
    return table(head, rows)


def reach(k: float | None, least: int) -> str:
    if k is None:
        return "not reached"
    return f"<= {least}" if k <= least else number(k, 1)


def label_table(results: Mapping[str, Any]) -> str:
    """AUC of single coefficients, and the categories that pass both bars."""
    head = ["point", "SAE", "PCA", "untrained twin", "concepts: SAE", "PCA", "of"]
    rows = []
    for one in results["codes"]:
        if one["labels"] is None:
            continue
        codes = one["labels"]["codes"]
        aucs = [interval(codes[code]["auc"]) for code in ("sae", "pca", "twin")]
        named = [str(len(codes[code]["concepts"])) for code in ("sae", "pca")]
        rows.append([name_of(one), *aucs, *named, str(len(one["labels"]["categories"]))])
    return table(head, rows)


def handle_table(results: Mapping[str, Any], stage: str = "causal") -> str:
    """Handle scores, and what the SAE's best has over others'."""
    head = ["point", "SAE", "PCA", "SeFa or channels", "random, matched", "random, isotropic"]
    head += ["SAE - matched", "SAE - PCA", "by neighbors: SAE - matched", "SAE - PCA"]
    rows = []
    for one in results[stage]:
        found = one["handles"]
        third = found.get("sefa") or found.get("channels")
        scores = [found["sae"], found["pca"], third, found["matched"], found["isotropic"]]
        cells = [interval(s["score"] if s else None) for s in scores]
        over = [
            interval(found["sae"][f"over_{rival}"][i])
            for i in (0, 1)
            for rival in ("matched", "pca")
        ]
        rows.append([name_of(one), *cells, *over])
    return table(head, rows)


def weaker_table(results: Mapping[str, Any]) -> str:
    """The same of pushes of the smaller strength."""
    return handle_table(results, "weaker")


def subspace_table(results: Mapping[str, Any]) -> str:
    """Mean donor share over attributes against rank, and the least one of the whole point."""
    ranks = [str(r) for r in results["config"]["causal"]["ranks"]]
    head = ["point", "all", *(f"r = {r}: SAE / PCA / random" for r in ranks), "SeFa or channels"]
    rows = []
    for one in results["causal"]:
        found = one["subspaces"]
        cells = [
            " / ".join(
                number((found.get(f"{basis}:{r}") or {}).get("mean_alpha"))
                for basis in ("sae", "pca", "isotropic")
            )
            for r in ranks
        ]
        special = [
            number(found[f"{basis}:{r}"]["mean_alpha"])
            for basis in ("sefa", "channels")
            for r in ranks
            if f"{basis}:{r}" in found
        ]
        full = number(found["full"]["mean_alpha"])
        rows.append([name_of(one), full, *cells, " / ".join(special) or "-"])
    return table(head, rows)


TABLES: dict[str, Callable[[Mapping[str, Any]], str]] = {
    "codes": code_table,
    "labels": label_table,
    "handles": handle_table,
    "weaker": weaker_table,
    "subspaces": subspace_table,
}


def put(document: Path, marker: str, text: str) -> None:
    """Replace what stands between `<!-- marker -->` and `<!-- /marker -->`."""
    old = document.read_text()
    head, begin, rest = old.partition(f"<!-- {marker} -->")
    _, end, tail = rest.partition(f"<!-- /{marker} -->")
    if not (begin and end):
        raise SystemExit(f"{document} has no lines <!-- {marker} --> and <!-- /{marker} -->")
    document.write_text(f"{head}{begin}\n{text}\n{end}{tail}")


def draw(results: Mapping[str, Any]) -> Any:
    """Three panels over the points: FVU, handle score, donor share of a subspace."""
    from plotly.subplots import make_subplots

    k = str(results["config"]["k_handle"])
    titles = (f"FVU at k = {k}", "handle score of the best direction", f"donor share, rank {RANK}")
    figure = make_subplots(rows=1, cols=3, shared_yaxes=True, subplot_titles=titles)
    shown: set[str] = set()
    for one in results["codes"]:
        for code, curve in one["fvu"].items():
            if k in curve:
                dot(figure, 1, one, code, curve[k], shown)
    for one in results["causal"]:
        for basis, found in one["handles"].items():
            dot(figure, 2, one, basis, found["score"], shown)
        for key, found in one["subspaces"].items():
            basis, _, rank = key.partition(":")
            if rank == RANK:
                dot(figure, 3, one, basis, [found["mean_alpha"]] * 3, shown)
    axes = ("share of the variance", "change per unit off distribution", "mean over attributes")
    for column, title in enumerate(axes, 1):
        figure.update_xaxes(title_text=title, rangemode="tozero", row=1, col=column)
    c = results["config"]["causal"]
    caption = (
        f"Best of {c['n_directions']} directions, chosen on {c['n_choose']} seeds, scored on "
        f"{c['n_score']} others; {c['n_pairs']} pairs; 95 % jackknife; seed "
        f"{results['config']['seed']}"
    )
    figure.update_yaxes(autorange="reversed", tickfont_size=11)
    title = {"text": caption, "font": {"size": 13}}
    figure.update_layout(
        template="plotly_white",
        title=title,
        legend={"font_size": 11},
        width=1250,
        height=180 + 34 * len(results["codes"]),
    )
    return figure


def dot(
    figure: Any,
    column: int,
    one: Mapping[str, Any],
    key: str,
    values: Sequence[float],
    shown: set[str],
) -> None:
    value, low, high = values
    figure.add_scatter(
        x=[value], y=[f"{one['model']} {one['point']}"], mode="markers", name=WORDS[key],
        legendgroup=key, showlegend=key not in shown, row=1, col=column,
        marker={"color": COLORS[key], "size": 9, "symbol": "x" if key == "channels" else "circle"},
        error_x={"array": [high - value], "arrayminus": [value - low], "thickness": 1},
    )  # fmt: skip
    shown.add(key)
