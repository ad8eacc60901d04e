"""The site's own policy: what it allows, whatever a study says. The coordinator can never push it."""

import tomllib
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Self

from privacy.plan import PrivacyPlan
from protocol.errors import ApprovalError, InputError
from protocol.terms import Trust

_MEND = "Edit the site's policy.toml."


@dataclass(frozen=True, kw_only=True)
class Policy:
    """Ceilings and permissions of one site. The stricter of policy and study wins.

    Attributes:
        epsilon: Ceiling of everything ever released about the data set.
        delta: The delta at which the ceiling is held.
        minimum_sites: Fewest sites that a study must have.
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
        """Refuse ceilings that are none."""
        if not 0 < self.epsilon <= 1000 or not 0 < self.delta < 1 or self.minimum_sites < 1:
            raise InputError(
                f"policy: epsilon={self.epsilon}, delta={self.delta}, minimum_sites={self.minimum_sites}.",
                remedy="Give an epsilon above 0, a delta between 0 and 1, and at least one site.",
            )

    @classmethod
    def from_toml(cls, path: Path) -> Self:
        """Read a policy; without one, everything is refused.

        Raises:
            ApprovalError: If there is no policy.
            InputError: If it says something unknown.
        """
        try:
            values = tomllib.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError as error:
            raise ApprovalError(
                f"{path}: the site has no policy.", remedy="Write one: no policy, no study."
            ) from error
        except tomllib.TOMLDecodeError as error:
            raise InputError(f"{path} is not TOML: {error}.", remedy=_MEND) from error
        known = {field.name for field in fields(cls)}
        if set(values) - known:
            raise InputError(
                f"{path}: unknown keys {sorted(set(values) - known)}.", remedy=f"Known: {sorted(known)}."
            )
        for name in ("families", "trust"):
            if name in values:
                values[name] = tuple(values[name])
        try:
            return cls(**values)
        except TypeError as error:
            raise InputError(f"{path}: {error}.", remedy=_MEND) from error

    def check(self, plan: PrivacyPlan) -> None:
        """Refuse a study that the policy does not allow; the budget itself is checked by the ledger.

        Raises:
            ApprovalError: Naming the term at fault.
        """
        study = plan.study
        faults = {
            f"model family {study.model.family!r}": study.model.family in self.families,
            f"trust {study.privacy.trust.value!r}": study.privacy.trust.value in self.trust,
            f"only {study.federation.sites} sites": study.federation.sites >= self.minimum_sites,
            "no guarantee (no noise, or deterministic noise)": plan.private or self.allow_not_private,
        }
        for term, allowed in faults.items():
            if not allowed:
                raise ApprovalError(f"The policy does not allow a study with {term}.", remedy=_MEND)
