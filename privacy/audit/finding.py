"""What an audit found: intervals, claims, curves and findings, which cannot be stated without an error bar."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from enum import StrEnum
from typing import Any, Self, TypeVar

from protocol.errors import InputError
from protocol.terms import Relation

FINDING_VERSION = 1
_Word = TypeVar("_Word", bound=StrEnum)
_READ = "Use a report written by this version of Cloister."


class Verdict(StrEnum):
    """What an audit may conclude; none of these words says that something is safe."""

    VIOLATED = "violated"
    CONSISTENT = "consistent"
    UNDERPOWERED = "underpowered"
    NO_VERDICT = "no verdict"


class Tier(StrEnum):
    """What an audit looks at: one step, the trained generator, the synthetic records, or what is sent."""

    MECHANISM = "mechanism"
    MODEL = "model"
    RELEASE = "release"
    CHANNEL = "channel"


@dataclass(frozen=True, kw_only=True)
class Interval:
    """An estimate with its confidence interval; there is no estimate without one.

    Attributes:
        value: The point estimate.
        low: Lower end; at most ``value``.
        high: Upper end; at least ``value``.
        confidence: Probability with which the interval holds the truth, in (0, 1).

    Raises:
        InputError: If a field is no finite number, the ends are out of order or the confidence is out of range.

    Example:
        >>> Interval(value=0.6, low=0.55, high=0.65, confidence=0.95).low
        0.55
    """

    value: float
    low: float
    high: float
    confidence: float

    def __post_init__(self) -> None:
        for field in fields(self):
            object.__setattr__(self, field.name, _finite(field.name, getattr(self, field.name)))
        if not self.low <= self.value <= self.high:
            raise InputError(
                f"The interval's low, value and high are {self.low}, {self.value} and {self.high}.",
                remedy="Give them in ascending order.",
            )
        if not 0.0 < self.confidence < 1.0:
            raise InputError(f"confidence is {self.confidence}, not in (0, 1).", remedy="Use 0.95, for example.")

    @classmethod
    def of_nothing(cls, *, confidence: float) -> Self:
        """What is known of a rate before anything was observed: that it lies between 0 and 1."""
        return cls(value=0.5, low=0.0, high=1.0, confidence=confidence)

    def to_mapping(self) -> dict[str, object]:
        """The interval as a JSON object."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    @classmethod
    def from_mapping(cls, mapping: Mapping[str, object]) -> Self:
        """Reads an interval as of `to_mapping`; raises InputError if it is none."""
        return cls(**_exactly(cls, mapping))


@dataclass(frozen=True, kw_only=True)
class Claim:
    """The guarantee that an audit tests.

    Attributes:
        epsilon: Claimed epsilon; at least 0.
        delta: Claimed delta, in [0, 1).
        relation: Neighbouring relation of the claim.

    Raises:
        InputError: If a field is of the wrong type or out of range.
    """

    epsilon: float
    delta: float
    relation: Relation

    def __post_init__(self) -> None:
        object.__setattr__(self, "epsilon", _at_least_zero("epsilon", self.epsilon))
        object.__setattr__(self, "delta", _at_least_zero("delta", self.delta))
        if self.delta >= 1.0:
            raise InputError(f"delta is {self.delta}, not below 1.", remedy="Give the delta of the statement.")
        if not isinstance(self.relation, Relation):
            raise InputError(f"relation is {self.relation!r}, not a Relation.", remedy="Use protocol.terms.Relation.")

    def to_mapping(self) -> dict[str, object]:
        """The claim as a JSON object."""
        return {"epsilon": self.epsilon, "delta": self.delta, "relation": self.relation.value}

    @classmethod
    def from_mapping(cls, mapping: Mapping[str, object]) -> Self:
        """Reads a claim as of `to_mapping`; raises InputError if it is none."""
        values = _exactly(cls, mapping)
        return cls(**{**values, "relation": _member(Relation, "relation", values["relation"])})


