"""``cloister audit channel``: what could the coordinator reconstruct from one round?"""

from pathlib import Path
from typing import Annotated

import typer

from cli.audit.auditor import KeyOption
from cli.audit.outcome import JsonOption, OutOption
from cli.audit.subject import HELP
from cli.rounds import announce

EXAMPLES = "\b\nExample:\n  cloister audit channel study.toml --out channel-audit"


def channel(
    study: Annotated[str, typer.Argument(metavar="STUDY", help=HELP)],
    *,
    real: Annotated[
        str | None,
        typer.Option("--real", metavar="FILE", help="Real records to attack; made-up ones if not given."),
    ] = None,
    minutes: Annotated[
        float, typer.Option("--minutes", metavar="M", min=0.01, max=600.0, help="To aim at for the attacks.")
    ] = 2.0,
    out: OutOption = Path("channel-audit"),
    key: KeyOption = None,
    json_output: JsonOption = False,
) -> None:
    """Reconstruct records from what the coordinator sees (gradient inversion), in four settings, as a picture too.

    Without protection and under the secure sum alone the attack shows what it can do; under noise it is held against
    what is claimed. With --real the picture shows real records: it has to stay where they are.
    """
    from cli.audit.outcome import Audit, Outcome
    from cli.audit.subject import read_records, read_subject
    from cli.audit.twins import silent_server
    from privacy.audit.finding import Tier
    from protocol.randomness import SystemRandom
    from simulations.audit.channel.audit import channel_audit
    from simulations.audit.channel.picture import channel_picture

    subject = read_subject(study)
    records = read_records(real, subject)
    audit = Audit(
        Tier.CHANNEL,
        subject,
        out=out,
        key=key,
        real_records=records is not None,
        of_release=False,
        settings={"minutes": minutes, "records": "made up" if records is None else "real"},
    )
    announce("attacking rounds in four settings: no protection, secure sum only, local noise, shared noise")
    with silent_server():
        found = channel_audit(
            subject.study, records, random=SystemRandom(), budget=60.0 * minutes, claim=subject.released_claim
        )
        announce("drawing the picture")
        picture = channel_picture(subject.study, records, random=SystemRandom())
    outcome = Outcome(
        findings=found.findings,
        demonstrations=found.demonstrations,
        broken_twins=found.broken_twins,
        picture=picture,
    )
    audit.finish(outcome, json_output=json_output)
