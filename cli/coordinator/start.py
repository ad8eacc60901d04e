"""``cloister coordinator start``: everything that sites connect to, until it is told to end."""

import logging
import sys
from typing import Annotated

import typer

from cli.coordinator.place import HERE, FolderOption, open_folder


def start(
    *,
    folder: FolderOption = HERE,
    device: Annotated[str, typer.Option(help="Where models are stepped: cpu, cuda or cuda:1.")] = "cpu",
) -> None:
    """Run the coordinator in the foreground until Ctrl-C or SIGTERM; studies go on where they were.

    Prints one line when sites can connect. What its programs say is in the folder's logs.
    """
    opened = open_folder(folder)
    import asyncio

    from server.deployment.supervisor import Supervisor

    logging.basicConfig(format="%(asctime)s %(message)s", datefmt="%Y-%m-%d %H:%M:%S", level=logging.WARNING)
    logging.getLogger("cloister").setLevel(logging.INFO)

    def ready() -> None:
        sys.stdout.write(
            f"ready: {opened.name} at {opened.host}, gate {opened.port}, enrolment {opened.enrolment_port}\n"
        )
        sys.stdout.flush()

    asyncio.run(Supervisor(opened, device=device).run(on_ready=ready))
    sys.stdout.write("ended.\n")
