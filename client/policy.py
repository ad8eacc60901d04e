"""The site's own policy: what it allows, whatever a study says. The coordinator can never push it.

``policy.toml`` in the site's folder; everything that is not a ceiling has a strict default::

    epsilon = 8.0                  ceiling of all releases about the data set, for ever
    delta = 1e-6                   the delta at which the ceilings are held
    yearly_epsilon = 3.0           a second ceiling, on any 365 days; left out: none
    minimum_sites = 3              fewest sites in every round
    families = ["vae", "gan", "vaegan", "moments"]   model families that may be trained
    trust = ["none"]               who may place the noise: "none" (each site all of it), "sum" (in shares)
    most_rounds = 500              most rounds of a study; left out: no limit
    studies = ["HASH"]             the only studies, by their whole hash, that may run; left out: every approved one
    hours = ["22:00-06:00"]        when requests are answered; left out: always
    timezone = "Europe/Berlin"     the clock that hours are told by
    allow_not_private = false      whether studies without a guarantee may run: for tests on public data only
"""

import json
import os
import re
import tomllib
from dataclasses import dataclass, fields
from datetime import UTC, datetime, tzinfo
from pathlib import Path
from typing import Any, NoReturn, Self
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from privacy.accounting import LEAST_DELTA, MOST_EPSILON
from privacy.ceiling import Ceiling
from privacy.plan import PrivacyPlan
from protocol.errors import ApprovalError, InputError
from protocol.terms import Relation, Trust

YEAR_DAYS = 365
_MEND = "Edit the site's policy.toml."
_WINDOW = re.compile(r"([01]\d|2[0-3]):([0-5]\d)-(?:([01]\d|2[0-3]):([0-5]\d)|24:00)")
_HASH = re.compile(r"[0-9a-f]{64}")
_TEMPLATE = """\
# What this site allows, whatever a study says. Without this file nothing is allowed.
# The running client reads it anew when it is changed; where it is broken, every request is refused until it is mended.

# Ceiling of everything that is ever released about the data set, across all studies; see the site's ledger.
epsilon = {epsilon}
delta = {delta}

# A second ceiling, on what is released within any 365 days.
{yearly_epsilon}

# Fewest sites that must take part in every round.
{minimum_sites}

# Model families that may be trained.
{families}

# Where the noise may be placed: "none" is the whole of it at each site; "sum" is a share at each, under a secure sum.
{trust}

# Most rounds that a study may have.
{most_rounds}

# The only studies that may run, by their whole hash; without this line, every approved one.
{studies}

# When requests are answered, and the clock by which that is told; without hours, always.
{hours}
{timezone}

# Studies without a guarantee: for tests on public data only.
{allow_not_private}
"""
_EXAMPLES = {
    "yearly_epsilon": 3.0,
    "minimum_sites": 1,
    "families": ["vae", "gan", "vaegan", "moments"],
    "trust": ["none"],
    "most_rounds": 500,
    "studies": [],
    "hours": ["22:00-06:00"],
    "timezone": "UTC",
    "allow_not_private": False,
}


@dataclass(frozen=True, kw_only=True)
class Fault:
    """One term of a study that a policy does not allow.

    Attributes:
        key: The line of ``policy.toml`` that stands against it.
        problem: What the study has, as the end of "a study with …".
    """

    key: str
    problem: str


