"""When an audit has to be over."""

import time

from protocol.errors import InputError


class Deadline:
    """A number of seconds from now. Once it is known that it will be missed, nothing more is begun.

    Args:
        seconds: How many, above 0.

    Raises:
        InputError: If the number is not positive and finite.
    """

    def __init__(self, seconds: float) -> None:
        if not 0.0 < seconds < float("inf"):
            raise InputError(f"budget_seconds is {seconds}.", remedy="Give a positive number of seconds.")
        self._seconds = seconds
        self._end = time.monotonic() + seconds
        self._wanted: float | None = None

    @property
    def left(self) -> float:
        """Seconds left; below 0 when it is over."""
        return self._end - time.monotonic()

    def check(self, what: str, *, needed: float = 0.0) -> None:
        """Refuse to go on where the time does not suffice.

        Args:
            what: What it has to suffice for.
            needed: Seconds that are still needed.

        Raises:
            InputError: If there is less time left, or there was before.
        """
        if self.left >= needed and self._wanted is None:
            return
        if self._wanted is None:
            # A tenth more than the pace says, since no pace is quite even.
            self._wanted = max(1.1 * (self._seconds - self.left + needed), 1.1 * self._seconds)
        raise InputError(
            f"The budget of {self._seconds:,.0f} seconds does not suffice for {what}.",
            remedy=f"Give at least {self._wanted:,.0f} seconds, or use fewer canaries.",
        )
