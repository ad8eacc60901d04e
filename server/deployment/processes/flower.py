"""Flower's programs as Cloister starts them: nothing shipped, nothing fetched, nobody told."""

import os
import shutil
import sys
import sysconfig
from collections.abc import Iterable
from pathlib import Path

import tomli_w

from protocol.errors import FederationError

SWITCHED_OFF = {
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
    "NO_PROXY": "127.0.0.1,localhost",
    "no_proxy": "127.0.0.1,localhost",
    "PYTHONUNBUFFERED": "1",
}
# What would make another Python, other code or another Flower of the programs that inherit it.
_NOT_INHERITED = ("PYTHONPATH", "PYTHONHOME", "PYTHONSTARTUP", "RAY_ADDRESS")


def flower_program(name: str) -> str:
    """Return the path of one of Flower's programs in this environment.

    Raises:
        FederationError: It is not installed.
    """
    path = shutil.which(name, path=sysconfig.get_path("scripts"))
    if path is None:
        raise FederationError(
            f"The program {name} is not in {sysconfig.get_path('scripts')}.",
            remedy="Install flwr[simulation] into this environment.",
        )
    return path


def write_launcher(folder: Path, *, run_config_keys: Iterable[str]) -> Path:
    """Write an app without code into a folder: its components are those of the installed package.

    The server and the sites then both import ``server.app`` and ``client.app`` from where Python finds them:
    the environment's packages, or what ``PYTHONPATH`` in the run's environment names.

    Args:
        folder: Where to write; made if it is missing.
        run_config_keys: The keys that a run may set; their default is the empty string.

    Returns:
        The folder.
    """
    folder.mkdir(parents=True, exist_ok=True)
    app = {
        "publisher": "cloister",
        "components": {"serverapp": "server.app:app", "clientapp": "client.app:app"},
        "config": dict.fromkeys(run_config_keys, ""),
    }
    project = {"name": "cloister-launcher", "version": "0.0.0", "description": "Starts Cloister."}
    project["license"] = "Apache-2.0"
    document = {"project": project, "tool": {"flwr": {"app": app}}}
    (folder / "pyproject.toml").write_bytes(tomli_w.dumps(document).encode())
    return folder


def clean_environment(*, home: Path, programs: Path) -> dict[str, str]:
    """Return the environment of the coordinator's Flower programs.

    They import the package that this process runs, whatever ``PYTHONPATH`` and the working directory say.

    Args:
        home: Flower's private folder.
        programs: Folder that comes before all others where a program starts another by its name.
    """
    inherited = {
        name: value for name, value in os.environ.items() if name not in _NOT_INHERITED and not name.startswith("FLWR_")
    }
    path = os.pathsep.join([str(programs), os.defpath])
    root = Path(__file__).resolve().parents[3]
    # Where it is not installed but run from its checkout, Python must be told.
    code = {} if str(root) in map(os.path.realpath, _site_packages()) else {"PYTHONPATH": str(root)}
    return inherited | SWITCHED_OFF | code | {"FLWR_HOME": str(home), "PATH": path, "PYTHONSAFEPATH": "1"}


def _site_packages() -> list[str]:
    return [path for path in sys.path if Path(path).name in {"site-packages", "dist-packages"}]
