"""Broken twins: mechanisms that must not pass an audit. What is wrong is put in the place of a real part of a twin.

Nothing in production code knows of them, and there is no flag that would make it behave like one.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, cast

import numpy as np
import torch
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from numpy.typing import NDArray
from torch import Tensor, nn

from models.family import Family
from privacy.events import NoisyRelease
from privacy.ledger import Charge, Entry, Ledger, RoundState, Uncharged
from privacy.mechanisms.gaussian import GaussianMechanism, Mechanism, NoNoise, Words
from privacy.plan import PrivacyPlan
from privacy.sampling import UnitIndex
from protocol.randomness import DeterministicRandom, RandomSource
from protocol.study import PrivacyTerms, Study
from protocol.terms import ContributionKind, Trust, Unit
from simulations.audit.mechanism.twin import Parts, TwinPlan, TwinTrainer
from strategies.study_model import statistics_of

_NO_BOUND = 1e12


@dataclass(frozen=True, kw_only=True)
class Mutant:
    """One way in which a mechanism can be wrong.

    Attributes:
        name: What is wrong, in a few words.
        parts: What takes the place of what.
        applies: Whether it can be told from the right mechanism in a study.
    """

    name: str
    parts: Parts
    applies: Callable[[Study], bool] = lambda _: True


class _Altered:
    """A mechanism whose words are made in another way; everything else is the real one's."""

    def __init__(self, real: Mechanism, make: Callable[[NDArray[np.floating], RandomSource], Words]) -> None:
        self.grid, self.sigma, self.private = real.grid, real.sigma, real.private
        self._make = make

    def privatise(self, vector: NDArray[np.floating], *, random: RandomSource) -> Words:
        return self._make(vector, random)


def _altered(real: Mechanism, make: Callable[[NDArray[np.floating], RandomSource], Words]) -> Mechanism:
    return cast(Mechanism, _Altered(real, make))  # it offers what a mechanism offers


def _noise_times(factor: float) -> Callable[[Mechanism, PrivacyPlan], Mechanism]:
    def scaled(real: Mechanism, plan: PrivacyPlan) -> Mechanism:
        del plan
        if isinstance(real, NoNoise):
            return real
        return replace(real, noise_multiplier=factor * real.noise_multiplier)

    return scaled


def _no_noise(real: Mechanism, plan: PrivacyPlan) -> Mechanism:
    del plan
    return _altered(real, lambda vector, _: real.grid.quantise(vector))


