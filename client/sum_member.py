"""A site's part in the secure sums of its runs: one session per run, made from the approved study."""

import os
from pathlib import Path

from client.site import Site
from privacy.secure_sum import SiteSession
from protocol.digest import canonical_json
from protocol.errors import ApprovalError, InputError
from protocol.randomness import SystemRandom
from protocol.study import Study
from protocol.terms import Trust
from strategies.sum_wire import sum_policy


def member_session(site: Site, study: Study, *, run: str) -> SiteSession:
    """Return the site's session of a run, a new one if there is none.

    The terms come from the approved study and from the site's own computation; of the message only the run's
    identifier is used. Keys and masks always come from the operating system: deterministic noise, which tests use,
    never makes deterministic masks.

    Raises:
        ApprovalError: If the study has no secure sum, or the site is not in its roster under its own key.
    """
    if study.privacy.trust is not Trust.SUM:
        raise ApprovalError("The study has no secure sum.", remedy="Ask the coordinator why it wants one.")
    roster = study.federation.roster or {}
    if roster.get(site.name) != site.public_key:
        raise ApprovalError(f"The study's roster does not hold {site.name}'s key.", remedy="Ask for a new study.")
    policy = sum_policy(site.plan(study), run=run, dimension=site.trainer(study).dimension)
    path = _memory_path(site, run)
    if path is not None and path.exists():
        # Always from the disk: another process may have taken the turn before this one.
        saved = path.read_bytes()
        return SiteSession.restore(saved, policy, site=site.name, identity=site.key, random=SystemRandom())
    if run not in site.sessions:
        _forget_other_runs(site, run)
        site.sessions[run] = SiteSession(policy, site=site.name, identity=site.key, random=SystemRandom())
    return site.sessions[run]


def keep_session(site: Site, session: SiteSession) -> None:
    """Write down what a session knows, before the answer that rests on it leaves.

    Its memory holds secrets of the run: readable by the owner alone, one version only, replaced whole. The transcript
    beside it is the evidence.

    Raises:
        InputError: If it cannot be written: a site that could forget takes no part.
    """
    path = _memory_path(site, session.policy.run)
    if path is not None:
        _replace(path, session.save())
    if site.transcripts is not None:
        transcript = canonical_json(session.transcript().to_mapping())
        _replace(site.transcripts / f"{session.policy.run}.json", transcript)


def _memory_path(site: Site, run: str) -> Path | None:
    """Return where a session's memory lies; None where it stays in this process."""
    return None if site.sums is None else site.sums / f"{run}.secret"


def _forget_other_runs(site: Site, run: str) -> None:
    """Erase what was kept of other runs: their secrets must not outlive them, and a site has one run at a time."""
    for other in [other for other in site.sessions if other != run]:
        del site.sessions[other]
    if site.sums is not None:
        for path in site.sums.glob("*.secret"):
            path.unlink(missing_ok=True)


def _replace(path: Path, content: bytes) -> None:
    """Put a whole file, durably written and readable by the owner alone, in the place of an older one."""
    draft = path.with_suffix(".draft")
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}.", remedy="Make room, or let the site write there.") from error
