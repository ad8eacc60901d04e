"""What a site may ask of the coordinator itself, through the gate: its studies, and a new certificate."""

import asyncio
import json
from collections.abc import Mapping
from http import HTTPStatus
from pathlib import Path

from protocol.errors import ApprovalError, CloisterError, WireError
from server.deployment.authority import Authority
from server.deployment.enrolment import renewal_answer
from server.deployment.folder import CoordinatorFolder
from server.deployment.gate.gate import Route
from server.deployment.jobs import all_jobs
from server.deployment.roster import Member, Roster

STUDIES_PATH = "/v1/cloister/studies"
CERTIFICATE_PATH = "/v1/cloister/certificate"
_JSON = "application/json"
_Reply = tuple[int, bytes, str]


def site_routes(folder: CoordinatorFolder, roster: Roster, authority: Authority) -> Mapping[tuple[str, str], Route]:
    """Return the gate's own calls, by method and path.

    Args:
        folder: The coordinator's.
        roster: Where a new certificate is noted.
        authority: What certifies.
    """

    async def studies(member: Member, body: bytes) -> _Reply:
        del body
        offered = await asyncio.to_thread(offers, folder.studies, member)
        return HTTPStatus.OK, json.dumps(offered).encode(), _JSON

    async def certificate(member: Member, body: bytes) -> _Reply:
        return await asyncio.to_thread(_renew, folder, roster, authority, member, body)

    return {("GET", STUDIES_PATH): studies, ("POST", CERTIFICATE_PATH): certificate}


def offers(studies: Path, member: Member) -> list[str]:
    """Return the signed studies that wait for a site, or run with it.

    Args:
        studies: Folder of the studies.
        member: The site, as the roster knows it.

    Returns:
        Texts of signed studies whose roster holds the site under its own key; each study once, oldest first.
    """
    found: dict[str, str] = {}
    for job in all_jobs(studies):
        if job.finished or job.stopped:
            continue
        try:
            signed = job.signed_study()
        except CloisterError:
            continue  # a damaged job is no reason to hide the others; its own progress says so
        if (signed.study.federation.roster or {}).get(member.name) == member.identity_key:
            found[signed.study.hash] = signed.to_text()
    return list(found.values())


def _renew(folder: CoordinatorFolder, roster: Roster, authority: Authority, member: Member, body: bytes) -> _Reply:
    """Certify the new key that a site asks for."""
    try:
        answer = renewal_answer(
            folder, roster, authority, site=member.name, presented=member.certificate, body=body
        )  # fmt: skip
    except WireError as error:
        said = {"problem": error.problem, "remedy": error.remedy}
        return HTTPStatus.BAD_REQUEST, json.dumps(said).encode(), _JSON
    except ApprovalError:
        # What was shown is a certificate no more; nobody is told anything else than the gate tells strangers.
        return HTTPStatus.FORBIDDEN, b"", _JSON
    return HTTPStatus.OK, answer, _JSON
