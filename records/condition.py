"""Conditions that people type, such as ``age>=40`` or ``ward in north|south``, as sets of codes.

A model draws codes, so a condition can only be met by whole cells: a code qualifies when every value that it
may decode to does. As in SQL, a missing value meets no comparison; ``COLUMN is missing`` asks for it.
"""

import datetime
import difflib
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from protocol.errors import InputError
from records.bins import Bins, Floats
from records.column import EPOCH, FALSE_VALUES, NAMED, OTHER, TRUE_VALUES, Column, Kind, number_of

if TYPE_CHECKING:
    from records.schema import Schema  # it imports this module, for its constraints

Mask = npt.NDArray[np.bool_]
Numbers = npt.NDArray[np.number]

_MOST_LISTED = 10
_SITE = "site"
_MISSING = re.compile(r"\s+is\s+(not\s+)?missing\s*", re.IGNORECASE)
_AMONG = re.compile(r"\s+in\s+(.*)", re.IGNORECASE | re.DOTALL)
_COMPARISON = re.compile(r"\s*(<=|>=|!=|=|<|>)\s*(.*)", re.DOTALL)
_GUESS = re.compile(r"\s*(?:[<>!=]|\s(?:in|is)\s)")
_OPPOSITE = {"<": ">=", ">=": "<", "<=": ">", ">": "<=", "!=": "="}
_FORMS = 'Write "COLUMN OP VALUE" with =, !=, <, <=, > or >=, "COLUMN in A|B", or "COLUMN is [not] missing".'


def parse_conditions(texts: Sequence[str], *, schema: "Schema") -> dict[int, Mask]:
    """Turn conditions into the codes that meet them; several on one column must all hold.

    Each text is ``COLUMN OP VALUE`` with one of ``= != < <= > >=``, or ``COLUMN in A|B|C``, or
    ``COLUMN is missing``, or ``COLUMN is not missing``. ``site`` names the site column, where the study has one and no
    column is called so. Values are categories, truth values (true/false,
    yes/no, 1/0), numbers or ISO 8601 dates. Names of columns may hold blanks and operators: the longest name
    that fits wins.

    Args:
        texts: Conditions.
        schema: The data dictionary.

    Returns:
        For the index of each column with a condition, bool [K_j]: whether a code meets it. At least one does.

    Raises:
        InputError: A condition cannot be read, does not fit its column, or no code meets it.

    Examples:
        >>> from records.schema import Schema
        >>> schema = Schema(columns=(
        ...     Column(name="age", kind=Kind.INTEGER, lower=0, upper=99, bins=5, missing=True),
        ...     Column(name="ill", kind=Kind.BOOLEAN),
        ... ))
        >>> masks = parse_conditions(["age >= 40", "ill = yes"], schema=schema)
        >>> masks[0].tolist(), masks[1].tolist()
        ([False, False, True, True, True, False], [False, True])
    """
    masks: dict[int, Mask] = {}
    for text in texts:
        condition = _parsed(text, schema.columns, schema.site_column)
        mask = condition.mask()
        index = schema.index(condition.column.name)
        masks[index] = masks[index] & mask if index in masks else mask
        if not masks[index].any():
            together = " together with the conditions before it" if mask.any() else ""
            raise condition.wrong(
                f"no value of column {condition.column.name} meets it{together}.", condition.possible()
            )
    return masks


def exact_condition(text: str, *, columns: Sequence[Column]) -> tuple[int, Mask]:
    """Turn one condition into the codes that meet it, where every code meets it with all of its values or with none.

    Args:
        text: The condition, as for :func:`parse_conditions`.
        columns: The columns of the data dictionary.

    Returns:
        Index of its column, and bool [K]: whether a code meets it. At least one does.

    Raises:
        InputError: The condition cannot be read, or a cell meets it with some of its values only.
    """
    condition = _parsed(text, columns)
    mask = condition.exact_mask()
    if not mask.any():
        raise condition.wrong(f"no value of column {condition.column.name} meets it.", condition.possible())
    return [column.name for column in columns].index(condition.column.name), mask


def value_code(column: Column, value: str, *, where: str) -> int:
    """Give the code of one value as people write it.

    Args:
        column: The column.
        value: A category, truth value, number or ISO 8601 date; for a number or date any value of the cell does.
        where: What to call this in an error.

    Returns:
        The code.

    Raises:
        InputError: The column has no such value.
    """
    condition = _Condition(text=where, column=column, operator="=", values=(value,))
    if column.cells is None:
        return condition.code(value)
    point = condition.point(value)
    inside = column.cells.edges[0] <= point < column.cells.edges[-1]
    if not inside or (column.kind is not Kind.CONTINUOUS and point != np.floor(point)):
        raise condition.wrong(f"{value} is not a value of column {column.name}.", condition.possible())
    return int(column.cells.codes(np.array([point]))[0])


