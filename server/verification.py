"""Checking a release offline, without trusting whoever made it."""

import json
from collections.abc import Sequence
from pathlib import Path

from privacy.plan import PrivacyPlan
from privacy.secure_sum import Transcript, compare_transcripts
from protocol.errors import InputError, WireError
from protocol.terms import Trust
from server.release import Release
from strategies.study_model import build_study_model
from strategies.sum_wire import sum_policy

_ASK = "Ask whoever made the release."


def verify_release(release: Release, transcripts: Sequence[Transcript]) -> tuple[str, ...]:
    """Recompute what a release says about itself, and compare what its sites were told.

    The checksums were checked when the release was opened.

    Args:
        release: The release.
        transcripts: Sites' transcripts of its run; only under ``trust = "sum"`` are there any.

    Returns:
        One sentence for each check that passed.

    Raises:
        InputError: If something does not match, naming it.
        AccountingError: If the statement's numbers cannot be recomputed.
        WireError: If a transcript is not signed by its site.
    """
    passed = ["Every file has the checksum that the release gives."]
    release.statement.recompute()
    passed.append("The statement's epsilon was recomputed from its events.")
    _check_statement(release)
    passed.append("The statement is that of the study and of the rounds that were run.")
    if release.coordinator is not None:
        passed.append(
            f"Study and release are signed by the coordinator whose key is {release.coordinator}: compare it with the "
            "one that you know."
        )
    roster = release.study.federation.roster
    if roster is not None:
        _check_keys(release)
        passed.append("The sites that contributed are those of the study's roster, under its keys.")
    if transcripts:
        _check_transcripts(release, transcripts)
        sites = ", ".join(sorted(transcript.site for transcript in transcripts))
        passed.append(f"The coordinator told {sites} the same in every round; each signed what it was told.")
    return tuple(passed)


def read_transcript(path: Path) -> Transcript:
    """Read a site's transcript.

    Raises:
        InputError: If the file is none.
    """
    try:
        mapping = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(mapping, dict):
            raise WireError("it is no object.", remedy=_ASK)
        return Transcript.from_mapping(mapping)
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}.", remedy="Check the path.") from error
    except (ValueError, WireError) as error:
        raise InputError(f"{path} is no transcript: {error}", remedy="Ask the site for it again.") from error


def _check_statement(release: Release) -> None:
    """Compare the statement with the one that study and number of rounds make."""
    expected = PrivacyPlan.from_study(release.study).statement(
        rounds=int(release.provenance["rounds"]),
        simulated=bool(release.provenance["simulated"]),
        ledger_entries=release.statement.ledger_entries,
    )
    if expected != release.statement:
        raise InputError("The statement is not that of the study and its rounds.", remedy=_ASK)
    if release.provenance["study"] != release.study.hash:
        raise InputError("The provenance names another study.", remedy=_ASK)


def _check_keys(release: Release) -> None:
    roster = release.study.federation.roster or {}
    for site, facts in release.provenance["sites"].items():
        if roster.get(site) != facts["public_key"]:
            raise InputError(f"Site {site} took part under another key than the study's.", remedy=_ASK)


def _check_transcripts(release: Release, transcripts: Sequence[Transcript]) -> None:
    if release.study.privacy.trust is not Trust.SUM:
        raise InputError("The study has no secure sum, and so no transcripts.", remedy="Leave them out.")
    shared = build_study_model(release.study).shared
    dimension = sum(p.numel() for p in shared.parameters() if p.requires_grad)
    policy = sum_policy(PrivacyPlan.from_study(release.study), run=release.provenance["run"], dimension=dimension)
    differences = compare_transcripts(transcripts, policy=policy)
    if differences:
        raise InputError(
            f"The coordinator told sites different things: {' '.join(differences)}",
            remedy="Do not use the release, and tell the sites.",
        )