@dataclass(frozen=True, kw_only=True)
class Curve:
    """A receiver operating characteristic: one point per threshold, from (0, 0) to (1, 1).

    Attributes:
        false_positive_rate: Non-members called members, shape (points,), ascending.
        true_positive_rate: Members called members, shape (points,), ascending.

    Raises:
        InputError: If lengths differ, a rate is outside [0, 1], rates descend, or the ends are not (0, 0) and (1, 1).
    """

    false_positive_rate: tuple[float, ...]
    true_positive_rate: tuple[float, ...]

    def __post_init__(self) -> None:
        for field in fields(self):
            rates = tuple(_finite(field.name, rate) for rate in getattr(self, field.name))
            ascending = all(low <= high for low, high in zip(rates, rates[1:], strict=False))
            if len(rates) < 2 or rates[0] != 0.0 or rates[-1] != 1.0 or not ascending:
                raise InputError(f"{field.name} does not rise from 0 to 1.", remedy="Use privacy.audit.roc.")
            object.__setattr__(self, field.name, rates)
        if len(self.false_positive_rate) != len(self.true_positive_rate):
            raise InputError("The two rates of the curve differ in length.", remedy="Use privacy.audit.roc.")

    def to_mapping(self) -> dict[str, object]:
        """The curve as a JSON object."""
        return {field.name: list(getattr(self, field.name)) for field in fields(self)}

    @classmethod
    def from_mapping(cls, mapping: Mapping[str, object]) -> Self:
        """Reads a curve as of `to_mapping`; raises InputError if it is none."""
        values = _exactly(cls, mapping)
        if not all(isinstance(rates, (list, tuple)) for rates in values.values()):
            raise InputError("The curve's rates are no lists.", remedy=_READ)
        return cls(**{name: tuple(rates) for name, rates in values.items()})


