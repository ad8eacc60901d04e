"""Counting a ledger again from its entries' own words, without the ledger's rules: a second pair of eyes."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import replace

from privacy.events import NoisyRelease
from privacy.ledger.entries import Charge, Entry, Settlement


def recount(entries: Iterable[Entry]) -> Counter[NoisyRelease]:
    """Count compositions from the entries' own words.

    Args:
        entries: Of a ledger, or some of them: with a reservation, its settlement.

    Returns:
        Number of compositions of each event.
    """
    kept = tuple(entries)
    charges = {entry.hash: entry.record for entry in kept if isinstance(entry.record, Charge)}
    rounds = {name: charge.rounds for name, charge in charges.items()}
    rounds |= {entry.record.reservation: entry.record.used_rounds for entry in kept
               if isinstance(entry.record, Settlement)}  # fmt: skip
    counts: Counter[NoisyRelease] = Counter()
    for name, charge in charges.items():
        counts[replace(charge.event, count=1)] += rounds[name] * charge.event.count
    return +counts
