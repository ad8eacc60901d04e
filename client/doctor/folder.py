"""What can be examined without the network and without a record: files, keys, certificate, room, policy, ledger."""

import os
import shlex
import shutil
import stat
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import Certificate

from client.credentials import COORDINATOR_FILE, ENROL_REMEDY, PRIVATE_FILES, Enrolled, is_site
from client.doctor.finding import Finding, failed, warning, well
from client.policy import Policy
from client.settings import ledger_path, site_settings
from privacy.ledger import Ledger
from protocol.errors import CloisterError, InputError
from protocol.keys import PASSPHRASE_FILE_VARIABLE, passphrase, read_ec_key, read_identity
from protocol.tls import certificate_digest, read_certificate

_FOLDERS = ("approvals", "outbox", "sums", "transcripts")
_OTHERS = stat.S_IRWXG | stat.S_IRWXO
_ENROL = "Enrol this folder: cloister site enroll CODE (the coordinator gives the code)."
_RENEW = timedelta(days=14)
_LEAST_FREE, _LITTLE_FREE = 64 * 2**20, 2**30
_BUSY_SECONDS = 5.0
_SETTINGS = "Say where the records are: cloister site enroll CODE --data FILE writes it, or write site.toml yourself."
_POLICY = "Set the site's own ceiling: cloister site policy --epsilon E --delta D."


def check_folder(folder: Path) -> Finding:
    """Find a folder that is not there, belongs to somebody else, or lets others read what is private."""
    check = "folder"
    if not folder.is_dir():
        return failed(check, f"{folder} is no folder.", remedy=ENROL_REMEDY)
    if not is_site(folder):
        # Before anything else: what is advised for a site's folder would wreck another one.
        return failed(check, f"{folder} is not a site's folder: nobody enrolled in it.", remedy=ENROL_REMEDY)
    owner = folder.stat().st_uid
    if owner != os.getuid():
        return failed(
            check,
            f"{folder} belongs to user {owner}, and this runs as user {os.getuid()}.",
            remedy="Run as the owner: files made by somebody else stop the client.",
        )
    ours = [folder, *(folder / name for name in (*_FOLDERS, *PRIVATE_FILES))]
    found = [path for path in ours if _mode(path) & _OTHERS]
    if found:
        said = ", ".join(str(path) for path in found)
        return failed(
            check,
            f"Other accounts of this machine may enter or read: {said}.",
            remedy=f"{shlex.join(['chmod', 'go=', *map(str, found)])}; if others could log in here meanwhile, tell the "
            "coordinator to revoke the site, and enrol anew.",
        )
    return well(check, f"{folder} is private to its owner.")


def _mode(path: Path) -> int:
    return path.stat().st_mode if path.exists() else 0


def check_keys(folder: Path) -> Finding:
    """Find keys that are missing or that the passphrase does not open."""
    check = "keys"
    missing = [name for name in PRIVATE_FILES if not (folder / name).exists()]
    if missing:
        return failed(check, f"{', '.join(missing)} is missing.", remedy=_ENROL)
    try:
        word = passphrase()
        read_identity(folder / "key.pem")
        for name in ("tls.key", "node.key"):
            read_ec_key(folder / name)
    except InputError as error:
        return failed(check, error.problem, remedy=error.remedy)
    named = os.environ.get(PASSPHRASE_FILE_VARIABLE)
    if named and Path(named).stat().st_mode & stat.S_IRWXO:
        return warning(
            check, f"Everybody may read the passphrase in {named}.", remedy=shlex.join(["chmod", "o=", named])
        )
    if word is None:
        return well(check, "All three keys can be read; they have no passphrase, only their file permissions.")
    return well(check, "All three keys open with the passphrase.")


def check_certificate(folder: Path, *, now: datetime | None = None) -> Finding:
    """Find a certificate that is expired, about to expire, another key's or another authority's.

    Args:
        folder: The site's folder.
        now: The time, for tests; with a time zone.
    """
    check, now = "certificate", now or datetime.now(UTC)
    try:
        own, authority = read_certificate(folder / "tls.pem"), read_certificate(folder / "ca.pem")
    except InputError as error:
        return failed(check, error.problem, remedy=_ENROL)
    until, since = own.not_valid_after_utc, own.not_valid_before_utc
    if now > until:
        return failed(
            check,
            f"The site's certificate expired on {until:%d %B %Y, %H:%M} UTC.",
            remedy="Ask the coordinator for a new code, and run cloister site enroll CODE in this folder; key, ledger "
            "and approvals stay.",
        )
    if now < since:
        return failed(
            check,
            f"The certificate is valid from {since:%d %B %Y, %H:%M} UTC; this machine says {now:%d %B %Y, %H:%M} UTC.",
            remedy="Set this machine's clock.",
        )
    fault = _certificate_fault(folder, own, authority)
    if fault:
        return failed(check, fault, remedy=f"Put back the files that belong together, or start afresh. {_ENROL}")
    if until - now < _RENEW:
        return warning(
            check,
            f"The certificate expires on {until:%d %B %Y}.",
            remedy="A running client renews it by itself; otherwise run cloister site renew.",
        )
    return well(check, f"The certificate is valid until {until:%d %B %Y}.")


