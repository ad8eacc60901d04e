"""How a site reaches its coordinator: what enrolment left in the site's folder."""

import ssl
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Self

from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey

from client.credentials import CA_FILE, CERTIFICATE_FILE, KEY_FILE, Enrolled
from protocol.keys import read_ec_key
from protocol.tls import client_context, read_certificate

_NODE_KEY_FILE = "node.key"


@dataclass(frozen=True, kw_only=True, eq=False)
class Connection:
    """Where the coordinator is and how the site shows who it is.

    Attributes:
        folder: The site's folder.
        host: The coordinator's host name or address.
        port: The gate's port.
        site: The name that the federation knows the site by.
        context: TLS 1.3; trusts the federation's CA alone and presents the site's certificate.
        node_key: The key that Flower knows the node by.
        expires: Until when the site's certificate is valid.
    """

    folder: Path
    host: str
    port: int
    site: str
    context: ssl.SSLContext
    node_key: EllipticCurvePrivateKey
    expires: datetime

    @classmethod
    def open(cls, folder: Path) -> Self:
        """Read what enrolment left in a site's folder.

        Raises:
            InputError: If the site is not enrolled, a file is damaged, a key cannot be read or the certificate has
                expired.
        """
        enrolled = Enrolled.read(folder)
        certificate = folder / CERTIFICATE_FILE
        return cls(
            folder=folder,
            host=enrolled.host,
            port=enrolled.port,
            site=enrolled.site,
            context=client_context(ca=folder / CA_FILE, certificate=certificate, key=folder / KEY_FILE),
            node_key=read_ec_key(folder / _NODE_KEY_FILE),
            expires=read_certificate(certificate).not_valid_after_utc,
        )

    @property
    def address(self) -> str:
        """Host and port, as in an address."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def base_url(self) -> str:
        """Where the gate answers."""
        return f"https://{self.address}"

    def left(self) -> timedelta:
        """For how long the site's certificate is still valid."""
        return self.expires - datetime.now(UTC)
