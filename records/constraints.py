"""What every record of a study fulfils by public knowledge: declared in the schema, never learnt from records."""

import math
from dataclasses import dataclass
from enum import StrEnum

from protocol.errors import SchemaError
from records.column import closest


class Broken(StrEnum):
    """What happens to a site's record that breaks a constraint."""

    REFUSE = "refuse"
    DROP = "drop"
    MEND = "mend"


@dataclass(frozen=True, kw_only=True)
class Constraint:
    """One constraint, in one of five forms. Where a column in it is missing, it demands nothing.

    - ``holds``: an inequality, such as ``systolic >= diastolic`` or ``left <= entered + 30``.
    - ``never``: conditions, as of ``--where``, that no record meets all at once: a structural zero.
    - ``column`` and ``equals``: a column computed from others, such as ``pulse = systolic - diastolic``.
    - ``column``, ``by`` and ``lookup``: a column that another one implies, value by value.
    - ``column``, ``when`` and ``value``: a column that has one value where conditions hold.

    Attributes:
        holds: Two expressions with ``<=``, ``<``, ``>=`` or ``>`` between them.
        never: Conditions on categories, or on numbers where their bounds are edges of cells.
        column: The implied column.
        equals: Expression over integer, continuous and date columns.
        by: Column whose value implies another.
        lookup: Pairs (value of ``by``, value of ``column``); what is not listed implies nothing.
        when: Conditions, as for ``never``.
        value: Value of ``column`` where all of ``when`` hold.
        decimals: Digits after the point that a computed value is written with; all of them by default.
        tolerance: How far a record may lie off a computed value; by default what rounding explains.
        broken: Whether records that break it are refused (the load stops), dropped, or mended: an implied
            column is then overwritten. The count stays at the site.
        description: Text for people.

    Raises:
        SchemaError: The keys are not those of one form.

    Examples:
        >>> Constraint(holds="systolic >= diastolic").text
        'systolic >= diastolic'
        >>> Constraint(column="pulse", equals="systolic - diastolic", broken="mend").text
        'pulse = systolic - diastolic'
    """

    holds: str | None = None
    never: tuple[str, ...] = ()
    column: str | None = None
    equals: str | None = None
    by: str | None = None
    lookup: tuple[tuple[str, str], ...] = ()
    when: tuple[str, ...] = ()
    value: str | None = None
    decimals: int | None = None
    tolerance: float | None = None
    broken: Broken = Broken.REFUSE
    description: str = ""

    def __post_init__(self) -> None:
        """Check that the keys are those of one form."""
        if self.broken not in list(Broken):
            allowed = [str(word) for word in Broken]
            raise SchemaError(f"constraints: broken = {self.broken!r}.", remedy=closest(str(self.broken), allowed))
        object.__setattr__(self, "broken", Broken(self.broken))
        given = {name for name in _KEYS if getattr(self, name) not in (None, ())}
        if given not in _FORMS:
            raise SchemaError(
                f"constraints: {', '.join(sorted(given)) or 'an empty table'} is no constraint.",
                remedy="Give holds; or never; or column with equals, with by and lookup, or with when and value.",
            )
        if self.broken is Broken.MEND and self.column is None:
            raise SchemaError(
                f'{self.where}: broken = "mend" without an implied column.', remedy='Use "refuse" or "drop".'
            )
        self._check_rounding()

    def _check_rounding(self) -> None:
        if self.equals is None and (self.decimals is not None or self.tolerance is not None):
            raise SchemaError(f"{self.where}: decimals or tolerance without equals.", remedy="Remove it.")
        if self.decimals is not None and not 0 <= self.decimals <= 15:
            raise SchemaError(f"{self.where}: decimals = {self.decimals}.", remedy="Use a number from 0 to 15.")
        if self.tolerance is not None and not 0 <= self.tolerance < math.inf:
            raise SchemaError(f"{self.where}: tolerance = {self.tolerance!r}.", remedy="Give a number of at least 0.")

    @property
    def text(self) -> str:
        """The constraint in one line."""
        if self.holds is not None:
            return self.holds
        if self.never:
            return f"never {' and '.join(self.never)}"
        if self.equals is not None:
            return f"{self.column} = {self.equals}"
        if self.by is not None:
            return f"{self.column} by {self.by}"
        return f"{self.column} = {self.value} when {' and '.join(self.when)}"

    @property
    def where(self) -> str:
        """What to call it in an error."""
        return f"Constraint {self.text!r}"


_KEYS = ("holds", "never", "column", "equals", "by", "lookup", "when", "value")
_FORMS = (
    {"holds"},
    {"never"},
    {"column", "equals"},
    {"column", "by", "lookup"},
    {"column", "when", "value"},
)
