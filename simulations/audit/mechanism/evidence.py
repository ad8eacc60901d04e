"""All that runs of a twin showed: views, batches, exact sums and payments, gathered under one budget."""

from collections import Counter, defaultdict
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from privacy.audit.mechanism.canaries import Canaries, CanaryKind, design_canaries
from privacy.audit.mechanism.residuals import Check
from privacy.plan import PrivacyPlan
from protocol.randomness import RandomSource
from protocol.study import Study
from protocol.terms import ContributionKind, Trust, Unit
from simulations.audit.mechanism.canary_family import CanaryRecords, canary_records, reachable_coordinates, tensor_sizes
from simulations.audit.mechanism.probes import payments, unit_checks
from simulations.audit.mechanism.run import Member, run_twin, twin_study
from simulations.audit.mechanism.twin import Parts
from simulations.audit.mechanism.views import Observer, Roles, View
from simulations.federation import unbound
from strategies.study_model import build_study_model, statistics_of, study_schema

_SPECIAL = {CanaryKind.SPREAD: 24, CanaryKind.ZERO: 8, CanaryKind.HUGE: 16, CanaryKind.NON_FINITE: 6}
_RECORDS_EACH = (2, 1, 3)
_MOST_SITES = 12
LEAST_RATE = 0.05  # below it, canaries are drawn too seldom: the noise is then looked at with a higher rate
_MOST_ROWS = 400  # of noise per site or sum: more would cost memory and show nothing new
_MOST_NUMBERS = 8_000_000  # of noise per site or sum, for large models
_LEAST_ROWS = 8
_PRECISION = 0.025  # of the noise: how far the bound on it may be above the truth
_FULL, _SMALL, _EMPTY = "full", "small", "empty"


@dataclass(frozen=True, kw_only=True)
class Effort:
    """How much is run.

    Attributes:
        rounds: Steps of each site in one run, about.
        canaries: Most canaries.
    """

    rounds: int
    canaries: int


