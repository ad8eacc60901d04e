"""What an audit of a trained model trains on: canaries, the records around them, and records to compare with.

The canaries are of two kinds. *Records like any* are taken from the records: they tell what an ordinary record risks.
*Made-up* ones have uniformly drawn, independent codes: nothing else in the records explains such a record, so a model
that learns anything about single records shows it there first. Each is in by its own fair coin.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from protocol.errors import InputError
from protocol.randomness import RandomSource
from protocol.study import Study
from protocol.terms import Trust, Unit
from records.bins import Codes
from records.dataset import Records
from strategies.study_model import study_schema

_CLASSES = 8  # latent classes of synthetic records
_CONCENTRATION = 0.5  # below one, so that a class has a few likely codes in every column
_MOST_WATCHED = 4
POPULATION = 500  # records of each kind that no model sees
_CROWD, _CROWD_MADE_UP = 800, 200


@dataclass(frozen=True, kw_only=True, eq=False)
class Candidates:
    """The canaries of an audit.

    Attributes:
        codes: int32 [m, columns].
        planted: bool [m], whether the canary was made up.
        included: bool [m], the coins.
    """

    codes: Codes
    planted: NDArray[np.bool_]
    included: NDArray[np.bool_]

    def __len__(self) -> int:
        """Number of canaries, m."""
        return len(self.codes)

    def views(self, study: Study) -> NDArray[np.int64]:
        """Which of the watched sites each canary is at, in or out: they are dealt out in turns, int64 [m]."""
        return np.arange(len(self), dtype=np.int64) % watched_sites(study)


@dataclass(frozen=True, kw_only=True, eq=False)
class Extra:
    """Records that are placed at sites on purpose.

    Attributes:
        codes: int32 [e, columns]; each is a unit of its own.
        sites: int64 [e], number of the site.
    """

    codes: Codes
    sites: NDArray[np.int64]


@dataclass(frozen=True, kw_only=True, eq=False)
class Crowd:
    """What an attacker knows of the other records that a sum is made of.

    Attributes:
        codes: int32 [z, columns].
        numbers: float64 [z], how many of the units behind one watched sum each of them stands for.
    """

    codes: Codes
    numbers: NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, eq=False)
class Pool:
    """Everything that an audit trains on and compares with.

    Attributes:
        base: Records that the subject holds in any case.
        candidates: The canaries.
        population: int32 [z, columns], records of either kind that no model sees.
        population_planted: bool [z], which of them were made up.
    """

    base: Records
    candidates: Candidates
    population: Codes
    population_planted: NDArray[np.bool_]

    def members(self, study: Study) -> Extra:
        """The canaries that are in."""
        chosen = self.candidates.included
        return Extra(codes=self.candidates.codes[chosen], sites=self.candidates.views(study)[chosen])

    def strangers(self, study: Study, *, share: float, generator: np.random.Generator) -> Extra:
        """As many made-up records as the subject has, times a share; none of them is a canary."""
        count = round(share * int(self.candidates.planted[self.candidates.included].sum()))
        codes = uniform_codes(self.base.schema.code_cardinalities, count, generator=generator)
        return Extra(codes=codes, sites=np.arange(count, dtype=np.int64) % watched_sites(study))

    def crowd(self, study: Study, *, generator: np.random.Generator) -> Crowd:
        """What an attacker knows of the records of one watched sum: those of the base, or a sample; no canary."""
        alone = study.privacy.trust is Trust.NONE
        units, planted = unit_of_rows(study, self.base), int(self.candidates.planted.sum())
        first = np.unique(units, return_index=True)[1]
        usual = self.base.codes[generator.permutation(first)[:_CROWD]]
        made_up = uniform_codes(self.base.schema.code_cardinalities, _CROWD_MADE_UP, generator=generator)
        # Half of the canaries are in; those that are records like any count as such.
        watched = watched_sites(study) if alone else 1
        usual_number = len(first) / (study.federation.sites if alone else 1)
        usual_number += (len(self.candidates) - planted) / 2.0 / watched
        return Crowd(
            codes=np.concatenate([usual, made_up]),
            numbers=np.repeat(
                [usual_number / len(usual), planted / 2.0 / watched / len(made_up)], [len(usual), len(made_up)]
            ),
        )

    def half(self, study: Study, *, generator: np.random.Generator) -> Records:
        """Half of the base's units, at random: what a reference model trains on."""
        units = unit_of_rows(study, self.base)
        chosen = generator.permutation(int(units.max()) + 1) % 2 == 0
        return self.base.take(np.flatnonzero(chosen[units]))


