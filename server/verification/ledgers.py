"""A site's ledger against a release: was every round paid for, once, as the study says, and does the total agree?

Nothing here believes the coordinator: rounds, noise and rates are the site's own signed words, and what they come to
is counted and accounted for again. What the site did not do and wrote down all the same cannot be seen.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from privacy import wording
from privacy.accounting import ACCOUNTANT, CrossCheck, accountant_version, cross_check
from privacy.events import NoisyRelease
from privacy.ledger import Charge, Entry, LedgerExtract, Seal, recount
from privacy.ledger.window import moment
from privacy.plan import PrivacyPlan
from privacy.stage import Stage
from privacy.statement import Statement
from protocol.errors import ReleaseError
from server.release import Release
from server.verification.provenance import Participant, Provenance
from server.verification.surroundings import other_runs, paid_rounds, remarks

_SAME_NOISE = 1e-9  # two machines may calibrate to the same noise but for its last digits
_ROUNDING = 1e-6
_NOT_USED = "Do not use the release before the site and the coordinator have explained it."
_ASK_SITE = "Ask the site for the extract of this study's ledger."


def same_event(found: NoisyRelease, expected: NoisyRelease) -> bool:
    """Whether two events are alike but for the last digits of their noise."""
    alike = replace(found, noise_multiplier=expected.noise_multiplier) == expected
    return alike and math.isclose(found.noise_multiplier, expected.noise_multiplier, rel_tol=_SAME_NOISE)


@dataclass(frozen=True, kw_only=True)
class LedgerCheck:
    """One site's extract, held against a release.

    Attributes:
        extract: What the site's ledger says of the study; read, so that its signatures hold under the key it names.
        release: The release.
        provenance: What the release says of its run.
        plan: What the study's terms come to.
    """

    extract: LedgerExtract
    release: Release
    provenance: Provenance
    plan: PrivacyPlan

    def sentences(self) -> Iterator[str]:
        """Check one thing after the other, each with a sentence once it holds.

        Raises:
            ReleaseError: If something does not agree, naming it.
            AccountingError: If the ledger's charges cannot be accounted for.
        """
        yield self._owner()
        self._check_age()
        yield self._rounds()
        self._check_other_runs()
        yield self._events()
        yield self._seals()
        yield self._total()

    def remarks(self) -> Iterator[str]:
        """What the extract shows beyond the release's run; only of one in which everything holds."""
        yield from remarks(self.extract, self.provenance, left=len(self._sealed))

    @property
    def _site(self) -> str:
        return self.extract.site

    @property
    def _participant(self) -> Participant:
        found = self.provenance.sites.get(self._site)
        roster = self.release.study.federation.roster or {}
        if found is None and self._site not in roster:
            raise ReleaseError(f"{self._site} is no site of the release.", remedy="Leave its extract out.")
        return found or Participant(public_key=roster[self._site], contributions=0, last_entry=None)

    @cached_property
    def _entries(self) -> tuple[Entry, ...]:
        return self.extract.of_run(self.provenance.run)

    @cached_property
    def _charged(self) -> dict[int, Entry]:
        """The entry that pays for each round; the extract has none that is charged twice."""
        return charged_rounds(self._entries)

    @cached_property
    def _sealed(self) -> dict[int, Entry]:
        """Rounds of which something may have left: sealed ones, and those that are released without a seal."""
        seals = {entry.record.charge for entry in self._entries if isinstance(entry.record, Seal)}
        return {
            number: entry for number, entry in self._charged.items() if entry.hash in seals or not _to_be_sealed(entry)
        }

    def _owner(self) -> str:
        if self.provenance.simulated:
            raise ReleaseError(
                "The release is a simulation's: its ledgers ended with it.", remedy="Leave extracts out."
            )
        roster, participant = self.release.study.federation.roster, self._participant
        wanted = participant.public_key if roster is None else roster.get(self._site)
        if self.extract.study != self.release.study.hash:
            raise ReleaseError(f"The extract of {self._site} is about another study.", remedy=_ASK_SITE)
        if self.extract.public_key != wanted:
            raise ReleaseError(
                f"The extract of {self._site} is signed with {self.extract.public_key[:16]}, and the release's site has"
                f" the key {str(wanted)[:16]}.",
                remedy=_NOT_USED,
            )
        if self.extract.opening.simulated:
            raise ReleaseError(f"The ledger of {self._site} is a simulation's.", remedy=_NOT_USED)
        whose = "the release" if roster is None else "the study's roster"
        return (
            f"{self._site}: {len(self.extract.entries)} entries of its ledger, each with its hash and its signature,"
            f" and the whole signed with the key that {whose} has for it, {self.extract.public_key[:16]}."
        )

    def _check_age(self) -> None:
        """Refuse an extract that cannot tell of the whole run, as it was made before the run's end."""
        last = self._participant.last_entry
        if last is None:
            return
        named = next((entry for entry in self.extract.entries if entry.hash == last), None)
        made = moment(self.extract.time)
        if named is None:
            raise ReleaseError(
                f"The release names entry {last[:12]} of {self._site}'s ledger, which the extract of"
                f" {made.isoformat()} does not hold: it is older than the release, or of another copy of the ledger.",
                remedy=_ASK_SITE,
            )
        if made < moment(named.time):
            raise ReleaseError(
                f"The extract of {self._site} says that it was made at {made.isoformat()}, before the entry that the"
                f" release names, of {moment(named.time).isoformat()}: it is older than the release, or a clock was"
                " wrong.",
                remedy=_ASK_SITE,
            )

    def _check_other_runs(self) -> None:
        """Refuse more rounds of the study, over all its runs, than the statement counts.

        An approval covers the study's rounds once, and a site that holds to it charges no more: a run that is taken up
        again keeps its name, and a new run of the study gets what the one before has left.
        """
        for stage in self.plan.stages:
            others = other_runs(self.extract, self.provenance.run, kind=stage.kind)
            here = sum(stage.first <= number <= stage.last for number in self._charged)
            charged = here + others.total()
            if others and charged > stage.rounds:
                named = ", ".join(f"{rounds} in run {run[:12]}" for run, rounds in sorted(others.items()))
                raise ReleaseError(
                    f"{self._site} was charged for {charged} rounds of this study{self._of(stage)}, and the statement"
                    f" counts {stage.rounds}: {here} in the release's run, {named}. More was spent on the study than"
                    " the statement says.",
                    remedy=_NOT_USED,
                )

    def _of(self, stage: Stage) -> str:
        """Name a stage where there are two."""
        return f"'s {stage.kind.value}" if len(self.plan.stages) > 1 else ""

    def _rounds(self) -> str:
        contributions, rounds = self._participant.contributions, self.provenance.rounds
        odd = sorted(set(self._charged) - set(range(1, rounds + 1)))
        if odd:
            raise ReleaseError(
                f"{self._site} was charged for round {odd[0]}, and the release has {rounds}.", remedy=_NOT_USED
            )
        if len(self._sealed) < contributions:
            raise ReleaseError(
                f"{self._site}: {contributions} of its contributions are in the release, and its ledger shows"
                f" {len(self._sealed)} rounds that were charged and left.",
                remedy=_NOT_USED,
            )
        return (
            f"{self._site}: its ledger shows {len(self._charged)} of the {rounds} rounds, each charged once, and"
            f" {contributions} of its contributions are in the release."
        )

    def _events(self) -> str:
        for number, entry in sorted(self._charged.items()):
            expected = self.plan.stage(number).event
            event = entry.record.event if isinstance(entry.record, Charge) else None
            if event is None or expected is None or not same_event(event, expected):
                shown = "nothing" if event is None else wording.brief(event)
                wanted = "nothing" if expected is None else wording.brief(expected)
                raise ReleaseError(
                    f"{self._site} was charged for {shown} in round {number}; the study says {wanted}.",
                    remedy=_NOT_USED,
                )
        events = [stage.event for stage in self.plan.stages if stage.event is not None]
        told = " or ".join(map(wording.brief, events)) or "nothing, as the study adds no noise"
        return f"{self._site}: each of these rounds is charged as the study's terms come to: {told}."

    def _seals(self) -> str:
        last, contributions = self._participant.last_entry, self._participant.contributions
        if last is None:
            if contributions and self.plan.round_event is not None:
                raise ReleaseError(f"The release names no ledger entry of {self._site}.", remedy=_NOT_USED)
            return f"{self._site}: the release names no entry of its ledger, and counts on none."
        until = [number for number, entry in self._sealed.items() if entry.hash == last]
        if not until:
            raise ReleaseError(
                f"The release names entry {last[:12]} of {self._site}'s ledger, which is no charge of the run"
                " that left.",
                remedy=_NOT_USED,
            )
        before = sum(number <= max(until) for number in self._sealed)
        if before < contributions:
            raise ReleaseError(
                f"{self._site}: up to the entry that the release names, {before} rounds left, and"
                f" {contributions} are in the release.",
                remedy=_NOT_USED,
            )
        waiting = len(self._charged) - len(self._sealed)
        held = f" {waiting} charged rounds are not sealed: nothing of them left." if waiting else ""
        return (
            f"{self._site}: the entry that the release names, {last[:12]}, is among them; every round that left has one"
            f" seal of its own.{held}"
        )

    def _total(self) -> str:
        counts = recount(self.extract.entries)
        if not counts:
            return f"{self._site}: nothing was charged to its ledger."
        events, statement = [event.times(count) for event, count in counts.items()], self.release.statement
        found = _within(events, statement, site=self._site)
        named = f"{ACCOUNTANT} {accountant_version()}"
        return (
            f"{self._site}: counted again from its entries, {counts.total()} compositions cost {wording.pair(found)}"
            f" per {statement.unit}, and the statement says {wording.pair(statement.check)}."
            f" {wording.working(found, named)}"
        )


def _within(events: Sequence[NoisyRelease], statement: Statement, *, site: str) -> CrossCheck:
    """Account for a ledger's events by three accountants, which raise where they disagree; refuse more than stated."""
    found = [
        (cross_check(events, delta=claim.delta, relation=claim.relation), claim)
        for claim in (statement.check, statement.replace_one)
    ]
    for cost, claim in found:
        if cost.pld > claim.pld * (1.0 + _ROUNDING):
            raise ReleaseError(
                f"The ledger of {site} shows {wording.pair(cost)} under {claim.relation.value}, and the statement"
                f" claims {wording.pair(claim)}.",
                remedy=_NOT_USED,
            )
    return found[0][0]


def charged_rounds(entries: Sequence[Entry]) -> dict[int, Entry]:
    """Return the entry that pays for each round.

    Args:
        entries: Of one run, of an extract that holds, so that no round is charged twice.
    """
    charges = (entry for entry in entries if isinstance(entry.record, Charge))
    return {number: entry for entry in charges for number in paid_rounds(entry, entries)}


def _to_be_sealed(entry: Entry) -> bool:
    return isinstance(entry.record, Charge) and entry.record.to_be_sealed
