"""Half-open cells on a line: how a number becomes a code, and a code a number again."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
import numpy.typing as npt

from protocol.errors import SchemaError

Floats = npt.NDArray[np.float64]
Codes = npt.NDArray[np.int32]

MOST_BINS = 100_000
WIDEST_WHOLE_NUMBER = 2.0**53  # beyond it a float64 no longer holds every whole number


class Scale(StrEnum):
    """How bins are spaced between the bounds, and how values are spread within a bin."""

    LINEAR = "linear"
    LOG = "log"
    LOG1P = "log1p"
    SYMLOG = "symlog"

    def ahead(self, values: Floats) -> Floats:
        """Bring values to the scale on which bins are equally wide; symlog is ``sign(x) log(1 + |x|)``."""
        match self:
            case Scale.LINEAR:
                return values
            case Scale.LOG:
                return np.log(values)
            case Scale.LOG1P:
                return np.log1p(values)
            case Scale.SYMLOG:
                return np.asarray(np.sign(values) * np.log1p(np.abs(values)), dtype=np.float64)

    def back(self, places: Floats) -> Floats:
        """Undo :meth:`ahead`, up to rounding."""
        match self:
            case Scale.LINEAR:
                return places
            case Scale.LOG:
                return np.exp(places)
            case Scale.LOG1P:
                return np.expm1(places)
            case Scale.SYMLOG:
                return np.asarray(np.sign(places) * np.expm1(np.abs(places)), dtype=np.float64)


@dataclass(frozen=True, kw_only=True, eq=False)
class Bins:
    """Cells ``[edges[k], edges[k+1])`` for ``k`` in ``0..B-1``, in increasing order.

    The last edge lies one step above the public upper bound (the next float, or the next whole number), so
    that the bound itself belongs to the last cell and no cell needs a rule of its own.

    Attributes:
        edges: float64 [B+1], strictly increasing.
        whole: Whether the cells hold whole numbers only; then every edge is one.
        scale: On which scale values are spread evenly within a cell. A cell from 1,000 to 10,000 of a heavy tail
            holds more small values than large ones, and so do draws from it on the scale ``log``.
    """

    edges: Floats
    whole: bool
    scale: Scale = Scale.LINEAR

    @property
    def count(self) -> int:
        """Number of cells, B."""
        return len(self.edges) - 1

    def codes(self, values: Floats) -> Codes:
        """Number the cell of each value.

        Args:
            values: float64 [n], finite and within the bounds.

        Returns:
            int32 [n], each in ``0..B-1``.
        """
        return np.asarray(np.searchsorted(self.edges, values, side="right") - 1, dtype=np.int32)

    def draw(self, codes: npt.NDArray[np.integer], *, generator: np.random.Generator) -> Floats:
        """Draw a value within each cell, evenly on :attr:`scale`; :meth:`codes` gives back exactly the codes.

        Args:
            codes: [n], each in ``0..B-1``.
            generator: Source of randomness.

        Returns:
            float64 [n].
        """
        return self.draw_between(self.edges[codes], self.edges[codes + 1], generator=generator)

    def draw_between(self, low: Floats, high: Floats, *, generator: np.random.Generator) -> Floats:
        """Draw a value from each of the ranges ``[low, high)``, evenly on :attr:`scale`.

        Args:
            low: float64 [n], within the bounds; a whole number where the cells hold such.
            high: float64 [n], each above its ``low``; likewise.
            generator: Source of randomness.

        Returns:
            float64 [n].
        """
        share = generator.random(len(low))
        if self.scale is Scale.LINEAR:
            drawn = low + share * (high - low)
        else:
            start = self.scale.ahead(low)
            drawn = self.scale.back(start + share * (self.scale.ahead(high) - start))
        if self.whole:
            # A whole number k gets the share of [k, k + 1).
            drawn = np.floor(drawn)
        # Rounding can reach the upper edge, which belongs to the next cell, or fall below the lower one.
        last = high - 1 if self.whole else np.nextafter(high, -np.inf)
        return np.asarray(np.clip(drawn, low, last), dtype=np.float64)

    def centres(self) -> Floats:
        """Give the mid-point of each cell, float64 [B]; a single value is its own mid-point."""
        low, high = self.edges[:-1], self.edges[1:]
        return low + (high - low - 1) / 2 if self.whole else np.where(self._single(), low, low + (high - low) / 2)

    def labels(self) -> tuple[str, ...]:
        """Name each cell for people: ``39``, ``40 to 49`` or ``[0.5, 1.5)``."""
        for digits in ("6g", "12g", "17g"):
            labels = self._labels(digits)
            if len(set(labels)) == len(labels):
                break
        return labels

    def _labels(self, digits: str) -> tuple[str, ...]:
        if self.whole:
            pairs = zip(self.edges[:-1].tolist(), (self.edges[1:] - 1).tolist(), strict=True)
            return tuple(f"{low:.0f}" if low == high else f"{low:.0f} to {high:.0f}" for low, high in pairs)
        single = self._single()
        labels = []
        for cell in range(self.count):
            low, high = float(self.edges[cell]), float(self.edges[cell + 1])
            after_point = cell > 0 and single[cell - 1]  # the low edge is the float next to the point
            start = f"({self.edges[cell - 1]:.{digits}}" if after_point else f"[{low:.{digits}}"
            end = "]" if cell == self.count - 1 else ")"
            labels.append(f"{low:.{digits}}" if single[cell] else f"{start}, {high:.{digits}}{end}")
        return tuple(labels)

    def _single(self) -> npt.NDArray[np.bool_]:
        low, high = self.edges[:-1], self.edges[1:]
        single = high - low == 1 if self.whole else np.nextafter(low, np.inf) == high
        return np.asarray(single, dtype=np.bool_)


def spaced_bins(
    *, lower: float, upper: float, count: int, scale: Scale, points: Sequence[float], whole: bool, where: str
) -> Bins:
    """Cut ``[lower, upper]`` into about ``count`` cells, and give each of ``points`` a cell of its own.

    Whole numbers with at most ``count`` values get one cell per value.

    Args:
        lower: Public lower bound.
        upper: Public upper bound, above ``lower``.
        count: Number of cells wanted before ``points`` are cut out.
        scale: Spacing of the edges.
        points: Values that get a cell of their own, such as a zero that many records hold.
        whole: Whether the cells hold whole numbers only.
        where: What to call this column in an error.

    Returns:
        The cells.

    Raises:
        SchemaError: The bounds do not allow this scale or this many cells.
    """
    if not 1 <= count <= MOST_BINS:
        raise SchemaError(f"{where}: bins = {count}.", remedy=f"Use a number from 1 to {MOST_BINS:,}.")
    if whole and upper - lower + 1 <= count:
        edges = np.arange(lower, upper + 1, dtype=np.float64)
        points = (*points, upper)  # or the last cell would hold the last two values
    elif whole:
        edges = np.unique(np.round(_spaced(lower, upper, count, scale, where)))
    else:
        edges = _spaced(lower, upper, count, scale, where)
    return explicit_bins(edges.tolist(), points=points, whole=whole, where=where, scale=scale)


def explicit_bins(
    edges: Sequence[float], *, points: Sequence[float], whole: bool, where: str, scale: Scale = Scale.LINEAR
) -> Bins:
    """Make cells from public edges; the last edge is the upper bound and belongs to the last cell.

    Args:
        edges: At least two numbers in increasing order.
        points: Values that get a cell of their own.
        whole: Whether the cells hold whole numbers only.
        where: What to call this column in an error.
        scale: How values are spread within a cell.

    Returns:
        The cells.

    Raises:
        SchemaError: The edges do not increase or do not go with the scale, or a point lies outside of them.
    """
    inner = np.asarray(edges, dtype=np.float64)
    if len(inner) < 2 or not np.all(inner[1:] > inner[:-1]):
        raise SchemaError(f"{where}: the edges do not increase.", remedy="Give at least two, each above the last.")
    _check_scale(scale, float(inner[0]), where)
    outside = [point for point in points if not inner[0] <= point <= inner[-1]]
    if outside:
        raise SchemaError(f"{where}: point {outside[0]:g} is out of bounds.", remedy="Put points within the bounds.")
    own = np.asarray(points, dtype=np.float64)
    cuts = np.concatenate([inner[:-1], _after(inner[-1:], whole=whole), own, _after(own, whole=whole)])
    return Bins(edges=np.unique(cuts), whole=whole, scale=scale)


def _after(values: Floats, *, whole: bool) -> Floats:
    """Give the smallest number above each value: a cell that ends there holds that value alone."""
    return values + 1 if whole else np.nextafter(values, np.inf)


def _check_scale(scale: Scale, lower: float, where: str) -> None:
    least = {Scale.LOG: np.nextafter(0, 1), Scale.LOG1P: 0.0}.get(scale, -np.inf)
    if lower < least:
        raise SchemaError(
            f'{where}: scale = "{scale}" does not reach lower = {lower:g}.',
            remedy='Use "log" above zero, "log1p" from zero on, "symlog" anywhere, or give edges.',
        )


def _spaced(lower: float, upper: float, count: int, scale: Scale, where: str) -> Floats:
    _check_scale(scale, lower, where)
    first, last = scale.ahead(np.array([lower, upper]))
    edges = scale.back(np.linspace(first, last, count + 1))
    edges[0], edges[-1] = lower, upper  # exactly: exp(log(x)) may miss x by rounding
    return edges
