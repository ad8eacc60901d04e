"""``cloister site enroll`` and ``renew``: from a code to a folder that a client can run in."""

import os
import pwd
import re
import stat
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli.result import print_json
from cli.rounds import announce
from cli.site.folder import HERE, SiteFolder, check_account, folder_words
from protocol.errors import InputError

if TYPE_CHECKING:
    from client.credentials import Enrolled
    from protocol.invitation import Invitation

EXAMPLES = (
    "\b\nExamples:\n  cloister site enroll CODE --data visits.csv --epsilon 8 --delta 1e-6"
    "\n  cloister site enroll CODE --data 'postgresql+psycopg://reader@db/hospital#public.visits' --set visits"
)
RENEW_EXAMPLES = "\b\nExample:\n  cloister site renew"
_DELTA = 1e-6
_DEVICE = re.compile(r"cpu|cuda(:\d+)?")
_OPTIONS = {"location": "--data", "data_set": "--set", "device": "--device", "epsilon": "--epsilon", "delta": "--delta"}
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]


def enroll(
    code: Annotated[
        str, typer.Argument(help="The one-time code from the coordinator; - reads it from standard input.")
    ],
    *,
    site: SiteFolder = HERE,
    data: Annotated[
        str | None, typer.Option(metavar="LOCATION", help="The records: a file, or a database URL, # and a table.")
    ] = None,
    data_set: Annotated[
        str | None, typer.Option("--set", metavar="NAME", help="The data set's name; the file's if not given.")
    ] = None,
    epsilon: Annotated[
        float | None, typer.Option(help="Your ceiling on all that is ever released about the data set.")
    ] = None,
    delta: Annotated[
        float | None, typer.Option(help="The delta at which the ceiling is held; 1e-6 if not given.")
    ] = None,
    device: Annotated[str | None, typer.Option(help="Where to compute: cpu, cuda or cuda:1; cpu if not given.")] = None,
    json_output: JsonOption = False,
) -> None:
    """Make a site's folder: keys, certificate, settings, an empty ledger, and your own policy.

    The private keys are made here and never leave. Set CLOISTER_PASSPHRASE or CLOISTER_PASSPHRASE_FILE, now and for
    every later command, to keep them under a passphrase. What is there already is left as it is: after an
    interruption, type the same command again.
    """
    from client.data_set import check_data_set_name, data_source, found_data_set
    from client.policy import Policy, write_policy
    from protocol.invitation import Invitation

    # On the command line, other users of this machine could read the code before it is used.
    folder, invitation = site.absolute(), Invitation.from_text(sys.stdin.readline().strip() if code == "-" else code)
    # Whatever can be refused is refused before the code is used up.
    location = None if data is None else data_source(data)
    named = check_data_set_name(data_set or _set_name(data or "records"))
    held_at = _DELTA if delta is None else delta
    if epsilon is not None:
        Policy(epsilon=epsilon, delta=held_at)
    if device is not None and not _DEVICE.fullmatch(device):
        raise InputError(f"The device is {device!r}.", remedy="Use cpu, cuda, or cuda:1 for the second GPU.")
    check_account(folder)
    _refuse_an_old_passphrase(folder)
    _refuse_other_values(folder, location=location, data_set=data_set, device=device, epsilon=epsilon, delta=delta)
    _make_private(folder)
    enrolled = _enrolled(folder, invitation)
    made = []
    if location is not None:
        what = {"name": enrolled.site, "location": location, "data_set": named, "device": device or "cpu"}
        made += ["site.toml", "ledger.sqlite"] if found_data_set(folder, **what) else []
    if epsilon is not None and not (folder / "policy.toml").exists():
        write_policy(folder / "policy.toml", epsilon=epsilon, delta=held_at)
        made.append("policy.toml")
    missing = [name for name in ("site.toml", "policy.toml") if not (folder / name).exists()]
    if json_output:
        print_json(_facts(folder, enrolled, made=made, missing=missing))
        return
    _tell(folder, enrolled, made=made, missing=missing, next_words=folder_words(site))


def renew(*, site: SiteFolder = HERE, json_output: JsonOption = False) -> None:
    """Fetch a new certificate under the present one; a running client does so by itself in the last month."""
    from client import enrolment
    from protocol.tls import read_certificate

    folder = site.absolute()
    enrolment.renew(folder)
    until = read_certificate(folder / "tls.pem").not_valid_after_utc
    if json_output:
        print_json({"certificate_until": until.isoformat(timespec="seconds")})
        return
    sys.stdout.write(f"The certificate is renewed: valid until {until:%d %B %Y}.\n")


def _enrolled(folder: Path, invitation: "Invitation") -> "Enrolled":
    """Enrol; where the code was used here before, and the certificate it gave is accepted, go on."""
    from client.credentials import COORDINATOR_FILE, Enrolled
    from client.enrolment import enrol

    try:
        return enrol(folder, invitation)
    except InputError:
        if not (folder / COORDINATOR_FILE).exists():
            raise
        known = Enrolled.read(folder)
        same = (known.site, known.ca_fingerprint) == (invitation.site, invitation.ca_fingerprint)
        if not same or not _is_let_in(folder):
            raise
    announce(f"{known.site} is enrolled already, and the coordinator lets it in: the code was not used again.")
    return known


