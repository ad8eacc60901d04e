"""The studies that a site can be asked to approve: files, and what the coordinator offers through its gate."""

import json
from pathlib import Path

import httpx

from client.node.connection import Connection
from client.rules import Enrolment
from protocol.errors import ApprovalError, FederationError, InputError, StudyError, WireError
from protocol.signed_study import SignedStudy
from protocol.study import Study

STUDIES_PATH = "/v1/cloister/studies"
_MOST_BYTES = 32_000_000
_TIMEOUT_SECONDS = 30.0
_LEAST_DIGITS = 6
_DOCTOR = "Run `cloister site doctor`: it says what is wrong on the way."


def offered_studies(folder: Path, enrolment: Enrolment) -> tuple[SignedStudy, ...]:
    """Ask the coordinator which studies wait for this site; each is checked against its signature.

    Args:
        folder: The site's folder.
        enrolment: Whom it is enrolled with.

    Raises:
        InputError: If the site's certificate or keys cannot be used.
        FederationError: If the coordinator cannot be reached, or answers with an error.
        WireError: If what it answers is no list of studies.
        ApprovalError: If it did not sign one of them.
    """
    connection = Connection.open(folder)
    try:
        with (
            httpx.Client(verify=connection.context, timeout=_TIMEOUT_SECONDS) as client,
            client.stream("GET", connection.base_url + STUDIES_PATH) as response,
        ):
            if response.status_code != httpx.codes.OK:
                raise FederationError(
                    f"{connection.address} answered with status {response.status_code}.", remedy=_DOCTOR
                )
            body = b""
            for part in response.iter_bytes():
                body += part
                if len(body) > _MOST_BYTES:
                    raise WireError("The coordinator's studies are too large.", remedy="Ask for them as files.")
    except httpx.HTTPError as error:
        raise FederationError(
            f"{connection.address} was not reached: {error or type(error).__name__}.", remedy=_DOCTOR
        ) from error
    return read_offers(body, enrolment)


def read_offers(body: bytes, enrolment: Enrolment) -> tuple[SignedStudy, ...]:
    """Read the coordinator's answer: a JSON list of signed studies as texts.

    Raises:
        WireError: If it is none.
        ApprovalError: If the coordinator did not sign one of them.
    """
    try:
        texts = json.loads(body)
        if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
            raise WireError("The coordinator's answer is no list of studies.", remedy=_DOCTOR)
        studies = tuple(SignedStudy.from_text(text) for text in texts)
    except (ValueError, RecursionError, StudyError) as error:
        raise WireError(f"The coordinator's answer is no list of studies: {error}.", remedy=_DOCTOR) from error
    for signed in studies:
        signed.verify(enrolment.coordinator)
    return studies


def find_study(wanted: str, folder: Path, enrolment: Enrolment | None) -> Study | SignedStudy:
    """Find the study that somebody names: a file, or name or hash of one that the coordinator offers.

    Args:
        wanted: Path of a file, a study's name, or at least six digits of its hash.
        folder: The site's folder.
        enrolment: Whom the site is enrolled with; None for a site that only simulations reach.

    Returns:
        A study that the site's coordinator signed; only where there is no coordinator, one that nobody did.

    Raises:
        InputError: If there is no such study.
        StudyError: If the file holds none.
        ApprovalError: If the coordinator that the site is enrolled with did not sign it.
    """
    path = Path(wanted)
    if path.is_file():
        return _from_file(path, enrolment)
    if enrolment is None:
        raise InputError(f"{wanted}: no such file.", remedy="Give a study's file: this site is not enrolled.")
    offered = offered_studies(folder, enrolment)
    digits = wanted.rstrip("….").lower()
    by_hash = [signed for signed in offered if len(digits) >= _LEAST_DIGITS and signed.study.hash.startswith(digits)]
    found = by_hash or [signed for signed in offered if signed.study.name == wanted]
    if len(found) == 1:
        return found[0]
    if found:
        hashes = ", ".join(signed.study.hash[:12] for signed in found)
        raise InputError(f"{len(found)} studies are called {wanted}.", remedy=f"Give the hash of one: {hashes}.")
    names = ", ".join(f"{signed.study.name} ({signed.study.hash[:12]})" for signed in offered) or "none"
    raise InputError(f"{wanted}: no such file, and no study that the coordinator offers.", remedy=f"Offered: {names}.")


def _from_file(path: Path, enrolment: Enrolment | None) -> Study | SignedStudy:
    if path.suffix == ".toml":
        plain = Study.from_toml(path)
        if enrolment is not None:
            raise _unsigned(path, enrolment)
        return plain
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise StudyError(
            f"{path} cannot be read: {error}.", remedy="Give the file that the coordinator sent."
        ) from error
    try:
        signed = SignedStudy.from_text(text)
    except StudyError:
        if enrolment is not None:
            if _is_plain(text):
                raise _unsigned(path, enrolment) from None
            raise
        return Study.from_text(text)
    signed.verify(signed.coordinator if enrolment is None else enrolment.coordinator)
    return signed


def _is_plain(text: str) -> bool:
    try:
        Study.from_text(text)
    except StudyError:
        return False
    return True


def _unsigned(path: Path, enrolment: Enrolment) -> ApprovalError:
    return ApprovalError(
        f"{path} is not signed, and this site answers to coordinator {enrolment.coordinator[:12]}… of"
        f" {enrolment.federation!r} alone.",
        remedy="Ask the coordinator for the signed study (cloister study sign), or approve what it offers.",
    )
