"""Whether a ledger and the egress record add up: what was checked, in sentences, and what is wrong."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from cli.officer.account import Account
from client import egress
from client.egress import EgressLine
from privacy import wording
from privacy.accounting import ACCOUNTANT, accountant_version
from privacy.ledger import Charge, Entry, Seal, recount
from protocol.keys import public_hex

_EGRESS = "egress.jsonl"


@dataclass(frozen=True, kw_only=True)
class Books:
    """A site's ledger and egress record, held against each other.

    Attributes:
        account: The ledger.
        lines: The record.
        contradictions: Lines that the ledger does not bear out, as sentences.
        gaps: Sealed rounds of which no line says that they left: the entries of their charges.
    """

    account: Account
    lines: tuple[EgressLine, ...]
    contradictions: tuple[str, ...]
    gaps: tuple[Entry, ...]

    @classmethod
    def open(cls, folder: Path) -> Self:
        """Read both, also while the client writes to them, and compare.

        The record is read before and after the ledger: what left in between is missing in one of the comparisons
        alone, and so is no disagreement.

        Args:
            folder: The site's folder.

        Raises:
            LedgerError: If one of them is damaged, or the ledger lacks an entry that the record names.
            InputError: If site.toml or the key cannot be read.
        """
        before = egress.read(folder / _EGRESS)
        account = Account.open(folder, known=_paid(before))
        lines = egress.read(folder / _EGRESS)
        unheard = {entry.hash for entry in _gaps(account.entries, before)}
        # Without the seals that have no line, all that is left to complain about is lines.
        entries = [
            entry
            for entry in account.entries
            if not (isinstance(entry.record, Seal) and entry.record.charge in unheard)
        ]
        return cls(
            account=account,
            lines=lines,
            contradictions=egress.compare(before, entries),
            gaps=_gaps(account.entries, lines),
        )

    @property
    def gap(self) -> str:
        """What the record lacks, as a sentence; empty where it lacks nothing."""
        if not self.gaps:
            return ""
        since, until = self.gaps[0].time[:10], self.gaps[-1].time[:10]
        return (
            f"{len(self.gaps)} sealed rounds, of {since} to {until}, have no line in the egress record: lines are"
            " missing, the record was moved away, or the site was stopped just then."
        )


def _paid(lines: Iterable[EgressLine]) -> set[str]:
    return {line.departure.entry for line in lines} - {""}


def _gaps(entries: Iterable[Entry], lines: Iterable[EgressLine]) -> tuple[Entry, ...]:
    kept, told = tuple(entries), _paid(lines)
    sealed = {entry.record.charge for entry in kept if isinstance(entry.record, Seal)}
    return tuple(entry for entry in kept if entry.hash in sealed - told)


@dataclass(frozen=True, kw_only=True)
class Verification:
    """What was checked.

    Attributes:
        passed: What was found right, as sentences.
        remarks: What is no fault of the ledger, and still worth a look.
        faults: What was found wrong.
    """

    passed: tuple[str, ...]
    remarks: tuple[str, ...]
    faults: tuple[str, ...]


def verify_books(books: Books) -> Verification:
    """Say what is right and what is wrong: totals by a second count and by other accountants, and the egress record.

    Reading them has checked the file, every hash, link and signature, and every rule before; it raised otherwise.

    Raises:
        AccountingError: If the accountants disagree.
    """
    account = books.account
    charges = sum(isinstance(entry.record, Charge) for entry in account.entries)
    seals = sum(isinstance(entry.record, Seal) for entry in account.entries)
    unsealed = sum(run.unsealed for run in account.runs)
    passed = [
        "The file: its pages, its format, and the triggers that keep it append-only.",
        f"The chain: {len(account.entries)} entries, each with the hash it claims, the hash of the one before, and the"
        f" signature of key {public_hex(account.key)[:16]}….",
        f"The rules: {charges} charges, no round charged twice, one unit, every running total.",
        f"The seals: {seals}, each of one charge and each charge with one at most; {unsealed} paid rounds are not"
        " sealed, and nothing of them has left.",
    ]
    faults = list(books.contradictions)
    counted, booked = recount(account.entries), {event.times(1): event.count for event in account.events()}
    if dict(counted) == booked:
        passed.append(f"The total, counted again entry by entry: {counted.total()} compositions.")
    else:
        faults.append(f"Counted again, there are {counted.total()} compositions, not {sum(booked.values())}.")
    passed += _accountants(account)
    if books.lines and not faults:
        passed.append(
            f"The egress record: {len(books.lines)} lines in one chain; every contribution in it has its charge and"
            " its seal."
        )
    return Verification(passed=tuple(passed), remarks=(books.gap,) if books.gaps else (), faults=tuple(faults))


def _accountants(account: Account) -> list[str]:
    """Work the totals out by all accountants, which raise where they disagree."""
    named = f"{ACCOUNTANT} {accountant_version()}"
    return [
        f"The total {wording.period(ceiling)}. {wording.working(account.check(ceiling), named)}"
        for ceiling in account.measures()
        if account.events(ceiling.days)
    ]
