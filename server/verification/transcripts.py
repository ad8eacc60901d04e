"""What the sites of a secure sum were told and did, against a release and against their ledgers."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

from privacy.ledger import LedgerExtract, Seal
from privacy.plan import PrivacyPlan
from privacy.secure_sum import Transcript, compare_transcripts
from privacy.secure_sum.transcript import TranscriptEvent
from protocol.errors import InputError, ReleaseError
from protocol.terms import Trust
from server.release import Release
from server.verification.ledgers import charged_rounds
from server.verification.provenance import Provenance
from strategies.study_model import build_study_model
from strategies.sum_wire import sum_policy

_TOLD = (TranscriptEvent.AGREED, TranscriptEvent.STARTED, TranscriptEvent.LISTED)
_ASK = "Ask the site for the transcript as it is after the run."
_NOT_USED = "Do not use the release, and tell the sites."


def check_transcripts(
    transcripts: Sequence[Transcript],
    *,
    extracts: Mapping[str, LedgerExtract],
    release: Release,
    provenance: Provenance,
    plan: PrivacyPlan,
) -> Iterator[str]:
    """Compare transcripts with one another, with the release, and with the sites' ledgers.

    Args:
        transcripts: Of different sites; at least one.
        extracts: Of ledgers, by site; only those that hold.
        release: The release.
        provenance: What it says of its run.
        plan: What the study's terms come to.

    Yields:
        One sentence for each thing that holds.

    Raises:
        InputError: If the study has no secure sum.
        WireError: If a transcript is not signed by its site, is of another run, or a site has two.
        ReleaseError: If the sites were told different things, or a transcript lacks rounds.
    """
    if release.study.privacy.trust is not Trust.SUM:
        raise InputError("The study has no secure sum, and so no transcripts.", remedy="Leave them out.")
    policy = sum_policy(plan, build_study_model(release.study), run=provenance.run)
    differences = compare_transcripts(transcripts, policy=policy)
    if differences:
        raise ReleaseError(f"The coordinator told sites different things: {' '.join(differences)}", remedy=_NOT_USED)
    sites = ", ".join(sorted(transcript.site for transcript in transcripts))
    compared = _shared_rounds(transcripts)
    if len(transcripts) == 1:
        yield f"The transcript of {sites} is signed with its key: nobody's is there to compare what it was told."
    elif not compared:
        yield f"The transcripts of {sites} are signed with their keys; no two share a round, and nothing was compared."
    else:
        when = "every round" if len(compared) == provenance.rounds else f"{len(compared)} of {provenance.rounds} rounds"
        yield (
            f"The coordinator told {sites} the same in {when}, wherever two of them took part; each signed what it was"
            " told."
        )
    for transcript in transcripts:
        yield _complete(transcript, provenance)
        if transcript.site in extracts:
            yield _agrees(transcript, extracts[transcript.site], run=provenance.run)


def _shared_rounds(transcripts: Sequence[Transcript]) -> set[int]:
    """Rounds in which at least two sites were told the same kind of thing, so that it was compared."""
    told: Counter[tuple[int, TranscriptEvent]] = Counter()
    for transcript in transcripts:
        told.update({(entry.round, entry.event) for entry in transcript.entries if entry.event in _TOLD})
    return {number for (number, _), sites in told.items() if sites > 1 and number > 0}


def _masked(transcript: Transcript) -> set[int]:
    return {entry.round for entry in transcript.entries if entry.event is TranscriptEvent.MASKED}


def _complete(transcript: Transcript, provenance: Provenance) -> str:
    """A transcript that ends early says nothing of the rounds behind its end."""
    site, masked = transcript.site, _masked(transcript)
    found = provenance.sites.get(site)
    contributions = 0 if found is None else found.contributions
    if len(masked) < contributions or not masked <= set(range(1, provenance.rounds + 1)):
        raise ReleaseError(
            f"The transcript of {site} shows {len(masked)} rounds in which it took part; {contributions} of its"
            f" contributions are in the release, which has {provenance.rounds} rounds.",
            remedy=_ASK,
        )
    told = {entry.round for entry in transcript.entries if entry.event is TranscriptEvent.STARTED}
    if not masked <= told:
        raise ReleaseError(
            f"The transcript of {site} does not hold what it was told before it masked in round {min(masked - told)}.",
            remedy=_ASK,
        )
    return f"{site}: its transcript shows it masked in {len(masked)} of {provenance.rounds} rounds."


def _agrees(transcript: Transcript, extract: LedgerExtract, *, run: str) -> str:
    """What was masked must have been charged, and what left must have been masked."""
    site, masked, entries = transcript.site, _masked(transcript), extract.of_run(run)
    charged = charged_rounds(entries)
    sealed = {entry.record.charge for entry in entries if isinstance(entry.record, Seal)}
    left = {number for number, entry in charged.items() if entry.hash in sealed}
    if not left <= masked or not masked <= charged.keys():
        odd = min((left - masked) | (masked - charged.keys()))
        raise ReleaseError(f"Ledger and transcript of {site} disagree about round {odd}.", remedy=_NOT_USED)
    return f"{site}: its transcript and its ledger name the same rounds."
