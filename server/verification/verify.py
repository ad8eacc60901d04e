"""All checks of a release in one go: what holds, what was not looked at, and what is wrong."""

import math
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace

from privacy.accounting import CrossCheck, agreement_margin
from privacy.ledger import LedgerExtract
from privacy.plan import PrivacyPlan
from privacy.secure_sum import Transcript
from privacy.statement import Statement
from protocol.errors import CloisterError, ReleaseError
from protocol.fingerprint import code_fingerprint
from protocol.terms import Trust
from server.release import Release, statement_text
from server.verification.ledgers import LedgerCheck, same_event
from server.verification.origin import origin
from server.verification.provenance import Provenance
from server.verification.transcripts import check_transcripts

_ASK = "Ask whoever made the release."
_NOT_USED = "Do not use the release before whoever made it has explained it."


@dataclass(frozen=True, kw_only=True)
class ReleaseVerification:
    """What was checked of a release.

    Attributes:
        passed: What holds, one sentence each.
        remarks: What was not, or cannot be, checked.
        faults: What is wrong; a release with any is not to be used.
    """

    passed: tuple[str, ...]
    remarks: tuple[str, ...]
    faults: tuple[str, ...]

    def require(self) -> None:
        """Refuse a release in which anything is wrong.

        Raises:
            ReleaseError: Naming the first fault, and how many there are.
        """
        if self.faults:
            more = f" ({len(self.faults)} faults in all)" if len(self.faults) > 1 else ""
            raise ReleaseError(f"{self.faults[0]}{more}", remedy=_NOT_USED)


@dataclass(kw_only=True)
class _Findings:
    """What was found so far."""

    passed: list[str] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)

    def take(self, check: Callable[[], Iterable[str]]) -> bool:
        """Carry out a check; returns whether all of it held."""
        try:
            self.passed.extend(sentence for sentence in check())
        except CloisterError as error:
            self.faults.append(error.problem)
            return False
        return True


def verify_release(
    release: Release,
    *,
    transcripts: Sequence[Transcript] = (),
    extracts: Sequence[LedgerExtract] = (),
    coordinator: str | None = None,
) -> ReleaseVerification:
    """Recompute what a release says about itself, and hold it against what its sites say.

    The checksums, and the coordinator's signature if there is one, were checked when the release was opened.

    Args:
        release: The release.
        transcripts: Sites' transcripts of its run; only under ``trust = "sum"`` are there any.
        extracts: Extracts of sites' ledgers.
        coordinator: The coordinator's public key as the reader knows it, 64 hexadecimal digits.

    Returns:
        What holds, what was not checked, and what is wrong.
    """
    found = _Findings(passed=["Every file has the checksum that the release gives."])
    try:
        provenance = Provenance.from_mapping(release.provenance)
        plan = PrivacyPlan.from_study(release.study)
    except CloisterError as error:
        return ReleaseVerification(passed=tuple(found.passed), remarks=(), faults=(error.problem,))
    found.take(lambda: _signature(release, coordinator))
    found.take(lambda: _statement(release, provenance, plan))
    found.take(lambda: _words(release))
    found.take(lambda: _rounds(release, provenance, plan))
    found.take(lambda: _keys(release, provenance))
    found.take(lambda: origin(release))
    checked: dict[str, LedgerExtract] = {}
    remarks: list[str] = []
    for extract in extracts:
        check = LedgerCheck(extract=extract, release=release, provenance=provenance, plan=plan)
        if extract.site in checked:
            found.faults.append(f"{extract.site} has more than one extract.")
        elif found.take(check.sentences):
            checked[extract.site] = extract
            remarks += check.remarks()
    if transcripts:
        found.take(
            lambda: check_transcripts(transcripts, extracts=checked, release=release, provenance=provenance, plan=plan)
        )
    told = {transcript.site for transcript in transcripts}
    remarks += _unchecked(release, provenance, plan, coordinator=coordinator, ledgers=checked.keys(), told=told)
    return ReleaseVerification(passed=tuple(found.passed), remarks=tuple(remarks), faults=tuple(found.faults))


