"""The data set of a new site: site.toml, which says where its records are, and the ledger that pays for them."""

from pathlib import Path

import tomli_w

from client.settings import ledger_path, site_settings
from privacy.ledger import Ledger
from protocol.errors import InputError, LedgerError
from protocol.keys import create_private, read_identity
from records.schema import Format
from records.sources import open_location

SETTINGS_FILE = "site.toml"
_LEDGER_FILE = "ledger.sqlite"


def data_source(location: str) -> str:
    """Return a data source as site.toml names it: a file by its absolute path, a database by its URL.

    Args:
        location: As for :func:`records.sources.open_source`; a file's path is relative to the current folder.

    Raises:
        RecordsError: If there is no such file, or its kind is not known.
    """
    named = location if "://" in location else str(Path(location).absolute())
    open_location(named, form=Format(), drop=())
    return named


def found_data_set(folder: Path, *, name: str, location: str, data_set: str, device: str) -> bool:
    """Write site.toml and an empty ledger, the ledger first: where site.toml is, a missing ledger was lost.

    Args:
        folder: The site's folder, with its key.
        name: The site's name.
        location: As of :func:`data_source`.
        data_set: The data set's name; the ledger is kept for it.
        device: Where to compute.

    Returns:
        False if site.toml was there: nothing is changed then.

    Raises:
        InputError: If something cannot be written, or the key cannot be read.
        LedgerError: If a ledger is there that belongs to another data set or key, or the site's ledger is missing.
    """
    if (folder / SETTINGS_FILE).exists():
        check_ledger_is_there(folder)
        return False
    key, path = read_identity(folder / "key.pem"), folder / _LEDGER_FILE
    if path.exists():  # an attempt ended before site.toml was written
        Ledger.open(path, key=key, data_set=data_set).close()
    else:
        Ledger.create(path, key=key, data_set=data_set).close()
    settings = {"name": name, "device": device, "data": {"location": location, "set": data_set}}
    create_private(folder / SETTINGS_FILE, tomli_w.dumps(settings).encode())
    return True


def check_ledger_is_there(folder: Path) -> None:
    """Refuse a site whose ledger is gone: a new one would forget what was spent.

    Raises:
        LedgerError: If it is missing.
        InputError: If site.toml cannot be read.
    """
    path = ledger_path(folder, site_settings(folder))
    if not path.exists():
        raise LedgerError(
            f"{path}: the ledger is missing.",
            remedy="Put it back from the newest copy; a new one would forget what was spent. Only where nothing was "
            "ever released about these records: take site.toml away, and run this again.",
        )


def check_data_set_name(name: str) -> str:
    """Return a data set's name.

    Raises:
        InputError: If it is empty, too long or not printable.
    """
    if not 0 < len(name) <= 100 or not name.isprintable() or name != name.strip():
        raise InputError(f"The data set is called {name!r}.", remedy="Give a name of up to 100 characters: --set NAME.")
    return name