@dataclass(frozen=True, kw_only=True)
class Finding:
    """The outcome of one attack on one subject.

    Attributes:
        tier: What was looked at.
        attack: Name of the attack.
        subject: What was attacked, e.g. a study, a release or a broken twin.
        claim: The guarantee tested; None where the attack tests none.
        lower_bound: Epsilon that the attack proves at the claim's delta and the confidence of ``attacked``;
            None where the attack proves none.
        ceiling: The ``lower_bound`` that a perfect attacker would typically (in the median) show with as many
            canaries against a subject that spends exactly the claim; None where unknown.
        measure: What ``attacked``, ``baseline`` and ``control`` measure, e.g. AUROC or success rate.
        attacked: The attack's success on the subject.
        baseline: Success of the best guess without the subject; None where there is none.
        control: Success on records that were in nothing, or against a subject that never saw them.
        canaries: Number of records or directions the attack decided on; 0 only with no verdict.
        needed: Number of canaries that would do, where the verdict is underpowered and this could be told.
        verdict: The conclusion.
        words: What was found, as sentences for a reader who is no statistician; at least one.
        curve: Receiver operating characteristic of the attack, where there is one.
        seconds: Wall-clock time of the attack.

    Raises:
        InputError: If a field is of the wrong type or out of range, or the fields contradict each other.
    """

    tier: Tier
    attack: str
    subject: str
    claim: Claim | None
    lower_bound: float | None
    ceiling: float | None
    measure: str
    attacked: Interval
    baseline: Interval | None
    control: Interval | None
    canaries: int
    needed: int | None
    verdict: Verdict
    words: tuple[str, ...]
    curve: Curve | None
    seconds: float

    def __post_init__(self) -> None:
        self._check_types()
        for name in ("lower_bound", "ceiling", "seconds"):
            value = getattr(self, name)
            if value is not None or name == "seconds":
                object.__setattr__(self, name, _at_least_zero(name, value))
        if self.claim is None and (self.lower_bound is not None or self.ceiling is not None):
            raise InputError("A lower bound or ceiling has no claim.", remedy="State the claim, whose delta they need.")
        if self.canaries == 0 and self.verdict is not Verdict.NO_VERDICT:
            raise InputError("canaries is 0 but there is a verdict.", remedy="Conclude nothing from nothing.")
        if self.needed is not None and self.verdict is not Verdict.UNDERPOWERED:
            raise InputError("needed is given without an underpowered verdict.", remedy="Leave it None.")
        self._check_verdict()

    def _check_types(self) -> None:
        kinds: dict[str, Any] = {
            "tier": Tier,
            "verdict": Verdict,
            "claim": (Claim, type(None)),
            "attacked": Interval,
            "baseline": (Interval, type(None)),
            "control": (Interval, type(None)),
            "curve": (Curve, type(None)),
        }
        for name, kind in kinds.items():
            if not isinstance(getattr(self, name), kind):
                raise InputError(f"{name} is {getattr(self, name)!r}.", remedy="Use the types of the finding.")
        for name in ("attack", "subject", "measure"):
            _text(name, getattr(self, name))
        if not isinstance(self.words, tuple) or not self.words:
            raise InputError("words is no tuple of sentences.", remedy="Say at least one sentence.")
        for sentence in self.words:
            _text("words", sentence)
        for name, least in (("canaries", 0), ("needed", 1)):
            value = getattr(self, name)
            if name == "needed" and value is None:
                continue
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise InputError(f"{name} is {value!r}, no integer from {least}.", remedy="Count them.")

    def _check_verdict(self) -> None:
        """A lower bound above the claim leaves two verdicts: violated, or none because the audit itself failed."""
        if self.claim is None or self.lower_bound is None:
            return
        above = self.lower_bound > self.claim.epsilon
        if above and self.verdict in (Verdict.CONSISTENT, Verdict.UNDERPOWERED):
            raise InputError(
                f"The lower bound {self.lower_bound} is above the claim {self.claim.epsilon}: not {self.verdict}.",
                remedy="Use privacy.audit.verdict.",
            )

    def to_mapping(self) -> dict[str, object]:
        """The finding as a JSON object with its version."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        for name in ("claim", "attacked", "baseline", "control", "curve"):
            values[name] = None if values[name] is None else values[name].to_mapping()
        values |= {"tier": self.tier.value, "verdict": self.verdict.value, "words": list(self.words)}
        return {"version": FINDING_VERSION, **values}

    @classmethod
    def from_mapping(cls, mapping: Mapping[str, object]) -> Self:
        """Reads a finding; exactly the known fields of a known version.

        Args:
            mapping: A JSON object, as of `to_mapping`.

        Returns:
            The finding.

        Raises:
            InputError: If the version, a field or a value is unknown.
        """
        version = mapping.get("version") if isinstance(mapping, Mapping) else None
        if isinstance(version, bool) or version != FINDING_VERSION:
            raise InputError(f"The finding has version {version!r}, not {FINDING_VERSION}.", remedy=_READ)
        values = _exactly(cls, {name: value for name, value in mapping.items() if name != "version"})
        parts: dict[str, Any] = {
            "claim": Claim,
            "attacked": Interval,
            "baseline": Interval,
            "control": Interval,
            "curve": Curve,
        }
        for name, kind in parts.items():
            values[name] = None if values[name] is None else kind.from_mapping(values[name])
        values["tier"] = _member(Tier, "tier", values["tier"])
        values["verdict"] = _member(Verdict, "verdict", values["verdict"])
        values["words"] = tuple(values["words"]) if isinstance(values["words"], list) else values["words"]
        return cls(**values)


def _finite(name: str, value: object) -> float:
    """Checks a finite real number; a bool is no number, a numpy scalar becomes a plain float."""
    try:
        number = math.nan if isinstance(value, (bool, str)) else float(value)  # type: ignore[arg-type]  # caught below
    except TypeError:
        number = math.nan
    if not math.isfinite(number):
        raise InputError(f"{name} is {value!r}, not a finite number.", remedy="Give a finite number.")
    return number


def _at_least_zero(name: str, value: object) -> float:
    number = _finite(name, value)
    if number < 0.0:
        raise InputError(f"{name} is {value!r}, below 0.", remedy="Give a number of at least 0.")
    return number


def _text(name: str, value: object) -> None:
    if not isinstance(value, str) or not value.strip():
        raise InputError(f"{name} is {value!r}, no text.", remedy="Name it in words.")


def _member(kind: type[_Word], name: str, value: object) -> _Word:
    """Looks a word up in a closed vocabulary."""
    if isinstance(value, str) and value in {member.value for member in kind}:
        return kind(value)
    raise InputError(f"{name} is {value!r}, which is no {kind.__name__}.", remedy=_READ)


def _exactly(kind: Any, mapping: object) -> dict[str, Any]:
    """The fields of ``kind`` as found in ``mapping``; none missing, none more."""
    wanted = {field.name for field in fields(kind)}
    if not isinstance(mapping, Mapping) or set(mapping) != wanted:
        raise InputError(f"A {kind.__name__} has other fields than {sorted(wanted)}.", remedy=_READ)
    return dict(mapping)
