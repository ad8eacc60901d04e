"""What site and coordinator say to each other when a site enrols, and when its certificate is renewed.

All of it is JSON of known fields and bounded size. Nothing in a request names the certificate's contents: the
coordinator takes the public key out of the certificate request, and the name from the invitation.
"""

import json
import re
from dataclasses import dataclass, field, fields
from typing import Any, Self

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from protocol.digest import canonical_json
from protocol.errors import WireError
from protocol.keys import public_hex
from protocol.terms import SITE_NAME

MOST_BYTES = 65_536
ENROLMENT_VERSION = 1
CA_PATH = "/v1/ca"
ENROL_PATH = "/v1/enroll"
RENEWAL_PATH = "/v1/cloister/certificate"
_DOMAIN = b"cloister enrolment v1\0"
_REMEDY = "Both ends must run the same Cloister."
_HEX = re.compile(r"[0-9a-f]{64}")
_SIGNATURE = re.compile(r"[0-9a-f]{128}")
_BASE64 = r"[A-Za-z0-9+/=\n]{1,8000}"
_PATTERNS = {
    "site": SITE_NAME,
    "federation": SITE_NAME,
    "secret": _HEX,
    "identity_key": _HEX,
    "coordinator_key": _HEX,
    "proof": _SIGNATURE,
    "tls_request": re.compile(rf"-----BEGIN CERTIFICATE REQUEST-----\n{_BASE64}-----END CERTIFICATE REQUEST-----\n"),
    "node_key": re.compile(rf"-----BEGIN PUBLIC KEY-----\n{_BASE64}-----END PUBLIC KEY-----\n"),
    "certificate": re.compile(rf"-----BEGIN CERTIFICATE-----\n{_BASE64}-----END CERTIFICATE-----\n"),
    "ca": re.compile(rf"-----BEGIN CERTIFICATE-----\n{_BASE64}-----END CERTIFICATE-----\n"),
}


@dataclass(frozen=True, kw_only=True)
class _WireForm:
    """A JSON object of text fields, each of a known form."""

    def __post_init__(self) -> None:
        """Refuse a field that is malformed.

        Raises:
            WireError: Naming the field, never its value: it may be a secret.
        """
        for known in fields(self):
            value = getattr(self, known.name)
            if not isinstance(value, str) or not _PATTERNS[known.name].fullmatch(value):
                raise WireError(f"{type(self).__name__}: {known.name} is malformed.", remedy=_REMEDY)

    def to_bytes(self) -> bytes:
        """Return the wire form."""
        return canonical_json({"version": ENROLMENT_VERSION} | self._values())

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """Read the wire form.

        Raises:
            WireError: If anything is missing, unknown, of the wrong type or out of bounds.
        """
        return cls(**_read(data, cls))

    def _values(self) -> dict[str, Any]:
        return {known.name: getattr(self, known.name) for known in fields(self)}


@dataclass(frozen=True, kw_only=True)
class EnrolmentRequest(_WireForm):
    """Site to coordinator: here are my public keys and the secret that you gave me.

    Attributes:
        site: The name that the invitation gave.
        secret: The invitation's secret.
        tls_request: A PKCS #10 certificate request, PEM, of which only the public key counts.
        identity_key: Ed25519 public key that signs what leaves the site, 64 hexadecimal digits.
        node_key: EC P-384 public key for Flower's node authentication, PEM.
        proof: Signature of all other fields by the identity key, 128 hexadecimal digits.
    """

    site: str
    secret: str = field(repr=False)
    tls_request: str
    identity_key: str
    node_key: str
    proof: str

    @classmethod
    def signed(cls, key: Ed25519PrivateKey, *, site: str, secret: str, tls_request: str, node_key: str) -> Self:
        """Make a request whose proof is right."""
        identity_key = public_hex(key)
        values = {"site": site, "secret": secret, "tls_request": tls_request, "node_key": node_key}
        proof = key.sign(_proven(values | {"identity_key": identity_key})).hex()
        return cls(**values, identity_key=identity_key, proof=proof)

    def check_proof(self) -> None:
        """Refuse a request whose sender does not hold the identity key.

        Raises:
            WireError: If the proof is wrong.
        """
        values = {name: value for name, value in self._values().items() if name != "proof"}
        try:
            key = Ed25519PublicKey.from_public_bytes(bytes.fromhex(self.identity_key))
            key.verify(bytes.fromhex(self.proof), _proven(values))
        except (InvalidSignature, ValueError) as error:
            raise WireError("EnrolmentRequest: the proof is not the identity key's.", remedy=_REMEDY) from error


@dataclass(frozen=True, kw_only=True)
class EnrolmentAnswer(_WireForm):
    """Coordinator to site, at enrolment and at renewal: your certificate, and whose signatures to believe.

    Attributes:
        certificate: The site's certificate, PEM.
        ca: The federation's CA certificate, PEM.
        coordinator_key: Ed25519 public key that signs studies and warrants, 64 hexadecimal digits.
        federation: The federation's name.
    """

    certificate: str
    ca: str
    coordinator_key: str
    federation: str


@dataclass(frozen=True, kw_only=True)
class RenewalRequest(_WireForm):
    """Site to coordinator, through the gate and so under its present certificate: certify this key instead.

    Attributes:
        tls_request: A PKCS #10 certificate request, PEM, of which only the public key counts.
    """

    tls_request: str


def _proven(values: dict[str, str]) -> bytes:
    """Return what the identity key signs; the label keeps it from meaning anything elsewhere."""
    return _DOMAIN + canonical_json(values)


def _read(data: bytes, kind: type[_WireForm]) -> dict[str, Any]:
    """Return the fields of a wire form, still to be checked."""
    if len(data) > MOST_BYTES:
        raise WireError(f"{kind.__name__}: {len(data)} bytes.", remedy=f"Send at most {MOST_BYTES}.")
    try:
        values = json.loads(data.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise WireError(f"{kind.__name__}: no JSON.", remedy=_REMEDY) from error
    names = {known.name for known in fields(kind)}
    if not isinstance(values, dict) or set(values) != names | {"version"}:
        raise WireError(f"{kind.__name__}: fields are missing or unknown.", remedy=_REMEDY)
    version = values.pop("version")
    if type(version) is not int or version != ENROLMENT_VERSION:
        raise WireError(f"{kind.__name__}: not of version {ENROLMENT_VERSION}.", remedy=_REMEDY)
    return values
