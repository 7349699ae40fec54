"""One pass over chunks of rows: the sums that every covariance measure is a function of.

With columns shifted by constants (the mean of the first chunk, so that nothing cancels), p_i the
squared norm of row i of a layer of x and q_i of a layer of y, the pass keeps for each fold

    n, sum x, sum y, X'X and Y'Y of each layer, X'Y of each pair,
    sum p, sum p^2, sum p x, sum p q, sum q x, sum p y,

all in float64. They give the mean, and with it the centered covariances and, for centered squared
row norms r_i = p_i - 2 m'x_i + m'm, sums r_i s_i and r_i^2: linear CKA, debiased too, canonical
correlations, in-sample R^2, Procrustes, GULP, participation ratios, the exact null moments of CKA.
Sums are additive: those of the kept rows are those of all minus those of the fold, and the block
jackknife costs no second pass. Rows never need to fit in memory and their order does not matter.

Memory: 8 F (sum d^2 + sum e^2 + D E) bytes for F folds, D and E the total widths; the jackknife
takes that of two more folds. Where it is too much, take fewer layers at a time, or two passes: the
first with one fold gives the total, the second, fold after fold with `shift=total.shift`, each
part, and `subtract` the rest.
Cost: n (sum d^2 + sum e^2 + D E) multiply-adds in float64. A chunk with rows of all folds touches
all accumulators: hand rows over in the order of their folds, or in chunks of many rows.

    sums = Sums([320, 640], [768], n_folds=20)
    for xs, ys, folds in chunks:          # xs: [m, 320] and [m, 640]; ys: [m, 768]; folds: [m]
        sums.add(xs, ys, folds)
    totals = sums.finish()
    value = sum_values(totals, "cka")     # [2, 1]
    interval = jackknife(value.numpy(), sum_deleted(totals, "cka").numpy())

What cannot come from one pass: neighbors, RDMs, permutations, and the null sd of measures that
whiten (it needs the leverage of every row).
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.errors import InputError
from interp.geometry.features import CONSTANT, MIN_ROWS

# Half of what a small machine has.
MAX_BYTES = 2 << 30


class Side(NamedTuple):
    """Sums of the layers of one list, [f, ...] for f folds; columns of all layers side by side."""

    widths: tuple[int, ...]
    linear: Tensor  # [f, D] sum x
    grams: tuple[Tensor, ...]  # [f, d, d] X'X of each layer
    norms: Tensor  # [f, a] sum p
    squares: Tensor  # [f, a] sum p^2
    weighted: Tensor  # [f, D] sum p x, p of the layer that the column belongs to

    def columns(self, layer: int) -> slice:
        """Where a layer's columns lie."""
        start = sum(self.widths[:layer])
        return slice(start, start + self.widths[layer])


class Totals(NamedTuple):
    """All sums of a pass, by fold; additive over rows that were shifted alike."""

    counts: Tensor  # [f] rows
    x: Side
    y: Side
    cross: Tensor  # [f, D, E] X'Y
    norms: Tensor  # [f, a, b] sum p q
    x_by_y: Tensor  # [f, b, D] sum q x
    y_by_x: Tensor  # [f, a, E] sum p y
    shift: tuple[Tensor, Tensor]  # [D], [E]

    @property
    def n(self) -> int:
        """Rows in all folds."""
        return int(self.counts.sum())


