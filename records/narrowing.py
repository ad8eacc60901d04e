"""Conditions and constraints together, as codes that a model may draw at all.

It spares a model the draws that would be void anyway, and finds out at once where nothing is left to draw.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from protocol.errors import InputError
from records.column import Column
from records.ranges import Gap, cell_ends, gaps
from records.rule_book import RuleBook
from records.rules import Case, Forbidden, Lookup, Mask

Masks = dict[int, Mask]


def narrowed(book: RuleBook, allowed: Mapping[int, Mask]) -> Masks:
    """Turn conditions on records into conditions on what a model draws.

    Conditions on implied columns are taken away, for these are overwritten. Codes are taken away that no record
    under the conditions and constraints could have; others that cannot occur may be left.

    Args:
        book: The constraints.
        allowed: For a column index, bool [K]: which codes may occur.

    Returns:
        The same for the model; without columns all of whose codes may be drawn.

    Raises:
        InputError: Nothing is left to draw.

    Examples:
        >>> from records.schema import Schema
        >>> schema = Schema.from_mapping({
        ...     "columns": [
        ...         {"name": "sex", "kind": "categorical", "categories": ["F", "M"]},
        ...         {"name": "pregnant", "kind": "boolean"},
        ...     ],
        ...     "constraints": [{"never": ["sex = M", "pregnant = yes"]}],
        ... })
        >>> masks = narrowed(schema.rule_book, {1: np.array([False, True])})
        >>> masks[0].tolist()
        [True, False]
    """
    masks = {index: np.ones(column.cardinality, dtype=np.bool_) for index, column in enumerate(book.columns)}
    for index, mask in allowed.items():
        masks[index] &= mask
    found = gaps(book)
    before = -1
    while (left := sum(int(mask.sum()) for mask in masks.values())) != before:
        before = left
        _imply_back(book, masks)
        for rule in book.forbidden:
            _forbid(rule, masks)
        for gap in found:
            _keep_room(gap, masks, book.columns)
        _check_left(masks, book.columns)
    return {index: mask for index, mask in masks.items() if index not in book.targets and not mask.all()}


def _imply_back(book: RuleBook, masks: Masks) -> None:
    """Take away codes that imply one that may not occur."""
    for rule in book.implied:
        wanted = masks[rule.target]
        if isinstance(rule, Lookup):
            masks[rule.by] &= (rule.table < 0) | wanted[rule.table]
        elif isinstance(rule, Case) and len(rule.conditions) == 1 and not wanted[rule.code]:
            index, met = rule.conditions[0]
            masks[index] &= ~met


def _forbid(rule: Forbidden, masks: Masks) -> None:
    """Take away codes that meet the one condition left, where all codes left meet the others."""
    open_conditions = [(index, met) for index, met in rule.conditions if (masks[index] & ~met).any()]
    if not open_conditions:
        masks[rule.conditions[0][0]][:] = False
    elif len(open_conditions) == 1:
        index, met = open_conditions[0]
        masks[index] &= ~met


def _keep_room(gap: Gap, masks: Masks, columns: Sequence[Column]) -> None:
    """Take away cells too high or too low for every cell left of the other column."""
    low, high = gap.smaller, gap.larger
    lower, higher = columns[low].cells, columns[high].cells
    if lower is None or higher is None or masks[low][lower.count :].any() or masks[high][higher.count :].any():
        return  # a missing value demands nothing of the other column
    least, most = cell_ends(lower)[0] + gap.least, cell_ends(higher)[1]
    held_low, held_high = masks[low][: lower.count], masks[high][: higher.count]
    if held_high.any():
        held_low &= least <= most[held_high].max()
    if held_low.any():
        held_high &= most >= least[held_low].min()


def _check_left(masks: Masks, columns: Sequence[Column]) -> None:
    for index, mask in masks.items():
        if not mask.any():
            raise InputError(
                f"The conditions and the constraints of the schema leave no value of column {columns[index].name}.",
                remedy="Widen the conditions.",
            )
