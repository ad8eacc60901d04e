"""What people at a site may change while its client runs: the policy, the approvals, whom it is enrolled with."""

from dataclasses import dataclass
from pathlib import Path
from typing import Self

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from client.approvals import Approvals, folder_contents
from client.credentials import COORDINATOR_FILE, Enrolled, settle
from client.policy import Policy
from protocol.errors import ApprovalError, InputError


@dataclass(frozen=True, kw_only=True)
class Enrolment:
    """Whom a site is enrolled with, as far as its decisions depend on it.

    Attributes:
        federation: The federation's name.
        site: The site's name there.
        coordinator: Ed25519 public key of the coordinator, 64 hexadecimal digits.
    """

    federation: str
    site: str
    coordinator: str

    @classmethod
    def from_folder(cls, folder: Path) -> Self | None:
        """Read ``coordinator.json`` of a site's folder; None where the site was never enrolled.

        Raises:
            InputError: If it cannot be read or is damaged.
        """
        settle(folder)
        if not (folder / COORDINATOR_FILE).exists():
            return None
        known = Enrolled.read(folder)
        return cls(federation=known.federation, site=known.site, coordinator=known.coordinator_key)


class Rules:
    """The policy and the approvals of a site's folder, read anew whenever a byte of them changes.

    The bytes themselves are compared: times of files can be the same for two versions. It costs a few small files
    per message.

    Args:
        folder: The site's folder.
        key: The site's public key.
        site: The site's name, which must be the one that it is enrolled under.
    """

    def __init__(self, folder: Path, *, key: Ed25519PublicKey, site: str) -> None:
        self._folder = folder
        self._key = key
        self._site = site
        self._seen: tuple[object, ...] | None = None
        self._read: tuple[Policy, Approvals] | None = None

    def current(self) -> tuple[Policy, Approvals]:
        """Return policy and approvals as they are on the disk now.

        Raises:
            ApprovalError: If there is no policy, it is broken, or a consent was changed.
            InputError: If a file cannot be read, or the site is enrolled under another name.
        """
        policy, enrolment = self._folder / "policy.toml", self._folder / COORDINATOR_FILE
        seen = (_content(policy), _content(enrolment), folder_contents(self._folder / "approvals"))
        if self._read is None or seen != self._seen:
            self._read = None  # what is broken is looked at again with every message, until it is mended
            self._read = self._rules(*seen)
            self._seen = seen
        return self._read

    def _rules(
        self, policy: bytes | None, enrolment: bytes | None, consents: dict[Path, bytes]
    ) -> tuple[Policy, Approvals]:
        known = None if enrolment is None else Enrolment.from_folder(self._folder)
        if known is not None and known.site != self._site:
            raise InputError(
                f"{self._folder}: the name in site.toml is {self._site!r}, the enrolled one {known.site!r}.",
                remedy="Write the enrolled name into site.toml.",
            )
        coordinator = None if known is None else known.coordinator
        approvals = Approvals.from_contents(consents, key=self._key, coordinator=coordinator)
        return self._policy(policy), approvals

    def _policy(self, content: bytes | None) -> Policy:
        path = self._folder / "policy.toml"
        if content is None:
            return Policy.from_toml(path)  # says what is missing
        try:
            return Policy.from_content(content, path=path)
        except InputError as error:
            # A policy that cannot be read allows nothing, and the coordinator is told no more than that.
            raise ApprovalError(error.problem, remedy=error.remedy) from error


def _content(path: Path) -> bytes | None:
    """Return a file's bytes; None where there is none."""
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}.", remedy="Let the client read it.") from error
