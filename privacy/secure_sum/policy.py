"""What a site fixes about a secure sum before it speaks to anybody: cohort, threshold, sizes."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from protocol.digest import digest
from protocol.errors import PrivacyError, WireError

FEWEST_SITES = 3
MOST_SITES = 100
MOST_COORDINATES = 2**28
_HASH = re.compile(r"[0-9a-f]{64}")
_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")
_APPROVE = "Take it from the approved study."


@dataclass(frozen=True, kw_only=True)
class SumStage:
    """Rounds one after another whose vectors are of one length.

    Attributes:
        rounds: How many.
        coordinates: Length of the vector.
        limit: Largest magnitude of one coordinate of one site's vector, in grid steps.
    """

    rounds: int
    coordinates: int
    limit: int


@dataclass(frozen=True, kw_only=True)
class SumPolicy:
    """The terms of a secure sum, from the approved study and the site's own policy, never from a message.

    Attributes:
        run: Identifier of the run, 64 hexadecimal digits. The only thing here that the coordinator chooses.
        study: Hash of the study.
        code: Fingerprint of the site's Cloister.
        roster: Name of each site of the study to its Ed25519 public key in hexadecimal, 3 to 100 sites.
        minimum_cohort: Fewest sites that a sum may be over. The study demands five or more where the noise
            is shared; three is the least that means anything, and then two colluding sites see the third.
        stages: All rounds of the run, in order.

    Example:
        >>> keys = {f"site-{i}": f"{i:064x}" for i in range(10)}
        >>> stage = SumStage(rounds=300, coordinates=1000, limit=2**24)
        >>> policy = SumPolicy(run="0" * 64, study="1" * 64, code="2" * 64, roster=keys, minimum_cohort=5,
        ...                    stages=(stage,))
        >>> policy.threshold, policy.fewest, policy.most_colluders
        (7, 7, 3)
        >>> policy.stage(300).coordinates
        1000
    """

    run: str
    study: str
    code: str
    roster: Mapping[str, str]
    minimum_cohort: int
    stages: tuple[SumStage, ...]

    def __post_init__(self) -> None:
        for name in ("run", "study", "code"):
            if not _HASH.fullmatch(getattr(self, name)):
                raise PrivacyError(f"{name} is {getattr(self, name)!r}.", remedy="Give 64 hexadecimal digits.")
        if not FEWEST_SITES <= len(self.roster) <= MOST_SITES:
            raise PrivacyError(
                f"the roster has {len(self.roster)} sites.",
                remedy=f"Give {FEWEST_SITES} to {MOST_SITES} sites: with two, each sees the other's part.",
            )
        for site, key in self.roster.items():
            if not _NAME.fullmatch(site) or not _HASH.fullmatch(key):
                raise PrivacyError(f"the roster's entry for {site!r} is malformed.", remedy=_APPROVE)
        if len(set(self.roster.values())) != len(self.roster):
            raise PrivacyError("two sites of the roster have the same key.", remedy="Give each site its own key.")
        if not FEWEST_SITES <= self.minimum_cohort <= len(self.roster):
            raise PrivacyError(
                f"the minimum cohort is {self.minimum_cohort!r}.",
                remedy=f"Give {FEWEST_SITES} to {len(self.roster)}, the number of sites in the roster.",
            )
        self._check_stages()

    def _check_stages(self) -> None:
        if not self.stages or min(stage.rounds for stage in self.stages) < 1:
            raise PrivacyError("the run has no rounds, or a stage without any.", remedy=_APPROVE)
        for stage in self.stages:
            if not 1 <= stage.coordinates <= MOST_COORDINATES:
                raise PrivacyError(f"the vector has {stage.coordinates!r} coordinates.", remedy=_APPROVE)
            self._prove_no_overflow(stage.limit)

    def _prove_no_overflow(self, limit: int) -> None:
        """A sum of n numbers of magnitude at most ``limit`` is read back right iff n * limit < 2^31.

        With b bits per coordinate, sign included, limit = 2^(b-1): this is n * 2^b < 2^32.
        """
        if limit < 1 or len(self.roster) * limit >= 2**31:
            raise PrivacyError(
                f"{len(self.roster)} sites of coordinates up to {limit} do not fit 32-bit words.",
                remedy="Use a coarser grid: sites times limit must stay below 2^31.",
            )

    def stage(self, round_number: int) -> SumStage:
        """Return the stage of a round, which says how long its vectors are.

        Raises:
            PrivacyError: If the run has no such round.
        """
        last = 0
        for stage in self.stages:
            last += stage.rounds
            if 1 <= round_number <= last:
                return stage
        raise PrivacyError(f"round {round_number} is not in the run, which has {last}.", remedy=_APPROVE)

    @property
    def threshold(self) -> int:
        """Shares that open a secret, and signatures that make a survivor list: floor(2n/3) + 1."""
        return 2 * len(self.roster) // 3 + 1

    @property
    def fewest(self) -> int:
        """Fewest sites that any sum is over: neither the threshold nor the minimum cohort is undercut."""
        return max(self.threshold, self.minimum_cohort)

    @property
    def most_colluders(self) -> int:
        """Most sites that may side with the coordinator, at least n/3; see `privacy.secure_sum.survivors`."""
        return 2 * self.threshold - len(self.roster) - 1

    @cached_property
    def cohort(self) -> str:
        """Hash of the sorted roster, 64 hexadecimal digits."""
        return digest({"cohort": sorted(self.roster.items())})

    def require_enough(self, sites: int, *, what: str) -> None:
        """Refuse to hide among too few.

        Raises:
            PrivacyError: If there are fewer than `fewest` sites.
        """
        if sites < self.fewest:
            raise PrivacyError(
                f"{what} has {sites} sites, fewer than {self.fewest}.",
                remedy="Nothing was released. Wait for more sites.",
            )

    def verify(self, site: str, *, signature: str, signed: bytes) -> None:
        """Check that a site of the roster signed these bytes.

        Raises:
            WireError: If the site is not in the roster, or the signature is not its own.
        """
        key = self.roster.get(site)
        if key is None:
            raise WireError(f"{site!r} is not in the study's roster.", remedy="Somebody may have invented it.")
        try:
            Ed25519PublicKey.from_public_bytes(bytes.fromhex(key)).verify(bytes.fromhex(signature), signed)
        except (InvalidSignature, ValueError) as error:
            raise WireError(
                f"a signature is not that of {site!r}.", remedy="Somebody may be speaking for it."
            ) from error