def value_number(column: Column, value: str, *, where: str) -> float:
    """Place a value as people write it on the line; a date counts in days since 1970-01-01.

    Raises:
        InputError: It is no number, or no date.
    """
    return _Condition(text=where, column=column, operator="=", values=(value,)).point(value)


def describe_mask(column: Column, mask: Mask) -> str:
    """Say which codes of a column qualify, for people.

    Args:
        column: The column.
        mask: bool [K], whether a code qualifies.

    Returns:
        Such as ``age: 40 to 59 ... 80 to 99 (3 of 6 codes)``.
    """
    labels = [label for label, met in zip(column.code_labels, mask, strict=True) if met]
    runs = np.flatnonzero(np.diff(np.flatnonzero(mask)) > 1)
    one_run = column.cells is not None and not len(runs) and len(labels) > 2
    listed = f"{labels[0]} ... {labels[-1]}" if one_run else _listed(labels)
    return f"{column.name}: {listed} ({len(labels)} of {column.cardinality} codes)"


def _listed(words: Sequence[str]) -> str:
    more = len(words) - _MOST_LISTED
    return ", ".join(words[:_MOST_LISTED]) + (f" and {more} more" if more > 0 else "")


def _parsed(text: str, columns: Sequence[Column], site_column: str | None = None) -> "_Condition":
    """Split a text into column, operator and values; the longest name that an operator follows wins."""
    stripped = text.strip()
    named = sorted((c for c in columns if stripped.startswith(c.name)), key=lambda c: -len(c.name))
    for column in named:
        rest = stripped[len(column.name) :]
        if found := _MISSING.fullmatch(rest):
            operator = "is not missing" if found[1] else "is missing"
            return _Condition(text=text, column=column, operator=operator, values=())
        if found := _AMONG.fullmatch(rest):
            values = tuple(value.strip() for value in found[1].split("|"))
            return _Condition(text=text, column=column, operator="in", values=values)
        if found := _COMPARISON.fullmatch(rest):
            return _Condition(text=text, column=column, operator=found[1], values=(found[2].strip(),))
    guess, names = _GUESS.split(stripped, maxsplit=1)[0], [column.name for column in columns]
    if guess == _SITE and site_column is not None:
        return _parsed(site_column + stripped[len(guess) :], columns, site_column)
    if guess == _SITE:
        raise InputError(
            f"Condition {text!r}: the study declares no site column, so its generator does not know sites apart.",
            remedy="Records of one site can be drawn only where every site approved a study with site_column.",
        )
    if guess in names:
        raise InputError(f"Condition {text!r}: no operator follows {guess!r}.", remedy=_FORMS)
    near = difflib.get_close_matches(guess, names, n=1)
    remedy = f"Did you mean {near[0]!r}?" if near else f"Columns are {_listed(names)}."
    raise InputError(f"Condition {text!r}: {guess!r} is not a modelled column.", remedy=remedy)


