"""Keeping a program alive."""

import asyncio
import logging
import time
from collections.abc import Callable

from server.deployment.processes.child import Child

_LOGGER = logging.getLogger("cloister.coordinator")
_LOOK_SECONDS = 0.2
_FIRST_DELAY, _LONGEST_DELAY = 0.2, 30.0
_MOST_DOUBLINGS = 10
# A program that lived so long did not fail at once: the next start is not delayed.
_PROVEN_SECONDS = 60.0


async def keep_alive(child: Child, *, started: Callable[[], None], look_s: float = _LOOK_SECONDS) -> None:
    """Start a program, and start it again whenever it ends, later and later if it fails at once.

    Args:
        child: The program; ending it is the caller's affair.
        started: Is called after every start.
        look_s: Seconds between two looks.
    """
    failures = 0
    while True:
        child.start()
        started()
        while child.running:
            await asyncio.sleep(look_s)
        failures = 0 if time.monotonic() - child.started > _PROVEN_SECONDS else failures + 1
        delay = min(_LONGEST_DELAY, _FIRST_DELAY * 2 ** min(failures, _MOST_DOUBLINGS))
        child.kill()  # what it had started itself
        _LOGGER.warning("%s ended; again in %.1f s (%s)", child.name, delay, child.log)
        await asyncio.sleep(delay)
