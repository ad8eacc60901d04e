"""A site's part in the secure sums of its runs: one session per study and run, made from the approved study.

A session must be in one place at a time: who could take two turns from the same memory would mask two vectors alike,
and their difference would be in the clear. So a turn is taken alone, under a lock that threads and processes share;
it begins with what the disk says and ends with what it did written down; and a run that was left never comes back.

In the same file, and so at the same instant, stands which request was answered with which reply: the same request
again is answered from the outbox, and the session is not asked twice.
"""

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from client.site import Site
from privacy.secure_sum import SiteSession
from protocol.digest import canonical_json
from protocol.errors import ApprovalError, InputError, PrivacyError
from protocol.randomness import SystemRandom
from protocol.study import Study
from protocol.terms import Trust
from strategies.sum_wire import sum_policy

_FILE_VERSION = 2
_MOST_RUNS = 1000
_MOST_REPLIES = 16
_SECRET, _DRAFT, _ENDED = ".secret", ".draft", ".ended"


class MemberTurn:
    """One turn of a site in a run, while nobody else takes one.

    Args:
        site: The site.
        name: Name of the run's files.
        session: As the last turn left it.
        replies: Digest of each request that was answered, and of the reply; the oldest first.
    """

    def __init__(self, site: Site, name: str, session: SiteSession, replies: dict[str, str]) -> None:
        self._site = site
        self._name = name
        self._session = session
        self._replies = replies
        self._touched = False

    @property
    def session(self) -> SiteSession:
        """The site's session; what is done with it is written down by `keep`, or at the end of the turn."""
        self._touched = True
        return self._session

    def reply_to(self, request: str) -> str | None:
        """Return the digest of the reply that a request was answered with; None if it was not, or long ago.

        Args:
            request: SHA-256 of the request's canonical bytes.
        """
        reply = self._replies.get(request)
        # A kill may have come between the memory and the transcript: the turn is written down once more.
        self._touched = self._touched or reply is not None
        return reply

    def keep(self, request: str, reply: str) -> None:
        """Write down what the turn did, and with it that this request has this reply; the reply is on the disk already.

        A simulated site forgets it: it keeps no replies.

        Raises:
            InputError: If it cannot be written down: then the reply must not leave.
        """
        if self._site.outbox.keeps:
            self._replies[request] = reply
            for oldest in list(self._replies)[:-_MOST_REPLIES]:
                del self._replies[oldest]
        self.save()

    def save(self) -> None:
        """Write down what the turn did, if it did anything since it was last written down."""
        site, session = self._site, self._session
        if not self._touched:
            return
        if site.sums is not None:
            memory = {"version": _FILE_VERSION, "replies": list(self._replies.items())}
            whole = canonical_json(memory | {"session": json.loads(session.save())})
            _replace(site.sums / f"{self._name}{_SECRET}", whole)
        if site.transcripts is not None and session.agreed:
            transcript = canonical_json(session.transcript().to_mapping())
            _replace(site.transcripts / f"{self._name}.json", transcript)
        self._touched = False


@contextmanager
def member_turn(site: Site, study: Study, *, run: str) -> Iterator[MemberTurn]:
    """Take a turn in a run, alone; what the block did is written down at the latest before it ends.

    The terms come from the approved study and from the site's own computation; of the message only the run's
    identifier is used. Keys and masks always come from the operating system: deterministic noise, which tests use,
    never makes deterministic masks.

    Where the block raises before anything was kept, nothing of it is kept: nothing of it may have left.

    Args:
        site: The site.
        study: The approved study.
        run: Identifier of the run.

    Yields:
        The turn, with the site's session of the run, a new one if there is none.

    Raises:
        ApprovalError: If the study has no secure sum, the site is not in its roster under its own key, or the run
            was left for another one before.
        InputError: If the turn cannot be written down: a site that could forget takes no part.
        PrivacyError: If what was written down is damaged.
    """
    if study.privacy.trust is not Trust.SUM:
        raise ApprovalError("The study has no secure sum.", remedy="Ask the coordinator why it wants one.")
    roster = study.federation.roster or {}
    if roster.get(site.name) != site.public_key:
        raise ApprovalError(f"The study's roster does not hold {site.name}'s key.", remedy="Ask for a new study.")
    name = f"{study.hash[:16]}-{run}"
    with _alone(site):
        session, replies = _session(site, study, run, name)
        turn = MemberTurn(site, name, session, replies)
        yield turn
        turn.save()


