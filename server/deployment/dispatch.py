"""Which job gets a run of Flower's, and when: a run may die at any moment, a job goes on until it is finished."""

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from protocol.errors import FederationError, InputError
from server.deployment.jobs import Job
from server.progress import JobState

_LOGGER = logging.getLogger("cloister.coordinator")
_FIRST_DELAY, _LONGEST_DELAY = 1.0, 60.0
_MOST_DOUBLINGS = 10
# A server imports PyTorch before it takes the job's lock; on a machine at its limits that takes a minute.
_PATIENCE_SECONDS = 120.0
_STOP_SECONDS = 20.0


class Runs(Protocol):
    """What is asked of the SuperLink; `server.deployment.superlink.Control` does it."""

    def submit(self, bundle: bytes, config: Mapping[str, str]) -> int:
        """Start a run and return its number."""

    def ending(self, run: int) -> str | None:
        """Return how a run ended, None while it has not."""

    def stop(self, run: int) -> None:
        """End a run."""


@dataclass(kw_only=True)
class _Attempt:
    """The last run of a job.

    ``run`` is None once it is over; ``round`` is where the job was when it began; ``due`` is when the next may
    begin; ``failures`` counts the runs in a row that brought the job no further.
    """

    run: int | None
    began: float
    round: int
    worked: bool = False
    due: float = 0.0
    failures: int = 0
    stopping: float | None = None


class Dispatcher:
    """Gives each unfinished job a run whenever none works on it.

    Args:
        runs: The SuperLink.
        bundle: The launcher.
        device: Where servers compute, such as ``cpu``.
        clock: Seconds that only grow.
    """

    def __init__(self, runs: Runs, bundle: bytes, *, device: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._runs = runs
        self._bundle = bundle
        self._device = device
        self._clock = clock
        self._attempts: dict[str, _Attempt] = {}
        self._complaints: dict[str, str] = {}

    def tick(self, jobs: Sequence[Job]) -> None:
        """Look at every job once, and submit what is due.

        Raises:
            FederationError: If the SuperLink does not answer.
        """
        for job in jobs:
            try:
                self._look_after(job)
            except InputError as error:  # this job is damaged; the others are not
                if self._complaints.get(job.name) != str(error):
                    _LOGGER.error("study %s: %s", job.name, error)
                self._complaints[job.name] = str(error)

    def lost(self) -> None:
        """Take it that every server that was about to begin is dead, as after SuperExec's death."""
        for attempt in self._attempts.values():
            if attempt.run is not None:
                self._end(attempt.run)
                attempt.run = None

    def _look_after(self, job: Job) -> None:
        attempt = self._attempts.get(job.name)
        if job.finished:
            self._attempts.pop(job.name, None)
        elif job.stopped:
            self._see_it_stop(job, attempt)
        elif job.working:
            if attempt is not None:
                attempt.worked, attempt.stopping = True, None
        elif job.progress().state is JobState.FAILED:
            self._attempts.pop(job.name, None)  # until somebody has mended it and runs it again
        elif attempt is None or self._is_over(job, attempt):
            self._submit(job, attempt)

    def _is_over(self, job: Job, attempt: _Attempt) -> bool:
        """Return whether nothing works on a job, nothing is about to, and the next run is due."""
        now = self._clock()
        if attempt.run is not None:
            late = now - attempt.began > _PATIENCE_SECONDS
            ending = self._runs.ending(attempt.run)
            if ending is None and not attempt.worked and not late:
                return False
            if ending is None:
                self._end(attempt.run)
            further = job.progress().round > attempt.round
            attempt.run, attempt.failures = None, 0 if further else attempt.failures + 1
            doublings = min(attempt.failures - 1, _MOST_DOUBLINGS)
            delay = 0.0 if further else min(_LONGEST_DELAY, _FIRST_DELAY * 2**doublings)
            attempt.due = now + delay
            said = ending or ("its server is gone" if attempt.worked else "no server began")
            _LOGGER.warning("study %s: %s; again in %.0f s", job.name, said, delay)
        return now >= attempt.due

    def _submit(self, job: Job, before: _Attempt | None) -> None:
        run = self._runs.submit(self._bundle, {"job": str(job.folder), "device": self._device})
        self._attempts[job.name] = _Attempt(
            run=run,
            began=self._clock(),
            round=job.progress().round,
            failures=0 if before is None else before.failures,
        )
        _LOGGER.info("study %s: run %d submitted", job.name, run)

    def _see_it_stop(self, job: Job, attempt: _Attempt | None) -> None:
        """Let a stopped job's server end by itself, and end its run when it does not."""
        if attempt is None or attempt.run is None:
            return
        if attempt.stopping is None:
            attempt.stopping = self._clock()
        if job.working and self._clock() - attempt.stopping < _STOP_SECONDS:
            return
        self._end(attempt.run)
        del self._attempts[job.name]
        _LOGGER.info("study %s: stopped", job.name)

    def _end(self, run: int) -> None:
        try:
            self._runs.stop(run)
        except FederationError as error:  # it has ended by itself
            _LOGGER.debug("run %d: %s", run, error)
