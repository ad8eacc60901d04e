"""The rules of a ledger: which entry may follow which, and what all of them add up to."""

from collections import Counter
from dataclasses import replace
from datetime import datetime

from privacy.events import NoisyRelease
from privacy.ledger.entries import (
    DAMAGED,
    FIRST_PREVIOUS,
    UNFINISHED,
    Charge,
    Entry,
    Opening,
    Record,
    Seal,
    Settlement,
)
from privacy.ledger.round_state import Charged, RoundState, Sealed, Spent, Uncharged
from privacy.ledger.window import Spending, Window, moment
from protocol.errors import LedgerError
from protocol.terms import ContributionKind, Unit


class Chain:
    """Entries in order, and the state they add up to.

    The state is never stored: it is recomputed from the entries, by the site and by anybody who verifies. A
    record is checked whole before anything is changed.

    Args:
        whole: Whether all entries will be given; False for an excerpt, in whose gaps the ledger says something else.

    Attributes:
        entries: All entries that were given, in order.
    """

    def __init__(self, *, whole: bool = True) -> None:
        self.entries: list[Entry] = []
        self._whole = whole
        self._counts: Counter[NoisyRelease] = Counter()
        self._taken: dict[tuple[str, str], set[int]] = {}
        self._reserved: dict[str, Charge] = {}
        self._settled: set[str] = set()
        self._rounds: Counter[tuple[str, ContributionKind]] = Counter()
        self._to_be_sealed: dict[tuple[str, str, int], Entry] = {}
        self._seals: dict[str, str | None] = {}
        self._latest: datetime | None = None
        self._spendings: list[Spending] = []
        self._blocks: dict[str, Spending] = {}
        self._windows: dict[int, Window] = {}

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

    def events_within(self, days: int, *, now: datetime) -> list[NoisyRelease]:
        """What was spent in the last so many days, equal events grouped.

        Time never runs backwards: an entry counts from the latest time that any entry up to it says, and the days
        end at the latest of ``now`` and what all entries say.
        """
        window = self._windows.setdefault(days, Window(days))
        return window.events(self._spendings, now=now if self._latest is None else max(now, self._latest))

    def rounds(self, study: str, kind: ContributionKind) -> int:
        """How many rounds of a kind were charged or reserved for a study, in all of its runs."""
        return self._rounds[study, kind]

    def round_state(self, *, study: str, run: str, round: int) -> RoundState:  # noqa: A002 - the field's word
        """What may still be released for a round."""
        entry = self._to_be_sealed.get((study, run, round))
        if entry is None:
            return Spent() if round in self._taken.get((study, run), ()) else Uncharged()
        digest = self._seals[entry.hash]
        return Charged(entry=entry) if digest is None else Sealed(entry=entry, digest=digest)

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
            LedgerError: If a round was taken before, a unit differs, a settlement does not fit its reservation, or
                a charge is sealed that is none, or was sealed before.
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
        if isinstance(record, Seal):
            self._check_seal(record)

    def append(self, entry: Entry) -> None:
        """Takes an entry whose signature was checked.

        Raises:
            LedgerError: If the entry is out of place or its record may not come next.
        """
        self._check_place(entry)
        self.check(entry.record)
        self._check_total(entry)
        now = moment(entry.time)
        self._latest = now if self._latest is None else max(now, self._latest)
        if isinstance(entry.record, Charge):
            self._apply_charge(entry.record, entry, time=self._latest)
        if isinstance(entry.record, Settlement):
            self._apply_settlement(entry.record)
        if isinstance(entry.record, Seal):
            self._seals[entry.record.charge] = entry.record.digest
        self.entries.append(entry)

    def _check_place(self, entry: Entry) -> None:
        following = self.entries[-1].position + 1 if self.entries else 0
        behind_a_gap = not self._whole and bool(self.entries) and entry.position > following
        if isinstance(entry.position, bool) or (
            (entry.position, entry.previous) != (following, self.head) and not behind_a_gap
        ):
            raise LedgerError(f"Ledger entry {entry.position!r} is out of place in the chain.", remedy=DAMAGED)

    def _check_total(self, entry: Entry) -> None:
        """Compare the running total; behind a gap it holds what was charged there as well."""
        total = self.compositions_after(entry.record)
        if not self._whole:
            foreign = self.entries[-1].compositions - self._counts.total() if self.entries else 0
            if self.entries and entry.position > self.entries[-1].position + 1:
                foreign = max(0, entry.compositions - total)
            total += foreign
        if entry.compositions != total:
            raise LedgerError(f"The running total of entry {entry.position} does not add up.", remedy=DAMAGED)

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

    def _check_seal(self, seal: Seal) -> None:
        if seal.charge not in self._seals:
            raise LedgerError(
                f"Entry {seal.charge[:12]} is no charge that is to be sealed.", remedy="Charge the round first."
            )
        if self._seals[seal.charge] is not None:
            raise LedgerError(
                f"The round of entry {seal.charge[:12]} was sealed before.",
                remedy="Release nothing: only the reply that was sealed may leave.",
            )

    def _apply_charge(self, charge: Charge, entry: Entry, *, time: datetime) -> None:
        event = replace(charge.event, count=1)
        spending = Spending(time=time, event=event, compositions=charge.compositions)
        self._counts[event] += charge.compositions
        self._taken.setdefault((charge.study, charge.run), set()).update(_rounds(charge))
        self._rounds[charge.study, charge.event.kind] += charge.rounds
        self._spendings.append(spending)
        if charge.reserved:
            self._reserved[entry.hash] = charge
            self._blocks[entry.hash] = spending
        if charge.to_be_sealed:
            self._to_be_sealed[charge.study, charge.run, charge.first_round] = entry
            self._seals[entry.hash] = None

    def _apply_settlement(self, settlement: Settlement) -> None:
        charge = self._reserved[settlement.reservation]
        given_back = self._given_back(settlement)
        self._counts[replace(charge.event, count=1)] -= given_back
        self._blocks[settlement.reservation].compositions -= given_back
        self._windows.clear()  # what they added up is no longer so
        unused = _rounds(charge)[settlement.used_rounds :]
        self._taken[charge.study, charge.run].difference_update(unused)
        self._rounds[charge.study, charge.event.kind] -= len(unused)
        self._settled.add(settlement.reservation)

    def _given_back(self, settlement: Settlement) -> int:
        charge = self._reserved[settlement.reservation]
        return (charge.rounds - settlement.used_rounds) * charge.event.count


def _rounds(charge: Charge) -> range:
    return range(charge.first_round, charge.first_round + charge.rounds)
