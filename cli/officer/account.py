"""The account of a site: what its ledger holds, by study and run, in all, and under each ceiling.

Everything is read without the ledger's lock for writing, so that it can be looked at while the client runs.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Self

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from client.approvals import folder_contents
from client.consent import Consent, Withdrawal
from client.policy import Policy
from client.settings import ledger_path, site_settings
from privacy import wording
from privacy.accounting import MOST_EPSILON, CrossCheck, check_tally, tally
from privacy.ceiling import Ceiling
from privacy.events import NoisyRelease
from privacy.ledger import Charge, Entry, Opening, Seal, Settlement, read_entries
from privacy.ledger.chain import Chain
from privacy.statement import Statement
from protocol.errors import ApprovalError, CloisterError, InputError, LedgerError
from protocol.keys import read_identity
from protocol.study import Study
from protocol.terms import ContributionKind, NoiseOrigin, Relation, Trust, Unit

DELTA_WITHOUT_POLICY = 1e-6
_LEAST_DIGITS = 6


@dataclass(frozen=True, kw_only=True)
class RunSpending:
    """What one run of a study was charged.

    Attributes:
        study: The study's hash.
        run: The run's identifier.
        first_round: First round that counts as spent.
        last_round: Last one.
        rounds: How many count.
        since: Time of the first charge, ISO 8601.
        until: Time of the last one.
        events: What counts as spent, equal events grouped.
        sealed: Rounds whose reply was sealed, and so may have left.
        unsealed: Rounds that were paid for and of which nothing has left yet.
    """

    study: str
    run: str
    first_round: int
    last_round: int
    rounds: int
    since: str
    until: str
    events: tuple[NoisyRelease, ...]
    sealed: int
    unsealed: int


@dataclass(frozen=True, kw_only=True)
class Account:
    """A ledger as an officer reads it.

    Attributes:
        site: The site's name.
        key: The site's public key.
        entries: The ledger's verified entries.
        policy: The site's policy; None where there is none that can be read.
        studies: Known studies by hash: those that were ever approved here.
        notes: What stands in the way of a full account, as sentences.
    """

    site: str
    key: Ed25519PublicKey
    entries: tuple[Entry, ...]
    policy: Policy | None
    studies: Mapping[str, Study]
    notes: tuple[str, ...] = ()

    @classmethod
    def open(cls, folder: Path, *, known: Iterable[str] = ()) -> Self:
        """Read a site's ledger, and what is needed to make sense of it.

        Args:
            folder: The site's folder.
            known: Hashes of entries that the ledger must hold.

        Raises:
            InputError: If site.toml or the key cannot be read.
            LedgerError: If the ledger is missing, damaged, of another data set or lacks a known entry.
        """
        settings, key = site_settings(folder), read_identity(folder / "key.pem").public_key()
        entries = read_entries(ledger_path(folder, settings), public_key=key, known=known)
        opening = entries[0].record
        if isinstance(opening, Opening) and opening.data_set != str(settings["data"]["set"]):
            raise LedgerError(
                f"The ledger is of data set {opening.data_set!r}, and site.toml says {settings['data']['set']!r}.",
                remedy="One ledger per data set: mend data.ledger or data.set in site.toml.",
            )
        notes: list[str] = []
        try:
            policy = Policy.from_toml(folder / "policy.toml")
        except (ApprovalError, InputError) as error:
            policy = None
            notes.append(f"There is no ceiling to compare with: {error.problem}")
        return cls(
            site=str(settings["name"]),
            key=key,
            entries=entries,
            policy=policy,
            studies=known_studies(folder / "approvals", key=key),
            notes=tuple(notes),
        )

    @cached_property
    def opening(self) -> Opening:
        """Whose ledger it is."""
        return self._chain.opening

    @cached_property
    def _chain(self) -> Chain:
        chain = Chain()
        for entry in self.entries:
            chain.append(entry)
        return chain

    @property
    def unit(self) -> Unit | None:
        """Whom the ledger's events are about; None while nothing was charged."""
        return self._chain.unit

    @property
    def delta(self) -> float:
        """The policy's delta, at which everything is told."""
        return DELTA_WITHOUT_POLICY if self.policy is None else self.policy.delta

    @property
    def head(self) -> str:
        """Hash of the last entry, which commits to all before."""
        return self._chain.head

    @cached_property
    def runs(self) -> tuple[RunSpending, ...]:
        """What was spent, by study and run, in the order of their first charges."""
        return tuple(_spending(charges, self.entries) for charges in _by_run(self.entries).values())

    def rounds_charged(self, study: str, kind: ContributionKind) -> int:
        """How many rounds of a kind a study was charged for, in all of its runs."""
        return self._chain.rounds(study, kind)

    def name(self, study: str) -> str:
        """Return what a study is called, or the first digits of its hash."""
        found = self.studies.get(study)
        return f"{study[:12]}…" if found is None else found.name

    def charged_study(self, wanted: str) -> str:
        """Find a study that was charged, by its name or the first digits of its hash.

        Raises:
            InputError: If there is none, or more than one.
        """
        charged = dict.fromkeys(run.study for run in self.runs)
        digits = wanted.rstrip("….").lower()
        found = [study for study in charged if len(digits) >= _LEAST_DIGITS and study.startswith(digits)]
        found = found or [study for study in charged if self.name(study) == wanted]
        if len(found) != 1:
            known = ", ".join(f"{self.name(study)} ({study[:12]})" for study in charged) or "none"
            raise InputError(f"{wanted} names {len(found)} studies of the ledger.", remedy=f"Charged were: {known}.")
        return found[0]

    def ceilings(self, relation: Relation = Relation.ADD_REMOVE) -> tuple[Ceiling, ...]:
        """The policy's ceilings; none where there is no policy."""
        return () if self.policy is None else self.policy.ceilings(relation)

    def measures(self) -> tuple[Ceiling, ...]:
        """What totals are told by: the policy's ceilings; without a policy, one that nothing reaches."""
        without = Ceiling(epsilon=MOST_EPSILON, delta=DELTA_WITHOUT_POLICY, relation=Relation.ADD_REMOVE)
        return self.ceilings() or (without,)

    def events(self, days: int | None = None, *, now: datetime | None = None) -> list[NoisyRelease]:
        """What counts as spent, in the last so many days or in all, equal events grouped."""
        if days is None:
            return self._chain.events()
        return self._chain.events_within(days, now=now or datetime.now(UTC))

    def check(self, ceiling: Ceiling, more: Sequence[NoisyRelease] = ()) -> CrossCheck:
        """Compose what counts under a ceiling, and something more, by all accountants.

        Raises:
            AccountingError: If they disagree, or the events do not compose.
        """
        events = [*self.events(ceiling.days), *more]
        return check_tally(tally(events, ceiling.relation), delta=ceiling.delta, relation=ceiling.relation)

    def statement(self) -> Statement | None:
        """Everything that was ever spent, as a statement; None where nothing was.

        It claims what holds for all studies: trust in a sum where one of them had it or is not known here, and
        nothing at all where one of them had deterministic noise.

        Raises:
            AccountingError: If the accountants disagree.
        """
        if self.unit is None:
            return None
        studies = [self.studies.get(run.study) for run in self.runs]
        whole = all(study is not None and study.privacy.trust is Trust.NONE for study in studies)
        fixed = any(study is not None and study.privacy.noise is NoiseOrigin.DETERMINISTIC for study in studies)
        return Statement.from_events(
            self.events(),
            delta=self.delta,
            relation=Relation.ADD_REMOVE,
            unit=self.unit,
            trust=Trust.NONE if whole else Trust.SUM,
            origin=NoiseOrigin.DETERMINISTIC if fixed else NoiseOrigin.SYSTEM,
            simulated=self.opening.simulated,
            ledger_entries=(self.head,),
        )