@dataclass(frozen=True, kw_only=True)
class _Condition:
    """One condition, split but not yet understood.

    Attributes:
        text: As typed.
        column: The column that it is about.
        operator: One of the comparisons, ``in``, ``is missing`` and ``is not missing``.
        values: Texts to compare with; one for a comparison.
    """

    text: str
    column: Column
    operator: str
    values: tuple[str, ...]

    def wrong(self, problem: str, remedy: str) -> InputError:
        return InputError(f"Condition {self.text!r}: {problem}", remedy=remedy)

    def possible(self) -> str:
        """Remedy when no code qualifies: what the column holds."""
        labels = self.column.code_labels
        if self.column.cells is None:
            return f"The column holds {_listed(labels)}."
        return (
            f"The column reaches from {self.column.lower} to {self.column.upper} and is drawn in whole cells "
            f"such as {labels[self.column.cells.count // 2]}: ask for a range that covers one."
        )

    def exact_mask(self) -> Mask:
        """Codes that meet the condition, bool [K]; refuses a cell that meets it in part."""
        mask, opposite = self.mask(), _OPPOSITE.get(self.operator)
        if self.column.cells is not None and opposite is not None:
            count = self.column.values_cardinality
            part = ~(mask | replace(self, operator=opposite).mask())[:count]
            if part.any():
                raise self.wrong(
                    f"it cuts the cell {self.column.code_labels[int(np.argmax(part))]} of column {self.column.name}.",
                    "Put an edge of the column's cells there, or move the value to one.",
                )
        return mask

    def mask(self) -> Mask:
        """Codes that meet the condition, bool [K]."""
        mask = np.zeros(self.column.cardinality, dtype=np.bool_)
        values = mask[: self.column.values_cardinality]
        if self.operator in ("is missing", "is not missing"):
            if self.operator == "is missing" and not self.column.missing:
                raise self.wrong(f"column {self.column.name} is never missing.", "Leave the condition out.")
            mask[:] = self.operator == "is missing"
            values[:] = self.operator == "is not missing"
        else:
            self._check_present()
            values[:] = self._named() if self.column.cells is None else self._placed(self.column.cells)
        return mask

    def _check_present(self) -> None:
        if not all(self.values):
            raise self.wrong("it lacks a value.", f'Give one, or write "{self.column.name} is missing".')

    def _named(self) -> Mask:
        """Codes of a categorical, ordinal or boolean column; only ranks can be compared by size."""
        ranks = np.arange(self.column.values_cardinality)
        wanted = np.array([self.code(value) for value in self.values])
        if self.operator in ("=", "in"):
            return np.isin(ranks, wanted)
        if self.operator == "!=":
            return np.asarray(ranks != wanted[0])
        if self.column.kind is not Kind.ORDINAL:
            raise self.wrong(
                f"column {self.column.name} is {self.column.kind}: its values have no order.",
                "Use =, != or in.",
            )
        return _compared(self.operator, ranks, ranks, float(wanted[0]))

    def code(self, value: str) -> int:
        """Code of a text that names a value of a categorical, ordinal or boolean column."""
        meaning = _meaning(self.column)
        key = value.lower() if self.column.kind is Kind.BOOLEAN else value
        if key in meaning:
            return meaning[key]
        remedy = f"Use one of {_listed(self.column.code_labels[: self.column.values_cardinality])}."
        if key.strip("()").lower() == "missing":
            remedy = f'Write "{self.column.name} is missing".'
        raise self.wrong(f"column {self.column.name} has no value {value!r}.", remedy)

    def _placed(self, cells: Bins) -> Mask:
        """Codes of a number or date column: those whose whole cell meets the condition."""
        smallest, largest = cells.edges[:-1], _largest(cells)
        points = [self.point(value) for value in self.values]
        if self.operator == "!=" and cells.whole and points[0] != np.floor(points[0]):
            return np.ones(cells.count, dtype=np.bool_)  # the value lies between two neighbours of one cell
        if self.operator not in ("=", "in"):
            return _compared(self.operator, smallest, largest, points[0])
        equal = [(smallest == point) & (largest == point) for point in points]
        for value, point, met in zip(self.values, points, equal, strict=True):
            if not met.any():
                raise self._shares(value, point, (smallest <= point) & (point <= largest))
        return np.asarray(np.any(equal, axis=0))

    def _shares(self, value: str, point: float, holding: Mask) -> InputError:
        """Error for a single value that has no code of its own."""
        name, whole = self.column.name, self.column.kind is not Kind.CONTINUOUS
        if whole and point != np.floor(point):
            return self.wrong(f"column {name} holds whole numbers only.", "Give a whole number.")
        if not holding.any():
            return self.wrong(f"{value} is out of the bounds of column {name}.", self.possible())
        cell = self.column.code_labels[int(np.argmax(holding))]
        return self.wrong(
            f"{value} shares its code with all of {cell}, so it cannot be drawn alone.",
            f'Ask for a range, such as "{name}>=LOW" and "{name}<HIGH".',
        )

    def point(self, value: str) -> float:
        """Place a value on the line; dates count in days since 1970-01-01."""
        if self.column.kind is Kind.DATE:
            try:
                return float((datetime.date.fromisoformat(value) - EPOCH).days)
            except ValueError:
                raise self.wrong(f"{value!r} is not a date.", "Write it as YYYY-MM-DD.") from None
        number = number_of(value)
        if number is None:
            raise self.wrong(
                f"column {self.column.name} is {self.column.kind} and {value!r} is no finite number.",
                "Give a number, with a point as decimal mark.",
            )
        return number


def _meaning(column: Column) -> dict[str, int]:
    """Code of every text that names a value of a categorical, ordinal or boolean column."""
    if column.kind in NAMED:
        named = {category: code for code, category in enumerate(column.categories)}
        named |= {alias: named[category] for alias, category in column.aliases}
        return named | ({OTHER: len(column.categories)} if column.other else {})
    usual = dict.fromkeys(FALSE_VALUES, 0) | dict.fromkeys(TRUE_VALUES, 1)
    own = {word.lower(): code for code in (0, 1) for word in column.words(truth=bool(code))}
    return usual | own  # a column may say that "0" means true


def _largest(cells: Bins) -> Floats:
    """Largest value of each cell, float64 [B]."""
    above = cells.edges[1:]
    return np.asarray(above - 1 if cells.whole else np.nextafter(above, -np.inf), dtype=np.float64)


def _compared(operator: str, smallest: Numbers, largest: Numbers, point: float) -> Mask:
    """Cells, from ``smallest`` to ``largest`` [B], all of whose values are in this relation to ``point``."""
    relations = {
        "<": largest < point,
        "<=": largest <= point,
        ">": smallest > point,
        ">=": smallest >= point,
        "!=": (point < smallest) | (point > largest),
    }
    return np.asarray(relations[operator], dtype=np.bool_)
