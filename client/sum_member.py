"""A site's part in the secure sums of its runs: one session per study and run, made from the approved study.

A session must be in one place at a time: who could take two turns from the same memory would mask two vectors alike,
and their difference would be in the clear. So a turn is taken alone, under a lock that threads and processes share;
it begins with what the disk says and ends with what it did written down; and a run that was left never comes back.
"""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from client.site import Site
from privacy.secure_sum import SiteSession
from protocol.digest import canonical_json
from protocol.errors import ApprovalError, InputError
from protocol.randomness import SystemRandom
from protocol.study import Study
from protocol.terms import Trust
from strategies.sum_wire import sum_policy

_MOST_RUNS = 1000
_SECRET, _DRAFT, _ENDED = ".secret", ".draft", ".ended"


@contextmanager
def member_session(site: Site, study: Study, *, run: str) -> Iterator[SiteSession]:
    """Take a turn in a run, alone; what the block did is written down before it ends.

    The terms come from the approved study and from the site's own computation; of the message only the run's
    identifier is used. Keys and masks always come from the operating system: deterministic noise, which tests use,
    never makes deterministic masks.

    Where the block raises, nothing of it is kept: nothing of it may have left.

    Args:
        site: The site.
        study: The approved study.
        run: Identifier of the run.

    Yields:
        The site's session of the run, a new one if there is none.

    Raises:
        ApprovalError: If the study has no secure sum, the site is not in its roster under its own key, or the run
            was left for another one before.
        InputError: If the turn cannot be written down: a site that could forget takes no part.
    """
    if study.privacy.trust is not Trust.SUM:
        raise ApprovalError("The study has no secure sum.", remedy="Ask the coordinator why it wants one.")
    roster = study.federation.roster or {}
    if roster.get(site.name) != site.public_key:
        raise ApprovalError(f"The study's roster does not hold {site.name}'s key.", remedy="Ask for a new study.")
    name = f"{study.hash[:16]}-{run}"
    with _alone(site):
        session = _session(site, study, run, name)
        yield session
        if site.sums is not None:
            _replace(site.sums / f"{name}{_SECRET}", session.save())
        if site.transcripts is not None and session.agreed:
            transcript = canonical_json(session.transcript().to_mapping())
            _replace(site.transcripts / f"{name}.json", transcript)


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


def _session(site: Site, study: Study, run: str, name: str) -> SiteSession:
    """Return the session as it was left, or a new one."""
    policy = sum_policy(site.plan(study), run=run, dimension=site.trainer(study).dimension)
    if site.sums is None:
        if name not in site.sessions:
            _begin(site, name, ended=site.ended_runs, others=set(site.sessions))
            site.sessions.clear()
            site.sessions[name] = SiteSession(policy, site=site.name, identity=site.key, random=SystemRandom())
        return site.sessions[name]
    path = site.sums / f"{name}{_SECRET}"
    if path.exists():
        # Always from the disk: another process may have taken the turn before this one.
        saved = path.read_bytes()
        return SiteSession.restore(saved, policy, site=site.name, identity=site.key, random=SystemRandom())
    _begin(
        site,
        name,
        ended={found.stem for found in site.sums.glob(f"*{_ENDED}")},
        others={found.stem for found in site.sums.glob(f"*{_SECRET}")},
    )
    return SiteSession(policy, site=site.name, identity=site.key, random=SystemRandom())


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
