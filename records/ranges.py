"""Ranges of values that leave room for inequalities between two columns."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
import numpy.typing as npt

from records.bins import Bins, Floats
from records.rule_book import RuleBook
from records.rules import Inequality

Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True)
class Gap:
    """``values[smaller] + least <= values[larger]``.

    Attributes:
        smaller: Index of a column.
        larger: Index of another.
        least: The least difference; one more than declared where whole numbers must differ.
    """

    smaller: int
    larger: int
    least: float


def gaps(book: RuleBook) -> tuple[Gap, ...]:
    """Give the inequalities between two columns that no rule implies, such as ``left >= entered + 1``."""
    found = (_gap(rule, book) for rule in book.inequalities)
    return tuple(gap for gap in found if gap is not None and not {gap.smaller, gap.larger} & book.targets)


def _gap(rule: Inequality, book: RuleBook) -> Gap | None:
    left, right = (rule.left, rule.right) if rule.comparison in ("<=", "<") else (rule.right, rule.left)
    if left.linear is None or right.linear is None:
        return None
    weights = {key: left.linear.get(key, 0.0) - right.linear.get(key, 0.0) for key in (*left.linear, *right.linear)}
    least = weights.pop(-1, 0.0)
    sides = {weight: index for index, weight in weights.items() if weight}
    if sides.keys() != {1.0, -1.0} or sum(map(bool, weights.values())) != 2:
        return None
    smaller, larger = sides[1.0], sides[-1.0]
    cells = [book.columns[index].cells for index in (smaller, larger)]
    strict, whole = rule.comparison in ("<", ">"), all(held is not None and held.whole for held in cells)
    if strict and whole and least == math.floor(least):
        least += 1.0
    return Gap(smaller=smaller, larger=larger, least=least)


@dataclass(frozen=True, kw_only=True, eq=False)
class Ranges:
    """For each column index, the smallest and the largest value that n records may take there, float64 [n].

    Both are NaN where a value is missing.
    """

    cells: dict[int, Bins]
    first: dict[int, Floats]
    last: dict[int, Floats]

    @classmethod
    def of_codes(cls, codes: npt.NDArray[np.integer], cells: dict[int, Bins]) -> Self:
        """Give the whole cells of codes [n, C]."""
        first, last = {}, {}
        for index, held in cells.items():
            # One more entry, NaN, for codes that stand for missing.
            inside = np.minimum(codes[:, index], held.count)
            smallest, largest = cell_ends(held)
            first[index] = np.append(smallest, np.nan)[inside]
            last[index] = np.append(largest, np.nan)[inside]
        return cls(cells=cells, first=first, last=last)

    def narrow(self, found: Sequence[Gap]) -> None:
        """Leave out values for which no others are left: the smaller column's largest, the larger column's smallest.

        Afterwards the smallest values of all columns meet all gaps together, unless :meth:`empty` says otherwise.
        """
        for _ in range(len(found) + 1):
            moved = [self._narrow_one(gap) for gap in found]
            if not any(moved):
                break

    def _narrow_one(self, gap: Gap) -> bool:
        """Narrow for one gap; tells whether anything changed. NaN compares false, and so changes nothing."""
        low, high = gap.smaller, gap.larger
        top, bottom = self.last[high] - gap.least, self.first[low] + gap.least
        top = np.floor(top) if self.cells[low].whole else top
        bottom = np.ceil(bottom) if self.cells[high].whole else bottom
        less, more = self.last[low] > top, self.first[high] < bottom
        self.last[low] = np.where(less, top, self.last[low])
        self.first[high] = np.where(more, bottom, self.first[high])
        return bool(less.any() or more.any())

    def empty(self) -> Mask:
        """Tell which records have a column without any value left, bool [n]."""
        gone = [self.first[index] > self.last[index] for index in self.cells]
        return np.any(gone, axis=0) if gone else np.zeros(0, dtype=np.bool_)

    def rows(self, rows: npt.NDArray[np.int64]) -> "Ranges":
        """Give some of the records."""
        return Ranges(
            cells=self.cells,
            first={index: values[rows] for index, values in self.first.items()},
            last={index: values[rows] for index, values in self.last.items()},
        )

    def draw(self, *, generator: np.random.Generator) -> dict[int, Floats]:
        """Draw each value within its range, regardless of the others, float64 [n]."""
        return {index: self._draw(index, generator) for index in self.cells}

    def draw_in_turn(self, found: Sequence[Gap], *, generator: np.random.Generator) -> dict[int, Floats]:
        """Draw column after column, each within what the ones before leave: the values meet all gaps."""
        for index in self.cells:
            drawn = self._draw(index, generator)
            self.first[index], self.last[index] = drawn, drawn
            self.narrow(found)
        return self.first

    def _draw(self, index: int, generator: np.random.Generator) -> Floats:
        cells, first, last = self.cells[index], self.first[index], self.last[index]
        gone = np.isnan(first)
        low, high = np.where(gone, cells.edges[0], first), np.where(gone, cells.edges[0], last)
        after = high + 1 if cells.whole else np.nextafter(high, np.inf)
        return np.where(gone, np.nan, cells.draw_between(low, after, generator=generator))


def cell_ends(cells: Bins) -> tuple[Floats, Floats]:
    """Give the smallest and the largest value of each cell, float64 [B]."""
    after = cells.edges[1:]
    return cells.edges[:-1], np.asarray(after - 1 if cells.whole else np.nextafter(after, -np.inf), dtype=np.float64)
