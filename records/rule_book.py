"""Read the constraints of a schema against its columns, and find how they hang together."""

import math
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from protocol.errors import InputError, SchemaError
from records.bins import Codes
from records.column import MISSING, NAMED, Column, Kind
from records.condition import exact_condition, value_code, value_number
from records.constraints import Broken, Constraint
from records.expression import parse_expression
from records.rejects import Fault, Rejects
from records.rules import Case, Computed, Conditions, Forbidden, Implied, Inequality, Lookup, Mask, Rule, Values

_COMPARISON = re.compile(r"<=|>=|<|>")


@dataclass(frozen=True, kw_only=True, eq=False)
class RuleBook:
    """The constraints of a schema.

    Attributes:
        columns: The columns of the schema.
        inequalities: In the order of the schema.
        forbidden: Likewise.
        implied: Sorted so that a column is implied before it implies another.
    """

    columns: tuple[Column, ...]
    inequalities: tuple[Inequality, ...]
    forbidden: tuple[Forbidden, ...]
    implied: tuple[Implied, ...]

    @property
    def rules(self) -> tuple[Rule, ...]:
        """All of them."""
        return (*self.implied, *self.inequalities, *self.forbidden)

    @cached_property
    def measured(self) -> tuple[int, ...]:
        """Columns whose values the rules need beside their codes, increasing."""
        return tuple(sorted({index for rule in self.rules for index in rule.measured}))

    def check(self, codes: Codes, values: Values, rejects: Rejects, *, fixed: Collection[int] = ()) -> Mask:
        """Hold a site's records against the rules.

        Args:
            codes: int32 [n, C], one per column and perhaps more; implied columns are mended in place where the
                schema says so.
            values: For each column of :attr:`measured`, float64 [n]; mended likewise.
            rejects: Receives the counts, which stay at the site.
            fixed: Columns that the site does not read; nothing is demanded of them.

        Returns:
            bool [n]: the records to keep.
        """
        kept = np.ones(len(codes), dtype=np.bool_)
        for rule in self.rules:
            if isinstance(rule, Implied) and rule.target in fixed:
                continue
            if isinstance(rule, Implied) and rule.constraint.broken is Broken.MEND:
                rule.imply(codes, values)
            broken = rule.broken(codes, values)
            if rule.constraint.broken is Broken.DROP:
                kept &= ~broken
            else:
                name = self.columns[rule.columns[0]].name
                rejects.add(name, Fault.BROKEN, int(broken.sum()), detail=repr(rule.constraint.text))
        rejects.left_out += int((~kept).sum())
        return kept

    @cached_property
    def targets(self) -> frozenset[int]:
        """Columns that are implied, in some records at least."""
        return frozenset(rule.target for rule in self.implied)


def read_constraints(constraints: Sequence[Constraint], *, columns: Sequence[Column]) -> RuleBook:
    """Read constraints.

    Args:
        constraints: As declared.
        columns: The columns of the schema.

    Returns:
        The rules.

    Raises:
        SchemaError: One cannot be read, does not fit its columns, or columns imply each other in a circle.
    """
    rules = [_read(constraint, columns) for constraint in constraints]
    implied = [rule for rule in rules if isinstance(rule, Implied)]
    _check_once(implied, columns)
    return RuleBook(
        columns=tuple(columns),
        inequalities=tuple(rule for rule in rules if isinstance(rule, Inequality)),
        forbidden=tuple(rule for rule in rules if isinstance(rule, Forbidden)),
        implied=tuple(_sorted(implied, columns)),
    )


def _read(constraint: Constraint, columns: Sequence[Column]) -> Rule:
    try:
        if constraint.holds is not None:
            return _inequality(constraint, constraint.holds, columns)
        if constraint.never:
            return Forbidden(constraint=constraint, conditions=_conditions(constraint.never, columns))
        return _implied(constraint, columns)
    except SchemaError:
        raise
    except InputError as error:
        raise SchemaError(f"{constraint.where}: {error.problem}", remedy=error.remedy) from error


def _inequality(constraint: Constraint, text: str, columns: Sequence[Column]) -> Inequality:
    # Names may hold "<" or ">": they are taken out before the sign is looked for.
    plain = text
    for column in sorted(columns, key=lambda column: -len(column.name)):
        plain = plain.replace(column.name, "\0" * len(column.name))
    signs = list(_COMPARISON.finditer(plain))
    if len(signs) != 1:
        raise SchemaError(f"{constraint.where}: it is no inequality.", remedy="Write one of <=, <, >= and > once.")
    start, end = signs[0].span()
    left = parse_expression(text[:start].strip(), columns=columns, where="constraints")
    right = parse_expression(text[end:].strip(), columns=columns, where="constraints")
    rule = Inequality(constraint=constraint, left=left, comparison=signs[0][0], right=right)
    if len(rule.columns) < 2:
        raise SchemaError(f"{constraint.where}: it is about one column.", remedy="Set its lower or upper bound.")
    if left.dates != right.dates:
        raise SchemaError(f"{constraint.where}: it compares a date with a number.", remedy="Compare like with like.")
    return rule


