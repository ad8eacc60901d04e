"""Counts of values and records that do not fit the schema, and the one line that reports them."""

from collections import Counter
from dataclasses import dataclass, field
from enum import StrEnum

from protocol.errors import RecordsError


class Fault(StrEnum):
    """What can be wrong with a value; the text completes "n of m rows ..."."""

    MISSING = "are missing"
    NOT_A_NUMBER = "are not numbers"
    NOT_FINITE = "are not finite numbers (nan, inf, or too large)"
    NOT_WHOLE = "are not whole numbers"
    NOT_A_DATE = "are not dates of the stated format"
    BELOW = "lie below the lower bound"
    ABOVE = "lie above the upper bound"
    UNKNOWN = "hold a category that the schema does not list"
    NOT_BOOLEAN = "are neither a true nor a false value"
    UNREADABLE = "are of a type that cannot be read"
    NO_PERSON = "have no person key"
    BROKEN = "break the constraint"


_REMEDIES = {
    Fault.MISSING: "Set missing = true for the column in the schema, or mend the file.",
    Fault.NOT_A_NUMBER: "Mend the file, add tokens to missing_values, or check decimal in [format].",
    Fault.NOT_FINITE: 'Mend the file, or add "nan" to missing_values if that means missing.',
    Fault.NOT_WHOLE: 'Mend the file, or make the column kind = "continuous".',
    Fault.NOT_A_DATE: "Mend the file, or set format for the column (ISO 8601 dates by default).",
    Fault.BELOW: 'Mend the file, lower the public bound, or set out_of_bounds = "clip".',
    Fault.ABOVE: 'Mend the file, raise the public bound, or set out_of_bounds = "clip".',
    Fault.UNKNOWN: "Mend the file, add the public category or an alias, or set other = true.",
    Fault.NOT_BOOLEAN: "Mend the file, or set true_values and false_values.",
    Fault.UNREADABLE: "Store the column as text, numbers or dates.",
    Fault.NO_PERSON: "Fill in the key, or leave person out of the schema.",
    Fault.BROKEN: 'Mend the file or the constraint, or set broken = "drop" for it (or "mend", if it implies a column).',
}


@dataclass(kw_only=True)
class Rejects:
    """Running counts of faults per column. Only counts are kept: never a value.

    Attributes:
        rows: Rows looked at so far.
        left_out: Rows that broke a constraint whose schema says to drop them.
    """

    rows: int = 0
    left_out: int = 0
    _counts: Counter[tuple[str, Fault]] = field(default_factory=Counter)
    _details: dict[tuple[str, Fault], str] = field(default_factory=dict)

    def add(self, column: str, fault: Fault, count: int, *, detail: str = "") -> None:
        """Count ``count`` rows of ``column``; ``detail`` is public text for the report."""
        if count:
            self._counts[column, fault] += count
            self._details[column, fault] = detail

    @property
    def none(self) -> bool:
        """Whether all values fitted so far."""
        return not self._counts

    def refuse(self, source: str) -> None:
        """Do nothing when all rows fit; otherwise report the worst column and how many more there are.

        Args:
            source: Name of the file or table.

        Raises:
            RecordsError: A value did not fit. One line, without any value of a record.
        """
        if not self._counts:
            return
        (column, fault), count = max(self._counts.items(), key=lambda item: item[1])
        others = len({name for name, _ in self._counts}) - 1
        more = f" (+{others} more column{'s' if others > 1 else ''})" if others else ""
        detail = self._details[column, fault]
        what = f"{fault} {detail}" if detail else str(fault)
        raise RecordsError(
            f"{source}: column {column}: {count:,} of {self.rows:,} rows {what}{more}.",
            remedy=_REMEDIES[fault],
        )
