"""A site's append-only, signed book of everything that was ever released about one data set."""

from privacy.ledger.book import Ledger
from privacy.ledger.entries import Charge, Entry, Opening, Settlement
from privacy.ledger.verification import read_entries

__all__ = ["Charge", "Entry", "Ledger", "Opening", "Settlement", "read_entries"]
