"""The site's own policy: what it allows, whatever a study says. The coordinator can never push it."""

import tomllib
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, NoReturn, Self

from privacy.accounting import LEAST_DELTA, MOST_EPSILON
from privacy.plan import PrivacyPlan
from protocol.errors import ApprovalError, InputError
from protocol.terms import Trust

_MEND = "Edit the site's policy.toml."


@dataclass(frozen=True, kw_only=True)
class Policy:
    """Ceilings and permissions of one site. The stricter of policy and study wins.

    Attributes:
        epsilon: Ceiling of everything ever released about the data set, above 0 and at most 300.
        delta: The delta at which the ceiling is held, at least 1e-12.
        minimum_sites: Fewest sites that every round of a study must have.
        families: Model families that may be trained.
        trust: Placements of noise that are allowed.
        allow_not_private: Whether studies without a guarantee may run; for tests on public data only.
    """

    epsilon: float
    delta: float
    minimum_sites: int = 1
    families: tuple[str, ...] = ("vae", "gan")
    trust: tuple[str, ...] = (Trust.NONE.value,)
    allow_not_private: bool = False

    def __post_init__(self) -> None:
        """Refuse ceilings that are none, and values of another type: a permission must be meant.

        Raises:
            InputError: Naming the key at fault.
        """
        if not _is_number(self.epsilon) or not 0 < self.epsilon <= MOST_EPSILON:
            _refuse("epsilon", self.epsilon, f"Give a number above 0, up to {MOST_EPSILON:g}.")
        if not _is_number(self.delta) or not LEAST_DELTA <= self.delta < 1:
            _refuse("delta", self.delta, f"Give a number from {LEAST_DELTA:g} to below 1.")
        if type(self.minimum_sites) is not int or self.minimum_sites < 1:
            _refuse("minimum_sites", self.minimum_sites, "Give a whole number of at least 1.")
        for name in ("families", "trust"):
            value = getattr(self, name)
            if not isinstance(value, tuple) or not all(isinstance(word, str) for word in value):
                _refuse(name, value, 'Give a list of words, such as ["vae"].')
        if not isinstance(self.allow_not_private, bool):
            _refuse("allow_not_private", self.allow_not_private, "Write true or false, without quotes.")

    @classmethod
    def from_toml(cls, path: Path) -> Self:
        """Read a policy; without one, everything is refused.

        Raises:
            ApprovalError: If there is no policy.
            InputError: If it cannot be read or says something unknown.
        """
        try:
            values = tomllib.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError as error:
            raise ApprovalError(f"{path}: the site has no policy.", remedy="Write one: no policy, no study.") from error
        except OSError as error:
            raise InputError(f"{path}: {error.strerror}.", remedy=_MEND) from error
        except ValueError as error:
            raise InputError(f"{path} is not TOML: {error}.", remedy=_MEND) from error
        known = {field.name for field in fields(cls)}
        if set(values) - known:
            raise InputError(f"{path}: unknown keys {sorted(set(values) - known)}.", remedy=f"Known: {sorted(known)}.")
        if not {"epsilon", "delta"} <= set(values):
            raise InputError(f"{path} lacks epsilon or delta.", remedy="Give both: they are the ceiling.")
        lists: dict[str, Any] = {key: tuple(value) for key, value in values.items() if isinstance(value, list)}
        return cls(**values | lists)

    def check(self, plan: PrivacyPlan) -> None:
        """Refuse a study that the policy does not allow; the budget itself is checked by the ledger.

        Raises:
            ApprovalError: Naming the term at fault.
        """
        study = plan.study
        faults = {
            f"model family {study.model.family!r}": study.model.family in self.families,
            f"trust {study.privacy.trust.value!r}": study.privacy.trust.value in self.trust,
            f"only {study.federation.quorum} sites in a round": study.federation.quorum >= self.minimum_sites,
            "no guarantee (no noise, or deterministic noise)": plan.private or self.allow_not_private,
        }
        for term, allowed in faults.items():
            if not allowed:
                raise ApprovalError(f"The policy does not allow a study with {term}.", remedy=_MEND)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _refuse(key: str, value: object, remedy: str) -> NoReturn:
    raise InputError(f"policy: {key} is {value!r}.", remedy=remedy)
