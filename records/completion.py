"""Drawn codes made into records that fulfil the constraints of a schema.

A model draws cells. Whether ``systolic >= diastolic`` holds can be told from the cells only where they do not
overlap, and whether ``pulse = systolic - diastolic`` lies in a cell not at all. So values are drawn here, within
their cells, and a record is kept for its values:

- Cells that leave no room for the constraints make a record void; it is drawn anew, so that what is sampled follows
  the model's distribution under the constraints.
- Where cells leave room, values are drawn within them until they fulfil the constraints: as values within cells
  would be distributed if only such records existed. The model has learnt how often such cells occur from records
  that fulfil the constraints, so those cells must not become rarer here.
- Implied columns are overwritten, code and value.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from records.bins import Bins, Codes, Floats
from records.ranges import Gap, Ranges, gaps
from records.rule_book import RuleBook
from records.rules import Mask

# Draws within the cells of a record before its columns are drawn in turn, and then once more before it is void.
TRIES = 16


@dataclass(frozen=True, kw_only=True, eq=False)
class Completed:
    """Records that were completed.

    Attributes:
        codes: int32 [n, C].
        values: For each of :attr:`Completion.measured`, float64 [n]: what is to be written, NaN for missing.
        stands: bool [n]: whether the record fulfils all constraints. Others are void.
    """

    codes: Codes
    values: dict[int, Floats]
    stands: Mask


class Completion:
    """Completes drawn codes by the constraints of a schema.

    Args:
        book: The constraints.
        allowed: Conditions: for a column index, bool [K], which codes may occur. Those on implied columns are seen
            to here; the model sees to the others, see :func:`records.narrowing.narrowed`.
        generator: Source of the draws within cells.
    """

    def __init__(self, book: RuleBook, *, allowed: Mapping[int, Mask], generator: np.random.Generator) -> None:
        self.measured = book.measured
        self._book, self._generator = book, generator
        self._allowed = {index: mask for index, mask in allowed.items() if index in book.targets}
        self._cells = _cells_of(book)
        self._gaps: tuple[Gap, ...] = gaps(book)

    def complete(self, codes: npt.NDArray[np.integer]) -> Completed:
        """Complete n records.

        Args:
            codes: int [n, C], one per column of the schema, and perhaps more, which are passed on.

        Returns:
            The records.
        """
        found = Completed(
            codes=codes.astype(np.int32),
            values={index: np.full(len(codes), np.nan) for index in self.measured},
            stands=np.zeros(len(codes), dtype=np.bool_),
        )
        ranges = Ranges.of_codes(codes, self._cells)
        ranges.narrow(self._gaps)
        left = np.flatnonzero(~self._hopeless(found.codes, ranges))
        for turn in range(self._turns + 1):
            if not len(left):
                break
            left = self._try(found, ranges.rows(left), left, in_turn=turn == self._turns)
        for index, mask in self._allowed.items():
            found.stands[:] &= mask[found.codes[:, index]]
        return found

    @property
    def _turns(self) -> int:
        """Turns after the first one; where nothing is drawn within cells, another would end alike."""
        return TRIES if self._cells else 0

    def _hopeless(self, codes: Codes, ranges: Ranges) -> Mask:
        """Tell which records no draw within their cells can complete."""
        hopeless = ranges.empty() if self._cells else np.zeros(len(codes), dtype=np.bool_)
        for rule in self._book.forbidden:
            if not self._book.targets.intersection(rule.columns):
                hopeless |= rule.broken(codes, {})
        return hopeless

    def _try(
        self, found: Completed, ranges: Ranges, rows: npt.NDArray[np.int64], *, in_turn: bool
    ) -> npt.NDArray[np.int64]:
        """Draw values for some rows and keep them where all constraints hold; returns the rows where not."""
        codes = found.codes[rows]
        values = (
            ranges.draw_in_turn(self._gaps, generator=self._generator)
            if in_turn
            else ranges.draw(generator=self._generator)
        )
        for rule in self._book.implied:
            rule.imply(codes, values)
        broken = np.zeros(len(rows), dtype=np.bool_)
        for each in self._book.rules:
            broken |= each.broken(codes, values)
        good = rows[~broken]
        found.codes[good] = codes[~broken]
        for index in self.measured:
            found.values[index][good] = values[index][~broken]
        found.stands[good] = True
        return rows[broken]


def _cells_of(book: RuleBook) -> dict[int, Bins]:
    found: dict[int, Bins] = {}
    for index in book.measured:
        cells = book.columns[index].cells
        if cells is not None:
            found[index] = cells
    return found
