"""The coordinator's folder: its settings, keys, certificates, roster, database and studies.

::

    coordinator.toml   name, host, port, enrolment_port, superlink_port; written last, so that its presence says
                       that the folder is whole
    ca.pem ca.key      the federation's authority
    key.pem            Ed25519 private key that signs studies and warrants
    server.pem .key    of the gate and of the enrolment server
    link.pem .key      of Flower's SuperLink, which is reached on this machine alone and cannot ask for a passphrase
    superexec.secret   what Flower's SuperExec shows to the SuperLink
    roster.sqlite      who takes part
    flower.sqlite      the SuperLink's own database
    studies/           one folder per study
    logs/              of the processes that the supervisor keeps alive
"""

import secrets
import shlex
import stat
import tomllib
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Self

import tomli_w
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding

from protocol.errors import InputError
from protocol.invitation import INVITATION_VERSION, Invitation, is_host, is_port
from protocol.keys import create_ec_key, create_identity, create_private, read_identity
from protocol.terms import SITE_NAME
from protocol.tls import certificate_digest, read_certificate
from server.deployment.authority import Authority, ensure_server_certificates
from server.deployment.roster import Roster

FOLDER_VARIABLE = "CLOISTER_COORDINATOR"
_SETTINGS = "coordinator.toml"


@dataclass(frozen=True, kw_only=True)
class CoordinatorFolder:
    """A coordinator's folder and what its settings say.

    Attributes:
        root: The folder.
        name: The federation's name: lower-case letters, digits and hyphens.
        host: Name or address under which sites reach the coordinator; its certificate names it.
        port: Of the gate.
        enrolment_port: Of the enrolment server.
        superlink_port: Of Flower's SuperLink, on loopback.
    """

    root: Path
    name: str
    host: str
    port: int
    enrolment_port: int
    superlink_port: int

    def __post_init__(self) -> None:
        """Refuse settings that nobody could use.

        Raises:
            InputError: Naming the setting at fault.
        """
        ports = {known: getattr(self, known) for known in ("port", "enrolment_port", "superlink_port")}
        if not isinstance(self.name, str) or not SITE_NAME.fullmatch(self.name):
            _refuse("name", self.name, "Use up to 63 lower-case letters, digits and hyphens.")
        if not is_host(self.host):
            _refuse("host", self.host, "Give a host name in lower case, or an IP address without brackets.")
        for known, value in ports.items():
            if not is_port(value):
                _refuse(known, value, "Give a port from 1 to 65535.")
        if len(set(ports.values())) != len(ports):
            _refuse("ports", sorted(ports.values()), "Give three different ones.")

    @classmethod
    def create(cls, root: Path, *, name: str, host: str, port: int, enrolment_port: int, superlink_port: int) -> Self:
        """Make a coordinator's folder: authority, keys, certificates and an empty roster.

        Args:
            root: Where; an existing folder may hold other files, but none of these.
            name: See the class.
            host: See the class.
            port: See the class.
            enrolment_port: See the class.
            superlink_port: See the class.

        Returns:
            The folder.

        Raises:
            InputError: If there is a coordinator already, or half of one, or others may enter a folder that holds
                files, or something cannot be written.
        """
        root = root.absolute()
        folder = cls(root=root, name=name, host=host, port=port, enrolment_port=enrolment_port,
                     superlink_port=superlink_port)  # fmt: skip
        folder._refuse_existing()
        _refuse_shared(root)
        try:
            for place in (root, folder.studies, folder.logs):
                place.mkdir(mode=0o700, parents=True, exist_ok=True)
                place.chmod(0o700)
        except OSError as error:
            raise InputError(f"{error.filename}: {error.strerror}.", remedy="Choose a folder of your own.") from error
        Authority.create(folder.ca, folder.ca_key, name=name)
        create_identity(folder.key_file)
        create_ec_key(folder.server_key, bits=256)
        create_ec_key(folder.link_key, bits=256, encrypted=False)
        ensure_server_certificates(folder)
        create_private(folder.superexec_secret, secrets.token_hex(32).encode())
        Roster.create(folder.roster_file).close()
        settings = {known: getattr(folder, known) for known in _setting_names()}
        create_private(folder.settings, tomli_w.dumps(settings).encode())
        return folder

    @classmethod
    def open(cls, root: Path) -> Self:
        """Read a coordinator's folder.

        Raises:
            InputError: If there is none, it is half made, or its settings are wrong.
        """
        root = root.absolute()
        path = root / _SETTINGS
        try:
            values = tomllib.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError as error:
            raise _missing(root) from error
        except OSError as error:
            raise InputError(f"{path}: {error.strerror}.", remedy="Check the folder and who may read it.") from error
        except ValueError as error:
            raise InputError(f"{path} is not TOML: {error}.", remedy="Mend it.") from error
        known = _setting_names()
        if set(values) != set(known):
            odd = sorted(set(values) ^ set(known))
            raise InputError(f"{path}: missing or unknown: {', '.join(odd)}.", remedy=f"Needed: {', '.join(known)}.")
        return cls(root=root, **values)

    @property
    def settings(self) -> Path:
        """``coordinator.toml``."""
        return self.root / _SETTINGS

    @property
    def ca(self) -> Path:
        """Certificate of the authority."""
        return self.root / "ca.pem"

    @property
    def ca_key(self) -> Path:
        """Private key of the authority."""
        return self.root / "ca.key"

    @property
    def key_file(self) -> Path:
        """Private key that signs studies and warrants."""
        return self.root / "key.pem"

    @property
    def server_certificate(self) -> Path:
        """Certificate of the gate and of the enrolment server."""
        return self.root / "server.pem"

    @property
    def server_key(self) -> Path:
        """Private key of the gate and of the enrolment server."""
        return self.root / "server.key"

    @property
    def link_certificate(self) -> Path:
        """Certificate of the SuperLink."""
        return self.root / "link.pem"

    @property
    def link_key(self) -> Path:
        """Private key of the SuperLink, never under a passphrase."""
        return self.root / "link.key"

    @property
    def superexec_secret(self) -> Path:
        """File with the secret of SuperLink and SuperExec."""
        return self.root / "superexec.secret"

    @property
    def roster_file(self) -> Path:
        """Database of the roster."""
        return self.root / "roster.sqlite"

    @property
    def flower_database(self) -> Path:
        """The SuperLink's own database."""
        return self.root / "flower.sqlite"

    @property
    def studies(self) -> Path:
        """Folder of the studies."""
        return self.root / "studies"

    @property
    def logs(self) -> Path:
        """Folder of the logs."""
        return self.root / "logs"

    def key(self) -> Ed25519PrivateKey:
        """Return the key that signs studies and warrants.

        Raises:
            InputError: If it is missing or damaged, or the passphrase does not open it.
        """
        return read_identity(self.key_file)

    def authority(self) -> Authority:
        """Return the federation's authority.

        Raises:
            InputError: If it is missing or damaged, or the passphrase does not open its key.
        """
        return Authority.open(self.ca, self.ca_key)

    def fingerprint(self) -> str:
        """Return the SHA-256 of the authority's certificate (DER), 64 hexadecimal digits; needs no private key.

        Raises:
            InputError: If the certificate is missing or damaged.
        """
        certificate = read_certificate(self.ca, remedy="Put back the coordinator's ca.pem.")
        return certificate_digest(certificate.public_bytes(Encoding.DER))

    def roster(self) -> Roster:
        """Open the roster.

        Raises:
            InputError: If it is missing or damaged.
        """
        return Roster.open(self.roster_file)

    def invitation(self, site: str, *, secret: str) -> Invitation:
        """Return the invitation of a site, to be handed over as its text.

        Args:
            site: The name that it will have.
            secret: What `Roster.invite` gave.

        Raises:
            InputError: If the authority's certificate cannot be read.
        """
        return Invitation(
            version=INVITATION_VERSION,
            federation=self.name,
            site=site,
            host=self.host,
            port=self.port,
            enrolment_port=self.enrolment_port,
            ca_fingerprint=self.fingerprint(),
            secret=secret,
        )

    def _refuse_existing(self) -> None:
        """Refuse a folder that holds any of what is to be made; a finished one is told from a half made one."""
        if self.settings.exists():
            raise InputError(f"{self.root} is a coordinator's folder already.", remedy="Choose another, or start it.")
        files = (self.ca, self.ca_key, self.key_file, self.server_certificate, self.server_key, self.link_certificate,
                 self.link_key, self.superexec_secret, self.roster_file, self.flower_database)  # fmt: skip
        if any(file.exists() for file in files):
            raise _missing(self.root)


