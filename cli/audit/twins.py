"""The broken twins that every audit of a mechanism runs, and what is told of them."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from cli.progress import progress_bar
from cli.rounds import announce

if TYPE_CHECKING:
    from privacy.audit.report import BrokenTwin
    from protocol.study import Study
    from simulations.audit.mechanism.audit import Caught


def catch_broken_twins(study: "Study", *, quiet: bool) -> "tuple[Caught, ...]":
    """Audit every broken twin that applies to a study, one after the other.

    Args:
        study: The study.
        quiet: Show no bar.

    Raises:
        PrivacyError: If the study promises nothing.
    """
    from protocol.randomness import SystemRandom
    from simulations.audit.mechanism.audit import broken_twins, catch_mutants

    names = broken_twins(study)
    announce(f"auditing {len(names)} broken twins: each must be caught")
    found: list[Caught] = []
    with silent_server(), progress_bar(len(names), label="broken twins", unit="twins", quiet=quiet) as advance:
        for name in names:
            found += catch_mutants(study, random=SystemRandom(), names=[name])
            advance(1)
    return tuple(found)


def as_reported(caught: "Sequence[Caught]") -> "tuple[BrokenTwin, ...]":
    """The broken twins as a report holds them."""
    from privacy.audit.report import BrokenTwin

    return tuple(BrokenTwin(name=each.mutant, caught_by=tuple(each.tests), seconds=each.seconds) for each in caught)


def problems(caught: "Sequence[Caught]") -> list[str]:
    """Why broken twins could not be audited, where that is so."""
    return [f"The broken twin {each.mutant!r} {each.problem}" for each in caught if each.problem]


@contextmanager
def silent_server() -> Iterator[None]:
    """Keep the twins' servers quiet: sites of theirs fail and drop out because they are told to."""
    import logging

    logger = logging.getLogger("cloister.server")
    was, logger.disabled = logger.disabled, True
    try:
        yield
    finally:
        logger.disabled = was
