"""``cloister site approve``: read in plain words what a study would learn and cost, and consent to it, or not."""

import sys
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cli.site.folder import HERE, SiteFolder, check_account, check_site, folder_words
from protocol.errors import ApprovalError, InputError
from protocol.plain_text import printable

if TYPE_CHECKING:
    from cli.officer.review import Review
    from client.consent import Consent
    from client.rules import Enrolment

EXAMPLES = (
    "\b\nExamples:\n  cloister site approve\n  cloister site approve heart-disease --name 'Dr. A. Lovelace'\n"
    "  cloister site approve --withdraw 3f2a91c07b1e"
)
_LEAST_DIGITS = 6


def approve(
    study: Annotated[
        str | None,
        typer.Argument(
            metavar="[STUDY]",
            show_default=False,
            help="A signed study: its file, or name or hash of one that the coordinator offers. Without: list those.",
        ),
    ] = None,
    *,
    site: SiteFolder = HERE,
    yes: Annotated[bool, typer.Option("--yes", help="Approve without asking; what forbids it still does.")] = False,
    name: Annotated[
        str | None, typer.Option("--name", metavar="WHO", help="Who decides; your account's name if not given.")
    ] = None,
    columns: Annotated[bool, typer.Option("--columns", help="Show long lists of categories in full.")] = False,
    withdraw: Annotated[
        str | None, typer.Option("--withdraw", metavar="HASH", help="Withdraw the approval of a study.")
    ] = None,
) -> None:
    """Show what a study would learn from this site's records and what it costs; approve it, or withdraw it.

    Nothing is sent, and no record is read. The client answers for approved studies alone; it need not be started anew.
    """
    from client.consent import person

    check_site(site)
    check_account(site)
    who = person() if name is None else name.strip()
    if withdraw is not None:
        if study is not None:
            raise InputError("Both a study and --withdraw are given.", remedy="Give one of the two.")
        _withdraw(site, withdraw, who=who, yes=yes)
    elif study is None:
        _list(site)
    else:
        _approve(site, study, who=who, yes=yes, every_category=columns)


def _approve(folder: Path, wanted: str, *, who: str, yes: bool, every_category: bool) -> None:
    from cli.officer.account import Account
    from cli.officer.offers import find_study
    from cli.officer.review import review
    from client.consent import consent_to
    from client.policy import Policy
    from client.rules import Enrolment
    from protocol.keys import read_identity
    from protocol.signed_study import SignedStudy

    enrolment = Enrolment.from_folder(folder)
    policy = Policy.from_toml(folder / "policy.toml")
    account = Account.open(folder)
    _check_name(account.site, enrolment)
    asked = find_study(wanted, folder, enrolment)
    plain = asked.study if isinstance(asked, SignedStudy) else asked
    earlier, trouble = _consents(folder, enrolment)
    found = review(
        asked,
        account=account,
        policy=policy,
        policy_file=folder / "policy.toml",
        earlier=earlier.get(plain.hash),
        every_category=every_category,
    )
    _show(found, trouble)
    if found.faults:
        raise ApprovalError(
            f"{plain.name} is not approved: {len(found.faults)} things forbid it.",
            remedy="See Policy above; the ceiling and permissions are the site's to set, in policy.toml.",
        )
    if not (yes or typer.confirm(f"\nApprove {plain.name} at {account.site!r} as {who}?")):
        sys.stdout.write("Not approved; nothing was written down.\n")
        raise typer.Exit(1)
    consent = consent_to(
        asked,
        key=read_identity(folder / "key.pem"),
        site=account.site,
        by=who,
        ceilings=policy.ceilings(plain.privacy.relation),
    )
    written = consent.write(folder / "approvals")
    sys.stdout.write(
        f"Approved. The signed consent is {written}\n"
        f"Next: cloister site doctor{folder_words(folder)}   (holds the records against the study, before it begins)\n"
    )


