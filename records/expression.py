"""Arithmetic over columns, such as ``systolic - diastolic`` or ``weight / (height * height)``.

Dates count in days: the difference of two dates is a number, a date plus a number is a date, and nothing else can be
done with a date. A missing value makes the whole result missing.
"""

import operator
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial, reduce
from typing import Any

import numpy as np

from protocol.errors import SchemaError
from records.bins import Floats
from records.column import Column, Kind

_NUMBER = re.compile(r"[0-9]+\.?[0-9]*([eE][+-]?[0-9]+)?|\.[0-9]+([eE][+-]?[0-9]+)?")
_WORD = re.compile(r"\w")
_FUNCTIONS: dict[str, Callable[..., Any]] = {"floor": np.floor, "min": np.minimum, "max": np.maximum}
_OPERATORS: dict[str, Callable[..., Any]] = {
    "+": operator.add,
    "-": operator.sub,
    "*": operator.mul,
    "/": operator.truediv,
}
_MOST_OPERANDS = 100  # a study comes from elsewhere: none may exhaust the stack of who reads it
_MOST_SHOWN = 80
_HELP = "Use names of columns, numbers, + - * / ( ), floor, min and max."


@dataclass(frozen=True, kw_only=True)
class _Node:
    """One operation, number or column.

    Attributes:
        apply: Operation on the results of ``parts``; None for a leaf.
        parts: What it is applied to.
        column: Index of a column, for a leaf that is one.
        number: Value of a leaf that is a number.
        dates: 1 for a date, 0 for a number.
        linear: Weight of each column (key -1 for the constant), where the node is a weighted sum; otherwise None.
    """

    apply: Callable[..., Any] | None = None
    parts: tuple["_Node", ...] = ()
    column: int = -1
    number: float = 0.0
    dates: int = 0
    linear: Mapping[int, float] | None = None


@dataclass(frozen=True, kw_only=True, eq=False)
class Expression:
    """A parsed expression.

    Attributes:
        text: As written.
        columns: Indices of the columns in it, increasing.
        dates: Whether its value is a date.
        linear: Weight of each column, and of the constant under -1, where it is a weighted sum; otherwise None.
    """

    text: str
    columns: tuple[int, ...]
    dates: bool
    linear: Mapping[int, float] | None
    _root: _Node

    def evaluate(self, values: Mapping[int, Floats]) -> Floats:
        """Compute the value for n records.

        Args:
            values: For each of :attr:`columns`, float64 [n]; NaN where missing.

        Returns:
            float64 [n]; NaN where a column is missing, and NaN or infinite where a division is by zero.
        """
        with np.errstate(all="ignore"):  # by zero: the result says so
            return np.asarray(_value(self._root, values), dtype=np.float64)


def parse_expression(text: str, *, columns: Sequence[Column], where: str) -> Expression:
    """Read an expression.

    Args:
        text: The expression. Names of columns may hold blanks and operators: the longest name that fits wins.
        columns: The columns of the data dictionary; integer, continuous and date columns may occur.
        where: What to call this in an error.

    Returns:
        The expression.

    Raises:
        SchemaError: It cannot be read, or does what cannot be done with dates.

    Examples:
        >>> pressures = [Column(name=name, kind=Kind.INTEGER, lower=20, upper=300) for name in ("low", "high")]
        >>> difference = parse_expression("high - low", columns=pressures, where="example")
        >>> difference.evaluate({0: np.array([80.0]), 1: np.array([120.0])}).tolist()
        [40.0]
    """
    parser = _Parser(text=text, columns=columns, where=where)
    root = parser.whole()
    return Expression(
        text=text, columns=tuple(sorted(parser.used)), dates=bool(root.dates), linear=root.linear, _root=root
    )


def _value(node: _Node, values: Mapping[int, Floats]) -> Any:
    if node.apply is not None:
        return node.apply(*(_value(part, values) for part in node.parts))
    # Not a plain float: divided by zero, that raises.
    return values[node.column] if node.column >= 0 else np.float64(node.number)


