"""Cells of the calibration -> a verdict with its simultaneous bands, tables and a figure."""

from collections.abc import Iterable
from typing import Any

from analyses.calibration.cells import Config
from analyses.calibration.scenarios import SCENARIOS, WRONG
from interp.stats import acceptance_band, estimate_rate

COVERAGE = ("repeats", "mean", "sd", "half_width", "covers_mean")
COVERAGE += ("population", "covers_population")
SCHEMES = ("free", "strata", "clusters", "max-T")


def scheme_of(cell: dict[str, Any]) -> str:
    return "max-T" if cell["kind"] == "layers" else SCENARIOS[cell["scenario"]].scheme


def place(count: int, exact: int, band: tuple[int, int]) -> str:
    """inside; conservative: ties against us hold p up, and without them it is inside; outside."""
    if count > band[1] or not band[0] <= exact <= band[1]:
        return "outside"
    return "conservative" if count < band[0] else "inside"


def add_up(cells: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """One cell for all batches of it."""
    out: dict[tuple[str, ...], dict[str, Any]] = {}
    for cell in cells:
        name = (cell["kind"], cell["measure"], cell["scenario"])
        if name not in out:
            out[name] = dict(cell)
            continue
        for k in ("repeats", "count", "randomized"):
            if k in cell:
                out[name][k] += cell[k]
    return list(out.values())


def judge(cells: list[dict[str, Any]], config: Config) -> list[dict[str, Any]]:
    """Null cells with their place in the band over all of them."""
    out = []
    for cell in cells:
        band = acceptance_band(cell["repeats"], config.alpha, len(cells), config.level)
        exact = cell.get("randomized", max(cell["count"], band[0]))
        row = {k: cell[k] for k in ("measure", "scenario", "repeats", "count")}
        out.append(row | {"scheme": scheme_of(cell), "exact": exact, "band": list(band)})
        out[-1]["place"] = place(cell["count"], exact, band)
    return out


def pool(rows: list[dict[str, Any]], by: str, config: Config) -> dict[str, dict[str, Any]]:
    """Independent cells of one measure (or of one scheme) added up, with a band of their own."""
    names = list(dict.fromkeys(row[by] for row in rows))
    out = {}
    for name in names:
        mine = [row for row in rows if row[by] == name]
        total = {k: sum(row[k] for row in mine) for k in ("repeats", "count", "exact")}
        out[name] = total | {"share": total["count"] / total["repeats"]}
        # Cells of one scheme share their samples over measures: no binomial band.
        if by == "measure":
            band = acceptance_band(total["repeats"], config.alpha, len(names), config.level)
            out[name] |= {"band": list(band)}
            out[name]["place"] = place(total["count"], total["exact"], band)
    return out


def summarize(cells: Iterable[dict[str, Any]], config: Config) -> dict[str, Any]:
    all_cells = sorted(cells, key=lambda c: (c["measure"], c["kind"], c["scenario"]))
    done = add_up([cell for cell in all_cells if "refused" not in cell])
    rows = judge([cell for cell in done if cell["kind"] in ("null", "layers")], config)
    measures = pool(rows, "measure", config)
    for name, row in measures.items():
        mine = [cell for cell in done if cell["measure"] == name]
        row["by_scheme"] = pool([r for r in rows if r["measure"] == name], "scheme", config)
        row["worst"] = max((r for r in rows if r["measure"] == name), key=_rate)["scenario"]
        row["wrong"] = _shares(mine, "wrong")
        row["power"] = _shares(mine, "power")
        covered = [cell for cell in mine if cell["kind"] == "coverage"]
        row["coverage"] = {c["scenario"]: {k: c[k] for k in COVERAGE if k in c} for c in covered}
    outside = [f"{r['measure']}, {r['scenario']}" for r in rows if r["place"] == "outside"]
    outside += [f"{name}, all cells" for name, row in measures.items() if row["place"] == "outside"]
    refused = [
        {k: cell[k] for k in ("measure", "kind", "scenario", "refused")}
        for cell in all_cells
        if "refused" in cell
    ]
    words = "no cell outside of the band" if not outside else f"OUTSIDE: {'; '.join(outside)}"
    return {
        "verdict": f"{len(rows)} cells of {len(measures)} measures: {words}",
        "outside": outside,
        "refused": refused,
        "seconds": sum(cell["seconds"] for cell in all_cells),
        "measures": measures,
        "schemes": pool(rows, "scheme", config),
        "cells": rows,
    }


def _rate(row: dict[str, Any]) -> float:
    return row["count"] / row["repeats"]


def _shares(cells: list[dict[str, Any]], kind: str) -> dict[str, list[float]]:
    """scenario -> share and its exact 95 % interval."""
    found = [cell for cell in cells if cell["kind"] == kind]
    rates = {cell["scenario"]: estimate_rate(cell["count"], cell["repeats"]) for cell in found}
    return {name: [rate.share, rate.low, rate.high] for name, rate in rates.items()}


def tables(results: dict[str, Any]) -> str:
    """The results as Markdown: type-I error, power, coverage."""
    return "\n".join([f"{results['verdict']}.", "", *_null_table(results), "", *_other(results)])


def _null_table(results: dict[str, Any]) -> list[str]:
    ignored = list(WRONG.values())
    out = [
        "| measure | " + " | ".join((*SCHEMES, "all", "band of all", "repeats", *ignored)) + " |",
        "|---" * (6 + len(SCHEMES)) + "|",
    ]
    for name, row in results["measures"].items():
        parts = [row["by_scheme"].get(scheme) for scheme in SCHEMES]
        rates = [_percent(part["share"]) if part else "-" for part in parts]
        band = " to ".join(_percent(count / row["repeats"]) for count in row["band"])
        mark = {"inside": "", "conservative": " (ties)", "outside": " **OUTSIDE**"}[row["place"]]
        wrong = [row["wrong"].get(scenario, [None])[0] for scenario in WRONG]
        rates += [_percent(row["share"]) + mark, band, str(row["repeats"])]
        rates += ["-" if one is None else _percent(one, 0) for one in wrong]
        out.append(f"| `{name}` | " + " | ".join(rates) + " |")
    return out


def _other(results: dict[str, Any]) -> list[str]:
    strengths = [f"{s:g}" for s in results["config"]["strengths"]]
    heads = [f"power {s}" for s in strengths] + [f"covers {s}" for s in strengths[1:]]
    out = ["| measure | " + " | ".join(heads) + " |", "|---" * (1 + len(heads)) + "|"]
    for name, row in results["measures"].items():
        shares = [_percent(row["power"][s][0], 0) if s in row["power"] else "-" for s in strengths]
        shares += [_covered(row["coverage"].get(s)) for s in strengths[1:]]
        out.append(f"| `{name}` | " + " | ".join(shares) + " |")
    return out


def _covered(cell: dict[str, Any] | None) -> str:
    """Coverage of the mean over samples / of the population's value."""
    if cell is None:
        return "-"
    parts = [cell["covers_mean"], cell.get("covers_population")]
    shares = ("-" if part is None else _percent(part / cell["repeats"], 0) for part in parts)
    return " / ".join(shares)


def _percent(share: float, digits: int = 1) -> str:
    return f"{100 * share:.{digits}f}"


def draw(results: dict[str, Any]) -> Any:
    """Left: type-I error of every cell, with the band. Right: power at each strength."""
    from plotly.subplots import make_subplots

    names = list(results["measures"])[::-1]
    config = results["config"]
    titles = ("type-I error (%)", "power (%)", "coverage of the mean (%)")
    figure = make_subplots(rows=1, cols=3, shared_yaxes=True, subplot_titles=titles)
    # Okabe and Ito: apart for the color-blind.
    colors = dict(zip(SCHEMES, ("#0072B2", "#E69F00", "#009E73", "#CC79A7"), strict=True))
    for scheme, color in colors.items():
        mine = [row for row in results["cells"] if row["scheme"] == scheme]
        x, y = [100 * _rate(row) for row in mine], [row["measure"] for row in mine]
        marker = {"color": color, "size": 6, "opacity": 0.7}
        figure.add_scatter(x=x, y=y, mode="markers", marker=marker, name=scheme, row=1, col=1)
    for end in (0, 1):
        x = [100 * row["band"][end] / row["repeats"] for row in results["measures"].values()]
        line = {"color": "#777777", "width": 1, "shape": "vh"}
        labels = {"name": "band of all cells of a measure", "showlegend": end == 1}
        figure.add_scatter(x=x[::-1], y=names, line=line, mode="lines", **labels, row=1, col=1)
    shades = ("#bdd7e7", "#6baed6", "#3182bd", "#08519c")
    for place_of, part in ((2, "power"), (3, "coverage")):
        for strength, shade in zip(config["strengths"], shades, strict=False):
            x = [_point(results["measures"][n], part, f"{strength:g}") for n in names]
            marker = {"color": shade, "size": 7}
            show = {"name": f"strength {strength:g}", "showlegend": part == "power"}
            figure.add_scatter(
                x=x, y=names, mode="markers", marker=marker, **show, row=1, col=place_of
            )
    figure.add_vline(x=100 * config["alpha"], line_dash="dash", row=1, col=1)
    figure.add_vline(x=95, line_dash="dash", row=1, col=3)
    title = (
        f"{results['verdict']}. K = {config['n_permutations']} permutations (power: "
        f"{config['power_permutations']}), n = 24 to 64, seed {config['seed']}"
    )
    figure.update_layout(
        template="plotly_white",
        height=160 + 22 * len(names),
        width=1300,
        title={"text": title, "font": {"size": 13}},
    )
    figure.update_yaxes(categoryorder="array", categoryarray=names, tickfont_size=10)
    return figure


def _point(row: dict[str, Any], part: str, strength: str) -> float | None:
    if part == "power":
        return 100 * row["power"][strength][0] if strength in row["power"] else None
    cell = row["coverage"].get(strength)
    return None if cell is None else 100 * cell["covers_mean"] / cell["repeats"]