def _withdraw(folder: Path, wanted: str, *, who: str, yes: bool) -> None:
    from client.consent import Withdrawal
    from client.rules import Enrolment
    from protocol.keys import read_identity

    consents, trouble = _consents(folder, Enrolment.from_folder(folder))
    if trouble is not None:
        raise trouble
    digits = wanted.rstrip("….").lower()
    found = [
        consent
        for hash_, consent in consents.items()
        if (len(digits) >= _LEAST_DIGITS and hash_.startswith(digits)) or consent.study.name == wanted
    ]
    if len(found) != 1:
        names = ", ".join(f"{consent.study.name} ({hash_[:12]})" for hash_, consent in consents.items()) or "none"
        raise InputError(f"{wanted} names {len(found)} approved studies.", remedy=f"Approved: {names}.")
    (consent,) = found
    if not (yes or typer.confirm(f"Withdraw the approval of {consent.study.name}, of {consent.at[:10]}, as {who}?")):
        sys.stdout.write("The approval stands.\n")
        raise typer.Exit(1)
    record = Withdrawal.sign(consent, key=read_identity(folder / "key.pem"), by=who).write(folder / "approvals")
    sys.stdout.write(
        f"Withdrawn: the client refuses {consent.study.name} from the next message on. What was released stays"
        f" released, and in the ledger. The signed record is {record}\n"
    )


def _list(folder: Path) -> None:
    """Show what the coordinator offers and what is approved."""
    from cli.officer.offers import offered_studies
    from client.rules import Enrolment
    from protocol.fingerprint import code_fingerprint

    enrolment = Enrolment.from_folder(folder)
    if enrolment is None:
        raise InputError(f"{folder.absolute()} is not enrolled.", remedy="Give the file of a study.")
    consents, trouble = _consents(folder, enrolment)
    offered = offered_studies(folder, enrolment)
    if trouble is not None:
        sys.stderr.write(f"cloister: {trouble}\n")
    for signed in offered:
        consent = consents.get(signed.study.hash)
        state = "not approved"
        if consent is not None:
            state = "approved" if consent.code == code_fingerprint() else "approved with other code"
        sys.stdout.write(
            f"{signed.study.hash[:12]}  {state:25}{signed.study.name}: {printable(signed.study.purpose)}\n"
        )
    names = Counter(signed.study.name for signed in offered)
    waiting = [
        signed.study.name if names[signed.study.name] == 1 else signed.study.hash[:12]
        for signed in offered
        if signed.study.hash not in consents
    ]
    if not offered:
        sys.stdout.write(f"{enrolment.federation} has no study for this site now.\n")
    elif waiting:
        sys.stdout.write(f"\nNext: cloister site approve {waiting[0]}\n")


def _consents(folder: Path, enrolment: "Enrolment | None") -> "tuple[dict[str, Consent], ApprovalError | None]":
    """Return the site's consents that count; none, and why, where one of them is broken."""
    from client.approvals import Approvals
    from protocol.keys import read_identity

    key = read_identity(folder / "key.pem").public_key()
    coordinator = None if enrolment is None else enrolment.coordinator
    try:
        return dict(Approvals.from_folder(folder / "approvals", key=key, coordinator=coordinator).consents), None
    except ApprovalError as error:
        return {}, error


def _check_name(name: str, enrolment: "Enrolment | None") -> None:
    if enrolment is not None and enrolment.site != name:
        raise InputError(
            f"The name in site.toml is {name!r}, the enrolled one {enrolment.site!r}.",
            remedy="Write the enrolled name into site.toml.",
        )


def _show(found: "Review", trouble: ApprovalError | None) -> None:
    """Print a study on about one screen, heading by heading."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table.grid(padding=(0, 2))
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for heading, sentences in found.sections:
        style = "bold red" if heading == "Policy" and found.faults else ""
        table.add_row(heading, Text("\n".join(map(printable, sentences)), style=style))
    Console(highlight=False, soft_wrap=False).print(table)
    if trouble is not None:
        sys.stderr.write(f"cloister: {trouble}\n")
