"""``cloister audit release``: what do the synthetic records give away?"""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cli.audit.auditor import KeyOption
from cli.audit.outcome import JsonOption, OutOption
from cli.rounds import announce
from cli.sample import LARGEST_SEED

if TYPE_CHECKING:
    from simulations.audit.release.audit import ReleaseAudit

EXAMPLES = (
    "\b\nExample:\n  cloister audit release hospital.release --real training.csv --holdout holdout.csv"
    " --out release-audit"
)


def release(
    folder: Annotated[Path, typer.Argument(metavar="RELEASE", help="Folder of a release.")],
    *,
    real: Annotated[str, typer.Option("--real", metavar="FILE", help="Records that the generator was trained on.")],
    holdout: Annotated[
        str, typer.Option("--holdout", metavar="FILE", help="Records of the same table, kept back at random.")
    ],
    count: Annotated[
        int | None, typer.Option("-n", "--count", metavar="N", min=1, help="Records to draw; as many as are real.")
    ] = None,
    secret: Annotated[
        list[str] | None,
        typer.Option(
            "--secret", metavar="COLUMN", help="Column to infer; may be repeated. The most telling otherwise."
        ),
    ] = None,
    targets: Annotated[
        int, typer.Option("--targets", metavar="N", min=8, help="Most pairs of records that attacks ask about.")
    ] = 2000,
    seed: Annotated[int, typer.Option("--seed", metavar="N", min=0, max=LARGEST_SEED, help="Of all draws.")] = 0,
    out: OutOption = Path("release-audit"),
    key: KeyOption = None,
    json_output: JsonOption = False,
) -> None:
    """Attack synthetic records: can anybody tell who was in, single somebody out, link, or infer a secret?

    Needs the records that were trained on, and others of the same table that were kept back at random before training;
    what an attack achieves on those it could achieve without the release. The report is computed from real records
    without noise: keep it where they are.
    """
    import numpy as np

    from cli.audit.outcome import Audit, Outcome
    from cli.audit.subject import read_release, what_was_given
    from privacy.audit.finding import Tier
    from records.dataset import load_records
    from simulations.audit.release.attacks import ReleaseAuditTerms
    from simulations.audit.release.audit import audit_release, claim_of

    subject, opened = read_release(folder)
    terms = ReleaseAuditTerms(targets=targets, secrets=tuple(secret) if secret else None)
    tables = [load_records(path, schema=opened.schema) for path in (real, holdout)]
    drawn = count or len(tables[0])
    settings = {"synthetic records": drawn, "targets": targets, "seed": seed}
    audit = Audit(Tier.RELEASE, subject, out=out, key=key, real_records=True, of_release=True, settings=settings)
    announce(f"drawing {drawn:,} synthetic records and attacking them")
    synthetic = np.concatenate(list(opened.sample_codes(drawn, allowed={}, seed=seed)))
    found = audit_release(
        synthetic,
        real=tables[0],
        holdout=tables[1],
        claim=claim_of(opened.statement),
        unit=opened.study.privacy.unit,
        subject=f"release of {opened.study.name}",
        terms=terms,
        generator=np.random.default_rng(seed),
    )
    notes = [*_notes(found), *what_was_given(tables[0], opened.study)]
    outcome = Outcome(findings=found.findings, broken_twins=found.broken_twins, notes=notes)
    audit.finish(outcome, json_output=json_output)


def _notes(found: "ReleaseAudit") -> list[str]:
    """Closeness to real records, which is data quality, and whether the control was one."""
    close, told = found.closeness, found.shift
    notes = [
        f"Data quality, no verdict: {close.copies.value:.2%} of the synthetic records equal a training record, and "
        f"{close.chance_copies.value:.2%} equal one of as many records that were held out. The median distance to the "
        f"nearest training record is {close.median:.3g}, to the nearest held-out one {close.chance_median:.3g}; 1 is a "
        "whole column apart.",
        "Training records and records held out "
        + ("look like two parts of one table" if found.is_comparable else "CAN BE TOLD APART")
        + f" (area {told.value:.3f}, {told.low:.3f} to {told.high:.3f}, at {told.confidence:.1%} confidence; 0.5 is "
        "alike).",
    ]
    if all(finding.claim is None for finding in found.findings):
        notes.append("Nothing is claimed of this release: violated means that an attack sees more than without it.")
    return notes
