"""Which studies a site has approved. A message names a study; what the study says is read from here alone."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Self

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from client.consent import Consent, Withdrawal
from protocol.errors import ApprovalError, CloisterError, InputError
from protocol.fingerprint import VERSION, code_fingerprint
from protocol.signed_study import SignedStudy
from protocol.study import Study

WITHDRAWN = "withdrawn"
_REMEDY = "Read the study and approve it at the site, or ask the coordinator why it differs."


class Approvals:
    """The approved studies of one site, by hash; made from studies, they hold for the installed code.

    Args:
        studies: Approved studies, signed by a coordinator or not.
    """

    def __init__(self, studies: Iterable[Study | SignedStudy] = ()) -> None:
        self._studies: dict[str, Study] = {}
        self._coordinators: dict[str, str | None] = {}
        self._codes: dict[str, str] = {}
        self._consents: dict[str, Consent] = {}
        self._enrolled_with: str | None = None
        for study in studies:
            if isinstance(study, SignedStudy):
                self._add(study.study, study.coordinator, code_fingerprint())
            else:
                self._add(study, None, code_fingerprint())

    @classmethod
    def from_folder(cls, folder: Path, *, key: Ed25519PublicKey, coordinator: str | None = None) -> Self:
        """Read every consent of a folder, ``HASH.json``; a file that was changed, or is not this site's, is refused.

        Args:
            folder: Where; it may be missing.
            key: The site's public key.
            coordinator: Public key of the coordinator that the site is enrolled with, if it is: studies that it did
                not sign are not approved then, whatever lies in the folder.

        Raises:
            ApprovalError: If a file was changed after it was written.
            InputError: If one cannot be read.
        """
        return cls.from_contents(folder_contents(folder), key=key, coordinator=coordinator)

    @classmethod
    def from_contents(
        cls, contents: Mapping[Path, bytes], *, key: Ed25519PublicKey, coordinator: str | None = None
    ) -> Self:
        """Read the files of a folder, as `folder_contents` gives them; otherwise as `from_folder`."""
        approvals = cls()
        approvals._enrolled_with = coordinator
        withdrawn: set[str] = set()
        consents = {}
        for path, content in contents.items():
            try:
                if path.parent.name == WITHDRAWN:
                    withdrawal = Withdrawal.from_text(content.decode("utf-8"))
                    withdrawal.verify(key)
                    withdrawn.add(withdrawal.consent.signature)
                else:
                    consents[path] = Consent.from_text(content.decode("utf-8"))
                    consents[path].verify(key)
            except (CloisterError, UnicodeDecodeError) as error:
                problem = error.problem if isinstance(error, CloisterError) else "It is not text."
                raise ApprovalError(
                    f"{path} was changed after it was written, or is not this site's: {problem}", remedy=_REMEDY
                ) from error
        for path, consent in consents.items():
            if consent.study.hash != path.stem:
                raise ApprovalError(f"{path} was changed: it holds another study.", remedy=_REMEDY)
            if consent.signature not in withdrawn:
                approvals._add(consent.study, consent.coordinator, consent.code)
                approvals._consents[consent.study.hash] = consent
        return approvals

    def _add(self, study: Study, coordinator: str | None, code: str) -> None:
        self._studies[study.hash] = study
        self._coordinators[study.hash] = coordinator
        self._codes[study.hash] = code

    def study(self, study_hash: str) -> Study:
        """Return an approved study.

        Raises:
            ApprovalError: If it was not approved, or with other code than is installed, or signed by nobody or by
                another than the coordinator that the site is enrolled with.
        """
        try:
            study = self._studies[study_hash]
        except KeyError:
            raise ApprovalError(f"Study {study_hash[:12]}… is not approved.", remedy=_REMEDY) from None
        if self._codes[study_hash] != code_fingerprint():
            raise ApprovalError(
                f"Study {study.name!r} was approved with code {self._codes[study_hash][:12]}…, and this is"
                f" {code_fingerprint()[:12]}… (version {VERSION}).",
                remedy="Approve it again with the installed code, and start the site again if it ran meanwhile.",
            )
        if self._enrolled_with is not None and self._coordinators[study_hash] != self._enrolled_with:
            signer = self._coordinators[study_hash]
            raise ApprovalError(
                f"Study {study.name!r} is signed by {'nobody' if signer is None else signer[:12] + '…'}, not by the"
                f" coordinator that this site is enrolled with, {self._enrolled_with[:12]}….",
                remedy="Fetch the study that the coordinator signed, and approve that.",
            )
        return study

    def coordinator(self, study_hash: str) -> str | None:
        """Return the public key of the coordinator that signed an approved study; None where nobody did.

        Raises:
            ApprovalError: As `study`.
        """
        return self._coordinators[self.study(study_hash).hash]

    def code(self, study_hash: str) -> str:
        """Return the fingerprint of the code that a study was approved with.

        Raises:
            ApprovalError: As `study`.
        """
        return self._codes[self.study(study_hash).hash]

    @property
    def consents(self) -> Mapping[str, Consent]:
        """The consents by the study's hash, also those that do not hold for the installed code; none in memory."""
        return dict(self._consents)


def folder_contents(folder: Path) -> dict[Path, bytes]:
    """Read the bytes of all consents and withdrawals; equal bytes mean equal approvals.

    Raises:
        InputError: If a file cannot be read.
    """
    contents = {}
    for place in (folder, folder / WITHDRAWN):
        for path in sorted(place.glob("*.json")):
            try:
                contents[path] = path.read_bytes()
            except FileNotFoundError:
                continue  # withdrawn since the folder was listed: no consent
            except OSError as error:
                raise InputError(f"{path}: {error.strerror}.", remedy="Let the client read it.") from error
    return contents
