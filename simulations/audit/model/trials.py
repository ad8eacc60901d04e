"""The membership attacks on a trained model, carried out on twins.

Every attack scores all canaries, and a population of records that no model saw, by one trained model. It is carried out
on the twin, on a control that never saw a canary, and on the twin without privacy.
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from privacy.audit.model.membership import Attempt, against_own_kind
from privacy.audit.model.reference_attack import log_ratios
from privacy.mechanisms.gaussian import NoNoise
from protocol.errors import CloisterError
from protocol.randomness import RandomSource
from protocol.study import Study
from simulations.audit.mechanism.twin import Parts
from simulations.audit.model.deadline import Deadline
from simulations.audit.model.one_run import one_run_attempt, silence_is_heard
from simulations.audit.model.pool import Crowd, Pool
from simulations.audit.model.signals import Signal, gradients, likelihood, loss, reconstruction
from simulations.audit.model.twin import TrainedTwin

# What arithmetic and indexing of an attack can raise. Anything else is a fault of ours and ends the audit.
FAULTS = (CloisterError, ArithmeticError, RuntimeError, ValueError, LookupError, MemoryError)


@dataclass(frozen=True, kw_only=True)
class Attack:
    """One membership attack.

    Attributes:
        name: Its name.
        who: Who can carry it out, as the end of a sentence.
        signal: What it reads off a model; None for that of all rounds.
        compared: Whether the signal is held against reference models.
    """

    name: str
    who: str
    signal: Signal | None
    compared: bool = False


_ANYBODY, _INSIDER = "anybody who has the release", "a site or the coordinator, who hold the shared weights"
_WITNESS = "a site or the coordinator, who saw what was sent in every round"
_GENERATOR = (
    Attack(name="likelihood", who=_ANYBODY, signal=likelihood),
    Attack(name="likelihood against references (RMIA)", who=_ANYBODY, signal=likelihood, compared=True),
)
_ROUNDS = Attack(name="gradients of all rounds", who=f"{_WITNESS}, and knows the other records", signal=None)
_AUTO_ENCODER = (
    *_GENERATOR,
    Attack(name="reconstruction", who=_INSIDER, signal=reconstruction),
    Attack(name="evidence lower bound", who=_INSIDER, signal=loss),
    Attack(name="evidence lower bound against references (RMIA)", who=_INSIDER, signal=loss, compared=True),
    _ROUNDS,
)

ATTACKS: Mapping[str, tuple[Attack, ...]] = {
    "vae": _AUTO_ENCODER,
    # The critic's loss is part of an auto-encoder's that has one.
    "vaegan": _AUTO_ENCODER,
    "gan": (
        *_GENERATOR,
        Attack(name="critic", who=_INSIDER, signal=loss),
        Attack(name="critic against references (RMIA)", who=_INSIDER, signal=loss, compared=True),
        _ROUNDS,
    ),
}
"""The attacks on a trained model of each family, by its name."""

WHITE_BOX: Mapping[str, str] = {
    "vae": "evidence lower bound against references (RMIA)",
    "vaegan": "evidence lower bound against references (RMIA)",
    "gan": "critic against references (RMIA)",
}
"""The strongest attack on the trained weights of each family, by its name."""

KNOWN_GRADIENTS = Attack(name="canaries of known gradient", who=_WITNESS, signal=None)
"""The attack on no trained model, but on canaries whose gradients are chosen; see :mod:`.one_run`."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Trial:
    """One attack on all twins.

    Attributes:
        attack: The attack.
        subject: What was attacked.
        words: What a reader must know of it.
        attempt: On the subject; None where the attack failed.
        control: On a model that never saw a canary.
        positive: On the twin without privacy; None where there is none.
        missed: Broken twins that the attack had to catch and did not.
        fault: Why the attack failed; empty otherwise.
        seconds: Wall-clock time.
    """

    attack: Attack
    subject: str
    words: tuple[str, ...] = ()
    attempt: Attempt | None = None
    control: Attempt | None = None
    positive: Attempt | None = None
    missed: tuple[str, ...] = ()
    fault: str = ""
    seconds: float


@dataclass(frozen=True, kw_only=True, eq=False)
class Twins:
    """The trained models of an audit.

    Attributes:
        subject: What is attacked.
        control: The same without any canary.
        positive: The same without privacy; None where there is none.
        references: Models of records like those, without canaries.
        seconds: What training the subject took.
    """

    subject: TrainedTwin
    control: TrainedTwin
    positive: TrainedTwin | None
    references: tuple[TrainedTwin, ...]
    seconds: float


