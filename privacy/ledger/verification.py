"""What anybody can check about a ledger who has the file and the site's public key."""

from collections.abc import Iterable
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from privacy.ledger.chain import Chain
from privacy.ledger.entries import DAMAGED, Entry, Opening
from privacy.ledger.store import Row, Store
from protocol.errors import LedgerError

_BUSY_SECONDS = 30.0


def read_entries(path: Path, *, public_key: Ed25519PublicKey, known: Iterable[str] = ()) -> tuple[Entry, ...]:
    """Reads and verifies somebody's ledger without their key and without writing.

    Args:
        path: The file, or a copy.
        public_key: The site's public key.
        known: Entry hashes from statements or receipts; each must be in the chain.

    Returns:
        All entries; their events can be given to any accountant.

    Raises:
        LedgerError: If it is missing, damaged or does not match the key or the known hashes.
    """
    store = Store.open(Path(path), busy_seconds=_BUSY_SECONDS, writable=False)
    try:
        chain = extend(Chain(), store.rows(after=-1), public_key)
    finally:
        store.close()
    check_owner(chain.opening, public_key, chain.opening.data_set)
    check_known(chain, known)
    return tuple(chain.entries)


def extend(chain: Chain, rows: Iterable[Row], public_key: Ed25519PublicKey) -> Chain:
    """Verifies rows and appends them to a chain; returns the chain."""
    for row in rows:
        if not (isinstance(row.payload, str) and isinstance(row.hash, str) and isinstance(row.signature, str)):
            raise LedgerError(f"Ledger row {row.position!r} is not text.", remedy=DAMAGED)
        entry = Entry.read(payload=row.payload, hash_=row.hash, signature=row.signature, public_key=public_key)
        if row.position != entry.position:
            raise LedgerError(f"Ledger row {row.position!r} says it is entry {entry.position!r}.", remedy=DAMAGED)
        chain.append(entry)
    return chain


def check_owner(opening: Opening, public_key: Ed25519PublicKey, data_set: str) -> None:
    """Refuses a ledger of another site or data set."""
    if opening.public_key != public_key.public_bytes_raw().hex():
        raise LedgerError("The ledger belongs to another site's key.", remedy="Use the key that the ledger names.")
    if opening.data_set != data_set:
        raise LedgerError(
            f"The ledger is of data set {opening.data_set!r}, not {data_set!r}.",
            remedy="One ledger per data set.",
        )


def check_known(chain: Chain, known: Iterable[str]) -> None:
    """Finds rows cut off and older copies put back."""
    held = {entry.hash for entry in chain.entries}
    missing = sorted(set(known) - held)
    if missing:
        raise LedgerError(
            f"The ledger lacks {len(missing)} entries that it held before, among them {missing[0][:12]}.",
            remedy=DAMAGED,
        )