def make_pool(
    study: Study, records: Records | None, *, canaries: int, planted_share: float, random: RandomSource
) -> Pool:
    """Choose canaries, and what is trained and compared on.

    Args:
        study: The study.
        records: Records of the study's schema; None for synthetic ones from a public law, as many as the study names.
        canaries: Number of canaries, at least 4.
        planted_share: Share of the canaries that are made up, in [0, 1].
        random: Source of every choice.

    Raises:
        InputError: If there are too few records, or an argument is out of range.
    """
    if canaries < 4 or not 0.0 <= planted_share <= 1.0:
        raise InputError(
            f"{canaries} canaries, a share of {planted_share} of them made up.",
            remedy="Use at least 4 canaries, and a share from 0 to 1.",
        )
    generator = np.random.default_rng(random.child("pool").seed64())
    planted = round(canaries * planted_share)
    given = _synthetic(study, canaries, planted, generator) if records is None else records
    base, own, held_out = _divided(
        study,
        given,
        canaries=canaries - planted,
        held_out=POPULATION if records is None else min(POPULATION, max(1, len(given) // 10)),
        generator=generator,
    )
    cardinalities = base.schema.code_cardinalities
    made_up = uniform_codes(cardinalities, planted, generator=generator)
    others = uniform_codes(cardinalities, POPULATION, generator=generator)
    return Pool(
        base=base,
        candidates=Candidates(
            codes=np.concatenate([own, made_up]),
            planted=np.arange(canaries) >= len(own),
            included=random.child("coins").bernoulli(canaries, 0.5),
        ),
        population=np.concatenate([held_out, others]),
        population_planted=np.arange(len(held_out) + POPULATION) >= len(held_out),
    )


def watched_sites(study: Study) -> int:
    """How many sites hold canaries: memory for what they send is needed."""
    return min(study.federation.sites, _MOST_WATCHED)


def unit_of_rows(study: Study, records: Records) -> NDArray[np.int64]:
    """The unit of every record, dense."""
    return records.units if study.privacy.unit is Unit.PERSON else np.arange(len(records), dtype=np.int64)


def public_law(cardinalities: Sequence[int], *, generator: np.random.Generator) -> Callable[[int], Codes]:
    """Return a law of synthetic records that no record entered: a random mixture of independent columns.

    Args:
        cardinalities: Number of codes of every column.
        generator: Source of the law and of all that is drawn from it.

    Returns:
        From a number n to int32 [n, columns].
    """
    tables = [
        generator.dirichlet(np.full(size, _CONCENTRATION), size=_CLASSES).cumsum(axis=1) for size in cardinalities
    ]
    shares = generator.dirichlet(np.full(_CLASSES, 2.0))

    def draw(count: int) -> Codes:
        classes = generator.choice(_CLASSES, size=count, p=shares)
        drawn = [(table[classes] < generator.random((count, 1))).sum(axis=1) for table in tables]
        # Rounding may leave the last cumulative share a little below one.
        codes: Codes = np.minimum(np.stack(drawn, axis=1), np.array(cardinalities) - 1).astype(np.int32)
        return codes

    return draw


def uniform_codes(cardinalities: Sequence[int], count: int, *, generator: np.random.Generator) -> Codes:
    """Draw records whose codes are uniform and independent, int32 [count, columns]."""
    return generator.integers(0, np.array(cardinalities), size=(count, len(cardinalities))).astype(np.int32)


def _synthetic(study: Study, canaries: int, planted: int, generator: np.random.Generator) -> Records:
    """Synthetic records: base, canaries and population of a study of the size that is publicly known."""
    base = study.federation.public_records - canaries // 2
    if base < 2:
        raise InputError(
            f"{canaries} canaries among {study.federation.public_records} records.",
            remedy="Half of them are in: use fewer than twice as many canaries as the study has records.",
        )
    schema = study_schema(study)
    codes = public_law(schema.code_cardinalities, generator=generator)(base + canaries - planted + POPULATION)
    persons = None if schema.person is None else np.arange(len(codes), dtype=np.int64)
    return Records(codes=codes, persons=persons, schema=schema)


def _divided(
    study: Study, records: Records, *, canaries: int, held_out: int, generator: np.random.Generator
) -> tuple[Records, Codes, Codes]:
    """Divide records into base, canaries and population; the last two hold one record of a unit, no other of it."""
    units = unit_of_rows(study, records)
    order = generator.permutation(int(units.max()) + 1 if len(units) else 0)
    if len(order) < canaries + held_out + 2:
        raise InputError(
            f"{canaries} canaries that are records among {len(order)} units.",
            remedy="Use fewer canaries, or a larger share of made-up ones.",
        )
    first = np.unique(units, return_index=True)[1]
    chosen, others = order[:canaries], order[canaries : canaries + held_out]
    base = np.flatnonzero(~np.isin(units, order[: canaries + held_out]))
    return records.take(base), records.codes[first[chosen]], records.codes[first[others]]
