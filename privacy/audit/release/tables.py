"""The tables of one audit: what was released, who was in, who was not, and what the attacker knows anyway."""

from dataclasses import dataclass, replace
from typing import Self

import numpy as np
import numpy.typing as npt

from protocol.errors import RecordsError, SchemaError

Codes = npt.NDArray[np.int32]
Floats = npt.NDArray[np.float64]

FEWEST_TARGETS = 2
_TABLES = ("synthetic", "members", "controls", "reference")


@dataclass(frozen=True, kw_only=True)
class Columns:
    """What the public schema says of the columns of a coded table.

    Attributes:
        names: Name of each column, C of them.
        cardinalities: Number of codes of each column, K_0 .. K_{C-1}.
        ordered: How many of a column's first codes lie on a line, such as the cells of a number: none of them, all,
            or all but the last one, which then means missing and is as far from every value as can be.

    Raises:
        SchemaError: The lengths differ, or a number is out of range.

    Example:
        >>> Columns(names=("age", "ward"), cardinalities=(90, 3), ordered=(89, 0)).count
        2
    """

    names: tuple[str, ...]
    cardinalities: tuple[int, ...]
    ordered: tuple[int, ...]

    def __post_init__(self) -> None:
        if not self.names or not len(self.names) == len(self.cardinalities) == len(self.ordered):
            raise SchemaError("The descriptions of the columns differ in length.", remedy="Describe every column.")
        for name, cardinality, ordered in zip(self.names, self.cardinalities, self.ordered, strict=True):
            if cardinality < 1 or ordered not in (0, cardinality - 1, cardinality):
                raise SchemaError(
                    f"Column {name}: {ordered} of {cardinality} codes are ordered.",
                    remedy="Order none of the codes, all, or all but the one for missing.",
                )

    @property
    def count(self) -> int:
        """Number of columns, C."""
        return len(self.names)

    def index(self, name: str) -> int:
        """Position of a column; raises SchemaError if there is none of this name."""
        if name not in self.names:
            raise SchemaError(f"{name!r} is not a column.", remedy=f"Use one of {', '.join(self.names)}.")
        return self.names.index(name)


@dataclass(frozen=True, kw_only=True, eq=False)
class AttackTables:
    """What an attacker gets, and what he is asked about.

    Row k of ``members`` and row k of ``controls`` are one fair coin: before training it was chance which of the two
    was trained on. So both must be drawn at random from one population, in random order, each about another person.

    Attributes:
        columns: What the columns are.
        synthetic: The release, int32 [s, C].
        members: Targets that were trained on, int32 [t, C].
        controls: Targets that were in nothing, int32 [t, C].
        reference: Other records of the population, which the attacker knows and is not asked about, int32 [r, C].

    Raises:
        RecordsError: A table has another shape, codes out of range, or too few rows.
    """

    columns: Columns
    synthetic: Codes
    members: Codes
    controls: Codes
    reference: Codes

    def __post_init__(self) -> None:
        for name in _TABLES:
            object.__setattr__(self, name, _checked(name, getattr(self, name), self.columns))
        if len(self.members) != len(self.controls):
            raise RecordsError(
                f"There are {len(self.members)} members and {len(self.controls)} controls.",
                remedy="Give as many of one as of the other.",
            )
        if len(self.members) < FEWEST_TARGETS:
            raise RecordsError(f"There are {len(self.members)} targets.", remedy=f"Give at least {FEWEST_TARGETS}.")

    @property
    def pairs(self) -> int:
        """Number of pairs of a member and a control, t."""
        return len(self.members)

    def with_release(self, synthetic: Codes) -> Self:
        """The same question asked of other synthetic records, int32 [s, C]."""
        return replace(self, synthetic=synthetic)

    def first(self, pairs: int) -> Self:
        """The same with the first pairs of targets only; all of them where there are no more."""
        return replace(self, members=self.members[:pairs], controls=self.controls[:pairs])


def _checked(name: str, table: npt.ArrayLike, columns: Columns) -> Codes:
    """A read-only copy whose columns lie together in memory: everything here goes column by column."""
    codes = np.asarray(table)
    if codes.ndim != 2 or codes.shape[1] != columns.count or not np.issubdtype(codes.dtype, np.integer):
        raise RecordsError(
            f"{name} is {codes.dtype} of shape {codes.shape}.", remedy=f"Give whole codes of {columns.count} columns."
        )
    if not len(codes):
        raise RecordsError(f"{name} has no rows.", remedy="Give at least one record.")
    outside = (codes.min(axis=0) < 0) | (codes.max(axis=0) >= np.asarray(columns.cardinalities))
    if outside.any():
        where = columns.names[int(np.argmax(outside))]
        raise RecordsError(f"{name}: column {where}: codes out of range.", remedy="Encode it with the same schema.")
    copy = np.array(codes, dtype=np.int32, order="F")
    copy.setflags(write=False)
    return copy
