"""A study under the coordinator's signature, as it travels and as a site approves it."""

import json
import re
from dataclasses import dataclass
from typing import Self

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from protocol.digest import canonical_json
from protocol.errors import ApprovalError, StudyError
from protocol.keys import public_hex
from protocol.study import Study

SIGNED_STUDY_VERSION = 1
_DOMAIN = b"cloister study v1\0"
_FIELDS = frozenset({"version", "study", "coordinator", "signature"})
_HEX = re.compile(r"[0-9a-f]{64}")
_SIGNATURE = re.compile(r"[0-9a-f]{128}")
_MOST_CHARACTERS = 8_000_000
_REMEDY = "Fetch the signed study again from the coordinator."


@dataclass(frozen=True, kw_only=True)
class SignedStudy:
    """A study, and who signed it.

    Reading one checks its form alone; call :meth:`verify` with the key that the site learnt when it enrolled.

    Attributes:
        study: The agreement.
        coordinator: Ed25519 public key of the signer, 64 hexadecimal digits.
        signature: Of the study's canonical text, 128 hexadecimal digits.
    """

    study: Study
    coordinator: str
    signature: str

    def __post_init__(self) -> None:
        """Refuse a key or a signature that is none.

        Raises:
            StudyError: If one is malformed.
        """
        for name, pattern in (("coordinator", _HEX), ("signature", _SIGNATURE)):
            value = getattr(self, name)
            if not isinstance(value, str) or not pattern.fullmatch(value):
                raise StudyError(f"A signed study's {name} is malformed.", remedy=_REMEDY)

    @classmethod
    def sign(cls, study: Study, key: Ed25519PrivateKey) -> Self:
        """Sign a study.

        Args:
            study: Which.
            key: The coordinator's.

        Returns:
            The study under its signature; Ed25519 always gives the same one.
        """
        return cls(study=study, coordinator=public_hex(key), signature=key.sign(_signed(study)).hex())

    def verify(self, coordinator: str) -> None:
        """Refuse a study that this coordinator did not sign exactly so.

        Args:
            coordinator: The coordinator's public key as the site knows it, 64 hexadecimal digits.

        Raises:
            ApprovalError: If another signed it, or it was changed.
        """
        if self.coordinator != coordinator:
            raise ApprovalError(
                f"The study {self.study.name!r} is signed by {self.coordinator[:16]}, not by this site's coordinator, "
                f"{coordinator[:16]}.",
                remedy="Ask the coordinator for the study that it signed.",
            )
        try:
            public = Ed25519PublicKey.from_public_bytes(bytes.fromhex(coordinator))
            public.verify(bytes.fromhex(self.signature), _signed(self.study))
        except (InvalidSignature, ValueError) as error:
            raise ApprovalError(
                f"The study {self.study.name!r} was changed after it was signed.", remedy=_REMEDY
            ) from error

    def to_text(self) -> str:
        """Return the one form that is stored and sent: canonical JSON."""
        values = {
            "version": SIGNED_STUDY_VERSION,
            "study": json.loads(self.study.text),
            "coordinator": self.coordinator,
            "signature": self.signature,
        }
        return canonical_json(values).decode()

    @classmethod
    def from_text(cls, text: str) -> Self:
        """Read a signed study; its signature is not verified yet.

        Raises:
            StudyError: If it is malformed, of another version, or not in the form that `to_text` gives.
        """
        if len(text) > _MOST_CHARACTERS:
            raise StudyError(f"A signed study has {len(text)} characters.", remedy=_REMEDY)
        try:
            values = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise StudyError("The signed study is not JSON.", remedy=_REMEDY) from error
        if not isinstance(values, dict) or set(values) != _FIELDS or not isinstance(values["study"], dict):
            raise StudyError("The signed study has fields that are missing or unknown.", remedy=_REMEDY)
        if type(values["version"]) is not int or values["version"] != SIGNED_STUDY_VERSION:
            raise StudyError(
                f"The signed study is not of version {SIGNED_STUDY_VERSION}.",
                remedy="Both ends must run the same Cloister.",
            )
        study = Study.from_mapping(values["study"])
        read = cls(study=study, coordinator=values["coordinator"], signature=values["signature"])
        # Text that reads as the same study but is written otherwise could show a person something else.
        if read.to_text() != text.strip():
            raise StudyError("The signed study is not in its canonical form.", remedy=_REMEDY)
        return read


def _signed(study: Study) -> bytes:
    """Return what the coordinator signs; the label keeps it from meaning anything elsewhere."""
    return _DOMAIN + study.text.encode()
