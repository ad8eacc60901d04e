"""``cloister coordinator``: the operator's end of a deployment."""

import typer

from cli.coordinator.roster import invite, revoke
from cli.coordinator.service import EXAMPLE as SERVICE_EXAMPLE
from cli.coordinator.service import service
from cli.coordinator.setup import init
from cli.coordinator.start import start
from cli.coordinator.status import status
from cli.coordinator.studies import run, stop

coordinator = typer.Typer(no_args_is_help=True, help="Run the coordinator: invite sites, start, run studies.")
coordinator.command(epilog="Example: cloister coordinator init federation --name hearts --host hub.example.org")(init)
coordinator.command(epilog="Example: cloister coordinator invite north south east --folder federation")(invite)
coordinator.command(epilog="Example: cloister coordinator start --folder federation")(start)
coordinator.command(epilog="Example: cloister coordinator run study.toml --folder federation")(run)
coordinator.command(epilog="Example: cloister coordinator stop my-study --folder federation")(stop)
coordinator.command(epilog="Example: cloister coordinator status --folder federation")(status)
coordinator.command(epilog="Example: cloister coordinator revoke north --folder federation")(revoke)
coordinator.command(epilog=SERVICE_EXAMPLE)(service)
