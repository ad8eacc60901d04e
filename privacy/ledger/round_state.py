"""What a ledger knows of one round of a run: whether it may still be released, and as what."""

from dataclasses import dataclass

from privacy.ledger.entries import Entry


@dataclass(frozen=True)
class Uncharged:
    """Nothing was paid and nothing has left."""


@dataclass(frozen=True, kw_only=True)
class Charged:
    """Paid for and not sealed: nothing has left, so it may be computed, or computed afresh, without a new charge.

    Attributes:
        entry: The charge.
    """

    entry: Entry


@dataclass(frozen=True, kw_only=True)
class Sealed:
    """Paid for and sealed: the reply of this digest may leave, again and again, and no other one ever.

    Attributes:
        entry: The charge.
        digest: SHA-256 of the reply.
    """

    entry: Entry
    digest: str


@dataclass(frozen=True)
class Spent:
    """Paid for by a reservation, or before seals existed: it may have left, so nothing may leave any more."""


RoundState = Uncharged | Charged | Sealed | Spent