def _is_let_in(folder: Path) -> bool:
    from client.doctor.network import Way, ask

    return ask(Way.of(folder)).status == 200  # noqa: PLR2004 -- HTTP's OK


def _refuse_an_old_passphrase(folder: Path) -> None:
    """Find a passphrase that does not open the folder's keys before a code is spent on it."""
    from protocol.keys import read_identity

    if (folder / "key.pem").exists():
        read_identity(folder / "key.pem")


def _refuse_other_values(folder: Path, **given: str | float | None) -> None:
    """Refuse what differs from what the folder's files say: they would stay as they are, and the value be forgotten.

    Args:
        folder: The site's folder.
        given: Values of options by name; None where an option was not given.

    Raises:
        InputError: Naming option and file.
    """
    from client.policy import Policy
    from client.settings import data_location, site_settings

    present: dict[str, tuple[str, str | float]] = {}
    if (folder / "site.toml").exists():
        found = site_settings(folder)
        present |= {
            "location": ("site.toml", data_location(folder, found)),
            "data_set": ("site.toml", str(found["data"]["set"])),
            "device": ("site.toml", str(found.get("device", "cpu"))),
        }
    if (folder / "policy.toml").exists():
        policy = Policy.from_toml(folder / "policy.toml")
        present |= {"epsilon": ("policy.toml", policy.epsilon), "delta": ("policy.toml", policy.delta)}
    for name, (file, value) in present.items():
        if given[name] is not None and given[name] != value:
            raise InputError(
                f"{_OPTIONS[name]} is {given[name]}, and {folder / file} says {value}.",
                remedy=f"Leave the option out; to change it, edit {file}. The code was not used.",
            )


def _make_private(folder: Path) -> None:
    """Let nobody else enter the folder: logs and answers in it are nobody's business, whatever their own mode is.

    Raises:
        InputError: If it is the account's home, which others may have to enter.
    """
    if folder.resolve() == _home():
        raise InputError(f"{folder} is a home.", remedy="Give a folder of its own: --site FOLDER, or CLOISTER_SITE.")
    if folder.is_dir() and stat.S_IMODE(folder.stat().st_mode) & (stat.S_IRWXG | stat.S_IRWXO):
        folder.chmod(0o700)
        announce(f"{folder} is the site's folder now: nobody but its owner may enter it.")


def _home() -> Path | None:
    """Return the account's home as the system knows it: a unit or a container may name the site's folder as one."""
    try:
        return Path(pwd.getpwuid(os.getuid()).pw_dir).resolve()
    except KeyError:  # an account without a name
        return None


def _set_name(location: str) -> str:
    """Name a data set after its file or table."""
    return location.rpartition("#")[2] if "://" in location else Path(location).name.partition(".")[0]


def _facts(folder: Path, enrolled: "Enrolled", *, made: list[str], missing: list[str]) -> dict[str, Any]:
    return {
        "folder": str(folder),
        "site": enrolled.site,
        "federation": enrolled.federation,
        "coordinator": enrolled.address,
        "made": made,
        "missing": missing,
    }


_WHAT = {
    "site.toml": "where the records are",
    "ledger.sqlite": "what was released about them: nothing yet. Back it up, and never restore an older copy",
    "policy.toml": "what this site allows: read it, and change what you like",
}
_HOW = {
    "site.toml": "where the records are: run this again with --data LOCATION",
    "policy.toml": "without it nothing is released; the ceiling is yours to choose: "
    "cloister site policy --epsilon E --delta D",
}


def _ceiling(folder: Path) -> str:
    from client.policy import Policy

    policy = Policy.from_toml(folder / "policy.toml")
    return f"at most epsilon {policy.epsilon:g} at delta {policy.delta:g} about the data set, ever, whatever the study"


def _tell(folder: Path, enrolled: "Enrolled", *, made: list[str], missing: list[str], next_words: str) -> None:
    from protocol.keys import passphrase
    from protocol.tls import read_certificate

    until = read_certificate(folder / "tls.pem").not_valid_after_utc
    kept = "under your passphrase" if passphrase() else "without a passphrase"
    lines = [
        f"{enrolled.site} is enrolled in {enrolled.federation}, coordinator {enrolled.address}; "
        f"certificate until {until:%d %B %Y}.",
        f"In {folder}:",
        f"  {'key.pem tls.key node.key':26}the private keys, {kept}; they never leave this machine",
        *(f"  {name:26}{_WHAT[name]}" for name in made),
        *([f"  {'':26}now: {_ceiling(folder)}"] if "policy.toml" in made else []),
        *(f"Still missing: {name}, {_HOW[name]}" for name in missing),
        f"Next: cloister site doctor{next_words}",
        f"      cloister site approve STUDY{next_words}   (the coordinator says which)",
        f"      cloister site start{next_words}",
    ]
    sys.stdout.write("\n".join(lines) + "\n")