def _setting_names() -> tuple[str, ...]:
    return tuple(known.name for known in fields(CoordinatorFolder) if known.name != "root")


def _missing(root: Path) -> InputError:
    """Return the error for a folder without settings: no coordinator's, or half made."""
    if not (root / "ca.key").exists():
        return InputError(
            f"{root} is no coordinator's folder.",
            remedy=f"If there is one, set {FOLDER_VARIABLE} to it in this terminal, or give --folder; if not: "
            "`cloister coordinator init`.",
        )
    return InputError(
        f"{root} holds keys but no {_SETTINGS}: making it was interrupted, or that file was lost.",
        remedy=f"If it was never started, empty the folder and init again; otherwise put back {_SETTINGS}.",
    )


def _refuse_shared(root: Path) -> None:
    """Refuse a folder that others may enter and that holds files: they may be theirs, and it will be closed."""
    if root.is_dir() and stat.S_IMODE(root.stat().st_mode) & (stat.S_IRWXG | stat.S_IRWXO) and any(root.iterdir()):
        raise InputError(
            f"{root} holds files, and other accounts may enter it.",
            remedy=f"Give a new folder; or, if nobody else needs it: {shlex.join(['chmod', 'go=', str(root)])}",
        )


def _refuse(setting: str, value: Any, remedy: str) -> None:
    raise InputError(f"The coordinator's setting {setting} cannot be {value!r}.", remedy=remedy)
