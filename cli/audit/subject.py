"""What is audited: a study, or the study of a release."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from protocol.errors import InputError, PrivacyError

if TYPE_CHECKING:
    from privacy.audit.finding import Claim
    from privacy.statement import Statement
    from protocol.study import Study
    from records.dataset import Records
    from server.release import Release

HELP = "A study file (TOML or signed), the name of a ready study, or the folder of a release."


@dataclass(frozen=True, kw_only=True)
class Subject:
    """What is audited.

    Attributes:
        study: The study, without the keys of its sites: those of the twin are its own.
        hash: Hash of the study as it was agreed.
        release: The release, where one is audited.
        claim: What is claimed.
        headline: The same as a line of a statement.
    """

    study: "Study"
    hash: str
    release: "Release | None"
    claim: "Claim"
    headline: str

    @property
    def released_claim(self) -> "Claim | None":
        """What the release claims, which is what a report of it has to test; None where a study's own claim is."""
        return None if self.release is None else self.claim


def read_subject(named: str) -> Subject:
    """Read a study or a release, and what is claimed of it.

    Args:
        named: A study file, the name of a ready study, or the folder of a release.

    Raises:
        InputError: If it is none of these.
        PrivacyError: If nothing is claimed.
        ReleaseError: If the release is damaged, or says of itself what its study and its rounds do not bear out.
    """
    from privacy.plan import PrivacyPlan

    study, release = _read(named)
    agreed = PrivacyPlan.from_study(study).statement(rounds=study.rounds, simulated=False)
    statement = agreed if release is None else release.statement
    if not statement.private:
        raise PrivacyError(
            f"{named} adds no secret noise and so promises nothing.", remedy="Audit a study that makes a claim."
        )
    return _subject(study, release, statement)


def _subject(study: "Study", release: "Release | None", statement: "Statement") -> Subject:
    from privacy.audit.finding import Claim

    return Subject(
        study=replace(study, federation=replace(study.federation, roster=None)),
        hash=study.hash,
        release=release,
        claim=Claim(epsilon=statement.epsilon, delta=statement.delta, relation=statement.relation),
        headline=statement.headline(),
    )


def read_release(folder: Path) -> "tuple[Subject, Release]":
    """Read a release, whether or not anything is claimed of it.

    Raises:
        ReleaseError: If there is none, it is damaged, or it says of itself what its study and rounds do not bear out.
    """
    opened = _verified(folder)
    return _subject(opened.study, opened, opened.statement), opened


def read_records(file: str | None, subject: Subject) -> "Records | None":
    """Read real records of the study's schema, if any are given.

    Raises:
        RecordsError: If they cannot be read or do not fit.
    """
    if file is None:
        return None
    from records.dataset import load_records
    from strategies.study_model import study_schema

    return load_records(file, schema=study_schema(subject.study))


def what_was_given(real: "Records", study: "Study") -> list[str]:
    """What the file of real records looks like beside what the study says, and what rests on the auditor's word.

    Args:
        real: What the auditor says that the generator was trained on.
        study: The study of the release.
    """
    from protocol.terms import Unit
    from simulations.audit.model.pool import unit_of_rows

    units = int(unit_of_rows(study, real).max()) + 1 if len(real) else 0
    what = "persons" if study.privacy.unit is Unit.PERSON else "records"
    public = study.federation.public_records
    told = [
        f"That the {units:,} {what} given as real are the very ones that the generator was trained on rests on the "
        "auditor's word: no release says so, and no attack can tell. With any others, even of the same table, attacks "
        "find nothing whatever the release gives away."
    ]
    if units != public:
        told.append(
            f"The study gives the number of {what} at all sites together as {public:,}; the file has {units:,}. "
            + (
                "So some of them were probably not trained on, and attacks on those cannot succeed."
                if units > public
                else "That is as it should be if it is a part of what was trained on, such as that of one site."
            )
        )
    return told


def _read(named: str) -> "tuple[Study, Release | None]":
    from protocol.signed_study import SignedStudy
    from server.deployment.jobs import read_study
    from simulations.scenario import Scenario

    path = Path(named)
    if path.is_dir():
        release = _verified(path)
        return release.study, release
    if path.suffix in (".toml", ".json") or path.exists():
        if not path.is_file():
            raise InputError(f"{path}: there is no such file or folder.", remedy="Check the path.")
        found = read_study(path)
        return (found.study if isinstance(found, SignedStudy) else found), None
    return Scenario.ready(named).study, None


def _verified(folder: Path) -> "Release":
    """Open a release, and refuse one whose statement is not that of its study and its rounds.

    A report carries the release's headline; it must not lend it to a statement that somebody made up.
    """
    from cli.sample import open_release
    from server.verification.verify import verify_release

    release = open_release(folder, "cpu")
    verify_release(release).require()
    return release
