"""``cloister audit model``: what does the trained generator give away about who was in?"""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cli.audit.auditor import KeyOption
from cli.audit.outcome import JsonOption, OutOption
from cli.audit.subject import HELP
from cli.rounds import announce, rounds_progress

if TYPE_CHECKING:
    from cli.audit.subject import Subject
    from records.dataset import Records
    from simulations.audit.model.audit import ModelAudit

EXAMPLES = (
    "\b\nExamples:\n  cloister audit model study.toml --out model-audit\n"
    "  cloister audit model hospital.release --real training.csv --holdout holdout.csv"
)


def model(
    named: Annotated[str, typer.Argument(metavar="STUDY|RELEASE", help=HELP)],
    *,
    real: Annotated[
        str | None,
        typer.Option("--real", metavar="FILE", help="Real records to train the twins on; made-up ones if not given."),
    ] = None,
    holdout: Annotated[
        str | None,
        typer.Option(
            "--holdout",
            metavar="FILE",
            help="Records of the same table, kept back at random: to attack the weights of a release themselves, which"
            " --real trained.",
        ),
    ] = None,
    canaries: Annotated[
        int | None,
        typer.Option("--canaries", metavar="N", min=4, max=1_000_000, help="How many; up to a thousand if not given."),
    ] = None,
    minutes: Annotated[
        float,
        typer.Option("--minutes", metavar="M", min=0.01, max=6000.0, help="For the twins; as much for the weights."),
    ] = 5.0,
    out: OutOption = Path("model-audit"),
    key: KeyOption = None,
    json_output: JsonOption = False,
) -> None:
    """Attack the trained model: can anybody tell which records it was trained on?

    Twins of the study are trained on canaries. Each attack is made on the twin, on a model that saw no canary, and on a
    twin without privacy, and stands beside what a perfect attacker would typically show with as many canaries. No
    canary ever touches a real model. With --real the report has to stay where the records are.
    """
    from cli.audit.outcome import Audit, Outcome
    from cli.audit.subject import read_records, read_subject, what_was_given
    from privacy.audit.finding import Tier

    if holdout is not None and (real is None or not Path(named).is_dir()):
        raise typer.BadParameter("it needs a release, and --real FILE", param_hint="--holdout")
    subject = read_subject(named)
    records, kept = read_records(real, subject), read_records(holdout, subject)
    if canaries is not None:
        _check_canaries(subject, records, canaries)
    settings = {"minutes": minutes, "records": "made up" if records is None else "real"}
    settings |= {} if canaries is None else {"canaries": canaries}
    real_records, of_release = records is not None, kept is not None
    audit = Audit(
        Tier.MODEL, subject, out=out, key=key, real_records=real_records, of_release=of_release, settings=settings
    )
    parts = _attacked(subject, records, kept, canaries=canaries, minutes=minutes, quiet=json_output)
    outcome = Outcome(
        findings=[finding for part in parts for finding in part.findings],
        broken_twins=[twin for part in parts for twin in part.broken_twins],
        notes=what_was_given(records, subject.study) if records is not None and kept is not None else (),
    )
    audit.finish(outcome, json_output=json_output)


def _attacked(
    subject: "Subject",
    records: "Records | None",
    kept: "Records | None",
    *,
    canaries: int | None,
    minutes: float,
    quiet: bool,
) -> "list[ModelAudit]":
    """Attack the weights of a release, where there is a holdout, and twins of the study."""
    from simulations.audit.model.audit import ERROR

    # One error for all findings of the report: where two groups of attacks are made, each gets half of it.
    error, parts = ERROR if kept is None else ERROR / 2.0, list["ModelAudit"]()
    if records is not None and kept is not None:
        parts.append(_weights(subject, records, kept, minutes=minutes, error=error, quiet=quiet))
    parts.append(_twins(subject, records, canaries=canaries, minutes=minutes, error=error, quiet=quiet))
    return parts


def _check_canaries(subject: "Subject", records: "Records | None", canaries: int) -> None:
    """Refuse a number of canaries for which there are too few records, before minutes are spent.

    Raises:
        InputError: If there are too few.
    """
    from protocol.randomness import SystemRandom
    from simulations.audit.model.pool import make_pool

    make_pool(subject.study, records, canaries=canaries, planted_share=0.5, random=SystemRandom())


def _twins(
    subject: "Subject",
    records: "Records | None",
    *,
    canaries: int | None,
    minutes: float,
    error: float,
    quiet: bool,
) -> "ModelAudit":
    """Attack twins of the study."""
    from protocol.randomness import SystemRandom
    from simulations.audit.model.audit import LEAST_REFERENCES, model_audit

    # The twin as it is, its two controls, and the reference models.
    rounds = (3 + LEAST_REFERENCES) * subject.study.rounds
    announce(f"training twins, with canaries, without, without privacy, and for reference: up to {minutes:g} minutes")
    with rounds_progress("training twins", rounds=rounds, quiet=quiet):
        return model_audit(
            subject.study,
            records,
            canaries=canaries,
            random=SystemRandom(),
            budget_seconds=60.0 * minutes,
            claim=subject.released_claim,
            error=error,
        )


def _weights(
    subject: "Subject", records: "Records", kept: "Records", *, minutes: float, error: float, quiet: bool
) -> "ModelAudit":
    """Attack the weights of the release itself, by real records."""
    from protocol.errors import ReleaseError
    from protocol.randomness import SystemRandom
    from simulations.audit.model.release import release_model_audit

    if subject.release is None:
        raise ReleaseError("There is no release to attack.", remedy="Give the folder of a release.")
    announce(f"attacking the released weights: up to {minutes:g} minutes")
    with rounds_progress("training twins", rounds=3 * subject.study.rounds, quiet=quiet):
        return release_model_audit(
            subject.release,
            real=records,
            holdout=kept,
            random=SystemRandom(),
            budget_seconds=60.0 * minutes,
            error=error,
        )
