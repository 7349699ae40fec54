"""The table that `interp points MODEL` prints."""

from interp.models.model import Model

HEADER = ("name", "stream", "kind", "width", "grid", "depth")


def points_table(model: Model) -> str:
    """Return the model's hook points as aligned text, one line each in order of execution."""
    rows: list[tuple[str, ...]] = [HEADER]
    for point in model.points.values():
        grid = "x".join(map(str, point.grid)) or "-"
        depth = f"{point.depth:.2f}"
        rows.append((point.name, point.stream, point.kind, str(point.width), grid, depth))
    widths = [max(len(row[i]) for row in rows) for i in range(len(HEADER))]
    lines = ("  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)) for row in rows)
    return "\n".join(line.rstrip() for line in lines) + "\n"
