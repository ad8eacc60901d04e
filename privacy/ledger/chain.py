"""The rules of a ledger: which entry may follow which, and what all of them add up to."""

from collections import Counter
from dataclasses import replace

from privacy.events import NoisyRelease
from privacy.ledger.entries import (
    DAMAGED,
    FIRST_PREVIOUS,
    UNFINISHED,
    Charge,
    Entry,
    Opening,
    Record,
    Settlement,
)
from protocol.errors import LedgerError
from protocol.terms import Unit


class Chain:
    """Entries in order, and the state they add up to.

    The state is never stored: it is recomputed from the entries, by the site and by anybody who verifies. A
    record is checked whole before anything is changed.

    Attributes:
        entries: All entries, in order.
    """

    def __init__(self) -> None:
        self.entries: list[Entry] = []
        self._counts: Counter[NoisyRelease] = Counter()
        self._taken: dict[tuple[str, str], set[int]] = {}
        self._reserved: dict[str, Charge] = {}
        self._settled: set[str] = set()

    @property
    def head(self) -> str:
        """Hash of the last entry; it commits to all entries before."""
        return self.entries[-1].hash if self.entries else FIRST_PREVIOUS

    @property
    def opening(self) -> Opening:
        """The first entry's record."""
        if not self.entries or not isinstance(self.entries[0].record, Opening):
            raise LedgerError("The ledger has no opening entry.", remedy=UNFINISHED)
        return self.entries[0].record

    @property
    def unit(self) -> Unit | None:
        """Whom every event in the ledger is about; None while nothing was charged."""
        return next((event.unit for event in self._counts), None)

    def events(self) -> list[NoisyRelease]:
        """Everything that counts as spent, equal events grouped."""
        return [event.times(count) for event, count in self._counts.items() if count]

    def compositions_after(self, record: Record) -> int:
        """The running total that an entry with this record must carry."""
        total = self._counts.total()
        if isinstance(record, Charge):
            return total + record.compositions
        if isinstance(record, Settlement):
            return total - self._given_back(record)
        return total

    def reservation(self, hash_: str) -> Charge:
        """An unsettled reservation by the hash of its entry.

        Raises:
            LedgerError: If there is none, or it was settled.
        """
        charge = self._reserved.get(hash_)
        if charge is None:
            raise LedgerError(f"Entry {hash_[:12]} is no reservation of this ledger.", remedy="Reserve rounds first.")
        if hash_ in self._settled:
            raise LedgerError(
                f"Reservation {hash_[:12]} was settled already.",
                remedy="Charge or reserve further rounds anew.",
            )
        return charge

    def check(self, record: Record) -> None:
        """Refuses a record that may not come next; changes nothing.

        Raises:
            LedgerError: If a round was taken before, a unit differs, or a settlement does not fit its
                reservation.
        """
        if isinstance(record, Opening) != (not self.entries):
            raise LedgerError("A ledger is opened once, by its first entry.", remedy=DAMAGED)
        if isinstance(record, Charge):
            self._check_charge(record)
        if isinstance(record, Settlement):
            charge = self.reservation(record.reservation)
            if record.used_rounds > charge.rounds:
                raise LedgerError(
                    f"used_rounds is {record.used_rounds} of {charge.rounds} reserved.",
                    remedy="Settle what was reserved.",
                )

    def append(self, entry: Entry) -> None:
        """Takes an entry whose signature was checked.

        Raises:
            LedgerError: If the entry is out of place or its record may not come next.
        """
        if (entry.position, entry.previous) != (len(self.entries), self.head) or isinstance(entry.position, bool):
            raise LedgerError(f"Ledger entry {entry.position!r} is out of place in the chain.", remedy=DAMAGED)
        self.check(entry.record)
        if entry.compositions != self.compositions_after(entry.record):
            raise LedgerError(f"The running total of entry {entry.position} does not add up.", remedy=DAMAGED)
        if isinstance(entry.record, Charge):
            self._apply_charge(entry.record, entry.hash)
        if isinstance(entry.record, Settlement):
            self._apply_settlement(entry.record)
        self.entries.append(entry)

    def _check_charge(self, charge: Charge) -> None:
        taken = self._taken.get((charge.study, charge.run), set())
        again = next((place for place in _rounds(charge) if place in taken), None)
        if again is not None:
            raise LedgerError(
                f"Round {again} of run {charge.run!r} was charged or reserved before.",
                remedy="A round is released once: continue with the next round, or start a new run.",
            )
        if self.unit not in (None, charge.event.unit):
            raise LedgerError(
                f"The ledger's unit is {self.unit}, the event's is {charge.event.unit}.",
                remedy="Guarantees for different units do not compose: use one unit per data set.",
            )

    def _apply_charge(self, charge: Charge, hash_: str) -> None:
        self._counts[replace(charge.event, count=1)] += charge.compositions
        self._taken.setdefault((charge.study, charge.run), set()).update(_rounds(charge))
        if charge.reserved:
            self._reserved[hash_] = charge

    def _apply_settlement(self, settlement: Settlement) -> None:
        charge = self._reserved[settlement.reservation]
        self._counts[replace(charge.event, count=1)] -= self._given_back(settlement)
        unused = _rounds(charge)[settlement.used_rounds :]
        self._taken[charge.study, charge.run].difference_update(unused)
        self._settled.add(settlement.reservation)

    def _given_back(self, settlement: Settlement) -> int:
        charge = self._reserved[settlement.reservation]
        return (charge.rounds - settlement.used_rounds) * charge.event.count


def _rounds(charge: Charge) -> range:
    return range(charge.first_round, charge.first_round + charge.rounds)