def _signature(release: Release, coordinator: str | None) -> Iterator[str]:
    if coordinator is not None and release.coordinator != coordinator.lower():
        signer = "nobody" if release.coordinator is None else release.coordinator[:16]
        raise ReleaseError(
            f"The release is signed by {signer}, not by the coordinator {coordinator[:16]}.", remedy=_NOT_USED
        )
    if release.coordinator is not None:
        known = "" if coordinator is None else ", as it should be"
        yield f"Study and release are signed by the coordinator whose key is {release.coordinator}{known}."


def _statement(release: Release, provenance: Provenance, plan: PrivacyPlan) -> Iterator[str]:
    """Account for the statement's events again, and compare it with what study and rounds make."""
    release.statement.recompute()
    yield "The statement's epsilon was recomputed from its events, by accountants that agree."
    expected = plan.statement(
        rounds=provenance.rounds, simulated=provenance.simulated, ledger_entries=release.statement.ledger_entries
    )
    if not _same_statement(release.statement, expected):
        raise ReleaseError("The statement is not that of the study and its rounds.", remedy=_ASK)
    yield "The statement is that of the study and of the rounds that were run."


def _words(release: Release) -> Iterator[str]:
    """What people read must be what programs read."""
    if release.words != statement_text(release.statement):
        raise ReleaseError("statement.txt does not say what statement.json says.", remedy=_NOT_USED)
    yield "The statement's words, statement.txt, say what its numbers say."


def _rounds(release: Release, provenance: Provenance, plan: PrivacyPlan) -> Iterator[str]:
    """What the release says of its run must be possible under its study."""
    study, sites = release.study, provenance.sites
    if provenance.study != study.hash:
        raise ReleaseError("The provenance names another study.", remedy=_ASK)
    if provenance.rounds != plan.rounds or provenance.unfinished > provenance.rounds:
        raise ReleaseError(
            f"The release has {provenance.rounds} rounds, its study {plan.rounds}: a run ends with all.",
            remedy=_ASK,
        )
    total = sum(site.contributions for site in sites.values())
    if (
        len(sites) > study.federation.sites
        or max(site.contributions for site in sites.values()) > provenance.finished
        or total < study.federation.quorum * provenance.finished
    ):
        raise ReleaseError(
            f"{len(sites)} sites with {total} contributions do not make {provenance.finished} rounds of the study.",
            remedy=_ASK,
        )
    entries = {site.last_entry for site in sites.values()} - {None}
    unpaid = [name for name, site in sites.items() if site.contributions and site.last_entry is None]
    if entries != set(release.statement.ledger_entries) or (unpaid and plan.round_event is not None):
        raise ReleaseError("The statement names other ledger entries than the provenance.", remedy=_ASK)
    lost = f", {provenance.unfinished} of them without a sum" if provenance.unfinished else ""
    yield (
        f"All {provenance.rounds} rounds of the study were run{lost}; by the coordinator's count, each sum has at least"
        f" {study.federation.quorum} of {study.federation.sites} sites."
    )


def _keys(release: Release, provenance: Provenance) -> Iterator[str]:
    roster = release.study.federation.roster
    if roster is None:
        return
    for site, facts in provenance.sites.items():
        if roster.get(site) != facts.public_key:
            raise ReleaseError(f"Site {site} took part under another key than the study's.", remedy=_NOT_USED)
    yield "The sites that contributed are those of the study's roster, under its keys."