def known_studies(folder: Path, *, key: Ed25519PublicKey) -> dict[str, Study]:
    """Return every study that a site ever approved, withdrawn or not, by hash; what cannot be read is left out.

    Args:
        folder: The site's approvals.
        key: The site's public key.
    """
    found = {}
    for path, content in folder_contents(folder).items():
        try:
            text = content.decode("utf-8")
            consent = Consent.from_text(text) if path.parent == folder else Withdrawal.from_text(text).consent
            consent.verify(key)
        except (CloisterError, UnicodeDecodeError):
            continue  # it lends nobody a name; `cloister site doctor` says what is wrong with it
        found[consent.study.hash] = consent.study
    return found


def in_brief(events: Sequence[NoisyRelease]) -> str:
    """What was released, as short as a table's cell; several kinds on one line."""
    return "; ".join(wording.brief(event) for event in events) or "nothing: all was given back"


def _by_run(entries: Iterable[Entry]) -> dict[tuple[str, str], list[Entry]]:
    found: dict[tuple[str, str], list[Entry]] = {}
    for entry in entries:
        if isinstance(entry.record, Charge):
            found.setdefault((entry.record.study, entry.record.run), []).append(entry)
    return found


def _spending(charges: Sequence[Entry], entries: Iterable[Entry]) -> RunSpending:
    """Add up the charges of one run."""
    hashes = {entry.hash for entry in charges}
    used = {entry.record.reservation: entry.record.used_rounds for entry in entries
            if isinstance(entry.record, Settlement)}  # fmt: skip
    sealed = {entry.record.charge for entry in entries if isinstance(entry.record, Seal)} & hashes
    records = [(entry.hash, entry.record) for entry in charges if isinstance(entry.record, Charge)]
    counts: Counter[NoisyRelease] = Counter()
    taken: list[int] = []
    for name, charge in records:
        rounds = used.get(name, charge.rounds)
        taken += range(charge.first_round, charge.first_round + rounds)
        counts[replace(charge.event, count=1)] += rounds * charge.event.count
    first = records[0][1]
    return RunSpending(
        study=first.study,
        run=first.run,
        first_round=min(taken, default=first.first_round),
        last_round=max(taken, default=first.first_round),
        rounds=len(taken),
        since=charges[0].time,
        until=charges[-1].time,
        events=tuple(event.times(count) for event, count in counts.items() if count),
        sealed=len(sealed),
        unsealed=sum(charge.to_be_sealed and name not in sealed for name, charge in records),
    )