class Sums:
    """Accumulates `Totals` over chunks of rows.

    Args:
        widths_x: columns of each layer of the first list.
        widths_y: of the second list.
        n_folds: of the jackknife; 1 for none.
        shift: of an earlier pass (`Totals.shift`), so that its sums and these are additive.
        max_bytes: what the accumulators may take.

    Raises:
        InputError: where the accumulators would be larger, with the number.
    """

    def __init__(
        self,
        widths_x: Sequence[int],
        widths_y: Sequence[int],
        n_folds: int = 1,
        *,
        shift: tuple[Tensor, Tensor] | None = None,
        max_bytes: int = MAX_BYTES,
    ) -> None:
        size = accumulator_bytes(widths_x, widths_y, n_folds)
        if size > max_bytes:
            most = int(max_bytes // accumulator_bytes(widths_x, widths_y, 1))
            fewer = f"at most {most} folds, or two passes" if most else "fewer layers at a time"
            raise InputError(
                f"sums of total widths {sum(widths_x)} and {sum(widths_y)} in {n_folds} folds take "
                f"{size / 1e9:.3g} GB, more than max_bytes = {max_bytes / 1e9:.3g} GB; use {fewer} "
                "(see interp.geometry.sums)"
            )
        self.shift = shift
        self._rows = 0
        f, a, b = n_folds, len(widths_x), len(widths_y)
        wide_x, wide_y = sum(widths_x), sum(widths_y)
        self._sums = Totals(
            torch.zeros(f, dtype=torch.int64),
            _empty_side(widths_x, f),
            _empty_side(widths_y, f),
            _zeros(f, wide_x, wide_y),
            _zeros(f, a, b),
            _zeros(f, b, wide_x),
            _zeros(f, a, wide_y),
            (_zeros(wide_x), _zeros(wide_y)) if shift is None else shift,
        )

    def add(
        self,
        xs: Sequence[Float[Tensor | np.ndarray, "m _"]],
        ys: Sequence[Float[Tensor | np.ndarray, "m _"]],
        folds: Int[np.ndarray, " m"] | None = None,
    ) -> None:
        """Add m rows of every layer; nothing is added when one of them is refused.

        xs, ys: tensors or arrays, in the order of the widths; row i of all is the same image.
        folds: [m] fold of each row; None: fold 0.
        Raises InputError for other shapes, NaN or infinite values (with the row, counted over the
        whole pass), folds out of range.
        """
        x = _checked(xs, self._sums.x.widths, "x", self._rows)
        y = _checked(ys, self._sums.y.widths, "y", self._rows)
        m, count = x.shape[0], len(self._sums.counts)
        place = np.zeros(m, dtype=np.int64) if folds is None else np.asarray(folds)
        if y.shape[0] != m or place.shape != (m,):
            raise InputError(
                f"a chunk of {m} rows of x, {y.shape[0]} of y and {place.size} folds: row i of all "
                "must be the same image"
            )
        if m == 0:
            return
        if place.dtype.kind not in "iu" or place.min() < 0 or place.max() >= count:
            raise InputError(
                f"folds from {place.min()} to {place.max()}; they are 0 .. {count - 1}"
            )
        if self.shift is None:
            self.shift = (x.mean(0), y.mean(0))
        x, y = x - self.shift[0], y - self.shift[1]
        for f in np.unique(place).tolist():
            at = torch.as_tensor(np.flatnonzero(place == f))
            whole = len(at) == m
            _accumulate(self._sums, f, x if whole else x[at], y if whole else y[at])
        self._rows += m

    def finish(self) -> Totals:
        """The sums so far, not copied.

        Raises InputError for n < 4 and for a layer that is the same in every row. A part of a
        sample, as for `subtract`, is `totals`, which does not look.
        """
        out = self.totals
        if out.n < MIN_ROWS:
            raise InputError(f"{out.n} rows were added; the measures need n >= {MIN_ROWS}")
        for side, shift, name in ((out.x, out.shift[0], "x"), (out.y, out.shift[1], "y")):
            _refuse_constant(side, shift, out.n, name)
        return out

    @property
    def totals(self) -> Totals:
        """The sums so far, as they are."""
        return self._sums if self.shift is None else self._sums._replace(shift=self.shift)


def accumulator_bytes(widths_x: Sequence[int], widths_y: Sequence[int], n_folds: int = 1) -> int:
    """Bytes that the sums of these layers take: what to cost before a pass starts."""
    wide_x, wide_y, a, b = sum(widths_x), sum(widths_y), len(widths_x), len(widths_y)
    own = sum(d * d + 2 * d + 2 for d in (*widths_x, *widths_y))
    return 8 * n_folds * (own + wide_x * wide_y + a * b + b * wide_x + a * wide_y + 1)


def subtract(total: Totals, part: Totals) -> Totals:
    """The sums of the rows of `total` that are not in `part`; both of one fold and one shift.

    Raises InputError where the shifts differ, and where no rows would be left.
    """
    if not all(torch.equal(a, b) for a, b in zip(total.shift, part.shift, strict=True)):
        raise InputError("sums about different shifts; pass shift=total.shift to the second Sums")
    left = total.n - part.n
    if left < MIN_ROWS:
        raise InputError(f"{part.n} of {total.n} rows leave {left}; it takes {MIN_ROWS}")
    return Totals(
        total.counts - part.counts,
        _minus_side(total.x, part.x),
        _minus_side(total.y, part.y),
        total.cross - part.cross,
        total.norms - part.norms,
        total.x_by_y - part.x_by_y,
        total.y_by_x - part.y_by_x,
        total.shift,
    )


def pooled(totals: Totals) -> Totals:
    """The sums of all folds as those of one; not copied where there is one."""
    return (
        totals
        if len(totals.counts) == 1
        else _fold_sums(totals, lambda one: one.sum(0, keepdim=True))
    )


def fold(totals: Totals, f: int) -> Totals:
    """The sums of one fold."""
    return _fold_sums(totals, lambda one: one[f : f + 1])


def _fold_sums(totals: Totals, take) -> Totals:
    x, y = (
        side._replace(
            grams=tuple(take(gram) for gram in side.grams),
            **{
                name: take(getattr(side, name))
                for name in ("linear", "norms", "squares", "weighted")
            },
        )
        for side in (totals.x, totals.y)
    )
    names = ("counts", "cross", "norms", "x_by_y", "y_by_x")
    return totals._replace(x=x, y=y, **{name: take(getattr(totals, name)) for name in names})


def _minus_side(a: Side, b: Side) -> Side:
    return Side(
        a.widths,
        a.linear - b.linear,
        tuple(g - h for g, h in zip(a.grams, b.grams, strict=True)),
        a.norms - b.norms,
        a.squares - b.squares,
        a.weighted - b.weighted,
    )


def _zeros(*shape: int) -> Tensor:
    return torch.zeros(*shape, dtype=torch.float64)


def _empty_side(widths: Sequence[int], f: int) -> Side:
    wide, count = sum(widths), len(widths)
    grams = tuple(_zeros(f, d, d) for d in widths)
    return Side(
        tuple(widths), _zeros(f, wide), grams, _zeros(f, count), _zeros(f, count), _zeros(f, wide)
    )


def _checked(parts: Sequence[Any], widths: tuple[int, ...], name: str, start: int) -> Tensor:
    """The layers side by side, [m, D] float64."""
    tensors = [torch.as_tensor(np.asarray(p) if not isinstance(p, Tensor) else p) for p in parts]
    shapes = [tuple(one.shape) for one in tensors]
    wrong = any(len(shape) != 2 for shape in shapes) or len({shape[0] for shape in shapes}) != 1
    if wrong or tuple(shape[1] for shape in shapes) != widths:
        raise InputError(
            f"{name}: a chunk of shapes {shapes} for layers of widths {list(widths)}; it takes "
            "[m, d] for each, with one m"
        )
    for one in tensors:
        if one.is_complex():
            raise InputError(f"{name} has dtype {one.dtype}; features must be real numbers")
    out = torch.cat([one.detach().to("cpu", torch.float64) for one in tensors], 1)
    good = out.isfinite()
    if not bool(good.all()):
        row = int((~good).any(1).nonzero()[0])
        raise InputError(
            f"{name} has {int((~good).sum())} NaN or infinite values in this chunk, the first in "
            f"row {start + row} of the pass (row {row} of the chunk); drop those rows in every "
            "representation"
        )
    return out


def _accumulate(sums: Totals, f: int, x: Tensor, y: Tensor) -> None:
    sums.counts[f] += x.shape[0]
    p, q = _accumulate_side(sums.x, f, x), _accumulate_side(sums.y, f, y)
    sums.cross[f].addmm_(x.T, y)
    sums.norms[f].addmm_(p.T, q)
    sums.x_by_y[f].addmm_(q.T, x)
    sums.y_by_x[f].addmm_(p.T, y)


def _accumulate_side(side: Side, f: int, x: Tensor) -> Float[Tensor, "m a"]:
    """Own sums of every layer of a chunk; returns the squared row norms."""
    norms = []
    for layer, gram in enumerate(side.grams):
        at = side.columns(layer)
        part = x[:, at]
        p = part.square().sum(1)
        gram[f].addmm_(part.T, part)
        side.weighted[f, at] += p @ part
        norms.append(p)
    side.linear[f] += x.sum(0)
    out = torch.stack(norms, 1)
    side.norms[f] += out.sum(0)
    side.squares[f] += out.square().sum(0)
    return out


def _refuse_constant(side: Side, shift: Tensor, n: int, name: str) -> None:
    linear = side.linear.sum(0)
    for layer in range(len(side.widths)):
        at = side.columns(layer)
        around = float(side.norms[:, layer].sum())
        spread = around - float(linear[at] @ linear[at]) / n
        raw = around + float(2 * shift[at] @ linear[at] + n * shift[at] @ shift[at])
        if spread <= CONSTANT**2 * raw or raw <= 0:
            raise InputError(
                f"{name}: layer {layer} is constant: all {n} rows are equal, so it has no "
                "geometry; leave this point out"
            )
