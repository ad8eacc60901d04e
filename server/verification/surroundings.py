"""What a site's ledger shows around a release: other studies, other runs of its study, and when all that was told.

A release may depend on all of it: the coordinator chooses the weights that a run starts from and sends, and nothing
keeps it from choosing them by what other studies released. Each of these was charged; what all of them come to is the
total of the site's ledger, and in no statement of one study.
"""

from collections import Counter
from collections.abc import Iterator, Sequence

from privacy.ledger import Charge, Entry, LedgerExtract, Settlement
from privacy.ledger.window import moment
from protocol.terms import ContributionKind
from server.verification.provenance import Provenance


def remarks(extract: LedgerExtract, provenance: Provenance, *, left: int) -> Iterator[str]:
    """Say what an extract shows beyond the release's run, and what it cannot show.

    Args:
        extract: Of a site's ledger; everything in it holds.
        provenance: What the release says of its run.
        left: Rounds of the run of which something may have left the site.
    """
    yield from _other_studies(extract, provenance.run)
    yield from _other_runs(extract, provenance)
    yield from _uncounted(extract, provenance, left=left)
    after = ""
    if extract.head != extract.entries[-1].hash:
        after = " It had gone on with other studies by then; how far, the extract does not tell."
    yield (
        f"The extract of {extract.site}'s ledger was made at {moment(extract.time).isoformat()}: what was charged later"
        f" is not in it.{after}"
    )


def other_runs(extract: LedgerExtract, run: str, *, kind: ContributionKind | None = None) -> Counter[str]:
    """Rounds of the study that were charged in runs other than a release's, by run; of one kind, if one is given."""
    found: Counter[str] = Counter()
    for entry in extract.entries:
        if isinstance(entry.record, Charge) and entry.record.run != run and kind in (None, entry.record.event.kind):
            found[entry.record.run] += len(paid_rounds(entry, extract.entries))
    return +found


def paid_rounds(entry: Entry, entries: Sequence[Entry]) -> range:
    """The rounds that a charge or reservation pays for, less what was given back."""
    charge = entry.record
    if not isinstance(charge, Charge):
        return range(0)
    used = next(
        (one.record.used_rounds for one in entries
         if isinstance(one.record, Settlement) and one.record.reservation == entry.hash),
        charge.rounds,
    )  # fmt: skip
    return range(charge.first_round, charge.first_round + used)


def _other_studies(extract: LedgerExtract, run: str) -> Iterator[str]:
    """What was charged for other studies before the run and in the midst of it."""
    pairs = zip(extract.entries, extract.of_others(), strict=True)
    counts = [count for entry, count in pairs if isinstance(entry.record, Charge) and entry.record.run == run]
    if not counts or not max(counts):
        return
    before, during = counts[0], max(0, counts[-1] - counts[0])
    yield (
        f"{extract.site}'s ledger counts, of other studies, {_sums(before)} before this run's first round and"
        f" {_sums(during)} between that and its last: the generator may depend on them as well, and this statement does"
        " not cover them."
    )


def _sums(count: int) -> str:
    return "1 noisy sum" if count == 1 else f"{count:,} noisy sums"


def _other_runs(extract: LedgerExtract, provenance: Provenance) -> Iterator[str]:
    others = other_runs(extract, provenance.run)
    for run, rounds in sorted(others.items()):
        yield (
            f"{extract.site} was charged for {rounds} rounds of another run of the study, {run[:12]}, which the release"
            " does not name, and the generator may depend on them. The statement covers them: with this run's they are"
            " no more rounds than it counts."
        )


def _uncounted(extract: LedgerExtract, provenance: Provenance, *, left: int) -> Iterator[str]:
    """What left a site and is in no sum, by the coordinator's count: lost on the way, or used and not said to be."""
    found = provenance.sites.get(extract.site)
    contributions = 0 if found is None else found.contributions
    if left <= contributions:
        return
    named = "" if found is not None else " The release does not even name the site among those that took part."
    yield (
        f"{extract.site}: {left} rounds left it, and by the coordinator's count {contributions} of its contributions"
        f" are in the release.{named} What became of the others cannot be seen from here: ask the coordinator. They are"
        " paid for, and the statement covers them."
    )
