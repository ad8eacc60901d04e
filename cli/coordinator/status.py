"""``cloister coordinator status``: who takes part, who is connected, and how far the studies are."""

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from cli.coordinator.place import HERE, FolderOption, JsonOption, open_folder
from cli.result import print_json
from protocol.errors import CloisterError

if TYPE_CHECKING:
    from rich.console import Console

    from server.deployment.jobs import Job
    from server.deployment.roster import Member

# A site asks for work at least every 20 seconds, and the roster notes it at most every 30.
_CONNECTED = timedelta(seconds=75)
_SOON = timedelta(days=30)


def status(*, folder: FolderOption = HERE, json_output: JsonOption = False) -> None:
    """Show sites, open invitations and studies; works whether or not the coordinator is running."""
    from server.deployment.jobs import all_jobs
    from server.deployment.processes.record import SupervisorRecord, is_supervised

    opened = open_folder(folder)
    running = is_supervised(opened.root)
    record = SupervisorRecord.read(opened.root) if running else None
    now = datetime.now(UTC)
    with opened.roster() as roster:
        present = {member.name for member in roster.members()}
        # One that came back under its name is told once.
        members = [member for member in roster.members(include_revoked=True)
                   if member.revoked is None or member.name not in present]  # fmt: skip
        invitations = roster.open_invitations()
    facts = {
        "federation": opened.name,
        "host": opened.host,
        "port": opened.port,
        "enrolment_port": opened.enrolment_port,
        "running": running,
        "ready_since": record.ready if record and record.ready else None,
        "problems": list(record.problems) if record else [],
        "members": [_member(member, now=now, running=running) for member in members],
        "invitations": [{"site": found.name, "expires": _words(found.expires)} for found in invitations],
        "studies": [_study(job) for job in all_jobs(opened.studies)],
    }
    if json_output:
        print_json(facts)
        return
    _print(facts)


def _member(member: "Member", *, now: datetime, running: bool) -> dict[str, Any]:
    lately = member.seen is not None and now - member.seen < _CONNECTED
    return {
        "site": member.name,
        "connected": running and lately and member.revoked is None,
        "seen": _words(member.seen),
        "certificate_until": _words(member.not_after),
        "certificate_left_days": round((member.not_after - now) / timedelta(days=1), 1),
        "revoked": _words(member.revoked),
    }


def _study(job: "Job") -> dict[str, Any]:
    try:
        name, progress = job.signed_study().study.name, job.progress()
    except CloisterError as error:
        return {"study": None, "job": job.name, "state": "damaged", "round": 0, "rounds": 0, "sites": {},
                "message": str(error), "updated": None, "release": None}  # fmt: skip
    return {
        "study": name,
        "job": job.name,
        "state": progress.state,
        "round": progress.round,
        "rounds": progress.rounds,
        "sites": dict(progress.sites),
        "message": progress.message,
        "updated": progress.updated or None,
        "release": str(job.release) if job.finished else None,
    }


def _words(moment: datetime | None) -> str | None:
    return None if moment is None else moment.isoformat(timespec="seconds")


def _print(facts: dict[str, Any]) -> None:
    from rich.console import Console

    console = Console(highlight=False, soft_wrap=True)
    where = f"{facts['host']}, gate {facts['port']}, enrolment {facts['enrolment_port']}"
    console.print(f"{facts['federation']} at {where}", markup=False)
    if not facts["running"]:
        console.print("Not running: start it with `cloister coordinator start`.", markup=False)
    elif not facts["ready_since"]:
        console.print("Starting.", markup=False)
    else:
        console.print(f"Running, ready since {facts['ready_since']}.", markup=False)
    for problem in facts["problems"]:
        console.print(f"To mend: {problem}.", markup=False)
    _print_members(console, facts)
    _print_studies(console, facts)


def _print_members(console: "Console", facts: dict[str, Any]) -> None:
    console.print("\nSites" if facts["members"] else "\nNo site is enrolled.", markup=False)
    for member in facts["members"]:
        if member["revoked"]:
            state = f"revoked {member['revoked']}"
        elif member["connected"]:
            state = "connected"
        else:
            seen = f"last connected {member['seen']}" if member["seen"] else "its client was never started"
            state = f"not connected, {seen}"
        left = member["certificate_left_days"]
        warning = "" if member["revoked"] or left > _SOON.days else ": invite it again" if left <= 0 else ": soon"
        console.print(
            f"  {member['site']:20} {state}; certificate until {member['certificate_until'][:10]}{warning}",
            markup=False,
        )
    for invitation in facts["invitations"]:
        console.print(f"  {invitation['site']:20} invited, until {invitation['expires']}", markup=False)


def _print_studies(console: "Console", facts: dict[str, Any]) -> None:
    console.print("\nStudies" if facts["studies"] else "\nNo study.", markup=False)
    for study in facts["studies"]:
        how = f"{study['state']}, round {study['round']} of {study['rounds']}"
        console.print(f"  {study['study'] or '?':20} {study['job']}  {how}", markup=False)
        for site, word in study["sites"].items():
            console.print(f"    {site}: {word}", markup=False)
        if study["message"]:
            console.print(f"    {study['message']}", markup=False)
        if study["release"]:
            console.print(f"    release: {study['release']}", markup=False)
