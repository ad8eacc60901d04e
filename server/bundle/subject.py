"""What a bundle is about: a release that was verified, and the facts that its documents share."""

from dataclasses import dataclass
from typing import Self

from privacy.plan import PrivacyPlan
from protocol.study import Study
from server.release import Release
from server.verification import ReleaseVerification
from server.verification.provenance import Provenance


@dataclass(frozen=True, kw_only=True)
class Subject:
    """A release and what was found when it was verified.

    Attributes:
        release: The release.
        provenance: What it says of its run, read strictly.
        plan: What the study's terms come to.
        verification: What holds, and what was not checked; nothing is wrong.
    """

    release: Release
    provenance: Provenance
    plan: PrivacyPlan
    verification: ReleaseVerification

    @classmethod
    def of(cls, release: Release, verification: ReleaseVerification) -> Self:
        """Gather the facts.

        Raises:
            ReleaseError: If anything was wrong with the release.
        """
        verification.require()
        return cls(
            release=release,
            provenance=Provenance.from_mapping(release.provenance),
            plan=PrivacyPlan.from_study(release.study),
            verification=verification,
        )

    @property
    def study(self) -> Study:
        """The study."""
        return self.release.study

    @property
    def name(self) -> str:
        """The study's name, by which people know the release."""
        return self.study.name

    @property
    def private(self) -> bool:
        """Whether anything is promised."""
        return self.release.statement.private

    @property
    def sites(self) -> str:
        """The names of the sites that contributed."""
        return ", ".join(sorted(self.provenance.sites))

    @property
    def simulated_words(self) -> str:
        """What a simulation is, as a sentence; empty for a real run."""
        if not self.provenance.simulated:
            return ""
        return "This was a simulation: sites and ledgers lived on one machine, and every site approved."