class Reader:
    """Reads signals off models, each once.

    Args:
        pool: What is scored.
        crowd: What the attacker knows of the other records.
        deadline: When to be done.
    """

    def __init__(self, pool: Pool, crowd: Crowd, deadline: Deadline) -> None:
        self._pool = pool
        self._crowd = crowd
        self._deadline = deadline
        self._codes = np.concatenate([pool.candidates.codes, pool.population])
        self._known: dict[tuple[int, Signal], NDArray[np.float64]] = {}

    def attempt(self, attack: Attack, twin: TrainedTwin, references: tuple[TrainedTwin, ...]) -> Attempt:
        """Score canaries and population by one model, and compare each canary with its own kind.

        Raises:
            InputError: If the time is over, or scores are no numbers.
        """
        self._deadline.check(f"the attack {attack.name!r}")
        candidates = self._pool.candidates
        signals = self._rounds(twin) if attack.signal is None else self._read(attack.signal, twin)
        if attack.compared and attack.signal is not None:
            signals = log_ratios(signals, [self._read(attack.signal, each) for each in references])
        count = len(candidates)
        return Attempt(
            suspicion=against_own_kind(
                signals[:count],
                candidates.planted,
                population=signals[count:],
                population_planted=self._pool.population_planted,
            ),
            included=candidates.included,
            planted=candidates.planted,
        )

    def words(self, attack: Attack, references: int) -> tuple[str, ...]:
        """What a reader must know of an attack on these canaries."""
        planted = int(self._pool.candidates.planted.sum())
        sentences = (
            _open_to(attack),
            f"A canary is a record that the auditor put in or left out by tossing a coin; the attack must say which "
            f"were in. Of {len(self._pool.candidates):,} canaries {planted:,} have values drawn at random, because a "
            "model that learns single records shows it there first; the others are records like any.",
        )
        if not attack.compared:
            return sentences
        return (*sentences, f"Each score was held against {references} reference models without canaries.")

    def _read(self, signal: Signal, twin: TrainedTwin) -> NDArray[np.float64]:
        key = (id(twin), signal)
        if key not in self._known:
            self._known[key] = signal(twin, self._codes)
        return self._known[key]

    def _rounds(self, twin: TrainedTwin) -> NDArray[np.float64]:
        """The signal of all rounds; who was in no model is taken to be at the sites in turns."""
        own = self._pool.candidates.views(twin.study)
        others = np.arange(len(self._pool.population), dtype=np.int64) % (int(own.max()) + 1)
        views = np.concatenate([own, others])
        return gradients(twin, self._codes, views=views, crowd=self._crowd, deadline=self._deadline)


def model_trial(attack: Attack, study: Study, reader: Reader, twins: Twins, *, shared_seconds: float) -> Trial:
    """Carry out one attack on trained models; one that fails leaves its reason behind.

    Args:
        attack: The attack.
        study: The study.
        reader: Of the signals.
        twins: What is attacked.
        shared_seconds: This attack's share of the time that training took.
    """
    begin = time.monotonic()
    try:
        attempt, control, positive = (
            None if twin is None else reader.attempt(attack, twin, twins.references)
            for twin in (twins.subject, twins.control, twins.positive)
        )
    except FAULTS as error:
        return failed_trial(attack, study, error, seconds=shared_seconds + time.monotonic() - begin)
    return Trial(
        attack=attack,
        subject=subject_of(study),
        words=reader.words(attack, len(twins.references)),
        attempt=attempt,
        control=control,
        positive=positive,
        seconds=shared_seconds + time.monotonic() - begin,
    )


def known_gradient_trial(study: Study, *, canaries: int, random: RandomSource, positive_control: bool) -> Trial:
    """Run the study once on canaries of known gradient, and once more without its noise.

    The control is a run of its own, in which other coins decide who takes part than those that the attack is held
    against. The run without noise must be seen through.
    """
    begin, positive = time.monotonic(), None
    try:
        attempt = one_run_attempt(study, canaries=canaries, random=random.child("honest"))
        control = one_run_attempt(study, canaries=canaries, random=random.child("control"), strangers=True)
        if positive_control:
            silent = Parts(mechanism=lambda mechanism, _: NoNoise(grid=mechanism.grid))
            positive = one_run_attempt(study, canaries=canaries, random=random.child("silent"), parts=silent)
    except FAULTS as error:
        return failed_trial(KNOWN_GRADIENTS, study, error, seconds=time.monotonic() - begin)
    heard = positive is None or silence_is_heard(positive, study)
    return Trial(
        attack=KNOWN_GRADIENTS,
        subject=subject_of(study),
        words=(
            _open_to(KNOWN_GRADIENTS),
            f"Each of {canaries:,} canaries is made so that its effect on a sum is known exactly, and as large as the "
            "study allows; the auditor put it in or left it out by tossing a coin. No real record is as easy to see.",
        ),
        attempt=attempt,
        control=control,
        positive=positive,
        missed=() if heard else ("a twin that adds no noise",),
        seconds=time.monotonic() - begin,
    )


def failed_trial(attack: Attack, study: Study, error: BaseException, *, seconds: float) -> Trial:
    """The trial of an attack that could not be carried out."""
    return Trial(attack=attack, subject=subject_of(study), fault=str(error) or type(error).__name__, seconds=seconds)


def subject_of(study: Study) -> str:
    """What is attacked, in words."""
    return f"twin of {study.name}"


def _open_to(attack: Attack) -> str:
    return f"The attack is open to {attack.who}."