def _conditions(texts: Sequence[str], columns: Sequence[Column]) -> Conditions:
    return tuple(exact_condition(text, columns=columns) for text in texts)


def _implied(constraint: Constraint, columns: Sequence[Column]) -> Implied:
    target = _index(str(constraint.column), constraint, columns)
    column = columns[target]
    if constraint.equals is not None:
        return _computed(constraint, constraint.equals, target, columns)
    if constraint.by is not None:
        return _lookup(constraint, constraint.by, target, columns)
    code, number = _value(str(constraint.value), column, constraint)
    conditions = _conditions(constraint.when, columns)
    return Case(
        constraint=constraint, target=target, cells=column.cells, conditions=conditions, code=code, number=number
    )


def _index(name: str, constraint: Constraint, columns: Sequence[Column]) -> int:
    names = [column.name for column in columns]
    if name not in names:
        raise SchemaError(f"{constraint.where}: {name!r} is not a column.", remedy="Name one of the columns.")
    return names.index(name)


def _computed(constraint: Constraint, text: str, target: int, columns: Sequence[Column]) -> Computed:
    column = columns[target]
    expression = parse_expression(text, columns=columns, where="constraints")
    if column.cells is None or not expression.columns:
        raise SchemaError(
            f"{constraint.where}: column {column.name} cannot be computed so.",
            remedy="Compute integer, continuous and date columns from others; use lookup, or when and value, else.",
        )
    if expression.dates != (column.kind is Kind.DATE):
        raise SchemaError(
            f"{constraint.where}: it sets a date equal to a number.",
            remedy="The difference of two dates is a number; a date plus a number is a date.",
        )
    if constraint.decimals is not None and column.cells.whole:
        raise SchemaError(f"{constraint.where}: decimals for whole numbers.", remedy="Remove decimals.")
    return Computed(constraint=constraint, target=target, expression=expression, column=column, cells=column.cells)


def _lookup(constraint: Constraint, name: str, target: int, columns: Sequence[Column]) -> Lookup:
    by, column = _index(name, constraint, columns), columns[target]
    table = np.full(columns[by].cardinality, -1, dtype=np.int64)
    numbers = np.full(columns[by].cardinality, math.nan)
    known = {label: code for code, label in enumerate(columns[by].code_labels)} if columns[by].kind in NAMED else {}
    for value, implied in constraint.lookup:
        code = known[value] if value in known else _single_code(value, columns[by], constraint)
        table[code], numbers[code] = _value(implied, column, constraint)
    return Lookup(constraint=constraint, target=target, cells=column.cells, by=by, table=table, numbers=numbers)


def _single_code(value: str, column: Column, constraint: Constraint) -> int:
    """Code of a value that has one of its own."""
    if value == MISSING and column.missing:
        return column.cardinality - 1
    if column.cells is None:
        return value_code(column, value, where=constraint.text)
    return int(np.argmax(exact_condition(f"{column.name} = {value}", columns=[column])[1]))


def _value(text: str, column: Column, constraint: Constraint) -> tuple[int, float]:
    """Code and number of an implied value; the number is NaN for a missing one and for categories."""
    if text == MISSING and column.missing:
        return column.cardinality - 1, math.nan
    code = value_code(column, text, where=constraint.text)
    if column.cells is None:
        return code, math.nan
    return code, value_number(column, text, where=constraint.text)


def _check_once(implied: Sequence[Implied], columns: Sequence[Column]) -> None:
    """Refuse a column that two rules imply, unless both say when."""
    for rule in implied:
        others = [other for other in implied if other.target == rule.target and other is not rule]
        if others and not all(isinstance(other, Case) for other in (rule, *others)):
            raise SchemaError(
                f"Column {columns[rule.target].name}: is implied twice.",
                remedy="Keep one constraint for it, or give each of them when and value.",
            )


def _sorted(implied: Sequence[Implied], columns: Sequence[Column]) -> list[Implied]:
    left, done = list(implied), list[Implied]()
    while left:
        waiting = {rule.target for rule in left}
        ready = [rule for rule in left if not waiting.intersection(rule.sources)]
        if not ready:
            names = ", ".join(columns[index].name for index in sorted(waiting))
            raise SchemaError(f"Columns {names}: imply each other in a circle.", remedy="Remove one constraint.")
        done += ready
        left = [rule for rule in left if rule not in ready]
    return done
