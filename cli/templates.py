"""What keeps Cloister running: systemd units and a container, as texts that an administrator reads before using them.

Nothing here writes a file or starts anything.
"""

import re
import shlex
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

from protocol.errors import InputError

SITE, COORDINATOR = "site", "coordinator"
_ACCOUNT = "cloister"
CONTAINER_USER = "10001:10001"
CONTAINER_EXEC = "podman exec -it cloister-site /opt/cloister/bin/cloister site"
_HOMES = ("/home", "/root", "/run/user")
_USER = re.compile(r"[a-z_][a-z0-9_-]{0,31}")


@dataclass(frozen=True, kw_only=True)
class Service:
    """What a unit runs.

    Attributes:
        role: ``site`` or ``coordinator``.
        command: The program ``cloister``, absolute.
        folder: The folder of the site or of the coordinator, absolute: the only place that may be written.
        user: The account that owns the folder.
        passphrase: File with the passphrase of the private keys, absolute; None where they have none.
        accelerator: Whether a GPU is used: its devices then stay visible.
        readable: Further places that must be seen, such as the records' file.

    Raises:
        InputError: If a path is not absolute or cannot stand in a unit, or the user is no account name.
    """

    role: str
    command: Path
    folder: Path
    user: str
    passphrase: Path | None = None
    accelerator: bool = False
    readable: tuple[Path, ...] = ()

    def __post_init__(self) -> None:
        """Check what is written into a text that a privileged program reads."""
        if self.role not in (SITE, COORDINATOR):
            raise InputError(f"The role is {self.role!r}.", remedy=f"Use {SITE} or {COORDINATOR}.")
        if not _USER.fullmatch(self.user):
            raise InputError(f"The user is {self.user!r}.", remedy="Give the name of an account.")
        for path in (self.command, self.folder, *([self.passphrase] if self.passphrase else []), *self.readable):
            if not path.is_absolute() or not str(path).isprintable() or set('"\\$') & set(str(path)):
                raise InputError(
                    f"The path {str(path)!r} cannot stand in a unit.",
                    remedy="Use an absolute path without quotation marks, backslashes, dollar signs and line breaks.",
                )


def systemd_unit(service: Service) -> str:
    """Return a systemd unit that may write the one folder, has no capability, and is started again whatever ends it.

    Args:
        service: What to run.

    Example:
        >>> unit = systemd_unit(
        ...     Service(role="site", command=Path("/opt/bin/cloister"), folder=Path("/srv/north"), user="cloister")
        ... )
        >>> "ReadWritePaths=/srv/north" in unit.splitlines()
        True
    """
    name = f"cloister-{service.role}"
    variable = f"CLOISTER_{service.role.upper()}"
    lines = [
        f"# As root, to a file: /etc/systemd/system/{name}.service",
        f"# The folder must belong to its account: useradd --system {service.user}; "
        f"chown -R {service.user}: {shlex.quote(str(service.folder))}",
        f"# Then: systemctl daemon-reload && systemctl enable --now {name} && journalctl -fu {name}",
        "[Unit]",
        f"Description=Cloister, {service.role} {_plain(service.folder)}",
        "Wants=network-online.target",
        "After=network-online.target time-sync.target",
        "StartLimitIntervalSec=0",
        "",
        "[Service]",
        "Type=exec",
        f"User={service.user}",
        f"ExecStart={_word(service.command)} {service.role} start",
        f"Environment={_word(f'{variable}={service.folder}')}",
        # Whatever looks for a home finds the one place that may be written.
        f"Environment={_word(f'HOME={service.folder}')}",
        "Environment=PYTHONUNBUFFERED=1 OMP_WAIT_POLICY=PASSIVE",
        "# Behind a proxy (NO_PROXY is honoured too):",
        "#Environment=HTTPS_PROXY=http://proxy.example.org:3128",
    ]
    if service.passphrase is not None:
        lines += [
            f"LoadCredential={_word(f'passphrase:{service.passphrase}')}",
            "Environment=CLOISTER_PASSPHRASE_FILE=%d/passphrase",
        ]
    lines += ["Restart=always", "RestartSec=10", "KillSignal=SIGTERM", "TimeoutStopSec=60", "", *_confinement(service)]
    return "\n".join([*lines, "", "[Install]", "WantedBy=multi-user.target", ""])


