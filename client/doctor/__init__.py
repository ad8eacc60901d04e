"""The doctor: examines a site, and says of everything that does not work what to do about it.

One function per check; each returns a `Finding` and changes nothing.
"""

from collections.abc import Iterator
from pathlib import Path

from client.credentials import is_site
from client.doctor.finding import Finding, State
from client.doctor.folder import (
    check_certificate,
    check_disk,
    check_enrolment,
    check_folder,
    check_keys,
    check_ledger,
    check_policy,
    check_settings,
)

__all__ = ["Finding", "State", "examine", "local_findings"]


def local_findings(folder: Path) -> Iterator[Finding]:
    """Examine what needs neither network nor records. A client whose folder fails here could answer nothing.

    Args:
        folder: The site's folder.
    """
    found = check_folder(folder)
    yield found
    if not (folder.is_dir() and is_site(folder)):
        return
    yield check_disk(folder)
    yield check_enrolment(folder)
    yield check_keys(folder)
    yield check_certificate(folder)
    yield check_settings(folder)
    yield check_policy(folder)
    yield check_ledger(folder)


def examine(folder: Path) -> Iterator[Finding]:
    """Examine everything: folder, way to the coordinator, approvals, records.

    Args:
        folder: The site's folder.
    """
    from client.doctor.network import network_findings  # an HTTP client: slow to import
    from client.doctor.studies import study_findings  # Arrow and PyTorch: slow to import

    yield from local_findings(folder)
    if not (folder.is_dir() and is_site(folder)):
        return
    yield from network_findings(folder)
    yield from study_findings(folder)