def _certificate_fault(folder: Path, own: Certificate, authority: Certificate) -> str:
    """Say which of the files do not belong together, if any."""
    try:
        own.verify_directly_issued_by(authority)
    except (ValueError, TypeError, InvalidSignature):
        return "tls.pem was not issued by the authority in ca.pem."
    try:
        pinned, key = Enrolled.read(folder).ca_fingerprint, read_ec_key(folder / "tls.key")
    except InputError:
        return ""  # said by the checks of the enrolment and of the keys
    if certificate_digest(authority.public_bytes(Encoding.DER)) != pinned:
        return "ca.pem is not the authority whose fingerprint was in the invitation."
    return "" if own.public_key() == key.public_key() else "tls.pem is not the certificate of tls.key."


def check_enrolment(folder: Path) -> Finding:
    """Find a folder that was never enrolled, or whose coordinator.json was damaged."""
    check = "enrolment"
    try:
        known = Enrolled.read(folder)
    except InputError as error:
        return failed(check, error.problem, remedy=error.remedy)
    return well(check, f"Site {known.site} of federation {known.federation}, coordinator {known.address}.")


def check_disk(folder: Path) -> Finding:
    """Find a disk without room: a ledger that cannot be written stops every release."""
    free = shutil.disk_usage(folder).free
    if free < _LEAST_FREE:
        return failed(
            "disk",
            f"{free / 2**20:.0f} MiB are free where {folder} lies.",
            remedy="Make room: nothing is released while the ledger cannot be written.",
        )
    if free < _LITTLE_FREE:
        return warning("disk", f"Only {free / 2**20:.0f} MiB are free where {folder} lies.", remedy="Make room soon.")
    return well("disk", f"{free / 2**30:.1f} GiB are free where {folder} lies.")


def check_settings(folder: Path) -> Finding:
    """Find a site.toml that is missing or says something unknown, and a device that is not there."""
    import torch  # slow to import

    check = "settings"
    if not (folder / "site.toml").exists():
        return failed(check, f"{folder} has no site.toml.", remedy=_SETTINGS)
    try:
        settings = site_settings(folder)
        enrolled = Enrolled.read(folder).site if (folder / COORDINATOR_FILE).exists() else settings["name"]
    except InputError as error:
        return failed(check, error.problem, remedy=error.remedy)
    if settings["name"] != enrolled:
        said = f"site.toml says name = {settings['name']!r}, and the site is enrolled as {enrolled!r}."
        return failed(check, said, remedy="Write the enrolled name into site.toml.")
    device = str(settings.get("device", "cpu"))
    try:
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError):
        remedy = "Mend the driver, or write device = 'cpu' in site.toml."
        seen = f"PyTorch sees {torch.cuda.device_count()} CUDA devices"
        return failed(check, f"The device {device!r} in site.toml cannot be used; {seen}.", remedy=remedy)
    if device == "cpu" and torch.cuda.is_available():
        remedy = 'To use it, write device = "cuda" in site.toml.'
        return warning(check, "The site computes on the processor, and a GPU is there.", remedy=remedy)
    return well(check, f"Data set {settings['data']['set']!r}, computed on {device}.")


def check_policy(folder: Path) -> Finding:
    """Find a policy that is missing or cannot be read: without one every study is refused."""
    try:
        policy = Policy.from_toml(folder / "policy.toml")
    except CloisterError as error:
        missing = not (folder / "policy.toml").exists()
        return failed("policy", error.problem, remedy=_POLICY if missing else error.remedy)
    said = f"At most epsilon {policy.epsilon:g} at delta {policy.delta:g} about the data set"
    return well("policy", f"{said}; families {', '.join(policy.families)}; trust {', '.join(policy.trust)}.")


def check_ledger(folder: Path) -> Finding:
    """Find a ledger that is missing, damaged, of another key or of another data set; the whole chain is read."""
    check = "ledger"
    if not (folder / "site.toml").exists():
        return failed(check, "It was not looked at: site.toml names it.", remedy="Mend the settings first.")
    try:
        settings, key = site_settings(folder), read_identity(folder / "key.pem")
        path, data_set = ledger_path(folder, settings), str(settings["data"]["set"])
        with Ledger.open(path, key=key, data_set=data_set, busy_seconds=_BUSY_SECONDS) as ledger:
            ledger.verify(key.public_key())
            entries = len(ledger.entries())
    except CloisterError as error:
        return failed(check, error.problem, remedy=error.remedy)
    return well(check, f"{entries} entries; chain, hashes and signatures are right.")