@contextmanager
def _alone(site: Site) -> Iterator[None]:
    """Keep other threads and processes of the same site out."""
    with site.turn:
        if site.sums is None:
            yield
            return
        try:
            site.sums.mkdir(mode=0o700, parents=True, exist_ok=True)
            descriptor = os.open(site.sums / "lock", os.O_RDWR | os.O_CREAT, 0o600)
        except OSError as error:
            raise InputError(f"{site.sums}: {error.strerror}.", remedy="Let the site write there.") from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)  # and so the lock is gone


def _session(site: Site, study: Study, run: str, name: str) -> tuple[SiteSession, dict[str, str]]:
    """Return the session and the replies as they were left, or new ones."""
    policy = sum_policy(site.plan(study), site.trainer(study).model, run=run)
    if site.sums is None:
        if name not in site.sessions:
            _begin(site, name, ended=site.ended_runs, others=set(site.sessions))
            site.sessions.clear()
            site.sessions[name] = SiteSession(policy, site=site.name, identity=site.key, random=SystemRandom())
        return site.sessions[name], {}
    path = site.sums / f"{name}{_SECRET}"
    if path.exists():
        # Always from the disk: another process may have taken the turn before this one.
        saved, replies = _read(path)
        return SiteSession.restore(saved, policy, site=site.name, identity=site.key, random=SystemRandom()), replies
    _begin(
        site,
        name,
        ended={found.stem for found in site.sums.glob(f"*{_ENDED}")},
        others={found.stem for found in site.sums.glob(f"*{_SECRET}")},
    )
    return SiteSession(policy, site=site.name, identity=site.key, random=SystemRandom()), {}


def _read(path: Path) -> tuple[bytes, dict[str, str]]:
    """Return a session's memory, and the replies beside it."""
    damaged = PrivacyError(f"{path} is damaged, or of another version.", remedy="Leave this run and join the next one.")
    try:
        found = json.loads(path.read_bytes())
        if found["version"] != _FILE_VERSION:
            raise damaged
        return canonical_json(found["session"]), {str(request): str(reply) for request, reply in found["replies"]}
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}.", remedy="Let the site read it.") from error
    except (ValueError, KeyError, TypeError) as error:
        raise damaged from error


def _begin(site: Site, name: str, *, ended: set[str], others: set[str]) -> None:
    """Leave all other runs, for good, and erase their secrets: a site has one run at a time."""
    if name in ended:
        raise ApprovalError("The site left this run for another one.", remedy="Begin a new run.")
    if len(ended) + len(others) >= _MOST_RUNS:
        raise ApprovalError(f"The site took part in {_MOST_RUNS} runs.", remedy="Ask the coordinator why so many.")
    if site.sums is None:
        site.ended_runs |= others
        return
    for other in others:
        # The mark first: with neither mark nor secret, the run could begin anew under the same name.
        _replace(site.sums / f"{other}{_ENDED}", b"")
        (site.sums / f"{other}{_SECRET}").unlink(missing_ok=True)
    for draft in site.sums.glob(f"*{_DRAFT}"):
        draft.unlink(missing_ok=True)


def _replace(path: Path, content: bytes) -> None:
    """Put a whole file, durably written and readable by the owner alone, in the place of an older one."""
    draft = path.with_suffix(_DRAFT)
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
        # Without this a power cut may bring the older version back, and with it masks that were used.
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}.", remedy="Make room, or let the site write there.") from error
