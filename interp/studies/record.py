"""Study: the result of one call, and the folder that it is written to."""

import csv
import io
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from interp.alignment import Alignment, Choices
from interp.alignment.reading import Case, cases, held_out_cases, read, summary
from interp.alignment.recipes import RecipeScore
from interp.alignment.saving import plain

if TYPE_CHECKING:
    import plotly.graph_objects as go

PLAIN = {"showSendToCloud": False}


@dataclass(frozen=True)
class Study:
    """How alike some models are, with everything that a reader needs beside it."""

    alignment: Alignment
    """Every layer against every layer."""
    choices: Choices | None = None
    """Layers chosen on one half of the images and scored on the other, which then carry the
    verdicts; None where there was no search."""
    scores: tuple[RecipeScore, ...] = ()
    """Published scores beside their calibrated values."""
    problems: tuple[str, ...] = ()
    """What was asked for and could not be computed, one sentence each."""
    made_by: str = ""
    """Command or call that made it."""
    unit: str = "image"
    """What a row is: "image", or "row" of matrices."""

    @property
    def judged(self) -> list[Case]:
        """The pairs of layers that stand for the pairs of models."""
        if self.choices is None:
            return cases(self.alignment)
        return held_out_cases(self.alignment, self.choices)

    @property
    def reading(self) -> str:
        """The reading in plain words, as Markdown."""
        return read(
            self.alignment,
            judged=self.judged,
            scores=self.scores,
            problems=self.problems,
            made_by=self.made_by,
            unit=self.unit,
        )

    @property
    def verdicts(self) -> list[str]:
        """One line per pair of models and measure."""
        return summary(self.judged)

    def __str__(self) -> str:
        return self.reading

    def figure(self, measure: str | None = None) -> "go.Figure":
        """The matrix of all layers as a Plotly figure; measure None: the first."""
        from interp.dashboards import comparison_figure

        return comparison_figure(self.alignment, measure)

    def table(self) -> list[dict[str, Any]]:
        """One flat row per cell between different models or references, of all measures."""
        return [row for name in self.alignment.measures for row in self.alignment.table(name)]

    def save(self, folder: str | Path) -> Path:
        """Write alignment.json, table.csv, reading.md, scores.json, figures and the page.

        Numbers are written first: nothing that fails after them is lost with them.

        Args:
            folder: made where absent; files of these names are replaced.

        Returns:
            The page, `index.html`.

        Raises:
            InputError: the folder holds someone else's page.
        """
        from interp.dashboards import build_dashboard

        check_folder(folder)
        out = Path(folder)
        out.mkdir(parents=True, exist_ok=True)
        self.alignment.save(out / "alignment.json")
        _write(out / "table.csv", _csv(self.table()))
        _write(out / "scores.json", _json([asdict(score) for score in self.scores]))
        if self.choices is not None:
            self.choices.save(out / "halves.json")
        _write(out / "reading.md", self.reading)
        for measure in self.alignment.measures:
            figure = self.figure(measure)
            path = out / f"figure-{measure}.html"
            # One plotly.min.js beside all figures; no upload button.
            figure.write_html(path, include_plotlyjs="directory", config=PLAIN)
        notes = [*self.verdicts, *self.problems]
        title = f"How alike: {', '.join(self.alignment.models)}"
        provenance = {"command": self.made_by} if self.made_by else {}
        return build_dashboard(
            out, alignments=[self.alignment], title=title, notes=notes, provenance=provenance
        )


def check_folder(folder: str | Path) -> None:
    """Raise InputError where a result cannot be written: a file, or a folder of someone else."""
    from interp.dashboards.bundle import check_target

    check_target(Path(folder))


def _json(value: Any) -> str:
    return json.dumps(plain(value), indent=1, allow_nan=False) + "\n"


def _csv(rows: list[dict[str, Any]]) -> str:
    names = list(dict.fromkeys(name for row in rows for name in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, names, lineterminator="\n")
    writer.writeheader()
    for row in rows:
        values = {name: _flat(value) for name, value in row.items()}
        writer.writerow(values)
    return text.getvalue()


def _flat(value: Any) -> Any:
    """None as nothing, several as words with commas."""
    if isinstance(value, tuple | list):
        return _flat(", ".join(map(str, value)))
    if isinstance(value, str) and value.startswith(("=", "+", "-", "@", "\t")):
        # A spreadsheet would take the name of a model for a formula.
        return f"'{value}"
    return "" if value is None else value


def _write(path: Path, text: str) -> None:
    partial = path.with_name(path.name + ".partial")
    partial.write_text(text, encoding="utf-8")
    partial.replace(path)
