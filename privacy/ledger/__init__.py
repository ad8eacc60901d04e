"""A site's append-only, signed book of everything that was ever released about one data set."""

from privacy.ledger.book import Ledger
from privacy.ledger.entries import Charge, Entry, Opening, Seal, Settlement
from privacy.ledger.extract import LedgerExtract
from privacy.ledger.recount import recount
from privacy.ledger.round_state import Charged, RoundState, Sealed, Spent, Uncharged
from privacy.ledger.verification import read_entries

__all__ = [
    "Charge",
    "Charged",
    "Entry",
    "Ledger",
    "LedgerExtract",
    "Opening",
    "RoundState",
    "Seal",
    "Sealed",
    "Settlement",
    "Spent",
    "Uncharged",
    "read_entries",
    "recount",
]