class Evidence:
    """What a twin showed so far.

    Args:
        study: The study.
        parts: What is replaced.
        effort: How much a run is.
        random: Source of directions and weights.

    Attributes:
        views: What was seen, by name and place, run after run.
        samples: Batches, bool [T, n], by place and rate.
        words: What mechanisms gave, by site, in grid steps.
        unseen: How often canaries could not be looked for in a view, by its name.
        checks: What is known without statistics.
        largest_move: What one unit did to an exact sum at the most, in clip norms.
        left: Compositions that left sites whose ledgers are files.
        paid: How many of them those ledgers hold.
        runs: Number of runs.
    """

    def __init__(self, study: Study, parts: Parts, *, effort: Effort, random: RandomSource) -> None:
        self.study = study
        self.parts = parts
        self.plan = PrivacyPlan.from_study(study)
        self.views: dict[tuple[str, str], list[View]] = defaultdict(list)
        self.samples: dict[tuple[str, float], list[NDArray[np.bool_]]] = defaultdict(list)
        self.words: dict[str, list[NDArray[np.int64]]] = defaultdict(list)
        self.unseen: Counter[str] = Counter()
        self.checks: list[Check] = []
        self.largest_move, self.left, self.paid, self.runs = 0.0, 0, 0, 0
        model = build_study_model(study)
        statistics = study.training.strategy is ContributionKind.STATISTICS
        self.sizes = [statistics_of(study, model).dimension(1)] if statistics else tensor_sizes(model.shared)
        self._rows = max(_LEAST_ROWS, min(_MOST_ROWS, _MOST_NUMBERS // sum(self.sizes)))
        # Statistics may have few coordinates: then a part of them is left for the canaries that show the noise.
        most = max(1, sum(self.sizes) // 16) if statistics else max(_SPECIAL.values())
        counts = {kind: min(count, most) for kind, count in _SPECIAL.items()}
        counts[CanaryKind.DIRAC] = max(0, effort.canaries - sum(counts.values()))
        reachable = np.ones(sum(self.sizes), dtype=bool) if statistics else reachable_coordinates(model.shared)
        self.canaries: Canaries = design_canaries(
            self.sizes,
            reachable=reachable,
            counts=counts,
            clip_norm=study.privacy.clip_norm,
            random=random,
        )
        self._summed = study.privacy.trust is Trust.SUM
        self._effort = effort
        self.held = self._deal()
        self.roles = self._roles()

    @property
    def rate(self) -> float:
        """The rate at which canaries are drawn where the noise is looked at."""
        return max(self.study.privacy.sample_rate, LEAST_RATE)

    def suffices(self) -> bool:
        """Whether the bound on the noise is about as near to the truth as it is wanted to be."""
        numbers: dict[str, float] = defaultdict(float)
        for (name, _), views in self.views.items():
            for view in views:
                if view.bounds:
                    # 2.8 standard errors of a normal quantile, each 1.25 over the root of the number of canaries.
                    needed = (3.5 * self.plan.noise_multiplier * view.steps**0.5 / _PRECISION) ** 2
                    numbers[name] += float((view.counts == 1).sum()) / needed
        return max(numbers.values(), default=0.0) >= 1.0

    def run(self, *, random: RandomSource) -> None:
        """Run the twin with all its sites once."""
        self._run(self.roles, sites=self._sites, rounds=self._rounds(self._sites), rate=self.rate, random=random)

    def extend(self, *, random: RandomSource) -> None:
        """Run the twin once more: with the fullest site alone, where one site is enough."""
        if self._summed:
            self.run(random=random)
            return
        rounds = self._rounds(1) * 2
        self._run(Roles(honest=(_FULL,)), sites=1, rounds=rounds, rate=self.rate, random=random)

    def sample(self, *, random: RandomSource) -> None:
        """Draw batches at the study's own rate, where the noise is looked at with another."""
        if self.study.privacy.sample_rate >= LEAST_RATE:
            return
        rate = self.study.privacy.sample_rate
        sites = self._sites if self._summed else 1
        roles = self.roles if self._summed else Roles(honest=(_FULL,))
        self._run(roles, sites=sites, rounds=2 * self._rounds(sites), rate=rate, random=random, seen=False)

    def probe(self, *, random: RandomSource) -> None:
        """Look at exact sums and at payments."""
        twin = self._twin(self._sites, rounds=1, rate=self.rate)
        checks, self.largest_move = unit_checks(twin, self.canaries, parts=self.parts, random=random)
        few = {site: self._records(self.held[site][:4]) for site in (*self.roles.present, *self.roles.away)}
        paid = payments(twin, few, self.canaries, away=self.roles.away, parts=self.parts, random=random)
        self.left, self.paid = paid.left, paid.paid
        self.checks += [*checks, paid.check]

    def _run(
        self, roles: Roles, *, sites: int, rounds: int, rate: float, random: RandomSource, seen: bool = True
    ) -> None:
        twin = self._twin(sites, rounds=rounds, rate=rate)
        members = {
            site: Member(records=self._records(self.held[site]), away=site in roles.away)
            for site in (*roles.present, *roles.away)
        }
        log = run_twin(twin, members, self.canaries, parts=self.parts, random=random)
        observer = Observer(twin, self.canaries, roles)
        for site, taken in observer.samples(log, self.held).items():
            self.samples[site, rate].append(taken)
        self.runs += 1
        if not seen:
            return
        self.checks.append(observer.derived(log))
        for view in observer.views(log):
            found = self.views[view.name, view.where]
            room = max(0, self._rows - sum(len(earlier.noise) for earlier in found))
            # A copy, so that what is left out is given back.
            found.append(replace(view, noise=view.noise[:room].copy()))
        self.unseen.update(observer.unseen)
        for site in roles.honest:
            room = self._rows - sum(len(earlier) for earlier in self.words[site])
            if room > 0:
                self.words[site].append(np.stack(log.sites[site].words[:room]))

    def _twin(self, sites: int, *, rounds: int, rate: float) -> Study:
        twin = twin_study(self.study, sites=sites, rounds=rounds)
        return replace(twin, privacy=replace(twin.privacy, sample_rate=rate))

    @property
    def _sites(self) -> int:
        return self.study.federation.sites if self._summed else 3

    def _rounds(self, sites: int) -> int:
        """Rounds of a run, so that every run has about as many steps, and fewer of them for a large model."""
        training = self.study.training
        steps = training.local_steps if training.strategy is ContributionKind.UPDATES else 1
        return max(2, round(min(self._effort.rounds, self._rows) * 3 / (max(3, sites) * steps)))

    def _roles(self) -> Roles:
        if not self._summed:
            return Roles(honest=(_FULL, _SMALL, _EMPTY))
        terms = self.study.federation
        names = list(self.held)
        away, colluding = terms.dropouts, max(1, terms.colluders)
        honest = len(names) - away - colluding
        return Roles(
            honest=tuple(names[:honest]),
            colluding=tuple(names[honest : honest + colluding]),
            away=tuple(names[honest + colluding :]),
        )

    def _deal(self) -> dict[str, NDArray[np.int64]]:
        """Give every site its canaries: one has many, others have few, and one has none."""
        everyone, nobody = np.arange(len(self.canaries)), np.zeros(0, dtype=np.int64)
        if not self._summed:
            return {_FULL: everyone, _SMALL: everyone[::8], _EMPTY: nobody}
        if self.rate > 0.5:
            # Hardly a canary would be out of a batch by a coin, so half of them are nobody's.
            everyone = everyone[::2]
        terms = self.study.federation
        honest = terms.sites - terms.dropouts - max(1, terms.colluders)
        parts = [everyone] if honest == 1 else [everyone[::2], *np.array_split(everyone[1::2], max(1, honest - 2))]
        parts += [nobody] * (terms.sites - len(parts))
        return {f"site-{number}": part for number, part in enumerate(parts)}

    def _records(self, held: NDArray[np.int64]) -> CanaryRecords:
        each = _RECORDS_EACH if self.study.privacy.unit is Unit.PERSON else (1,)
        return canary_records(held, schema=study_schema(self.study), records_each=each)


def gather(study: Study, parts: Parts, *, effort: Effort, random: RandomSource) -> Evidence:
    """Run a twin twice, as two runs of one study, and probe it.

    Args:
        study: The study.
        parts: What is replaced.
        effort: How much a run is.
        random: Source of directions and weights.

    Raises:
        CloisterError: Whatever a run can raise.
    """
    evidence = Evidence(audited_study(study), parts, effort=effort, random=random)
    evidence.run(random=random)
    evidence.run(random=random)
    evidence.sample(random=random)
    evidence.probe(random=random)
    return evidence


def audited_study(study: Study) -> Study:
    """Return the study with so few sites that a twin of it fits one machine; its noise stays as it was.

    Under the secure sum more than twelve sites are brought down to twelve, drop-outs and colluders in proportion.
    """
    study = unbound(study)
    terms = study.federation
    if study.privacy.trust is not Trust.SUM or terms.sites <= _MOST_SITES:
        return study
    plan = PrivacyPlan.from_study(study)
    scale = _MOST_SITES / terms.sites
    smaller = replace(
        terms,
        sites=_MOST_SITES,
        dropouts=int(terms.dropouts * scale),
        colluders=int(terms.colluders * scale),
        public_records=max(2, round(terms.public_records * scale)),
        minimum_sites=None,
        roster=None,
    )
    privacy = replace(study.privacy, epsilon=None, noise_multiplier=plan.noise_multiplier, delta=plan.delta)
    return replace(study, federation=smaller, privacy=privacy)
