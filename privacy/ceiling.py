"""A ceiling on what may be spent, and a quick, exact answer to whether one more release fits under it."""

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from privacy.accounting import (
    LEAST_DELTA,
    MOST_EPSILON,
    Tally,
    agreement_margin,
    check_tally,
    fourier_of_tally,
    renyi_of_tally,
)
from protocol.errors import AccountingError
from protocol.terms import Relation

_MOST_AHEAD = 1 << 20
_MOST_DAYS = 36_525


@dataclass(frozen=True, kw_only=True)
class Ceiling:
    """The most that may be spent on one data set.

    Attributes:
        epsilon: Largest epsilon of record, above 0 and at most 300.
        delta: Delta at which it holds.
        relation: Neighbouring relation under which it holds.
        days: Over how many days, ending with the present one, up to 36,525; None for everything that was ever spent.
            A clock that is set back gives nothing. A clock that is set forward ends the days early: only a ceiling
            for ever bounds what is spent then, so that there must always be one.

    Raises:
        AccountingError: If a field is of the wrong type or out of range.
    """

    epsilon: float
    delta: float
    relation: Relation
    days: int | None = None

    def __post_init__(self) -> None:
        for name, low, high in (("epsilon", 0.0, MOST_EPSILON), ("delta", LEAST_DELTA, 1.0)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not low <= value <= high:
                raise AccountingError(
                    f"The ceiling's {name} is {value!r}, not in [{low}, {high}].",
                    remedy="Mend the policy or study.",
                )
            object.__setattr__(self, name, float(value))
        if not isinstance(self.relation, Relation) or self.epsilon == 0.0 or self.delta == 1.0:
            raise AccountingError(f"The ceiling {self} is no ceiling.", remedy="Mend the policy or study.")
        if self.days is not None and (type(self.days) is not int or not 1 <= self.days <= _MOST_DAYS):
            raise AccountingError(
                f"The ceiling's days are {self.days!r}, not a whole number from 1 to {_MOST_DAYS}.",
                remedy="Mend the policy or study.",
            )


class Allowance:
    """Answers whether compositions fit under a ceiling, and remembers what it learnt.

    Epsilon rises with every count. So whatever lies componentwise below a composition that fits, fits;
    whatever lies above one that does not, does not. A Rényi bound settles the easy cases; otherwise the
    accountant of record looks as far ahead along the recent growth as the ceiling allows, and the answer
    covers the rounds in between.

    Args:
        ceiling: The ceiling.
    """

    def __init__(self, ceiling: Ceiling) -> None:
        self._ceiling = ceiling
        self._fits: list[Tally] = []
        self._passes: list[Tally] = []

    def permits(self, total: Tally, growth: Tally) -> bool:
        """Tells whether a composition keeps the ceiling.

        Args:
            total: What would be spent in all.
            growth: What is being added lately, as a hint for looking ahead.

        Returns:
            Whether the epsilon of record of ``total`` is at most the ceiling.

        Raises:
            AccountingError: If the accountants disagree.
        """
        if any(_covers(known, total) for known in self._fits):
            return True
        if any(_covers(total, known) for known in self._passes):
            return False
        bound = renyi_of_tally(total, delta=self._ceiling.delta, relation=self._ceiling.relation)
        if bound + agreement_margin(bound) <= self._ceiling.epsilon:
            return True
        return self._look_ahead(total, growth)

    def _look_ahead(self, total: Tally, growth: Tally) -> bool:
        """Asks the accountant of record, as far ahead as the fast accountant finds room, then closer."""
        unit = _reduced(growth)
        ahead = self._room(total, unit)
        while True:
            point = _moved(total, unit, ahead)
            record = check_tally(point, delta=self._ceiling.delta, relation=self._ceiling.relation).pld
            if record <= self._ceiling.epsilon:
                # Totals of a window go up and down for years: what a new point says already need not be kept.
                self._fits = [known for known in self._fits if not _covers(point, known)] + [point]
                return True
            self._passes = [known for known in self._passes if not _covers(known, point)] + [point]
            if ahead == 0:
                return False
            ahead //= 2

    def _room(self, total: Tally, unit: Tally) -> int:
        """How many more units of growth the fast accountant would allow; 0 where not even the total fits."""

        def fits(ahead: int) -> bool:
            point = _moved(total, unit, ahead)
            rough = fourier_of_tally(point, delta=self._ceiling.delta, relation=self._ceiling.relation)
            return rough <= self._ceiling.epsilon

        if not unit or not fits(0):
            return 0
        low, high = 0, 1
        while high < _MOST_AHEAD and fits(high):
            low, high = high, 4 * high
        while high - low > max(1, low // 50):
            middle = (low + high) // 2
            low, high = (middle, high) if fits(middle) else (low, middle)
        return low


def _covers(larger: Tally, smaller: Tally) -> bool:
    """Whether every count of ``smaller`` is at most that of ``larger``."""
    return all(count <= larger.get(key, 0) for key, count in smaller.items())


def _moved(total: Tally, unit: Tally, times: int) -> dict[tuple[float, float], int]:
    moved = Counter(total)
    moved.update({key: times * count for key, count in unit.items()})
    return dict(moved)


def _reduced(growth: Mapping[tuple[float, float], int]) -> dict[tuple[float, float], int]:
    """The same direction in its smallest whole steps."""
    divisor = math.gcd(*growth.values()) if growth else 1
    return {key: count // divisor for key, count in growth.items()}
