"""Who reads the channel: what he knows, how he attacks a round, and what he reached in several.

Every attack is held against two others. The baseline guesses the most common category of every column. The control
attacks the same round once more with one record left out, and compares what comes out with that record: what is right
then comes from the other records and from luck. Privacy bounds how much more may be right where the record takes part.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from privacy.audit.channel.inversion import KnownRecords, Reconstruction, invert
from privacy.audit.channel.public_inputs import Codes
from privacy.audit.channel.reconstruction import epsilon_bound, right_cells, share_interval
from privacy.audit.finding import Claim, Interval
from privacy.audit.verdict import Measure, Shown
from protocol.errors import InputError
from protocol.randomness import RandomSource
from protocol.study import Study
from protocol.terms import ContributionKind
from records.dataset import Records
from simulations.audit.channel.twin import ChannelTwin, Setting
from simulations.audit.model.pool import public_law, unit_of_rows
from strategies.study_model import study_schema

_KNOWN = 256
_SYNTHETIC = 2_000
_FEWEST_RECORDS = 12
_LEFT_OUT = 2  # records of a round that the control leaves out, one after the other


@dataclass(frozen=True, kw_only=True, eq=False)
class AttackedRound:
    """What is right of one round.

    Attributes:
        attacked: Cells of the records in the batch, bool [n, columns].
        baseline: The same of the best guess without the channel.
        control: Cells of records that were left out, [m, columns].
    """

    attacked: NDArray[np.bool_]
    baseline: NDArray[np.bool_]
    control: NDArray[np.bool_]


@dataclass(kw_only=True, eq=False)
class Outcome:
    """What the attack reached in one setting, in several independent rounds.

    Attributes:
        twin: The setting.
        confidence: Of every interval, and of what it shows.
        rounds: The rounds.
        seconds: Wall-clock time.
    """

    twin: ChannelTwin
    confidence: float = 0.95
    rounds: list[AttackedRound] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def records(self) -> int:
        """Number of records attacked."""
        return len(self.rounds) * self.twin.records

    def cells(self, part: Callable[[AttackedRound], NDArray[np.bool_]]) -> Interval:
        """The share of cells that are right."""
        return share_interval(np.array([part(each).mean() for each in self.rounds]), confidence=self.confidence)

    def whole(self, part: Callable[[AttackedRound], NDArray[np.bool_]]) -> Interval:
        """The share of records that are right in every cell."""
        return self.cells(lambda each: np.asarray(part(each).all(axis=1)))

    def shown(self, claim: Claim | None) -> Shown:
        """What the attack showed, for a verdict on a claim.

        Raises:
            InputError: If there are fewer than two rounds.
        """
        attacked, baseline, control = self.cells(attacked_cells), self.cells(baseline_cells), self.cells(control_cells)
        bound = None if claim is None else epsilon_bound(attacked, [baseline, control], delta=claim.delta)
        return Shown(
            measure=Measure.HIT_RATE,
            attacked=attacked,
            baseline=baseline,
            control=control,
            canaries=self.records,
            lower_bound=bound,
        )


def attacked_cells(attacked: AttackedRound) -> NDArray[np.bool_]:
    """Of the records in the batch."""
    return attacked.attacked


def baseline_cells(attacked: AttackedRound) -> NDArray[np.bool_]:
    """Of the best guess without the channel."""
    return attacked.baseline


def control_cells(attacked: AttackedRound) -> NDArray[np.bool_]:
    """Of records that were left out."""
    return attacked.control


class ChannelAttacker:
    """An attacker with what he knows: the study, and records like those in the batches.

    Args:
        study: The study.
        records: Records of its schema; None for synthetic ones of a public law.
        random: Source of every choice, of batches, latent draws and noise.

    Raises:
        InputError: If there are too few records, or the family is unknown to the attack.
        CloisterError: Whatever a round of the study can raise.
    """

    def __init__(self, study: Study, records: Records | None, *, random: RandomSource) -> None:
        self._random = random
        self._generator = np.random.default_rng(random.child("channel").seed64())
        pool = _pool(study, records, self._generator)
        count = min(_KNOWN, len(pool) // 2)
        self._pool = pool[count:]
        self.known = KnownRecords(
            codes=np.ascontiguousarray(pool[:count]),
            cardinalities=study_schema(study).cardinalities,
            gradients=_gradients(study, pool[:count], random=random.child("known")),
        )

    def batch(self, twin: ChannelTwin) -> Codes:
        """Draw the records of a round, [records, columns].

        Raises:
            InputError: If there are too few records.
        """
        if len(self._pool) < twin.records:
            raise InputError(
                f"{len(self._pool)} records for a batch of {twin.records}.",
                remedy="Give more records, or none for synthetic ones.",
            )
        chosen: Codes = self._pool[self._generator.permutation(len(self._pool))[: twin.records]]
        return chosen

    def reconstruct(
        self, twin: ChannelTwin, codes: Codes, *, number: int, left_out: int | None = None
    ) -> Reconstruction:
        """Let the sites contribute in a round, and reconstruct the records.

        Args:
            twin: The setting.
            codes: Records of the round, [records, columns].
            number: Number of the round.
            left_out: Place of a record that takes no part, which the attacker is not told; None if all do.

        Raises:
            CloisterError: Whatever a round of the study can raise.
        """
        place = "none" if left_out is None else left_out
        source = self._random.child("round", twin.setting.value, twin.batch, number, place)
        seen = twin.observe(codes, random=source, left_out=left_out)
        return invert(seen, self.known, generator=self._generator)

    def attack(self, twin: ChannelTwin, codes: Codes, *, number: int) -> AttackedRound:
        """Attack a round, and again with records left out.

        Raises:
            CloisterError: Whatever a round of the study can raise.
        """
        found = self.reconstruct(twin, codes, number=number)
        guessed = np.tile(self.known.most_common(), (len(codes), 1))
        control = []
        for place in self._generator.permutation(len(codes))[:_LEFT_OUT].tolist():
            without = self.reconstruct(twin, codes, number=number, left_out=place)
            control.append(right_cells(codes, without.codes)[place])
        return AttackedRound(
            attacked=right_cells(codes, found.codes),
            baseline=right_cells(codes, guessed),
            control=np.array(control),
        )


def _gradients(study: Study, codes: Codes, *, random: RandomSource) -> NDArray[np.float32]:
    """What a site with one record alone would send without noise, for each of several records, [n, d].

    Where it would send a change of the weights, fakes may be in it: the gradient at the weights it starts from is then
    clearer, and in the same unit.
    """
    alone = ChannelTwin(study=study, setting=Setting.NO_PROTECTION, batch=1)
    if alone.takes_fakes:
        training = replace(study.training, strategy=ContributionKind.GRADIENTS)
        alone = replace(alone, study=replace(study, training=training))
    rows = np.empty((len(codes), alone.dimension), dtype=np.float32)
    for place in range(len(codes)):
        rows[place] = alone.observe(codes[place : place + 1], random=random.child("record", place)).vector
    return rows


def _pool(study: Study, records: Records | None, generator: np.random.Generator) -> Codes:
    """Records to attack with and to attack, one of each unit, in random order, [n, columns]."""
    if study_schema(study).image is not None:
        raise InputError(
            "The attack on the channel knows records without images.",
            remedy="Audit the mechanism and the model of this study: cloister audit mechanism, cloister audit model.",
        )
    if records is None:
        return public_law(study_schema(study).cardinalities, generator=generator)(_SYNTHETIC)
    if replace(records.schema, site_column=None) != replace(study_schema(study), site_column=None):
        raise InputError("The records have another schema than the study.", remedy="Encode them with the study's.")
    first = np.unique(unit_of_rows(study, records), return_index=True)[1]
    if len(first) < _FEWEST_RECORDS:
        raise InputError(
            f"Records of {len(first)} units to attack, fewer than {_FEWEST_RECORDS}.",
            remedy="Give more records, or none for synthetic ones.",
        )
    chosen: Codes = records.codes[first[generator.permutation(len(first))]]
    return chosen
