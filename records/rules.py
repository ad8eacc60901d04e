"""Constraints made ready to check records and to complete drawn ones: whole tables at a time.

Rules see codes, and the values of the number and date columns that they need: float64, dates in days since
1970-01-01, NaN where missing.
"""

import operator
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, MutableMapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from records.bins import Bins, Codes, Floats
from records.column import Column, OutOfBounds
from records.constraints import Constraint
from records.expression import Expression

Mask = npt.NDArray[np.bool_]
Values = MutableMapping[int, Floats]
Conditions = tuple[tuple[int, Mask], ...]

COMPARISONS: Mapping[str, Callable[[Any, Any], Any]] = {
    "<=": operator.le,
    "<": operator.lt,
    ">=": operator.ge,
    ">": operator.gt,
}
_ROUNDING = 1e-9  # relative error of a number that was written as text
_ARITHMETIC = 1e-12  # relative error of a few operations on float64


@dataclass(frozen=True, kw_only=True, eq=False)
class Rule(ABC):
    """A constraint over columns found by index.

    Attributes:
        constraint: As declared.
    """

    constraint: Constraint

    @property
    @abstractmethod
    def columns(self) -> tuple[int, ...]:
        """Columns that it is about; the first one names it in a report."""

    @property
    def measured(self) -> tuple[int, ...]:
        """Columns whose values it needs beside their codes."""
        return ()

    @abstractmethod
    def broken(self, codes: Codes, values: Mapping[int, Floats]) -> Mask:
        """Tell which of n records break it, bool [n]."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Forbidden(Rule):
    """Conditions that no record meets all at once: for each column index, bool [K]."""

    conditions: Conditions

    @property
    def columns(self) -> tuple[int, ...]:
        """Columns of the conditions."""
        return tuple(index for index, _ in self.conditions)

    def broken(self, codes: Codes, values: Mapping[int, Floats]) -> Mask:
        """Tell which records meet all conditions."""
        del values
        return _all_met(self.conditions, codes)


@dataclass(frozen=True, kw_only=True, eq=False)
class Inequality(Rule):
    """``left`` compared with ``right``."""

    left: Expression
    comparison: str
    right: Expression

    @property
    def columns(self) -> tuple[int, ...]:
        """Columns of both sides."""
        return tuple(dict.fromkeys(self.left.columns + self.right.columns))

    @property
    def measured(self) -> tuple[int, ...]:
        """All of them."""
        return self.columns

    def broken(self, codes: Codes, values: Mapping[int, Floats]) -> Mask:
        """Tell where it does not hold although no column is missing."""
        met = COMPARISONS[self.comparison](self.left.evaluate(values), self.right.evaluate(values))
        return np.asarray(_present(self.columns, values, len(codes)) & ~met, dtype=np.bool_)


@dataclass(frozen=True, kw_only=True, eq=False)
class Implied(Rule):
    """A rule that gives a column its value in some records.

    Attributes:
        target: Index of the column.
    """

    target: int

    @property
    @abstractmethod
    def sources(self) -> tuple[int, ...]:
        """Columns that decide."""

    @property
    def columns(self) -> tuple[int, ...]:
        """The implied column and those that decide."""
        return (self.target, *self.sources)

    @abstractmethod
    def imply(self, codes: Codes, values: Values) -> None:
        """Overwrite code and value of the column, in the records in which it is implied."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Computed(Implied):
    """A number or date column that is an expression over others, where none of them is missing."""

    expression: Expression
    column: Column
    cells: Bins

    @property
    def sources(self) -> tuple[int, ...]:
        """Columns of the expression."""
        return self.expression.columns

    @property
    def measured(self) -> tuple[int, ...]:
        """All of them."""
        return self.columns

    def imply(self, codes: Codes, values: Values) -> None:
        """Write the rounded value, moved into the bounds: where that is too far, the record is broken."""
        rows = np.flatnonzero(_present(self.sources, values, len(codes)))
        wanted = self.expression.evaluate({index: values[index][rows] for index in self.sources})
        written = np.clip(np.nan_to_num(self._rounded(wanted)), *self._bounds)
        values[self.target][rows] = written
        codes[rows, self.target] = self.cells.codes(written)

    def broken(self, codes: Codes, values: Mapping[int, Floats]) -> Mask:
        """Tell where the value lies further off than the tolerance allows, or a division is by zero."""
        wanted, given = self.expression.evaluate(values), values[self.target]
        finite = np.isfinite(wanted)
        if self.column.out_of_bounds is OutOfBounds.CLIP:
            wanted, given = np.clip(wanted, *self._bounds), np.clip(given, *self._bounds)
        with np.errstate(invalid="ignore"):  # a number less infinity
            near = finite & (np.abs(given - wanted) <= self._tolerance(wanted))
        return np.asarray(_present(self.sources, values, len(codes)) & ~near, dtype=np.bool_)

    @property
    def _bounds(self) -> tuple[float, float]:
        last = self.cells.edges[-1]
        return float(self.cells.edges[0]), float(last - 1 if self.cells.whole else np.nextafter(last, -np.inf))

    def _rounded(self, wanted: Floats) -> Floats:
        decimals = 0 if self.cells.whole else self.constraint.decimals
        return wanted if decimals is None else np.asarray(np.round(wanted, decimals), dtype=np.float64)

    def _tolerance(self, wanted: Floats) -> Floats:
        decimals = 0 if self.cells.whole else self.constraint.decimals
        rounding = 0.0 if decimals is None else 0.5 * 10.0**-decimals
        relative = _ARITHMETIC if self.cells.whole else _ROUNDING
        return max(self.constraint.tolerance or 0.0, rounding) + relative * np.maximum(1.0, np.abs(wanted))


