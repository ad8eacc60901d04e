"""What the accountant reads: the frozen description of one noisy release.

A release is described where it happens and accounted for elsewhere, so that every accountant, and anybody who
reads a ledger years later, works from the same few public numbers.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Self

from protocol.errors import AccountingError
from protocol.terms import ContributionKind, Relation, Sampler, Unit

EVENT_VERSION = 1
_LEAST_NOISE, _MOST_NOISE = 0.01, 1e6
_LEAST_RATE = 1e-9
_MOST_COUNT = 10**7
_REMEDY = "Describe the release with the fields of NoisyRelease; nothing was charged."


class Mechanism(StrEnum):
    """What blurs a contribution.

    ``GAUSSIAN`` also stands for the discrete Gaussian on an integer grid whose sensitivity is at least 2^10
    grid steps: its concentrated-DP guarantee is that of the continuous one (Canonne, Kamath, Steinke 2020,
    theorem 4), and at that grid the two epsilons agree to a part in a thousand (tested).
    """

    GAUSSIAN = "gaussian"


@dataclass(frozen=True, kw_only=True)
class NoisyRelease:
    """One noisy release, or several alike, of a bounded contribution.

    Attributes:
        mechanism: The noise.
        noise_multiplier: Standard deviation of the noise divided by the L2 sensitivity; from 0.01 to 1e6.
        sample_rate: Probability with which a unit takes part; 1.0 when all do.
        sampler: How units are chosen; ``ALL`` demands a rate of 1.0.
        count: Number of compositions, e.g. steps; from 1 to 1e7.
        kind: What the contribution is a sum of.
        relation: The relation under which the sensitivity bounds a contribution. ``ADD_REMOVE`` (a unit's
            contribution has at most that norm) is accounted for under both relations; ``REPLACE_ONE`` under
            replace-one alone and without sampling.
        unit: Whom the sensitivity is about.

    Raises:
        AccountingError: If a field is of the wrong type, not finite or out of range.

    Example:
        >>> event = NoisyRelease(
        ...     mechanism=Mechanism.GAUSSIAN,
        ...     noise_multiplier=1.0,
        ...     sample_rate=0.01,
        ...     sampler=Sampler.POISSON,
        ...     count=2000,
        ...     kind=ContributionKind.GRADIENTS,
        ...     relation=Relation.ADD_REMOVE,
        ...     unit=Unit.RECORD,
        ... )
        >>> NoisyRelease.from_mapping(event.to_mapping()) == event
        True
    """

    mechanism: Mechanism
    noise_multiplier: float
    sample_rate: float
    sampler: Sampler
    count: int
    kind: ContributionKind
    relation: Relation
    unit: Unit

    def __post_init__(self) -> None:
        for name, kind in _ENUMS.items():
            if not isinstance(getattr(self, name), kind):
                raise AccountingError(f"{name} is {getattr(self, name)!r}, not a {kind.__name__}.", remedy=_REMEDY)
        for name, low, high in (
            ("noise_multiplier", _LEAST_NOISE, _MOST_NOISE),
            ("sample_rate", _LEAST_RATE, 1.0),
        ):
            object.__setattr__(self, name, _number(name, getattr(self, name), low, high))
        if isinstance(self.count, bool) or not isinstance(self.count, int) or not 1 <= self.count <= _MOST_COUNT:
            raise AccountingError(f"count is {self.count!r}, not an integer from 1 to {_MOST_COUNT}.", remedy=_REMEDY)
        if self.sampler is Sampler.ALL and self.sample_rate != 1.0:
            raise AccountingError(
                f"sample_rate is {self.sample_rate} but the sampler takes all.",
                remedy="Use 1.0, or Poisson sampling.",
            )
        if self.relation is Relation.REPLACE_ONE and self.sampler is not Sampler.ALL:
            raise AccountingError(
                "A sensitivity under replace-one is not accounted for under Poisson sampling.",
                remedy="Bound the norm of a unit's contribution and say relation add_remove.",
            )

    def times(self, count: int) -> Self:
        """The same release composed ``count`` times in all."""
        return replace(self, count=count)

    def to_mapping(self) -> dict[str, object]:
        """The event as a JSON object with its version."""
        return {
            "version": EVENT_VERSION,
            "noise_multiplier": self.noise_multiplier,
            "sample_rate": self.sample_rate,
            "count": self.count,
            **{name: str(getattr(self, name).value) for name in _ENUMS},
        }

    @classmethod
    def from_mapping(cls, mapping: Mapping[str, object]) -> Self:
        """Reads an event; exactly the known fields of a known version.

        Args:
            mapping: A JSON object, as of `to_mapping`.

        Returns:
            The event.

        Raises:
            AccountingError: If the version, a field or a value is unknown.
        """
        version = mapping.get("version") if isinstance(mapping, Mapping) else None
        if isinstance(version, bool) or version != EVENT_VERSION:
            raise AccountingError(f"The event has version {version!r}, not {EVENT_VERSION}.", remedy=_REMEDY)
        if set(mapping) != _FIELDS:
            odd = sorted(map(str, set(mapping) ^ _FIELDS))
            raise AccountingError(f"The event's fields {odd} are unknown or missing.", remedy=_REMEDY)
        values = {name: mapping[name] for name in _FIELDS - {"version"}}
        for name, kind in _ENUMS.items():
            values[name] = _member(kind, name, values[name])
        return cls(**values)  # type: ignore[arg-type]  # __post_init__ checks every type


_ENUMS: dict[str, type[StrEnum]] = {
    "mechanism": Mechanism,
    "sampler": Sampler,
    "kind": ContributionKind,
    "relation": Relation,
    "unit": Unit,
}
_FIELDS = frozenset({"version", "noise_multiplier", "sample_rate", "count", *_ENUMS})


def _number(name: str, value: object, low: float, high: float) -> float:
    """Checks a real number and its range; a bool is no number."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not low <= value <= high:
        raise AccountingError(f"{name} is {value!r}, not a number in [{low}, {high}].", remedy=_REMEDY)
    return float(value)


def _member(kind: type[StrEnum], name: str, value: object) -> StrEnum:
    """Looks a word up in a closed vocabulary."""
    if isinstance(value, str) and value in {str(member.value) for member in kind}:
        return kind(value)
    raise AccountingError(f"{name} is {value!r}, which is no {kind.__name__}.", remedy=_REMEDY)