def _bare_tensor(real: Mechanism, plan: PrivacyPlan) -> Mechanism:
    """Leave the last fifth of the coordinates, the last tensors, without noise."""
    del plan
    start = real.grid.dimension - max(1, real.grid.dimension // 5)

    def make(vector: NDArray[np.floating], random: RandomSource) -> Words:
        words = real.privatise(vector, random=random)
        words[start:] = real.grid.quantise(vector)[start:]
        return words

    return _altered(real, make)


def _same_noise(real: Mechanism, plan: PrivacyPlan) -> Mechanism:
    del plan
    return _altered(real, lambda vector, _: real.privatise(vector, random=DeterministicRandom("noise")))


def _numbered_noise(real: Mechanism, plan: PrivacyPlan) -> Mechanism:
    """Noise from a seed and a counter: fresh in every round of a run, and the same in every run and at every site."""

    def make(vector: NDArray[np.floating], random: RandomSource) -> Words:
        del random
        number = len(plan.words) if isinstance(plan, TwinPlan) else 0
        return real.privatise(vector, random=DeterministicRandom(plan.study.training.seed).child(number))

    return _altered(real, make)


def _skips_empty(real: Mechanism, plan: PrivacyPlan) -> Mechanism:
    del plan

    def make(vector: NDArray[np.floating], random: RandomSource) -> Words:
        return real.privatise(vector, random=random) if vector.any() else real.grid.quantise(vector)

    return _altered(real, make)


def _forgetful_shares(real: Mechanism, plan: PrivacyPlan) -> Mechanism:
    """Shares as if nobody ever dropped out or colluded."""
    if plan.shares is None or not isinstance(real, GaussianMechanism) or not real.shared:
        return real
    # A twin's plan has one stage, whose noise is the plan's.
    return replace(real, noise_multiplier=plan.noise_multiplier / math.sqrt(plan.shares.sites))


class _OtherTerms(TwinTrainer, ABC):
    """A trainer that sums gradients under other terms than the study's."""

    @abstractmethod
    def _terms(self, terms: PrivacyTerms) -> PrivacyTerms:
        """Return the other terms."""

    def _sum(self, weights: NDArray[np.float32], *, random: RandomSource) -> NDArray[np.float64]:
        with self._other_plan():
            return super()._sum(weights, random=random)

    @contextmanager
    def _other_plan(self) -> Iterator[None]:
        plan = self._plan
        study = replace(plan.study, privacy=self._terms(plan.study.privacy))
        self._plan = PrivacyPlan(study=study, delta=plan.delta, noise_multiplier=plan.noise_multiplier)
        try:
            yield
        finally:
            self._plan = plan


class _Unclipped(_OtherTerms):
    def _terms(self, terms: PrivacyTerms) -> PrivacyTerms:
        return replace(terms, clip_norm=_NO_BOUND)


class _ClipsTheMean(_Unclipped):
    """Clips the mean gradient of the batch instead of each unit's."""

    def _sum(self, weights: NDArray[np.float32], *, random: RandomSource) -> NDArray[np.float64]:
        total = super()._sum(weights, random=random)
        size = max(1, self._canary_family.seen)
        norm = float(np.linalg.norm(total)) / size
        clip = self._plan.study.privacy.clip_norm
        return total / size * min(1.0, clip / norm) if norm > 0 else total


class _DoubleRate(_OtherTerms):
    def _terms(self, terms: PrivacyTerms) -> PrivacyTerms:
        rate = terms.sample_rate
        if rate == 1.0:
            # Where all are asked for there is no coin, so that the exact sums are right: the defect is in the coins.
            return terms
        return replace(terms, sample_rate=min(1.0, 2.0 * rate) if rate < 0.75 else 0.5 * rate)


class _RateBySize(_OtherTerms):
    """Draws the expected number of units whatever the site's number of records is."""

    def _terms(self, terms: PrivacyTerms) -> PrivacyTerms:
        wanted = terms.sample_rate * 100.0
        return replace(terms, sample_rate=min(1.0, wanted / max(1.0, self._index.units)))


class _ClipsLayers(TwinTrainer):
    """Clips parts of a gradient by themselves, each to the whole clip norm: the layers in up to four blocks."""

    def _sum(self, weights: NDArray[np.float32], *, random: RandomSource) -> NDArray[np.float64]:
        parameters = [p for p in self._module.shared.parameters() if p.requires_grad]
        seed, parts = random.seed64(), []
        try:
            for chosen in np.array_split(np.arange(len(parameters)), min(4, len(parameters))):
                for number, parameter in enumerate(parameters):
                    parameter.requires_grad_(number in chosen)
                parts.append(super()._sum(weights, random=DeterministicRandom(seed)))
        finally:
            for parameter in parameters:
                parameter.requires_grad_(True)  # noqa: FBT003 - torch's own signature
        return np.concatenate(parts)


class _ClipsRecords(TwinTrainer):
    """Clips each record instead of each person."""

    def _sum(self, weights: NDArray[np.float32], *, random: RandomSource) -> NDArray[np.float64]:
        self._by_person = False
        try:
            return super()._sum(weights, random=random)
        finally:
            self._by_person = True

    def _statistics(self, weights: NDArray[np.float32], *, number: int) -> NDArray[np.float64]:
        self._by_person = False
        try:
            return super()._statistics(weights, number=number)
        finally:
            self._by_person = True


class _UnclippedStatistics(TwinTrainer):
    """Believes every record to keep the family's bound."""

    def _statistics(self, weights: NDArray[np.float32], *, number: int) -> NDArray[np.float64]:
        self._load(weights)
        statistics = statistics_of(self._plan.study, self._module)
        statistics.norms(number, self._codes.long())  # so that it is known who was there
        rows, units = self._index.everybody()
        sizes = np.bincount(units, minlength=self._index.units)
        each = torch.as_tensor(1.0 / sizes[units])
        total = statistics.weighted_sum(number, self._codes[torch.as_tensor(rows)].long(), each)
        return total.nan_to_num(nan=0.0, posinf=0.0, neginf=0.0).numpy() / statistics.norm(number)


class _NarrowBound(TwinTrainer):
    """Divides statistics by half of the bound that holds, and so calls a sum bounded that can move twice as far."""

    def _statistics(self, weights: NDArray[np.float32], *, number: int) -> NDArray[np.float64]:
        return 2.0 * super()._statistics(weights, number=number)


class _Shuffled(UnitIndex):
    """Deals all units out in batches of a fixed size, epoch after epoch, instead of tossing coins."""

    def poisson_sample(self, *, rate: float, random: RandomSource) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        deck: list[int] = self.__dict__.setdefault("deck", [])
        size = round(rate * self.units)
        if len(deck) < size:
            deck[:] = np.argsort(random.uint64(self.units)).tolist()
        chosen = np.sort(np.array(deck[:size], dtype=np.int64))
        del deck[:size]
        sizes = np.diff(self.starts)[chosen]
        rows = [self.order[self.starts[unit] : self.starts[unit + 1]] for unit in chosen]
        return np.concatenate([*rows, np.zeros(0, dtype=np.int64)]), np.repeat(np.arange(len(chosen)), sizes)


def _shuffled(index: UnitIndex) -> UnitIndex:
    return _Shuffled(order=index.order, starts=index.starts)


class _MixingFamily(Family):
    """A family whose layers take the mean of the batch from their outputs, as batch normalisation does."""

    def __init__(self, inner: Family) -> None:
        super().__init__(inner.layout)
        self.inner = inner
        for layer in inner.shared.modules():
            if isinstance(layer, nn.Linear | nn.EmbeddingBag):
                layer.register_forward_hook(lambda _layer, _inputs, output: output - output.mean(dim=0))

    @property
    def shared(self) -> nn.Module:
        return self.inner.shared

    @property
    def generator(self) -> nn.Module:
        return self.inner.generator

    def unit_loss(self, codes: Tensor, *, generator: torch.Generator) -> Tensor:
        return self.inner.unit_loss(codes, generator=generator)

    def draw(self, count: int, *, allowed: Mapping[int, Tensor], generator: torch.Generator) -> tuple[Tensor, Tensor]:
        return self.inner.draw(count, allowed=allowed, generator=generator)


def _decoy(ledger: Ledger, key: Ed25519PrivateKey) -> Ledger:
    """A ledger that nobody ever looks at."""
    return Ledger.in_memory(key=key, data_set=ledger.data_set)


class _StatisticsFree:
    """A ledger that takes charges for statistics into another one, at which nobody ever looks."""

    def __init__(self, real: Ledger, decoy: Ledger) -> None:
        self._real, self._decoy = real, decoy

    def _of(self, kind: ContributionKind) -> Ledger:
        return self._decoy if kind is ContributionKind.STATISTICS else self._real

    def charge(self, *, event: NoisyRelease, **named: Any) -> Entry:  # noqa: ANN401 - whatever the door says
        return self._of(event.kind).charge(event=event, **named)

    def seal(self, entry: Entry, digest: str) -> Entry:
        kind = entry.record.event.kind if isinstance(entry.record, Charge) else ContributionKind.GRADIENTS
        return self._of(kind).seal(entry, digest)

    def round_state(self, **named: Any) -> RoundState:  # noqa: ANN401 - whatever the door says
        found = self._decoy.round_state(**named)
        return self._real.round_state(**named) if isinstance(found, Uncharged) else found


def _statistics_free(ledger: Ledger, key: Ed25519PrivateKey) -> Ledger:
    """It offers what the door asks of a ledger."""
    return cast(Ledger, _StatisticsFree(ledger, _decoy(ledger, key)))


def _has_statistics(study: Study) -> bool:
    return study.training.strategy is ContributionKind.STATISTICS


def _trains(study: Study) -> bool:
    return not _has_statistics(study)


def _coins(study: Study) -> bool:
    return study.privacy.sample_rate < 1.0


def _shared(study: Study) -> bool:
    return study.privacy.trust is Trust.SUM and study.training.strategy is not ContributionKind.UPDATES


CONTROL = Mutant(name="no noise at all", parts=Parts(mechanism=_no_noise))
"""The twin without privacy: what canaries show of it is the positive control of what they show of the right one."""
MUTANTS: tuple[Mutant, ...] = (
    Mutant(name="noise times 0.5", parts=Parts(mechanism=_noise_times(0.5))),
    Mutant(name="noise missing on some tensors", parts=Parts(mechanism=_bare_tensor)),
    Mutant(name="clip missing", parts=Parts(trainer=_Unclipped), applies=_trains),
    Mutant(name="clip per layer instead of per unit", parts=Parts(trainer=_ClipsLayers), applies=_trains),
    Mutant(name="clip after averaging", parts=Parts(trainer=_ClipsTheMean), applies=_trains),
    Mutant(name="wrong sampling rate", parts=Parts(trainer=_DoubleRate), applies=_coins),
    Mutant(name="shuffle instead of Poisson", parts=Parts(index=_shuffled), applies=_coins),
    Mutant(name="the same noise in every round", parts=Parts(mechanism=_same_noise)),
    Mutant(name="noise from a seed", parts=Parts(mechanism=_numbered_noise)),
    Mutant(name="skipped empty batches", parts=Parts(mechanism=_skips_empty)),
    Mutant(
        name="sampling rate that depends on the number of records", parts=Parts(trainer=_RateBySize), applies=_coins
    ),
    Mutant(name="layers that mix records", parts=Parts(family=_MixingFamily), applies=_trains),
    Mutant(name="uncharged restart", parts=Parts(reopened=_decoy)),
    Mutant(name="contributions charged to nobody", parts=Parts(ledger=_decoy, reopened=_decoy)),
    CONTROL,
    Mutant(name="more noise than was said", parts=Parts(mechanism=_noise_times(1.5))),
    Mutant(
        name="clip per record instead of per person",
        parts=Parts(trainer=_ClipsRecords),
        applies=lambda study: study.privacy.unit is Unit.PERSON,
    ),
    Mutant(
        name="shares that forget drop-outs and colluders", parts=Parts(mechanism=_forgetful_shares), applies=_shared
    ),
    Mutant(
        name="statistics charged to nobody",
        parts=Parts(ledger=_statistics_free, reopened=_statistics_free),
        applies=_has_statistics,
    ),
    Mutant(name="statistics without a clip", parts=Parts(trainer=_UnclippedStatistics), applies=_has_statistics),
    Mutant(name="bound of statistics too small", parts=Parts(trainer=_NarrowBound), applies=_has_statistics),
)
"""All broken twins. The first fourteen are what any audit of training must catch; the last three are of statistics."""


def mutants_of(study: Study) -> tuple[Mutant, ...]:
    """The broken twins that can be told from the right mechanism of a study of one stage."""
    return tuple(mutant for mutant in MUTANTS if mutant.applies(study))
