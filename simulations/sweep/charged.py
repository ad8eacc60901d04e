"""Tuning on private records: repeat and select, every attempt paid for in the site's own ledger before it begins.

**What is released.** For every attempt: the noisy sums of one training on the records that are not held out, and one
noisy sum over those that are: how many of them a classifier, trained on synthetic rows, gets right. What is shown,
written down and selected is computed from these alone.

**Formal guarantee.** All attempts together are as private as the composition of all their events, the events of the
judgements included, charged to every unit in full (sequential composition; the accountant of record composes different
Gaussian events exactly up to its discretisation). Selecting, and whatever else is done with the scores, is
post-processing. Showing only the winner is charged no less than showing every trial: a discount is possible for a
random number of trials (Liu and Talwar 2019; Papernot and Steinke 2022), and not taken here.

Who is held out is decided by an independent secret coin for every unit. So for two data sets of which one has a unit
more, and any fall of the others' coins, that unit either takes part in the training or is judged by, and everything
else is equal: each event's bound on a unit's contribution holds for the whole attempt. A split into shares of fixed
sizes would not do: with one record more, others would change sides.

The judgement and its bound: `simulations.sweep.judgement`.
"""

import math
import secrets
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from client.policy import Policy
from client.settings import data_location, ledger_path, site_settings
from evaluation.table import NUMERIC_KINDS, coded_table
from privacy.accounting import check_tally, tally
from privacy.events import Mechanism, NoisyRelease
from privacy.ledger import Ledger
from privacy.plan import PrivacyPlan
from privacy.statement import Statement
from protocol.errors import BudgetError, InputError, StudyError
from protocol.keys import read_identity
from protocol.randomness import RandomSource, SystemRandom
from protocol.study import Study
from protocol.terms import ContributionKind, NoiseOrigin, Relation, Sampler, Trust, Unit
from records.dataset import Records, load_records
from records.site_values import site_codes
from simulations.federation import alone, simulate, unbound
from simulations.sweep.bench import FEWEST_SYNTHETIC_ROWS, Bench
from simulations.sweep.journal import Journal
from simulations.sweep.judgement import judgement, noisy_sum, one_record_each, reading
from strategies.study_model import study_schema

HELD_OUT = 0.2
SCORE_NOISE = 10.0


@dataclass(frozen=True, kw_only=True)
class Account:
    """The book that pays for a charged sweep.

    Attributes:
        ledger: The site's ledger.
        policy: What the site allows.
    """

    ledger: Ledger
    policy: Policy

    def reserve(self, study: Study, events: Sequence[NoisyRelease]) -> list[str]:
        """Pay for an attempt, all of it, under a run of its own that nobody settles: it counts whole for ever.

        Returns:
            Hashes of the ledger's entries.

        Raises:
            BudgetError: If it would pass a ceiling; what was paid of it before counts.
        """
        run = secrets.token_hex(16)
        ceilings = self.policy.ceilings(study.privacy.relation)
        return [
            self.ledger.reserve(
                study=study.hash, run=run, first_round=number, rounds=1, event_per_round=event, ceilings=ceilings
            ).hash
            for number, event in enumerate(events)
        ]

    def check(self, events: Sequence[NoisyRelease], *, relation: Relation) -> None:
        """Refuse a sweep that the ceilings do not allow as a whole, before its first trial.

        Raises:
            BudgetError: Naming the ceiling.
        """
        ceiling = self.policy.ceilings(relation)[0]
        whole = check_tally(tally([*self._spent(relation), *events], relation), delta=ceiling.delta, relation=relation)
        if whole.pld > ceiling.epsilon:
            raise BudgetError(
                "The sweep, after what is spent already, would pass the site's ceiling on everything that is released.",
                remedy="Make fewer trials or repeats, lower the study's epsilon, or tune on public or synthetic data.",
            )

    def _spent(self, relation: Relation) -> tuple[NoisyRelease, ...]:
        if self.ledger.unit is None:
            return ()
        delta = self.policy.delta
        return self.ledger.spent(delta=delta, relation=relation, trust=Trust.NONE, origin=NoiseOrigin.SYSTEM).events