@dataclass(frozen=True, kw_only=True)
class Policy:
    """Ceilings and permissions of one site. The stricter of policy and study wins.

    Attributes:
        epsilon: Ceiling of everything ever released about the data set, above 0 and at most 300.
        delta: The delta at which the ceilings are held, at least 1e-12.
        yearly_epsilon: Ceiling of what is released within 365 days; None for no second ceiling.
        minimum_sites: Fewest sites that every round of a study must have.
        families: Model families that may be trained.
        trust: Placements of noise that are allowed.
        allow_not_private: Whether studies without a guarantee may run; for tests on public data only.
        hours: When requests are answered, such as ``"22:00-06:00"``; empty for always.
        timezone: Name of the time zone that ``hours`` are told in.
        most_rounds: Most rounds that a study may have; None for no limit.
        studies: Hashes of the only studies that may run; None for every approved one.

    Raises:
        InputError: Naming the key at fault: a permission must be meant.
    """

    epsilon: float
    delta: float
    yearly_epsilon: float | None = None
    minimum_sites: int = 1
    families: tuple[str, ...] = ("vae", "gan", "vaegan", "moments")
    trust: tuple[str, ...] = (Trust.NONE.value,)
    allow_not_private: bool = False
    hours: tuple[str, ...] = ()
    timezone: str = "UTC"
    most_rounds: int | None = None
    studies: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        """Refuse ceilings that are none, and values of another type."""
        self._check_ceilings()
        for name in ("minimum_sites", "most_rounds"):
            value = getattr(self, name)
            if (type(value) is not int or value < 1) and not (name == "most_rounds" and value is None):
                _refuse(name, value, "Give a whole number of at least 1.")
        for name in ("families", "trust", "hours", "studies"):
            value = getattr(self, name)
            words = isinstance(value, tuple) and all(isinstance(word, str) for word in value)
            if not words and not (name == "studies" and value is None):
                _refuse(name, value, 'Give a list of words, such as ["vae"].')
        for word in self.trust:
            if word not in list(Trust):
                _refuse("trust", word, 'Use "none", "sum" or both.')
        for word in self.studies or ():
            if not _HASH.fullmatch(word):
                _refuse("studies", word, "Give whole hashes, 64 hexadecimal digits each.")
        if not isinstance(self.allow_not_private, bool):
            _refuse("allow_not_private", self.allow_not_private, "Write true or false, without quotes.")
        self._check_hours()

    def _check_ceilings(self) -> None:
        ceilings = {"epsilon": self.epsilon}
        if self.yearly_epsilon is not None:
            ceilings["yearly_epsilon"] = self.yearly_epsilon
        for name, value in ceilings.items():
            if not _is_number(value) or not 0 < value <= MOST_EPSILON:
                _refuse(name, value, f"Give a number above 0, up to {MOST_EPSILON:g}.")
        if max(ceilings.values()) > self.epsilon:
            _refuse("yearly_epsilon", self.yearly_epsilon, f"Give at most epsilon, {self.epsilon:g}.")
        if not _is_number(self.delta) or not LEAST_DELTA <= self.delta < 1:
            _refuse("delta", self.delta, f"Give a number from {LEAST_DELTA:g} to below 1.")

    def _check_hours(self) -> None:
        for window in self.hours:
            start, end = _minutes(window)
            if start == end:
                _refuse("hours", window, "Give windows that end at another time, or leave hours out for always.")
        if not isinstance(self.timezone, str):
            _refuse("timezone", self.timezone, 'Give a name such as "Europe/Berlin".')
        _zone(self.timezone)

    @classmethod
    def from_toml(cls, path: Path) -> Self:
        """Read a policy; without one, everything is refused.

        Raises:
            ApprovalError: If there is no policy.
            InputError: If it cannot be read or says something unknown.
        """
        try:
            content = path.read_bytes()
        except FileNotFoundError as error:
            raise ApprovalError(
                f"{path}: the site has no policy.",
                remedy="Write one, as `cloister site policy --epsilon E --delta D` does: no policy, no study.",
            ) from error
        except OSError as error:
            raise InputError(f"{path}: {error.strerror}.", remedy=_MEND) from error
        return cls.from_content(content, path=path)

    @classmethod
    def from_content(cls, content: bytes, *, path: Path) -> Self:
        """Read what a policy file holds.

        Args:
            content: Its bytes.
            path: The file, to be named in messages.

        Raises:
            InputError: If it is not TOML, lacks a ceiling or says something unknown.
        """
        try:
            values = tomllib.loads(content.decode("utf-8"))
        except ValueError as error:
            raise InputError(f"{path} is not TOML: {error}.", remedy=_MEND) from error
        known = {field.name for field in fields(cls)}
        if set(values) - known:
            raise InputError(f"{path}: unknown keys {sorted(set(values) - known)}.", remedy=f"Known: {sorted(known)}.")
        if not {"epsilon", "delta"} <= set(values):
            raise InputError(f"{path} lacks epsilon or delta.", remedy="Give both: they are the ceiling.")
        lists: dict[str, Any] = {key: tuple(value) for key, value in values.items() if isinstance(value, list)}
        return cls(**values | lists)

    def ceilings(self, relation: Relation) -> tuple[Ceiling, ...]:
        """Return what every charge must keep: the ceiling for ever and, if there is one, the yearly one.

        Args:
            relation: The study's neighbouring relation.
        """
        for_ever = Ceiling(epsilon=self.epsilon, delta=self.delta, relation=relation)
        if self.yearly_epsilon is None:
            return (for_ever,)
        return for_ever, Ceiling(epsilon=self.yearly_epsilon, delta=self.delta, relation=relation, days=YEAR_DAYS)

    def faults(self, plan: PrivacyPlan) -> tuple[Fault, ...]:
        """Return every term of a study that the policy does not allow; the budget is the ledger's to check.

        The hours are not among them: they forbid a moment, not a study.
        """
        study = plan.study
        checks = (
            ("families", f"model family {study.model.family!r}", study.model.family in self.families),
            ("trust", f"trust {study.privacy.trust.value!r}", study.privacy.trust.value in self.trust),
            (
                "minimum_sites",
                f"only {study.federation.quorum} sites in a round",
                study.federation.quorum >= self.minimum_sites,
            ),
            (
                "most_rounds",
                f"{study.rounds} rounds",
                self.most_rounds is None or study.rounds <= self.most_rounds,
            ),
            ("studies", f"the hash {study.hash[:12]}…", self.studies is None or study.hash in self.studies),
            (
                "allow_not_private",
                "no guarantee (no noise, or deterministic noise)",
                plan.private or self.allow_not_private,
            ),
        )
        return tuple(Fault(key=key, problem=problem) for key, problem, allowed in checks if not allowed)

    def check(self, plan: PrivacyPlan, *, at: datetime | None = None) -> None:
        """Refuse a study that the policy does not allow, or does not allow at this hour.

        Args:
            plan: The study's plan.
            at: The moment, with its time zone; now by default.

        Raises:
            ApprovalError: Naming the terms at fault.
        """
        faults = self.faults(plan)
        if faults:
            terms = ", and with ".join(fault.problem for fault in faults)
            raise ApprovalError(
                f"The policy does not allow a study with {terms}.",
                remedy=f"{_MEND} Lines: {', '.join(fault.key for fault in faults)}.",
            )
        if not self.open_at(at or datetime.now(UTC)):
            raise ApprovalError(
                f"The policy allows nothing at this hour, only {', '.join(self.hours)} ({self.timezone}).",
                remedy=f"Wait until then. {_MEND} Line: hours.",
            )

    def open_at(self, at: datetime) -> bool:
        """Tell whether requests are answered at a moment; a window holds its first minute and not its last.

        Args:
            at: The moment, with its time zone.

        Example:
            >>> night = Policy(epsilon=1.0, delta=1e-6, hours=("22:00-06:00",))
            >>> [night.open_at(datetime(2030, 1, 1, hour, tzinfo=UTC)) for hour in (5, 6, 21, 22)]
            [True, False, False, True]
        """
        if not self.hours:
            return True
        local = at.astimezone(_zone(self.timezone))
        minute = 60 * local.hour + local.minute
        return any(
            start <= minute < end if start < end else minute >= start or minute < end
            for start, end in map(_minutes, self.hours)
        )


