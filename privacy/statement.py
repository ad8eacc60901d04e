"""An epsilon with everything that makes it mean something: the only form in which one is shown or kept."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Self

from privacy import wording
from privacy.accounting import ACCOUNTANT, CrossCheck, accountant_version, cross_check
from privacy.events import NoisyRelease
from protocol.errors import AccountingError
from protocol.terms import NoiseOrigin, Relation, Sampler, Trust, Unit

STATEMENT_VERSION = 1
_REMEDY = "Ask whoever made the statement for it again."


@dataclass(frozen=True, kw_only=True)
class Statement:
    """What was promised to whom, against whom, and how it was worked out.

    Attributes:
        check: The epsilon of record with its delta, relation and cross-checks.
        replace_one: The same under replace-one.
        unit: Whom the guarantee covers.
        trust: Where the noise was placed.
        events: What was released, equal events grouped.
        accountant: Name of the accountant of record.
        accountant_version: Its version.
        against_whom: Against whom the guarantee holds and does not.
        assumptions: What it rests on.
        simulated: Whether sites and ledgers were simulated on one machine.
        private: False where the noise was deterministic: then nothing holds.
        ledger_entries: Hashes of the ledger entries that paid for it.

    Raises:
        AccountingError: If the fields contradict each other.
    """

    check: CrossCheck
    replace_one: CrossCheck
    unit: Unit
    trust: Trust
    events: tuple[NoisyRelease, ...]
    accountant: str
    accountant_version: str
    against_whom: tuple[str, ...]
    assumptions: tuple[str, ...]
    simulated: bool
    private: bool
    ledger_entries: tuple[str, ...]

    def __post_init__(self) -> None:
        for check in (self.check, self.replace_one):
            numbers = (check.pld, check.fourier, check.renyi, check.delta, check.discretisation)
            if not all(isinstance(number, float) and 0.0 <= number < math.inf for number in numbers):
                raise AccountingError("The statement holds a number that is no number.", remedy=_REMEDY)
        if self.replace_one.relation is not Relation.REPLACE_ONE or self.replace_one.delta != self.check.delta:
            raise AccountingError("The statement's two epsilons are not for one delta.", remedy=_REMEDY)
        if any(event.unit is not self.unit for event in self.events):
            raise AccountingError(f"The statement's events do not protect a {self.unit}.", remedy=_REMEDY)
        if not isinstance(self.simulated, bool) or not isinstance(self.private, bool):
            raise AccountingError("simulated and private must be true or false.", remedy=_REMEDY)

    @classmethod
    def from_events(
        cls,
        events: Sequence[NoisyRelease],
        *,
        delta: float,
        relation: Relation,
        unit: Unit,
        trust: Trust,
        origin: NoiseOrigin,
        simulated: bool,
        ledger_entries: Sequence[str] = (),
        circumstances: Sequence[str] = (),
    ) -> Self:
        """Accounts for events and says what that means.

        Args:
            events: Everything that was released.
            delta: Delta of the statement.
            relation: Neighbouring relation of the statement; replace-one is always stated beside it.
            unit: Whom the events are about.
            trust: Where the noise was placed.
            origin: Where the noise came from.
            simulated: Whether this was a simulation.
            ledger_entries: Hashes of the ledger entries that paid for the events.
            circumstances: What else it rests on, as sentences.

        Returns:
            The statement.

        Raises:
            AccountingError: If the events cannot be accounted for, or the accountants disagree.
        """
        return cls(
            check=cross_check(events, delta=delta, relation=relation),
            replace_one=cross_check(events, delta=delta, relation=Relation.REPLACE_ONE),
            unit=unit,
            trust=trust,
            events=_grouped(events),
            accountant=ACCOUNTANT,
            accountant_version=accountant_version(),
            against_whom=wording.against_whom(trust),
            assumptions=(*wording.assumptions(events), *circumstances),
            simulated=simulated,
            private=origin is NoiseOrigin.SYSTEM,
            ledger_entries=tuple(ledger_entries),
        )

    @classmethod
    def across_sites(cls, statements: Sequence[Self]) -> Self:
        """The federation's statement under disjoint sites: the largest epsilon; private only if all are.

        Args:
            statements: One statement per site, for one delta, relation, unit and trust.

        Returns:
            The statement of the site with the largest epsilon, with every site's ledger entries.

        Raises:
            AccountingError: If there is none, or they are about different things.
        """
        kinds = {(one.delta, one.relation, one.unit, one.trust) for one in statements}
        if len(kinds) != 1:
            raise AccountingError(f"{len(kinds)} kinds of statement cannot be made one.", remedy="Ask all sites alike.")
        worst = max(statements, key=lambda one: one.epsilon)
        return replace(
            worst,
            replace_one=max((one.replace_one for one in statements), key=lambda check: check.pld),
            simulated=any(one.simulated for one in statements),
            private=all(one.private for one in statements),
            ledger_entries=tuple(entry for one in statements for entry in one.ledger_entries),
        )

    @property
    def epsilon(self) -> float:
        """Epsilon of record."""
        return self.check.pld

    @property
    def epsilon_replace_one(self) -> float:
        """Epsilon of record under replace-one."""
        return self.replace_one.pld

    @property
    def delta(self) -> float:
        """Delta."""
        return self.check.delta

    @property
    def relation(self) -> Relation:
        """Neighbouring relation of `epsilon`."""
        return self.check.relation

    @property
    def steps(self) -> int:
        """Number of compositions in all."""
        return sum(event.count for event in self.events)

    @property
    def sampler(self) -> Sampler | None:
        """The events' one sampler; None where they differ."""
        samplers = {event.sampler for event in self.events}
        return samplers.pop() if len(samplers) == 1 else None

    @property
    def sample_rate(self) -> float | None:
        """The events' one sample rate; None where they differ."""
        rates = {event.sample_rate for event in self.events}
        return rates.pop() if len(rates) == 1 else None

    @property
    def noise_multiplier(self) -> float | None:
        """The events' one noise multiplier; None where they differ."""
        multipliers = {event.noise_multiplier for event in self.events}
        return multipliers.pop() if len(multipliers) == 1 else None

    def recompute(self) -> None:
        """Accounts for the events again, here and now.

        Raises:
            AccountingError: If the statement claims less than its events cost.
        """
        for claimed in (self.check, self.replace_one):
            found = cross_check(self.events, delta=claimed.delta, relation=claimed.relation)
            if found.pld > claimed.pld * (1.0 + 1e-6) + 1e-9:
                raise AccountingError(
                    f"The statement claims epsilon {claimed.pld}, its events cost {found.pld}.",
                    remedy=_REMEDY,
                )

    def headline(self) -> str:
        """One line: the guarantee, or that there is none."""
        promise = wording.promise(self.check, self.replace_one, self.unit)
        if not self.private and not self.events:
            return "NOT PRIVATE: no noise was added. Nothing is promised to anybody."
        if not self.private:
            return f"NOT PRIVATE: the noise was deterministic. With true noise it would have been {promise}."
        return f"SIMULATED: {promise}." if self.simulated else f"{promise}."

    def sentences(self) -> list[str]:
        """The statement in plain English, for a privacy officer; the first line says if anything holds."""
        accountant = f"{self.accountant} {self.accountant_version}"
        lines = [self.headline()]
        if self.private:
            lines += wording.meaning(self.check, self.unit)
        elif self.events:
            lines.append("Whoever knows the seed can remove the noise. Nothing below is a promise.")
        if self.simulated:
            lines.append("This was a simulation: sites and ledgers lived on one machine, and every site approved.")
        lines += [wording.release(event) for event in self.events]
        if self.private or self.events:
            lines.append(wording.working(self.check, accountant))
        if not self.private and not self.events:
            return lines
        return [*lines, *self.against_whom, *self.assumptions, *wording.provenance(self.ledger_entries)]

    def to_mapping(self) -> dict[str, object]:
        """The statement as a JSON object with its version."""
        return {
            "version": STATEMENT_VERSION,
            "check": _check_mapping(self.check),
            "replace_one": _check_mapping(self.replace_one),
            "unit": self.unit.value,
            "trust": self.trust.value,
            "events": [event.to_mapping() for event in self.events],
            "accountant": self.accountant,
            "accountant_version": self.accountant_version,
            "against_whom": list(self.against_whom),
            "assumptions": list(self.assumptions),
            "simulated": self.simulated,
            "private": self.private,
            "ledger_entries": list(self.ledger_entries),
        }

    @classmethod
    def from_mapping(cls, mapping: Mapping[str, object]) -> Self:
        """Reads a statement: exactly the known fields of a known version. To believe it, see `recompute`.

        Args:
            mapping: A JSON object, as of `to_mapping`.

        Returns:
            The statement.

        Raises:
            AccountingError: If the version, a field or a value is unknown.
        """
        version = mapping.get("version") if isinstance(mapping, Mapping) else None
        if isinstance(version, bool) or version != STATEMENT_VERSION:
            raise AccountingError(f"The statement has version {version!r}, not {STATEMENT_VERSION}.", remedy=_REMEDY)
        if set(mapping) != _FIELDS:
            odd = sorted(map(str, set(mapping) ^ _FIELDS))
            raise AccountingError(f"The statement's fields {odd} are unknown or missing.", remedy=_REMEDY)
        try:
            return cls._decode(mapping)
        except (TypeError, ValueError, KeyError) as error:
            raise AccountingError(f"The statement cannot be read ({error}).", remedy=_REMEDY) from error

    @classmethod
    def _decode(cls, mapping: Mapping[str, object]) -> Self:
        events = _list(mapping["events"])
        return cls(
            check=_check_from(mapping["check"]),
            replace_one=_check_from(mapping["replace_one"]),
            unit=Unit(str(mapping["unit"])),
            trust=Trust(str(mapping["trust"])),
            events=tuple(NoisyRelease.from_mapping(event) for event in events),  # type: ignore[arg-type]  # it checks
            accountant=str(mapping["accountant"]),
            accountant_version=str(mapping["accountant_version"]),
            against_whom=tuple(map(str, _list(mapping["against_whom"]))),
            assumptions=tuple(map(str, _list(mapping["assumptions"]))),
            simulated=mapping["simulated"],  # type: ignore[arg-type]  # __post_init__ checks
            private=mapping["private"],  # type: ignore[arg-type]  # __post_init__ checks
            ledger_entries=tuple(map(str, _list(mapping["ledger_entries"]))),
        )


_FIELDS = frozenset({"version", *Statement.__dataclass_fields__})


def _grouped(events: Sequence[NoisyRelease]) -> tuple[NoisyRelease, ...]:
    """Equal events with their counts added, in order of first appearance."""
    counts: dict[NoisyRelease, int] = {}
    for event in events:
        single = event.times(1)
        counts[single] = counts.get(single, 0) + event.count
    return tuple(single.times(count) for single, count in counts.items())


def _check_mapping(check: CrossCheck) -> dict[str, object]:
    return {**asdict(check), "relation": check.relation.value}


def _check_from(mapping: object) -> CrossCheck:
    if not isinstance(mapping, Mapping):
        raise AccountingError("The statement's check is no object.", remedy=_REMEDY)
    fields = dict(mapping)
    return CrossCheck(relation=Relation(fields.pop("relation")), **fields)


def _list(value: object) -> list[object]:
    if not isinstance(value, list):
        raise AccountingError("The statement lacks a list.", remedy=_REMEDY)
    return value