@dataclass(frozen=True, kw_only=True, eq=False)
class ChargedBench(Bench):
    """One site's private records.

    Attributes:
        site: The site's name.
        records: Its records.
        account: What pays.
        held_out: One coin per unit, bool ``[units]``: whether it judges rather than trains.
        measure_name: One of `simulations.sweep.judgement.CHARGED_MEASURES`.
        score_noise: Noise of a judgement over its sensitivity.
        public_records: Public number of the site's records (or people).
        random: Of that noise.
        device: Where to compute.
    """

    site: str
    records: Records
    account: Account
    held_out: NDArray[np.bool_]
    measure_name: str
    score_noise: float
    public_records: int
    random: RandomSource
    device: str

    charged: ClassVar[bool] = True

    @property
    def deviation(self) -> float:
        """Standard deviation of a score's noise, from public numbers; of a balanced one, for classes of one size."""
        schema = self.records.schema
        column = schema.column(schema.target or schema.names[0])
        classes = column.cardinality - bool(column.missing)
        spread = 1.0 if self.measure_name == "accuracy" else math.sqrt(2.0 * classes)
        return spread * self.score_noise / (HELD_OUT * self.public_records)

    @property
    def words(self) -> str:
        """See :class:`Bench`."""
        return f"the private records of site {self.site}, every attempt charged to its ledger"

    def identity(self) -> dict[str, Any]:
        """See :class:`Bench`; nothing of a record, not even a digest."""
        return {"mode": "charged", "site": self.site, "score_noise": self.score_noise}

    def start(self, study: Study) -> dict[str, Any]:
        """Pay for one attempt; returns its events and the ledger's entries.

        Raises:
            StudyError: If the study is not private.
            ApprovalError: If the site's policy does not allow it.
            BudgetError: If it would pass a ceiling.
        """
        single = alone_at_a_site(study)
        events = attempt_events(study, score_noise=self.score_noise)
        self.account.policy.check(PrivacyPlan.from_study(single), at=datetime.now(UTC))
        entries = self.account.reserve(single, events)
        return {"events": [event.to_mapping() for event in events], "entries": entries}

    def measure(self, study: Study, *, repeat: int) -> dict[str, float]:
        """Train on the units that are not held out, and judge by the others; see the module's text."""
        del repeat  # noise is fresh in every attempt; the coins are those of this sweep
        single = alone_at_a_site(study)
        units = protected_units(study, self.records)
        judged = self.held_out[units]
        with tempfile.TemporaryDirectory() as folder:
            train = {self.site: self.records.take(np.flatnonzero(~judged))}
            release = simulate(single, train, release=Path(folder) / "release", device=self.device)
            rows = max(FEWEST_SYNTHETIC_ROWS, single.federation.public_records)
            synthetic = np.concatenate(list(release.sample_codes(rows, allowed={}, seed=0)))
        schema = self.records.schema
        held = coded_table(schema, self.records.codes[one_record_each(units, judged)])
        contributions = judgement(self.measure_name, coded_table(schema, synthetic), held)
        expected = HELD_OUT * self.public_records
        noisy = noisy_sum(contributions, expected=expected, noise=self.score_noise, random=self.random)
        return {self.measure_name: reading(self.measure_name, noisy, expected=expected)}


def protected_units(study: Study, records: Records) -> NDArray[np.int64]:
    """Return whom each record is about, int64 [n], as the study's promise has it: a person, or the record itself.

    A person key in the schema does not make persons the unit: the study says what is protected.
    """
    return records.units if study.privacy.unit is Unit.PERSON else np.arange(len(records), dtype=np.int64)