class _Parser:
    """Recursive descent: sums of products of factors."""

    def __init__(self, *, text: str, columns: Sequence[Column], where: str) -> None:
        self.text, self.columns, self.where = text, columns, where
        self.used: set[int] = set()
        self._names = sorted(range(len(columns)), key=lambda index: -len(columns[index].name))
        self._place = self._operands = 0

    def whole(self) -> _Node:
        root = self._sum()
        if self._rest():
            raise self._wrong(f"{self._rest()!r} is not understood", _HELP)
        return root

    def _wrong(self, problem: str, remedy: str) -> SchemaError:
        shown = self.text if len(self.text) <= _MOST_SHOWN else f"{self.text[:_MOST_SHOWN]}..."
        return SchemaError(f"{self.where}: {shown!r}: {problem}.", remedy=remedy)

    def _rest(self) -> str:
        while self.text[self._place : self._place + 1].isspace():
            self._place += 1
        return self.text[self._place :]

    def _accept(self, *signs: str) -> str:
        rest = self._rest()
        for sign in signs:
            if rest.startswith(sign):
                self._place += len(sign)
                return sign
        return ""

    def _sum(self) -> _Node:
        node = self._product()
        while sign := self._accept("+", "-"):
            node = self._added(node, sign, self._product())
        return node

    def _product(self) -> _Node:
        node = self._factor()
        while sign := self._accept("*", "/"):
            node = self._multiplied(node, sign, self._factor())
        return node

    def _factor(self) -> _Node:
        self._operands += 1
        if self._operands > _MOST_OPERANDS:
            raise self._wrong("it is too long", f"Use at most {_MOST_OPERANDS} operands.")
        if self._accept("-"):
            return self._added(_constant(0.0), "-", self._factor())
        column = self._column()
        if column is not None:
            return column
        if self._accept("("):
            return self._closed(self._sum())
        if name := self._accept(*(f"{name}(" for name in _FUNCTIONS)):
            return self._called(name[:-1])
        number = _NUMBER.match(self._rest())
        if number is None:
            what = f"{self._rest()!r} is not understood" if self._rest() else "it ends too early"
            raise self._wrong(what, _HELP)
        self._place += number.end()
        return _constant(float(number[0]))

    def _closed(self, node: _Node) -> _Node:
        if not self._accept(")"):
            raise self._wrong("a bracket is not closed", 'Add ")".')
        return node

    def _column(self) -> _Node | None:
        rest = self._rest()
        for index in self._names:
            column = self.columns[index]
            follows = rest[len(column.name) : len(column.name) + 1]
            if not rest.startswith(column.name) or (_WORD.match(column.name[-1]) and _WORD.match(follows)):
                continue
            if column.cells is None:
                raise self._wrong(
                    f"column {column.name} is {column.kind}", "Only integer, continuous and date columns can be used."
                )
            self._place += len(column.name)
            self.used.add(index)
            return _Node(column=index, dates=int(column.kind is Kind.DATE), linear={index: 1.0})
        return None

    def _added(self, left: _Node, sign: str, right: _Node) -> _Node:
        dates = left.dates + (right.dates if sign == "+" else -right.dates)
        if dates not in (0, 1):
            raise self._wrong("dates are added up", "Take one date from another, or add days to a date.")
        linear = None
        if left.linear is not None and right.linear is not None:
            factor = 1.0 if sign == "+" else -1.0
            keys = left.linear.keys() | right.linear.keys()
            linear = {key: left.linear.get(key, 0.0) + factor * right.linear.get(key, 0.0) for key in keys}
        return _Node(apply=_OPERATORS[sign], parts=(left, right), dates=dates, linear=linear)

    def _multiplied(self, left: _Node, sign: str, right: _Node) -> _Node:
        if left.dates or right.dates:
            raise self._wrong("a date is multiplied or divided", "Take one date from another first.")
        return _Node(apply=_OPERATORS[sign], parts=(left, right))

    def _called(self, name: str) -> _Node:
        parts = [self._sum()]
        while self._accept(","):
            parts.append(self._sum())
        self._closed(parts[0])
        if (name == "floor") != (len(parts) == 1):
            raise self._wrong(f"{name} has {len(parts)} arguments", "Give floor one argument, min and max several.")
        if len({part.dates for part in parts}) > 1:
            raise self._wrong(f"{name} compares a date with a number", "Take one date from another first.")
        function = _FUNCTIONS[name]
        apply = function if len(parts) == 1 else partial(_reduced, function)
        return _Node(apply=apply, parts=tuple(parts), dates=parts[0].dates)


def _reduced(function: Callable[..., Any], *values: Floats) -> Any:
    return reduce(function, values)


def _constant(number: float) -> _Node:
    return _Node(number=number, linear={-1: number})
