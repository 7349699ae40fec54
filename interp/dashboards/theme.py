"""One look for all figures: fonts, colors, and the settings that keep charts on this machine."""

from typing import Any

# Okabe and Ito (2008), the palette of the pages.
CATEGORICAL = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00")
ACCENT = "#2f5d8a"
INK = "#1c2126"
MUTED = "#6d747c"
GRID = "#e5e2db"
FONT = "Inter, Segoe UI, system-ui, Roboto, Noto Sans, Liberation Sans, sans-serif"
# Transparent to dark: faint where a latent is weakly active, so that the picture stays readable.
OVERLAY = (
    (0.0, "rgba(251,217,242,0)"),
    (0.15, "rgba(233,112,208,0.45)"),
    (1.0, "rgba(60,10,82,0.8)"),
)
# plotly.js 4 shows a button that uploads the chart unless told otherwise.
CONFIG = {
    "showSendToCloud": False,
    "displaylogo": False,
    "modeBarButtonsToRemove": ["sendChartToCloud"],
}


def apply_theme(figure: Any, *, title: str, caption: str, height: int) -> Any:
    """Give a figure the common look, a title, and a caption below that states n, seed and null."""
    figure.update_layout(
        template="none",
        font={"family": FONT, "size": 12, "color": INK},
        title={"text": title, "font": {"size": 16}, "x": 0.02, "xanchor": "left"},
        paper_bgcolor="white",
        plot_bgcolor="white",
        height=height,
        margin={"l": 70, "r": 24, "t": 64, "b": 92},
        showlegend=False,
        hoverlabel={"font": {"family": FONT}},
    )
    figure.update_xaxes(gridcolor=GRID, linecolor=GRID, zeroline=False, automargin=True)
    figure.update_yaxes(gridcolor=GRID, linecolor=GRID, zeroline=False, automargin=True)
    figure.add_annotation(
        text=caption,
        xref="paper",
        yref="paper",
        x=0,
        y=0,
        yshift=-62,
        xanchor="left",
        yanchor="top",
        showarrow=False,
        font={"size": 11, "color": MUTED},
        align="left",
    )
    return figure


def escape(text: Any) -> str:
    """Escape a name for Plotly, whose labels read a few HTML tags."""
    return str(text).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
