"""Jobs: what the coordinator was asked to run, one folder for each, which outlive every process.

::

    studies/<first 16 digits of the study's hash>[-N]/
        study.json      the study under the coordinator's signature
        run.json        the run's identifier: the same after every restart
        start/          the public release that the study starts from, if it does
        checkpoint/     what a server needs to go on
        progress.json   how far it is, for people
        lock            held by the server that works on it
        stop            an empty file: the operator wants it to rest
        release/        there when it is finished

The command line makes a job, the supervisor has it run, the server (`server.job`) does it.
"""

import fcntl
import json
import os
import re
import secrets
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from protocol.errors import CloisterError, InputError, StudyError
from protocol.signed_study import SignedStudy
from protocol.study import Study
from server.deployment.roster import Member
from server.progress import JobState, Progress

_STUDY, _RUN, _START, _PROGRESS, _LOCK, _STOP, _RELEASE = (
    "study.json", "run.json", "start", "progress.json", "lock", "stop", "release",
)  # fmt: skip
_NAME = re.compile(r"[0-9a-f]{16}(-[1-9][0-9]*)?")
_DIGITS = 16
_RUN_VERSION = 1


@dataclass(frozen=True, kw_only=True)
class Job:
    """One run of one study.

    Attributes:
        folder: Where it lies.
    """

    folder: Path

    @property
    def name(self) -> str:
        """The folder's name."""
        return self.folder.name

    @property
    def release(self) -> Path:
        """Where its release is when it is finished."""
        return self.folder / _RELEASE

    @property
    def finished(self) -> bool:
        """Whether its release is there; a release is complete or absent."""
        return self.release.is_dir()

    @property
    def stopped(self) -> bool:
        """Whether the operator asked it to rest."""
        return (self.folder / _STOP).exists()

    @property
    def working(self) -> bool:
        """Whether a server holds its lock."""
        try:
            descriptor = os.open(self.folder / _LOCK, os.O_RDONLY)
        except FileNotFoundError:
            return False
        try:
            # Held for an instant, and shared: two who look do not see each other.
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        finally:
            os.close(descriptor)
        return False

    def stop(self) -> None:
        """Ask it to rest after its round."""
        (self.folder / _STOP).touch(mode=0o600)

    def resume(self) -> None:
        """Take back that it should rest, or that it failed; where it was is in its checkpoint."""
        (self.folder / _STOP).unlink(missing_ok=True)
        if self.progress().state is JobState.FAILED:
            (self.folder / _PROGRESS).unlink(missing_ok=True)

    def signed_study(self) -> SignedStudy:
        """Return its study.

        Raises:
            StudyError: If it is damaged.
        """
        return _read_signed(self.folder / _STUDY)

    def progress(self) -> Progress:
        """Return how far it is.

        Raises:
            StudyError: If it has not been begun and its study is damaged.
        """
        try:
            found = Progress.read(self.folder / _PROGRESS)
        except InputError:
            found = None  # it is written anew
        if found is None:
            found = Progress(rounds=self.signed_study().study.rounds)
        if self.finished:
            return replace(found, state=JobState.FINISHED)
        if self.stopped and not self.working:
            return replace(found, state=JobState.STOPPED)
        if found.state in (JobState.STOPPED, JobState.FINISHED):  # it was, and is to go on
            return replace(found, state=JobState.WAITING)
        return found


def all_jobs(studies: Path) -> list[Job]:
    """Return the jobs of a folder of studies, oldest first."""
    if not studies.is_dir():
        return []
    folders = [entry for entry in studies.iterdir() if _NAME.fullmatch(entry.name) and (entry / _RUN).is_file()]
    return [Job(folder=folder) for folder in sorted(folders, key=lambda folder: (folder / _RUN).stat().st_mtime_ns)]


def jobs_of(studies: Path, study: Study) -> list[Job]:
    """Return the jobs of one study, oldest first."""
    return [job for job in all_jobs(studies) if job.name.partition("-")[0] == study.hash[:_DIGITS]]