@contextmanager
def charged_bench(
    folder: Path, study: Study, *, measure_name: str, score_noise: float, device: str
) -> Iterator[ChargedBench]:
    """Open a site's folder for a charged sweep: its records, its policy and its ledger.

    Args:
        folder: The site's folder.
        study: The study that is tuned.
        measure_name: One of `simulations.sweep.judgement.CHARGED_MEASURES`.
        score_noise: Noise of a judgement over its sensitivity.
        device: Where to compute.

    Yields:
        The bench; its ledger is closed at the end.

    Raises:
        InputError: If something is missing, or the schema has no target with classes.
        ApprovalError: If the site has no policy.
        LedgerError: If the ledger is missing or damaged.
    """
    schema = study_schema(study)
    if schema.image is not None:
        raise InputError("Images are not tuned on for a charge.", remedy="Tune on public or synthetic images.")
    if schema.target is None or str(schema.column(schema.target).kind) in NUMERIC_KINDS:
        raise InputError(
            f"A charged sweep judges by the classes of a target, which is {schema.target!r}.",
            remedy="Name a target that is no number or date in the schema, or tune on public or synthetic records.",
        )
    settings, key = site_settings(folder), read_identity(folder / "key.pem")
    policy = Policy.from_toml(folder / "policy.toml")
    ledger = Ledger.open(ledger_path(folder, settings), key=key, data_set=str(settings["data"]["set"]))
    try:
        name = str(settings["name"])
        fixed = site_codes(study, schema, site=name)
        records = load_records(data_location(folder, settings), schema=schema, fixed=fixed)
        random = SystemRandom()
        units = int(protected_units(study, records).max()) + 1 if len(records) else 0
        yield ChargedBench(
            site=name,
            records=records,
            account=Account(ledger=ledger, policy=policy),
            held_out=random.bernoulli(units, HELD_OUT),
            measure_name=measure_name,
            score_noise=score_noise,
            public_records=alone_at_a_site(study).federation.public_records,
            random=random,
            device=device,
        )
    finally:
        ledger.close()


def alone_at_a_site(study: Study) -> Study:
    """Return the study as one site by itself trains it, at an equal share of the public number of records."""
    size = max(2, study.federation.public_records // study.federation.sites)
    return alone(unbound(study), public_records=size)


def attempt_events(study: Study, *, score_noise: float) -> tuple[NoisyRelease, ...]:
    """Return everything that one attempt releases: one training, and one judgement.

    Args:
        study: The study, of all its sites; the attempt trains it at one.
        score_noise: Noise of the judgement over its sensitivity.

    Raises:
        StudyError: If the study promises nothing.
        AccountingError: If the noise is out of range.
    """
    single = alone_at_a_site(study)
    plan = PrivacyPlan.from_study(single)
    if not plan.private:
        raise StudyError(
            "A study without a guarantee cannot be charged for.",
            remedy='Give privacy.epsilon and leave privacy.noise at "system".',
        )
    judged = NoisyRelease(
        mechanism=Mechanism.GAUSSIAN,
        noise_multiplier=score_noise,
        sample_rate=1.0,
        sampler=Sampler.ALL,
        count=1,
        kind=ContributionKind.STATISTICS,
        relation=single.privacy.relation,
        unit=single.privacy.unit,
    )
    return (*plan.events(rounds=plan.rounds), judged)


def sweep_statement(study: Study, events: Sequence[NoisyRelease], entries: Sequence[str]) -> Statement:
    """Return what attempts cost together: the composition of every event of every one of them.

    Args:
        study: The study that was tuned: its delta, relation and unit.
        events: All events, in any order.
        entries: Hashes of the ledger entries that paid.
    """
    return Statement.from_events(
        events,
        delta=PrivacyPlan.from_study(alone_at_a_site(study)).delta,
        relation=study.privacy.relation,
        unit=study.privacy.unit,
        trust=Trust.NONE,
        origin=NoiseOrigin.SYSTEM,
        simulated=False,
        ledger_entries=entries,
    )


def paid_statement(study: Study, journal: Journal) -> Statement:
    """Return what a sweep has cost up to now, the attempts that were killed included."""
    lines = list(journal.kind("paid"))
    events = [NoisyRelease.from_mapping(event) for line in lines for event in line["events"]]
    return sweep_statement(study, events, [str(entry) for line in lines for entry in line["entries"]])


def planned_events(studies: Sequence[Study], *, score_noise: float) -> tuple[NoisyRelease, ...]:
    """Return everything that attempts will release, if none is interrupted.

    Args:
        studies: The study of every attempt.
        score_noise: As of :func:`attempt_events`.
    """
    return tuple(event for study in studies for event in attempt_events(study, score_noise=score_noise))
