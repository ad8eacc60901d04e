"""Flower's ``flwr-serverapp``, for the one bundle that the coordinator submits and no other.

Flower's control API knows no passwords: whoever reaches the SuperLink's port on this machine may submit a bundle
with code in it, and the stock program would run that code with the coordinator's keys in reach. This one refuses
every bundle but the launcher, which holds no code, so that only the installed package ever runs.
"""

import hashlib
import importlib
import os
from typing import Any

from protocol.errors import ApprovalError, FederationError

BUNDLE_VARIABLE = "CLOISTER_BUNDLE"
STUDIES_VARIABLE = "CLOISTER_STUDIES"
"""Set by the coordinator for its servers: the one folder whose jobs they may run."""
_WHERE = "flwr.superlink.runtime.run_serverapp"
_INSTALL = "install_from_fab"


def main() -> None:
    """Run one ServerApp, as SuperExec starts it."""
    from flwr.superlink.cli import flwr_serverapp

    allow_only(os.environ[BUNDLE_VARIABLE])
    flwr_serverapp()


def allow_only(expected: str) -> None:
    """Make this process refuse to install any other bundle.

    Args:
        expected: SHA-256 of the one bundle, hexadecimal.

    Raises:
        FederationError: Flower installs bundles elsewhere than this version knows.
    """
    runtime = vars(importlib.import_module(_WHERE))
    install = runtime.get(_INSTALL)
    if install is None:
        raise FederationError(f"{_WHERE} has no {_INSTALL}.", remedy="Use flwr 1.41.")

    def install_launcher(content: bytes, *arguments: Any, **options: Any) -> Any:
        found = hashlib.sha256(content).hexdigest()
        if found != expected:
            raise ApprovalError(
                f"The bundle {found[:16]} is not the coordinator's launcher.",
                remedy="Start studies with `cloister coordinator run`.",
            )
        return install(content, *arguments, **options)

    runtime[_INSTALL] = install_launcher


if __name__ == "__main__":
    main()
