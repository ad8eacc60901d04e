"""The columns of a study in words: bounds and categories are what an officer has to judge, so they are shown."""

from records.column import Column, Kind, OutOfBounds
from records.schema import Schema

_MOST_CATEGORIES = 8


def column_words(column: Column, schema: Schema, *, full: bool) -> str:
    """Say what a column may hold, on one line.

    Args:
        column: The column.
        schema: Its data dictionary, which names the target.
        full: Whether every category is named, however many there are.

    Example:
        >>> age = Column(name="age", kind=Kind.INTEGER, lower=18, upper=90)
        >>> column_words(age, Schema(columns=(age,)), full=False)
        'age (integer): 18 to 90, in 73 steps'
    """
    target = ", the target" if column.name == schema.target else ""
    return f"{column.name} ({column.kind}{target}): {_values(column, full=full)}{_rest(column)}"


def is_shortened(column: Column) -> bool:
    """Tell whether a column has more categories than are named unasked."""
    return len(column.categories) > _MOST_CATEGORIES


def _values(column: Column, *, full: bool) -> str:
    if column.cells is not None:
        return f"{column.lower} to {column.upper}, in {column.cells.count} steps"
    if column.kind is Kind.BOOLEAN:
        return "true or false"
    shown = column.categories if full else column.categories[:_MOST_CATEGORIES]
    hidden = len(column.categories) - len(shown)
    return f"{len(column.categories)} categories: {', '.join(shown)}{f', and {hidden} more' if hidden else ''}"


def _rest(column: Column) -> str:
    """Say what else is allowed."""
    words = ""
    if column.points:
        words += f", {', '.join(map(str, column.points))} by itself"
    if column.cells is not None and column.out_of_bounds is OutOfBounds.CLIP:
        words += "; what lies beyond is moved to the bound"
    if column.other:
        words += "; any other counts as one more"
    return words + ("; may be missing" if column.missing else "")