def _confinement(service: Service) -> list[str]:
    """Return what takes away everything that the process does not need."""
    seen = (service.command, service.folder, *service.readable)
    in_a_home = any(str(path).startswith(tuple(f"{home}/" for home in _HOMES)) for path in seen)
    devices = ["PrivateDevices=yes"]
    if service.accelerator:
        devices = ["DevicePolicy=closed", "DeviceAllow=char-nvidia* rw", "DeviceAllow=char-drm rw"]
    return [
        "UMask=0077",
        "NoNewPrivileges=yes",
        "CapabilityBoundingSet=",
        "AmbientCapabilities=",
        "ProtectSystem=strict",
        f"ReadWritePaths={_word(service.folder)}",
        "# Read-only where the program, the folder or the records lie in a home: it would not be found otherwise."
        if in_a_home
        else "# Homes are not seen at all.",
        f"ProtectHome={'read-only' if in_a_home else 'yes'}",
        "PrivateTmp=yes",
        *devices,
        "ProtectProc=invisible",
        "ProtectClock=yes",
        "ProtectControlGroups=yes",
        "ProtectHostname=yes",
        "ProtectKernelLogs=yes",
        "ProtectKernelModules=yes",
        "ProtectKernelTunables=yes",
        "RestrictAddressFamilies=AF_INET AF_INET6 AF_UNIX AF_NETLINK",
        "RestrictNamespaces=yes",
        "RestrictRealtime=yes",
        "RestrictSUIDSGID=yes",
        "RemoveIPC=yes",
        "LockPersonality=yes",
        "SystemCallArchitectures=native",
        "SystemCallFilter=@system-service",
        "SystemCallErrorNumber=EPERM",
    ]


def _plain(path: Path) -> str:
    """Write a path so that systemd replaces nothing in it."""
    return str(path).replace("%", "%%")


def _word(value: Path | str) -> str:
    """Write a value as one word of a unit: what systemd would replace doubled, quoted where it has a blank."""
    text = str(value).replace("%", "%%")
    return f'"{text}"' if re.search(r"[\s;']", text) else text


def containerfile() -> str:
    """Return a Containerfile of a site's client: not root, nothing installed at run time, no port."""
    return """\
# One Cloister site. In the folder of Cloister's source:
#   podman build -t cloister-site -f Containerfile .      (or: docker build ...)
FROM docker.io/library/python:3.12-slim AS build
COPY . /source
RUN python -m venv /opt/cloister \\
 && /opt/cloister/bin/pip install --no-cache-dir -c /source/constraints.txt setuptools \\
 && /opt/cloister/bin/pip install --no-cache-dir --no-build-isolation -c /source/constraints.txt \\
      "$(grep '^torch==' /source/constraints.txt)" /source

FROM docker.io/library/python:3.12-slim
COPY --from=build /opt/cloister /opt/cloister
ENV CLOISTER_SITE=/site HOME=/site PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 OMP_WAIT_POLICY=PASSIVE
USER 10001:10001
VOLUME ["/site"]
WORKDIR /site
STOPSIGNAL SIGTERM
ENTRYPOINT ["/opt/cloister/bin/cloister", "site"]
CMD ["start"]
"""


def container_command(*, folder: Path, owner: str | None, data: Path | None, passphrase: Path | None) -> str:
    """Return the command that runs a site's container: read-only, without capabilities, without ports.

    Args:
        folder: The site's folder, absolute; mounted at ``/site``.
        owner: Number of its owner and group, ``UID:GID``; None for the container's own.
        data: The records' file or folder, mounted read-only in its own place; None where they are in the folder or
            in a database.
        passphrase: File with the passphrase; None where the keys have none.
    """
    words = ["podman", "run", "--detach", "--name", "cloister-site", "--restart", "always"]
    words += ["--user", owner or CONTAINER_USER, "--read-only", "--tmpfs", "/tmp:mode=1777"]  # noqa: S108 -- inside
    words += ["--cap-drop", "all", "--security-opt", "no-new-privileges"]
    words += ["--volume", f"{folder}:/site"]
    if data is not None:
        words += ["--volume", f"{data}:{data}:ro"]
    if passphrase is not None:
        words += ["--volume", f"{passphrase}:/run/passphrase:ro", "--env", "CLOISTER_PASSPHRASE_FILE=/run/passphrase"]
    return shlex.join([*words, "cloister-site"])


def installed_command() -> Path:
    """Return the program ``cloister`` of this installation.

    Raises:
        InputError: If it is not found.
    """
    beside = Path(sys.executable).parent / "cloister"  # not resolved: a virtual environment's Python is a link
    found = str(beside) if beside.exists() else shutil.which("cloister")
    if found is None:
        raise InputError("The program cloister is not found.", remedy="Install the package, and run it from there.")
    return Path(found).absolute()


def owner_of(folder: Path) -> str:
    """Return the account that owns a folder, or the usual one where that is root, to whom it must not belong.

    Raises:
        InputError: If the owner has no name.
    """
    try:
        return folder.owner() if folder.stat().st_uid else _ACCOUNT
    except KeyError as error:  # a number without a name
        raise InputError(f"The owner of {folder} has no name here.", remedy="Give --user.") from error
