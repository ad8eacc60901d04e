"""What a job does while it waits: it looks for sites, listens to its operator, and says what it waits for."""

import logging
import time
from collections.abc import Mapping
from pathlib import Path

from protocol.errors import FederationError
from protocol.study import Study
from server.cohort import Cohort
from server.progress import JobState, ProgressFile
from server.roll_call import RollCall

_LOGGER = logging.getLogger("cloister.server")
_SLICE = 0.2
_LONGEST_PAUSE = 30.0
HERE, AWAY, REFUSING = "here", "away", "away, or refuses"


class Patience:
    """Waits without limit, for as long as the operator lets it.

    Args:
        roll_call: Finds sites.
        study: The study.
        stop: The file by which the operator asks to stop.
        progress: Tells whoever looks.
        first_pause: Seconds before the first repetition of a round's request; they double up to half a minute.
    """

    def __init__(
        self, roll_call: RollCall, study: Study, *, stop: Path, progress: ProgressFile, first_pause: float = 1.0
    ) -> None:
        self._roll_call = roll_call
        self._study = study
        self._stop = stop
        self._first_pause = first_pause
        self.progress = progress

    def idle(self) -> bool:
        """Do what there is to do meanwhile, at once; says whether a site found its place.

        Raises:
            FederationError: If the operator asked to stop.
        """
        if self._stop.exists():
            raise FederationError("The operator asked to stop.", remedy="Remove the file `stop` to go on.")
        self.progress.refresh()
        return self._roll_call.step()

    def gather(self, *, resumed: bool) -> Cohort:
        """Wait until the study's quorum has introduced itself.

        At the start of a run, the others have the study's deadline more. A run that is taken up again waits for who
        is connected and no longer.

        Raises:
            FederationError: If the operator asked to stop.
        """
        terms, found = self._study.federation, self._roll_call.cohort
        quorum_since: float | None = None
        while True:
            self.idle()
            self._tell_gathering()
            if len(found.nodes) >= terms.sites:
                return found
            if len(found.nodes) >= terms.quorum:
                quorum_since = time.monotonic() if quorum_since is None else quorum_since
                late = time.monotonic() - quorum_since >= terms.deadline
                if late or (resumed and self._roll_call.settled):
                    return found
            time.sleep(_SLICE / 4)

    def wait(self, attempt: int, problems: Mapping[str, str], *, number: int) -> None:
        """Wait before a round's request is repeated; no longer than until a site comes.

        Args:
            attempt: How often it was sent, from 1.
            problems: Why sites are waited for.
            number: Of the round.

        Raises:
            FederationError: If the operator asked to stop.
        """
        listed = "; ".join(f"{site}: {problem}" for site, problem in sorted(problems.items()))
        _LOGGER.warning("round %d waits for %s", number, listed)
        names = ", ".join(sorted(problems))
        self.progress.tell(JobState.WAITING, sites=self.words(problems), message=f"Waiting for {names} ({listed})")
        ends = time.monotonic() + min(self._first_pause * 2 ** min(attempt - 1, 10), _LONGEST_PAUSE)
        while (left := ends - time.monotonic()) > 0:
            if self.idle():
                return
            time.sleep(min(_SLICE, left))

    def words(self, said: Mapping[str, str]) -> dict[str, str]:
        """Return one word for each site: what is said of it, or whether it is there."""
        places = self._roll_call.cohort.nodes
        return {site: said.get(site, HERE if site in places else AWAY) for site in sorted(self._roll_call.names)}

    def _tell_gathering(self) -> None:
        terms, refusals = self._study.federation, self._roll_call.refusals
        message = f"{len(self._roll_call.cohort.nodes)} of {terms.sites} sites are here."
        if refusals:
            message += f" {len(refusals)} connected nodes have no place: {'; '.join(sorted(set(refusals.values())))}"
        # A node that refuses does not say whose it is: the site may be there, and have approved nothing yet.
        unplaced = self._roll_call.names - set(self._roll_call.cohort.nodes) if refusals else frozenset()
        self.progress.tell(JobState.WAITING, sites=self.words(dict.fromkeys(unplaced, REFUSING)), message=message)