def policy_text(**values: Any) -> str:
    """Write a policy as a commented file; what is not given stands there as a comment, with its default or an example.

    Args:
        values: Keys of `Policy`; lists may be lists or tuples.

    Raises:
        InputError: If the values make no policy.
    """
    given: dict[str, Any] = {
        key: tuple(value) if isinstance(value, list) else value for key, value in values.items() if value is not None
    }
    Policy(**given)
    lines = {key: f"# {_line(key, example)}" for key, example in _EXAMPLES.items()}
    lines |= {key: _line(key, value) for key, value in given.items()}
    ceiling = {key: lines[key].partition(" = ")[2] for key in ("epsilon", "delta")}
    return _TEMPLATE.format(**lines | ceiling)


def write_policy(path: Path, **values: Any) -> None:
    """Write a new policy file, as `policy_text`; an existing one is never replaced.

    Raises:
        InputError: If there is one, the values make none, or it cannot be written.
    """
    text = policy_text(**values)
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError as error:
        raise InputError(f"{path} exists.", remedy="Edit it: what a site allows is changed by people.") from error
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}.", remedy="Check the site's folder.") from error


def _line(key: str, value: Any) -> str:
    return f"{key} = {json.dumps(value)}"  # TOML for the words, numbers and lists of words that a policy has


def _minutes(window: str) -> tuple[int, int]:
    """First minute of a day's window, and the first one after it."""
    found = _WINDOW.fullmatch(window)
    if found is None:
        _refuse("hours", window, 'Write windows as "22:00-06:00".')
    first_hour, first_minute, last_hour, last_minute = found.groups()
    end = 24 * 60 if last_hour is None else 60 * int(last_hour) + int(last_minute)
    return 60 * int(first_hour) + int(first_minute), end


def _zone(name: str) -> tzinfo:
    if name == "UTC":  # also on a machine without a time zone database
        return UTC
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError) as error:
        raise InputError(f"policy: timezone is {name!r}.", remedy='Give a name such as "Europe/Berlin".') from error


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _refuse(key: str, value: object, remedy: str) -> NoReturn:
    raise InputError(f"policy: {key} is {value!r}.", remedy=remedy)
