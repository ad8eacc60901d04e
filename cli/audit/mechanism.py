"""``cloister audit mechanism``: does one step do what the accountant assumes?"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from cli.audit.auditor import KeyOption
from cli.audit.outcome import JsonOption, OutOption
from cli.audit.subject import HELP
from cli.progress import progress_bar
from cli.rounds import announce

EXAMPLES = "\b\nExample:\n  cloister audit mechanism study.toml --out mechanism-audit"
TWINS_ATTACK = "the same audit on broken twins"


def mechanism(
    study: Annotated[str, typer.Argument(metavar="STUDY", help=HELP)],
    *,
    out: OutOption = Path("mechanism-audit"),
    key: KeyOption = None,
    minutes: Annotated[
        float, typer.Option("--minutes", metavar="M", min=0.0, max=600.0, help="For the twin as it is, at the most.")
    ] = 1.0,
    json_output: JsonOption = False,
) -> None:
    """Audit the noisy step of a study on canaries, white-box: the strongest evidence, in a minute or two.

    A twin of the study, with the same code and settings, runs on this machine and touches nothing else. The lower bound
    on epsilon comes near the claim where the mechanism is right, and passes it where it is not. The same audit is made
    of twins that are broken on purpose; if one of them is not caught there is no verdict.
    """
    from cli.audit.outcome import Audit, Outcome
    from cli.audit.subject import read_subject
    from cli.audit.twins import as_reported, catch_broken_twins, problems, silent_server
    from privacy.audit.finding import Tier
    from protocol.randomness import SystemRandom
    from simulations.audit.mechanism.audit import mechanism_audit

    subject = read_subject(study)
    settings = {"minutes": minutes}
    audit = Audit(Tier.MECHANISM, subject, out=out, key=key, real_records=False, of_release=False, settings=settings)
    caught = catch_broken_twins(subject.study, quiet=json_output)
    announce(f"auditing the twin as it is, for up to {minutes:g} minutes")
    with silent_server(), _clock(60.0 * minutes, quiet=json_output):
        findings = mechanism_audit(
            subject.study,
            random=SystemRandom(),
            budget_seconds=60.0 * minutes,
            caught=caught,
            claim=subject.released_claim,
        )
    # The table of broken twins is a part of the report by itself.
    findings = tuple(finding for finding in findings if finding.attack != TWINS_ATTACK)
    outcome = Outcome(findings=findings, broken_twins=as_reported(caught), notes=problems(caught))
    audit.finish(outcome, json_output=json_output)


@contextmanager
def _clock(seconds: float, *, quiet: bool) -> Iterator[None]:
    """Show how much of the time is over."""
    over = threading.Event()
    with progress_bar(max(1, round(seconds)), label="the twin as it is", unit="s", quiet=quiet) as advance:

        def tick() -> None:
            while not over.wait(1.0):
                advance(1)

        watch = threading.Thread(target=tick, daemon=True)
        watch.start()
        try:
            yield
        finally:
            over.set()
            watch.join()
