"""``cloister site status``: how a site stands, from its own folder alone."""

import math
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from cli.result import print_json
from cli.site.folder import HERE, SiteFolder

EXAMPLES = "\b\nExamples:\n  cloister site status\n  cloister site status --json"


def status(
    *,
    site: SiteFolder = HERE,
    json_output: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Show enrolment, approved studies, what is left of the budget, what left last, and whether the client runs.

    Asks nobody: whether the coordinator is reached is for cloister site doctor.
    """
    facts = site_facts(site.absolute())
    if json_output:
        print_json(facts)
        return
    sys.stdout.write(_text(facts))


def site_facts(folder: Path) -> dict[str, Any]:
    """Return what is known of a site.

    Args:
        folder: Its folder.

    Raises:
        InputError: If it was not enrolled, or a file is damaged.
        ApprovalError: If the policy is missing or an approval was changed.
        LedgerError: If ledger or egress record are damaged.
    """
    from client.credentials import COORDINATOR_FILE, Enrolled
    from client.service import is_running
    from client.settings import site_settings
    from protocol.tls import read_certificate

    enrolled = Enrolled.read(folder)
    since = datetime.fromtimestamp((folder / COORDINATOR_FILE).stat().st_mtime, tz=UTC)
    settings = site_settings(folder) if (folder / "site.toml").exists() else None
    return {
        "site": enrolled.site,
        "federation": enrolled.federation,
        "coordinator": enrolled.address,
        "running": is_running(folder),
        "enrolled": since.isoformat(timespec="seconds"),
        "certificate_until": read_certificate(folder / "tls.pem").not_valid_after_utc.isoformat(timespec="seconds"),
        "data_set": None if settings is None else str(settings["data"]["set"]),
        "studies": _studies(folder),
        "budget": _budget(folder),
        "last_departure": _last_departure(folder),
    }


def _studies(folder: Path) -> list[dict[str, Any]]:
    from client.approvals import Approvals
    from protocol.fingerprint import code_fingerprint
    from protocol.keys import read_identity

    approvals = Approvals.from_folder(folder / "approvals", key=read_identity(folder / "key.pem").public_key())
    return [
        {
            "study": consent.study.name,
            "hash": consent.study.hash,
            "approved_by": consent.by,
            "approved_at": consent.at,
            "same_code": consent.code == code_fingerprint(),
        }
        for consent in approvals.consents.values()
    ]


def _budget(folder: Path) -> list[dict[str, Any]]:
    """Return what is spent under each ceiling of the policy; nothing where there is no policy or no data set yet."""
    if not (folder / "site.toml").exists():
        return []
    from cli.officer.account import Account

    account = Account.open(folder)
    return [
        {
            "epsilon": 0.0 if account.unit is None else account.check(ceiling).pld,
            "ceiling": ceiling.epsilon,
            "delta": ceiling.delta,
            "days": ceiling.days,
        }
        for ceiling in account.ceilings()
    ]


def _last_departure(folder: Path) -> dict[str, Any] | None:
    """Return the last message that left, as the egress record has it."""
    from client.egress import read

    lines = read(folder / "egress.jsonl")
    if not lines:
        return None
    last = lines[-1].departure
    return {
        "time": lines[-1].time,
        "kind": last.kind.value,
        "study": last.study,
        "round": last.round,
        "bytes": last.bytes,
        "messages": len(lines),
    }


def _text(facts: dict[str, Any]) -> str:
    budget, last = facts["budget"], facts["last_departure"]
    rows = [
        ("site", f"{facts['site']} of {facts['federation']}, coordinator {facts['coordinator']}"),
        ("client", "running" if facts["running"] else "not running: cloister site start"),
        ("enrolled", f"{facts['enrolled'][:10]}; certificate until {facts['certificate_until'][:10]}"),
        ("data set", facts["data_set"] or "none: cloister site enroll CODE --data LOCATION"),
        ("budget", budget_words(budget)),
        ("left last", "nothing" if last is None else f"{last['time']}: {last['kind']}, {last['bytes']:,} bytes"),
    ]
    lines = [f"{name:12}{value}" for name, value in rows]
    for study in facts["studies"]:
        code = "" if study["same_code"] else "; NOT for the installed code: approve it again"
        lines.append(f"{'approved':12}{study['study']} {study['hash'][:16]}, by {study['approved_by']} on "
                     f"{study['approved_at'][:10]}{code}")  # fmt: skip
    if not facts["studies"]:
        lines.append(f"{'approved':12}no study: cloister site approve STUDY")
    return "\n".join(lines) + "\n"


def budget_words(budget: list[dict[str, Any]]) -> str:
    """Say what is spent and what is left.

    Args:
        budget: As in :func:`site_facts`.
    """
    if not budget:
        return "no policy or no data set yet: nothing is released"
    return "; ".join(_ceiling_words(ceiling) for ceiling in budget)


def _ceiling_words(ceiling: dict[str, Any]) -> str:
    left = rounded_down(ceiling["ceiling"] - ceiling["epsilon"])
    held = "ever" if ceiling["days"] is None else f"in {ceiling['days']} days"
    spent = rounded_up(ceiling["epsilon"])
    return f"epsilon {spent} of {ceiling['ceiling']:g} {held} at delta {ceiling['delta']:g} is spent, {left} is left"


def rounded_up(value: float) -> str:
    """Write what was spent with three decimals, never less than it is."""
    return f"{math.ceil(value * 1000 - 1e-9) / 1000:.3f}"


def rounded_down(value: float) -> str:
    """Write what is left with three decimals, never more than it is."""
    return f"{max(0, math.floor(value * 1000 + 1e-9)) / 1000:.3f}"
