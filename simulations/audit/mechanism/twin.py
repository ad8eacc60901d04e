"""The sites of a twin: the real ones, with canaries for records, and with a trainer and a plan that are watched.

Nothing here imitates a mechanism. A broken twin (:mod:`simulations.audit.mechanism.mutants`) has one part more that is
replaced.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import cast

import numpy as np
import torch
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from numpy.typing import NDArray

from client.site import Site
from client.training import Trainer
from models.family import Family
from privacy.audit.mechanism.canaries import Canaries
from privacy.ledger import Ledger
from privacy.mechanisms.gaussian import Mechanism, Words
from privacy.plan import PrivacyPlan
from privacy.sampling import UnitIndex
from privacy.stage import Stage
from protocol.errors import RecordsError
from protocol.randomness import RandomSource
from protocol.study import Study
from protocol.terms import ContributionKind
from simulations.audit.mechanism.canary_family import CanaryFamily, CanaryRecords

CPU = torch.device("cpu")
DROPS_OUT = "It is part of the audit."


@dataclass(kw_only=True, eq=False)
class SiteLog:
    """What the twin saw at one site.

    Attributes:
        taken: Which canaries were in each local step, int64 [K] of zeros and ones.
        words: What the mechanism gave in each local step, before any mask, int64 [d], in grid steps.
        left: What left the site in each round, int32 [d], in grid steps; masked under the secure sum.
    """

    taken: list[NDArray[np.int64]] = field(default_factory=list)
    words: list[NDArray[np.int64]] = field(default_factory=list)
    left: list[NDArray[np.int32]] = field(default_factory=list)


class TwinTrainer(Trainer):
    """The real trainer on canaries.

    Args:
        plan: The study's privacy plan.
        records: Of the site.
        canaries: The canaries.
        parts: What is replaced.
        log: Where to note who was in a batch.
        away: Whether the site fails in every round.
    """

    def __init__(
        self,
        plan: PrivacyPlan,
        records: CanaryRecords,
        *,
        canaries: Canaries,
        parts: "Parts",
        log: SiteLog,
        away: bool = False,
    ) -> None:
        super().__init__(plan, records, device=CPU)
        statistics = plan.study.training.strategy is ContributionKind.STATISTICS
        self._canary_family = CanaryFamily(self._module, canaries, statistics=statistics)
        self._module = parts.family(self._canary_family)
        self._index = parts.index(self._index)
        self._log = log
        self._away = away

    def gradient_sum(self, weights: NDArray[np.float32], *, random: RandomSource) -> NDArray[np.float64]:
        """Return the real sum, and note which canaries were in the batch."""
        if self._away:
            raise RecordsError("The site drops out.", remedy=DROPS_OUT)
        self._canary_family.take_seen()
        total = self._sum(weights, random=random)
        self._log.taken.append(self._canary_family.take_seen())
        return total

    def statistics_sum(self, weights: NDArray[np.float32], *, number: int) -> NDArray[np.float64]:
        """Return the real sum, and note which canaries were in it."""
        if self._away:
            raise RecordsError("The site drops out.", remedy=DROPS_OUT)
        self._canary_family.take_seen()
        total = self._statistics(weights, number=number)
        self._log.taken.append(self._canary_family.take_seen())
        return total

    def _statistics(self, weights: NDArray[np.float32], *, number: int) -> NDArray[np.float64]:
        """Where a broken trainer of statistics differs."""
        return super().statistics_sum(weights, number=number)

    def _sum(self, weights: NDArray[np.float32], *, random: RandomSource) -> NDArray[np.float64]:
        """Where a broken trainer differs."""
        return super().gradient_sum(weights, random=random)


class WatchedMechanism:
    """A mechanism that keeps what it gave.

    Args:
        inner: The mechanism.
        words: Where to keep it.
    """

    def __init__(self, inner: Mechanism, words: list[NDArray[np.int64]]) -> None:
        self.inner = inner
        self.grid, self.sigma, self.private = inner.grid, inner.sigma, inner.private
        self._words = words

    def privatise(self, vector: NDArray[np.floating], *, random: RandomSource) -> Words:
        """Return what the mechanism gives."""
        found = self.inner.privatise(vector, random=random)
        self._words.append(found.astype(np.int64))
        return found


@dataclass(frozen=True, kw_only=True)
class Parts:
    """What takes the place of real parts in a twin; by default, nothing does.

    Attributes:
        trainer: Class of the sites' trainers.
        mechanism: Makes what stands for a mechanism, of it and of the plan.
        index: Makes what stands for the index of units that batches are drawn from.
        family: Makes what stands for the model.
        ledger: Gives the ledger that a site pays into, of the one that is audited.
        reopened: The same, after a restart.
    """

    trainer: type[TwinTrainer] = TwinTrainer
    mechanism: Callable[[Mechanism, PrivacyPlan], Mechanism] = lambda mechanism, _: mechanism
    index: Callable[[UnitIndex], UnitIndex] = lambda index: index
    family: Callable[[Family], Family] = lambda family: family
    ledger: Callable[[Ledger, Ed25519PrivateKey], Ledger] = lambda ledger, _: ledger
    reopened: Callable[[Ledger, Ed25519PrivateKey], Ledger] = lambda ledger, _: ledger


HONEST = Parts()


@dataclass(frozen=True, kw_only=True)
class TwinPlan(PrivacyPlan):
    """The real plan, whose mechanisms are watched.

    Attributes:
        parts: What is replaced.
        words: Where mechanisms keep what they give.
    """

    parts: Parts
    words: list[NDArray[np.int64]]

    @classmethod
    def watching(cls, plan: PrivacyPlan, *, parts: Parts, words: list[NDArray[np.int64]]) -> "TwinPlan":
        """Return a watched plan with the numbers of a real one."""
        numbers = {name: getattr(plan, name) for name in ("study", "delta", "noise_multiplier")}
        return cls(**numbers, parts=parts, words=words)

    def mechanism(self, stage: Stage, dimension: int) -> Mechanism:
        """Return the mechanism of a stage, watched."""
        replaced = self.parts.mechanism(super().mechanism(stage, dimension), self)
        # It offers what a mechanism offers; the two real classes are final, and so have no third beside them.
        return cast(Mechanism, WatchedMechanism(replaced, self.words))


@dataclass(kw_only=True, eq=False)
class TwinSite(Site):
    """The real site with a watched trainer and plan.

    Attributes:
        canaries: The canaries.
        parts: What is replaced.
        log: What was seen.
        away: Whether the site drops out of every round.
    """

    canaries: Canaries
    parts: Parts
    log: SiteLog
    away: bool = False

    def plan(self, study: Study) -> PrivacyPlan:
        """Return the study's plan, watched."""
        if study.hash not in self._plans:
            plan = PrivacyPlan.from_study(study)
            self._plans[study.hash] = TwinPlan.watching(plan, parts=self.parts, words=self.log.words)
        return self._plans[study.hash]

    def trainer(self, study: Study) -> Trainer:
        """Return the study's trainer, watched."""
        if study.hash not in self._trainers:
            records = cast(CanaryRecords, self.records)
            self._trainers[study.hash] = self.parts.trainer(
                self.plan(study), records, canaries=self.canaries, parts=self.parts, log=self.log, away=self.away
            )
        return self._trainers[study.hash]
