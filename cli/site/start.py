"""``cloister site start``: the site's client, in the foreground, until it is told to end."""

import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cli.site.folder import HERE, SiteFolder
from protocol.errors import InputError

if TYPE_CHECKING:
    from client.doctor import Finding

EXAMPLES = "\b\nExamples:\n  cloister site start\n  cloister site start --site /srv/cloister --verbose"


def start(
    *,
    site: SiteFolder = HERE,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Log details of the connection.")] = False,
) -> None:
    """Run the site's client until Ctrl-C or SIGTERM; it calls out only, and reconnects for ever.

    Takes part in approved studies, within the site's policy. A study that is approved, or a policy that is changed,
    while it runs counts from the next message on.
    """
    folder = site.absolute()
    _refuse_what_cannot_work(folder)
    with _log(verbose=verbose):
        _introduce(folder)
        from client.node.start import start_node  # PyTorch and Flower: slow to import

        start_node(folder)
        logging.getLogger("cloister.site").info("ended")


def _refuse_what_cannot_work(folder: Path) -> None:
    """Run the quick part of the doctor: a client whose own folder is broken could only refuse everything."""
    from cli.site.doctor import tell
    from client.doctor import State, local_findings

    found = list(local_findings(folder))
    if not any(finding.state is State.FAILED for finding in found):
        found += _source_of_approved(folder)
    tell(finding for finding in found if finding.state is not State.OK)
    failures = [finding.check for finding in found if finding.state is State.FAILED]
    if failures:
        raise InputError(
            f"The client was not started; failed: {', '.join(failures)}.",
            remedy="Do what is said above; cloister site doctor examines everything.",
        )


def _source_of_approved(folder: Path) -> "list[Finding]":
    """Examine whether the records can be opened, where a study is approved: otherwise the other sites pay in vain."""
    from client.doctor import State
    from client.doctor.studies import check_approvals, check_source  # Arrow: slow to import

    return [check_source(folder)] if check_approvals(folder).state is State.OK else []


@contextmanager
def _log(*, verbose: bool) -> Iterator[None]:
    """Write the log to standard error; under systemd without the time, which the journal has."""
    if os.environ.get("JOURNAL_STREAM"):
        form = logging.Formatter("%(levelname)s %(message)s")
    else:
        form = logging.Formatter("%(asctime)s %(levelname)-7s %(message)s", datefmt="%Y-%m-%d %H:%M:%S")
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(form)
    logger = logging.getLogger("cloister")
    level, passes_on = logger.level, logger.propagate
    logger.addHandler(handler)
    logger.propagate = False
    logger.setLevel(logging.DEBUG if verbose else logging.INFO)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
        logger.propagate = passes_on


def _introduce(folder: Path) -> None:
    """Say what the client is going to do."""
    from cli.site.status import budget_words, site_facts

    facts, logger = site_facts(folder), logging.getLogger("cloister.site")
    logger.info("%s of %s, coordinator %s", facts["site"], facts["federation"], facts["coordinator"])
    logger.info("data set %s: %s", facts["data_set"], budget_words(facts["budget"]))
    for study in facts["studies"]:
        logger.info("approved: %s %s", study["study"], study["hash"][:16])
    if not facts["studies"]:
        logger.info("no study is approved: waiting for cloister site approve STUDY")
    logger.info("waiting for the coordinator")
