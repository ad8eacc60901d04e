"""The ledger of one data set: every release is charged here, durably, before it happens."""

import os
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Self

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from privacy.ceiling import Ceiling
from privacy.events import NoisyRelease
from privacy.ledger.budget import Budget
from privacy.ledger.chain import Chain
from privacy.ledger.entries import DAMAGED, Charge, Entry, Opening, Record, Seal, Settlement
from privacy.ledger.round_state import RoundState
from privacy.ledger.store import Store
from privacy.ledger.verification import check_known, check_owner, extend
from privacy.ledger.window import moment
from privacy.statement import Statement
from protocol.errors import LedgerError
from protocol.randomness import SystemRandom
from protocol.terms import NoiseOrigin, Relation, Trust, Unit

_BUSY_SECONDS = 30.0


class Ledger:
    """An append-only, hash-chained, signed book of what was released about one data set.

    Keep the file on a local disk, outside any run directory, one per data set, and shared by every process
    that releases anything about it. Make it with `create`, once; use `open` from then on. `open` never makes
    a file: a mistyped path must not give a fresh budget.

    **Formal guarantees**

    - An entry is on the disk before the call that writes it returns: a release that waits for the call is
      never unpaid, whatever is killed or loses power when.
    - A round of a run is charged once and sealed once. A charge that is not sealed was never released: whoever
      seals first, of several threads or processes, may release what was sealed, and the others nothing. So a crash
      between charge and seal costs no second charge, and one after the seal gives no second release.
    - A reserved round is used once, by the process that reserved it; a reservation that was never settled counts
      whole, so that a crash burns the rest of its block. Reserved rounds are not sealed, and neither are charges of
      a version that knew no seals: they count as released.
    - Two processes cannot both spend the last of a budget: the check and the entry share one write lock.
    - Where a call raises, nothing was released by it; at worst an entry without a release remains, never the
      reverse.
    - Any changed byte of a row is found: at `open`, at the next charge of another process's rows, and by
      `verify`.

    **What it cannot see**

    - Rows cut off at the end, and an older copy put in the place of a newer one, leave a chain that is intact
      in itself. Both are found only against something outside: pass the entry hashes that statements carry to
      `verify`.
    - Two copies of a file that are both written to diverge, each intact in itself. Both descend from a common
      entry, and each lacks the other's: again the hashes in the statements tell. Copy a ledger only while it
      is closed and no file with the ending ``-journal`` lies beside it.
    - The site's own operator, who has the key, can forge anything.

    So whoever puts an older copy back may release rounds again that the newer one had charged: restore the newest
    copy, and verify it against the entries that the egress record and the statements name.

    **Time** matters to ceilings over a number of days alone. It never runs backwards there: a clock that was set back
    gives nothing. A clock that was set forward ends such a ceiling's days early; what then bounds is the ceiling for
    ever, which every policy has. And once the clock is right again, what was charged stays counted until the days have
    passed since the date that the wrong clock showed.
    """

    def __init__(self, store: Store, *, key: Ed25519PrivateKey, name: str) -> None:
        self._store = store
        self._key = key
        self._name = name
        self._chain = Chain()
        self._budget = Budget()
        self._live: dict[str, int] = {}
        self._lock = threading.RLock()
        self._random = SystemRandom()
        self._process = os.getpid()

    @classmethod
    def create(cls, path: Path, *, key: Ed25519PrivateKey, data_set: str) -> Self:
        """Makes the ledger of a data set from which nothing was ever released.

        Args:
            path: Where; the file must not exist.
            key: The site's signing key.
            data_set: Name of the data set.

        Returns:
            The open ledger.

        Raises:
            LedgerError: If the file exists or cannot be made.
        """
        return cls._begin(Store.create(Path(path)), key=key, data_set=data_set, name=str(path), simulated=False)

    @classmethod
    def in_memory(cls, *, key: Ed25519PrivateKey, data_set: str) -> Self:
        """Makes a ledger that ends with the process and marks everything as simulated."""
        return cls._begin(Store.memory(), key=key, data_set=data_set, name="the simulation's ledger", simulated=True)

    @classmethod
    def open(cls, path: Path, *, key: Ed25519PrivateKey, data_set: str, busy_seconds: float = _BUSY_SECONDS) -> Self:
        """Opens the ledger of a data set and verifies all of it.

        Args:
            path: Where it is.
            key: The site's signing key.
            data_set: Name of the data set, which must be the ledger's.
            busy_seconds: How long to wait for another process's lock.

        Returns:
            The open ledger.

        Raises:
            LedgerError: If it is missing, damaged, of another data set, or signed by another key.
        """
        ledger = cls(Store.open(Path(path), busy_seconds=busy_seconds), key=key, name=str(path))
        try:
            extend(ledger._chain, ledger._store.rows(after=-1), key.public_key())
            check_owner(ledger._chain.opening, key.public_key(), data_set)
        except LedgerError:
            ledger.close()
            raise
        return ledger

    @classmethod
    def _begin(cls, store: Store, *, key: Ed25519PrivateKey, data_set: str, name: str, simulated: bool) -> Self:
        ledger = cls(store, key=key, name=name)
        public_key = key.public_key().public_bytes_raw().hex()
        try:
            ledger._write(Opening(data_set=data_set, public_key=public_key, simulated=simulated))
        except LedgerError:
            ledger.close()
            raise
        return ledger

    @property
    def data_set(self) -> str:
        """Name of the data set."""
        return self._chain.opening.data_set

    @property
    def simulated(self) -> bool:
        """Whether the ledger belongs to a simulation."""
        return self._chain.opening.simulated

    @property
    def unit(self) -> Unit | None:
        """Whom the ledger's events are about; None while nothing was charged."""
        return self._chain.unit

    @property
    def head(self) -> str:
        """Hash of the last entry, which commits to all before; kept elsewhere, it betrays a rollback."""
        return self._chain.head

    def charge(
        self,
        *,
        study: str,
        run: str,
        round: int,  # noqa: A002 - the field's word
        event: NoisyRelease,
        ceilings: Sequence[Ceiling],
        study_rounds: int | None = None,
    ) -> Entry:
        """Pays for one round, durably, before it is released; `seal` it before anything of it leaves.

        Args:
            study: SHA-256 of the study, in hexadecimal.
            run: Identifier of the run.
            round: The round, from 0.
            event: What will be released.
            ceilings: The most that may be spent; all are kept, and none is no limit.
            study_rounds: The most rounds of the event's kind that the study may be charged for, in all of its runs;
                None for no limit. Rounds of statistics and of training cost differently, and each kind has its own.

        Returns:
            The entry, which is on the disk.

        Raises:
            BudgetError: If everything in the ledger and this would pass a ceiling, or the study its rounds.
            LedgerError: If the round was charged before, the unit differs, or the entry could not be written.
            AccountingError: If the event cannot be accounted for with the others.
        """
        charge = Charge(
            study=study, run=run, first_round=round, rounds=1, event=event, reserved=False, to_be_sealed=True
        )
        return self._write(charge, ceilings=ceilings, study_rounds=study_rounds)

    def seal(self, entry: Entry, digest: str) -> Entry:
        """Says durably what leaves for a charged round, once; nothing else may leave for it from then on.

        Args:
            entry: The charge.
            digest: SHA-256 of the reply that is about to leave.

        Returns:
            The seal's entry, which is on the disk.

        Raises:
            LedgerError: If the round was sealed before, by whomever: then this reply must not leave; or if the entry
                is no charge, or could not be written.
        """
        return self._write(Seal(charge=entry.hash, digest=digest))

    def round_state(self, *, study: str, run: str, round: int) -> RoundState:  # noqa: A002 - the field's word
        """What may still be released for a round; what other processes wrote is taken into account.

        Args:
            study: SHA-256 of the study, in hexadecimal.
            run: Identifier of the run.
            round: The round.

        Returns:
            Whether it is uncharged, charged, sealed, or spent in a way that leaves no second attempt.

        Raises:
            LedgerError: If the ledger is damaged or locked.
        """
        with self._guarded():
            self._refresh()
            return self._chain.round_state(study=study, run=run, round=round)

    def reserve(
        self,
        *,
        study: str,
        run: str,
        first_round: int,
        rounds: int,
        event_per_round: NoisyRelease,
        ceilings: Sequence[Ceiling],
        study_rounds: int | None = None,
    ) -> Entry:
        """Pays for a block of rounds with one entry; what is not used can be given back by `settle`.

        Args:
            study: SHA-256 of the study, in hexadecimal.
            run: Identifier of the run.
            first_round: First round of the block.
            rounds: Number of rounds.
            event_per_round: What each round will release.
            ceilings: As `charge`.
            study_rounds: As `charge`.

        Returns:
            The entry; pass it to `use` before each round.

        Raises:
            BudgetError: If everything in the ledger and the block would pass a ceiling, or the study its rounds.
            LedgerError: As `charge`.
            AccountingError: As `charge`.
        """
        charge = Charge(
            study=study, run=run, first_round=first_round, rounds=rounds, event=event_per_round, reserved=True
        )
        entry = self._write(charge, ceilings=ceilings, study_rounds=study_rounds)
        self._live[entry.hash] = first_round
        return entry

    def use(self, entry: Entry, round: int) -> None:  # noqa: A002 - the field's word
        """Marks a reserved round as about to be released; rounds must rise, each is used once.

        The mark is kept in memory alone, which costs nothing per round and is safe: after a crash or restart
        the reservation can be neither used nor settled, and counts whole.

        Args:
            entry: The reservation, made by this very object.
            round: The round.

        Raises:
            LedgerError: If the reservation is not this process's, was settled, or the round is not in it or
                was used.
        """
        with self._guarded():
            first_free = self._first_free(entry)
            charge = self._chain.reservation(entry.hash)
            if type(round) is not int or not first_free <= round < charge.first_round + charge.rounds:
                raise LedgerError(
                    f"Round {round!r} is not free in reservation {entry.hash[:12]}; next is {first_free}.",
                    remedy="Use reserved rounds once and in order; charge or reserve others.",
                )
            self._live[entry.hash] = round + 1

    def settle(self, entry: Entry, used_rounds: int) -> Entry:
        """Gives back the rounds of a reservation behind the first ``used_rounds``, by a signed entry, once.

        Args:
            entry: The reservation, made by this very object.
            used_rounds: How many rounds of the block, counted from its first, are spent; a round that was
                skipped counts.

        Returns:
            The settlement's entry.

        Raises:
            LedgerError: If the reservation is not this process's, was settled, or more rounds were used or
                fewer reserved.
        """
        with self._guarded():
            first_free = self._first_free(entry)
            settlement = Settlement(reservation=entry.hash, used_rounds=used_rounds)
            spent = first_free - self._chain.reservation(entry.hash).first_round
            if used_rounds < spent:
                raise LedgerError(
                    f"used_rounds is {used_rounds}, but {spent} rounds of the reservation are spent.",
                    remedy="Settle at least what was used.",
                )
            written = self._write(settlement)
            del self._live[entry.hash]
            return written

    def entries(self) -> tuple[Entry, ...]:
        """All entries, those of other processes included."""
        with self._guarded():
            self._refresh()
            return tuple(self._chain.entries)

    def spent(self, *, delta: float, relation: Relation, trust: Trust, origin: NoiseOrigin) -> Statement:
        """Everything that counts as spent on the data set, across studies, as a statement.

        Args:
            delta: Delta of the statement.
            relation: Neighbouring relation of the statement.
            trust: Where the noise was placed; ``SUM`` claims less and holds for both.
            origin: Where the noise came from.

        Returns:
            The statement, naming the head of the chain.

        Raises:
            LedgerError: If nothing was charged yet.
            AccountingError: If the accountants disagree.
        """
        with self._guarded():
            self._refresh()
            unit = self._chain.unit
            if unit is None:
                raise LedgerError(f"Nothing was charged to {self._name} yet.", remedy="Ask again after a release.")
            return Statement.from_events(
                self._chain.events(),
                delta=delta,
                relation=relation,
                unit=unit,
                trust=trust,
                origin=origin,
                simulated=self.simulated,
                ledger_entries=(self._chain.head,),
            )

    def verify(self, public_key: Ed25519PublicKey, *, known: Iterable[str] = ()) -> None:
        """Reads everything anew and checks the file, every hash, link, signature, rule and running total.

        Args:
            public_key: The site's public key.
            known: Entry hashes from statements or receipts; each must be in the chain.

        Raises:
            LedgerError: If anything does not match.
        """
        with self._guarded():
            self._store.check_file()
            chain = extend(Chain(), self._store.rows(after=-1), public_key)
            check_owner(chain.opening, public_key, self.data_set)
            mine = [entry.hash for entry in self._chain.entries]
            check_known(chain, [*mine, *known])

    def close(self) -> None:
        """Closes the file; unsettled reservations of this object are burnt."""
        self._live.clear()
        self._store.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @contextmanager
    def _guarded(self) -> Iterator[None]:
        """One thread at a time, and never a forked copy: its reservations and file are its parent's."""
        if os.getpid() != self._process:
            raise LedgerError(f"{self._name} was opened by another process.", remedy="Open the ledger in this process.")
        with self._lock:
            yield

    def _first_free(self, entry: Entry) -> int:
        """The next usable round of a reservation that this object made."""
        self._chain.reservation(entry.hash)
        if entry.hash not in self._live:
            raise LedgerError(
                f"Reservation {entry.hash[:12]} was made before a restart: it counts whole.",
                remedy="Charge or reserve further rounds anew.",
            )
        return self._live[entry.hash]

    def _write(self, record: Record, *, ceilings: Sequence[Ceiling] = (), study_rounds: int | None = None) -> Entry:
        """Checks and writes one record under the write lock."""
        with self._guarded():
            with self._store.transaction():
                self._refresh()
                self._chain.check(record)
                time = _now()
                if isinstance(record, Charge):
                    self._budget.check(
                        self._chain, record, ceilings=ceilings, study_rounds=study_rounds, now=moment(time)
                    )
                entry = Entry.sign(
                    record,
                    position=len(self._chain.entries),
                    previous=self._chain.head,
                    time=time,
                    nonce=self._random.bytes(16).hex(),
                    compositions=self._chain.compositions_after(record),
                    key=self._key,
                )
                self._store.append(
                    position=entry.position,
                    payload=entry.payload,
                    hash_=entry.hash,
                    signature=entry.signature,
                )
            self._chain.append(entry)
            if isinstance(record, Charge):
                self._budget.note(record)
            return entry

    def _refresh(self) -> None:
        """Takes in what other processes wrote, after checking that the last known entry is still there."""
        known = len(self._chain.entries)
        rows = self._store.rows(after=max(known - 2, -1))
        if known and (not rows or rows[0].hash != self._chain.head):
            raise LedgerError(f"{self._name} lost its entry {known - 1}.", remedy=DAMAGED)
        extend(self._chain, rows[1:] if known else rows, self._key.public_key())


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
