"""What ``site.toml`` says about a site: its name, where its records are, which ledger pays for them."""

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from protocol.errors import InputError

FOLDER_VARIABLE = "CLOISTER_SITE"
_SHARE = frozenset({"scheme", "sites", "number", "seed"})
# Where in site.toml, which keys are known, which are needed.
_TABLES: tuple[tuple[tuple[str, ...], frozenset[str], frozenset[str]], ...] = (
    ((), frozenset({"name", "data", "device"}), frozenset({"name", "data"})),
    (("data",), frozenset({"location", "set", "ledger", "share"}), frozenset({"location", "set"})),
    (("data", "share"), _SHARE, _SHARE),
)


def site_settings(folder: Path) -> dict[str, Any]:
    """Read site.toml of a site's folder: all that is needed, and nothing unknown, lest a misspelt key be ignored.

    Raises:
        InputError: Naming what is missing, unknown or wrong.
    """
    path = folder / "site.toml"
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(
            f"{path}: {error.strerror}.",
            remedy=f"Set {FOLDER_VARIABLE} to the site's folder in this terminal, or give --site.",
        ) from error
    except ValueError as error:
        raise InputError(f"{path} is not TOML: {error}.", remedy="Mend it.") from error
    for place, known, needed in _TABLES:
        table: Any = values
        for name in place:
            table = table.get(name, {})
        called = ".".join(place) or "site.toml"
        if not isinstance(table, dict):
            raise InputError(f"{path}: {called} is {table!r}.", remedy="Write it as a table.")
        if place == ("data", "share") and not table:
            continue
        if not needed <= set(table) <= known:
            odd = sorted(needed - set(table)) + sorted(set(table) - known)
            raise InputError(
                f"{path}: missing or unknown in {called}: {', '.join(odd)}.",
                remedy=f"Needed: {', '.join(sorted(needed))}; known: {', '.join(sorted(known))}.",
            )
    return values


def data_location(folder: Path, settings: Mapping[str, Any]) -> str:
    """Return the data source that site.toml names; a file's path is relative to the site's folder."""
    location = str(settings["data"]["location"])
    return location if "://" in location else str(folder / location)


def ledger_path(folder: Path, settings: Mapping[str, Any]) -> Path:
    """Return the ledger that site.toml names, relative to the site's folder."""
    return folder / str(settings["data"].get("ledger", "ledger.sqlite"))