@dataclass(frozen=True, kw_only=True, eq=False)
class Given(Implied):
    """A column that has a listed value where other columns have certain codes.

    Attributes:
        cells: Of a column that holds numbers or dates, and so has a value beside its code; otherwise None.
    """

    cells: Bins | None

    @abstractmethod
    def found(self, codes: Codes) -> tuple[npt.NDArray[np.int64], Floats]:
        """Give the implied code of each record, -1 where none is, and its value, NaN for missing."""

    @property
    def measured(self) -> tuple[int, ...]:
        """The implied column, if it holds numbers."""
        return (self.target,) if self.cells is not None else ()

    def imply(self, codes: Codes, values: Values) -> None:
        """Write the listed value."""
        code, number = self.found(codes)
        codes[:, self.target] = np.where(code >= 0, code, codes[:, self.target])
        if self.cells is not None:
            values[self.target][:] = np.where(code >= 0, number, values[self.target])

    def broken(self, codes: Codes, values: Mapping[int, Floats]) -> Mask:
        """Tell where the value is another one."""
        code, number = self.found(codes)
        if self.cells is None:
            return np.asarray((code >= 0) & (codes[:, self.target] != code), dtype=np.bool_)
        given = values[self.target]
        rounding = 0.0 if self.cells.whole else _ROUNDING
        equal = np.isclose(given, number, rtol=rounding, atol=rounding, equal_nan=True)
        return np.asarray((code >= 0) & ~equal, dtype=np.bool_)


@dataclass(frozen=True, kw_only=True, eq=False)
class Lookup(Given):
    """The value of one column implies that of another.

    Attributes:
        by: Index of the column that decides.
        table: int64 [K_by]: code implied by each code; -1 for none.
        numbers: float64 [K_by]: value implied by each.
    """

    by: int
    table: npt.NDArray[np.int64]
    numbers: Floats

    @property
    def sources(self) -> tuple[int, ...]:
        """The column that decides."""
        return (self.by,)

    def found(self, codes: Codes) -> tuple[npt.NDArray[np.int64], Floats]:
        """Look each code up."""
        return self.table[codes[:, self.by]], self.numbers[codes[:, self.by]]


@dataclass(frozen=True, kw_only=True, eq=False)
class Case(Given):
    """One value where conditions hold."""

    conditions: Conditions
    code: int
    number: float

    @property
    def sources(self) -> tuple[int, ...]:
        """Columns of the conditions."""
        return tuple(index for index, _ in self.conditions)

    def found(self, codes: Codes) -> tuple[npt.NDArray[np.int64], Floats]:
        """Give the value where all conditions hold."""
        met = _all_met(self.conditions, codes)
        return np.where(met, self.code, -1), np.where(met, self.number, np.nan)


def _all_met(conditions: Conditions, codes: Codes) -> Mask:
    met = np.ones(len(codes), dtype=np.bool_)
    for index, mask in conditions:
        met &= mask[codes[:, index]]
    return met


def _present(columns: tuple[int, ...], values: Mapping[int, Floats], count: int) -> Mask:
    present = np.ones(count, dtype=np.bool_)
    for index in columns:
        present &= ~np.isnan(values[index])
    return present