def _unchecked(
    release: Release,
    provenance: Provenance,
    plan: PrivacyPlan,
    *,
    coordinator: str | None,
    ledgers: Collection[str],
    told: Collection[str],
) -> Iterator[str]:
    """Say what all of this does not show."""
    if provenance.simulated:
        yield "This is a simulation: its ledgers ended with it, and nothing here is about anybody's records at a site."
    if release.coordinator is None:
        yield "Nobody signed the release: whoever made it could have made all of it up."
    elif coordinator is None:
        yield (
            "Whether that key is the coordinator's was not checked: compare it with the one that you know, or give it"
            " with --coordinator."
        )
    yield _weights(release, provenance)
    if (init := release.study.model.init) is not None:
        yield (
            f"That the release {init.release!r}, which training started from, is of public records rests on the word of"
            " whoever made it."
        )
    if not provenance.simulated:
        yield from _without_ledgers(release, provenance, plan, ledgers=ledgers, told=told)
    if release.study.privacy.trust is Trust.SUM and (missing := sorted(set(provenance.sites) - set(told))):
        yield f"No transcript was given of {', '.join(missing)}: what they were told in secure sums was not compared."
    if provenance.code != code_fingerprint():
        yield (
            f"The coordinator ran other code than this installation: fingerprint {provenance.code[:16]}, here"
            f" {code_fingerprint()[:16]}."
        )


def _weights(release: Release, provenance: Provenance) -> str:
    """The generator is whatever was signed; no check of it against the rounds is possible."""
    by = "the word of whoever made the release" if release.coordinator is None else "the coordinator's signature"
    told = f"Nothing ties the generator's weights to this run but {by}: that they come of its rounds is not checked."
    if provenance.simulated:
        return told
    return (
        f"{told} They may also depend on whatever else the sites ever released, for other studies or runs: what bounds"
        " all of that together is the total of each site's ledger, not this statement."
    )


def _without_ledgers(
    release: Release, provenance: Provenance, plan: PrivacyPlan, *, ledgers: Collection[str], told: Collection[str]
) -> Iterator[str]:
    shown = sorted({*ledgers, *told})
    if shown:
        yield f"Whose keys they are was not checked: ask {', '.join(shown)}, each for the first digits of its own."
    if plan.round_event is None:
        yield "The study adds no noise: nothing is promised, and nothing was charged to any ledger."
        return
    missing = sorted(set(provenance.sites) - set(ledgers))
    if missing:
        yield (
            f"No ledger was checked of {', '.join(missing)}: what they were charged rests on the word of whoever made"
            " the release."
        )
    absent = sorted(set(release.study.federation.roster or {}) - set(provenance.sites) - set(ledgers))
    if absent:
        yield (
            f"The release says that {', '.join(absent)} of the study's roster took no part: only an extract of the"
            " ledger could show it."
        )
    yield (
        "That a site clipped each unit's part and added the noise that it was charged for cannot be seen from here: it"
        f" rests on the code, of fingerprint {provenance.code[:16]}, that the sites approved."
    )


def _same_statement(found: Statement, expected: Statement) -> bool:
    """Equal but for the last digits, which another machine may compute otherwise.

    Under another version of the accountant, numbers may lie apart as far as two accountants may; the statement was
    recomputed before, and so claims no less than its events cost.
    """
    same_version = found.accountant_version == expected.accountant_version
    events = len(found.events) == len(expected.events) and all(map(same_event, found.events, expected.events))
    checks = all(
        _same_check(one, other, exact=same_version)
        for one, other in ((found.check, expected.check), (found.replace_one, expected.replace_one))
    )
    plain = replace(
        found,
        events=expected.events,
        check=expected.check,
        replace_one=expected.replace_one,
        accountant_version=expected.accountant_version,
    )
    return events and checks and plain == expected


def _same_check(found: CrossCheck, expected: CrossCheck, *, exact: bool) -> bool:
    if (found.delta, found.relation) != (expected.delta, expected.relation):
        return False
    margin = 1e-9 if exact else agreement_margin(expected.pld)
    return all(
        math.isclose(getattr(found, name), getattr(expected, name), rel_tol=1e-6, abs_tol=margin)
        for name in ("pld", "fourier", "renyi", "discretisation")
    )