def create_job(studies: Path, signed: SignedStudy, *, start: Path | None = None) -> Job:
    """Make a new job of a study: a new run, which costs the sites' budgets anew.

    Args:
        studies: Folder of the studies.
        signed: The study.
        start: The public release that it starts from, which is copied.

    Returns:
        The job; it begins when a supervisor sees it.

    Raises:
        InputError: If it cannot be written.
    """
    number = len(jobs_of(studies, signed.study)) + 1
    name = signed.study.hash[:_DIGITS] + (f"-{number}" if number > 1 else "")
    draft = studies / f".{name}.{secrets.token_hex(4)}"
    try:
        draft.mkdir(mode=0o700, parents=True)
        if start is not None:
            shutil.copytree(start, draft / _START)
        _write(draft / _STUDY, signed.to_text())
        _write(draft / _RUN, json.dumps({"version": _RUN_VERSION, "run": secrets.token_hex(32)}))
        draft.rename(studies / name)
    except OSError as error:
        shutil.rmtree(draft, ignore_errors=True)
        remedy = "Make room, or let it be written there; if two made it at once, run it again."
        raise InputError(f"{studies / name}: {error.strerror or error}.", remedy=remedy) from error
    return Job(folder=studies / name)


def find_job(studies: Path, word: str) -> Job:
    """Return the newest job that a word names: the job's name, its beginning, or the study's name.

    Where it names several studies and all but one are finished or stopped, the one is meant.

    Raises:
        InputError: If none is, or several studies are.
    """
    found = [job for job in all_jobs(studies) if job.name.startswith(word) or _study_name(job) == word]
    if not found:
        raise InputError(f"No study here is called {word!r}.", remedy="See `cloister coordinator status`.")
    if len(_studies(found)) > 1:
        living = [job for job in found if not (job.finished or job.stopped)]
        found = living if len(_studies(living)) == 1 else found
    if len(_studies(found)) > 1:
        listed = ", ".join(job.name for job in found)
        raise InputError(f"{word!r} names several studies: {listed}.", remedy="Give the beginning of one of these.")
    return found[-1]


def _studies(jobs: Sequence[Job]) -> set[str]:
    return {job.name.partition("-")[0] for job in jobs}


def read_study(path: Path) -> Study | SignedStudy:
    """Read a study file, in TOML or signed.

    Raises:
        StudyError: If it is neither.
    """
    if path.suffix == ".toml":
        return Study.from_toml(path)
    return _read_signed(path)


def agreed_study(study: Study, members: Sequence[Member], *, sites: Sequence[str] | None) -> Study:
    """Return a study among certain sites, each under the key it enrolled with.

    Args:
        study: A study, with or without a roster.
        members: Who is enrolled.
        sites: Names of the sites; None for those of the study's roster, or for all.

    Returns:
        The study with its roster.

    Raises:
        StudyError: If a site is not enrolled, has another key than the study's roster says, or there are more or
            fewer than the study's number.
    """
    keys = {member.name: member.identity_key for member in members}
    listed = study.federation.roster
    names = sorted(sites if sites is not None else keys if listed is None else listed)
    missing = [name for name in names if name not in keys]
    if missing:
        raise StudyError(
            f"{', '.join(missing)}: not enrolled.", remedy=f"Enrolled: {', '.join(sorted(keys)) or 'nobody yet'}."
        )
    roster = {name: keys[name] for name in names}
    if len(roster) != study.federation.sites:
        raise StudyError(
            f"The study is for {study.federation.sites} sites; chosen are {len(roster)}"
            f"{': ' if roster else ''}{', '.join(roster)}.",
            remedy="Choose with --sites, wait for the others to enrol, or change federation.sites.",
        )
    if listed is not None and dict(listed) != roster:
        raise StudyError(
            "The study's roster has other sites or keys than those enrolled.",
            remedy="Take federation.roster out of the study: it is filled in.",
        )
    return replace(study, federation=replace(study.federation, roster=roster))


def _study_name(job: Job) -> str:
    try:
        return job.signed_study().study.name
    except CloisterError:
        return ""


def _read_signed(path: Path) -> SignedStudy:
    try:
        return SignedStudy.from_text(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "no text"
        raise StudyError(f"{path}: {reason}.", remedy="Give a study in TOML, or a signed one.") from error


def _write(path: Path, text: str) -> None:
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
