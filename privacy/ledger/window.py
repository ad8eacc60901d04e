"""What was spent in the last so many days, by a clock that never runs backwards."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from privacy.events import NoisyRelease


@dataclass(kw_only=True)
class Spending:
    """One charge or reservation, and when it counts from.

    Attributes:
        time: The latest time that any entry up to this one says: a clock that was set back makes no charge older.
        event: What one composition released.
        compositions: How many still count; less after a settlement.
    """

    time: datetime
    event: NoisyRelease
    compositions: int


class Window:
    """The spendings of the last so many days, kept up as entries are added and time goes on.

    Every call must give the same list, at most longer at its end. Where time went back since the call before, as
    after a clock that was wrong and nothing was written by it, everything is counted anew.

    Args:
        days: Length of the window.
    """

    def __init__(self, days: int) -> None:
        self._length = timedelta(days=days)
        self._now: datetime | None = None
        self._first = 0
        self._next = 0
        self._counts: Counter[NoisyRelease] = Counter()

    def events(self, spendings: Sequence[Spending], *, now: datetime) -> list[NoisyRelease]:
        """What counts inside the window, equal events grouped.

        Args:
            spendings: All of a ledger, in order; their times never fall.
            now: The end of the window.
        """
        if self._now is not None and now < self._now:
            self._first = self._next = 0
            self._counts.clear()
        self._now = now
        for spending in spendings[self._next :]:
            self._counts[spending.event] += spending.compositions
        self._next = len(spendings)
        while self._first < self._next and now - spendings[self._first].time >= self._length:
            passed = spendings[self._first]
            self._counts[passed.event] -= passed.compositions
            self._first += 1
        return [event.times(count) for event, count in self._counts.items() if count]


def moment(time: str) -> datetime:
    """Reads the time of an entry; one without a zone is in UTC."""
    read = datetime.fromisoformat(time)
    return read if read.tzinfo is not None else read.replace(tzinfo=UTC)
