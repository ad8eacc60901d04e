"""What somebody is shown before a site approves a study: what would be learnt, at what price, and what forbids it."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from cli.officer.account import Account
from cli.officer.columns import column_words, is_shortened
from cli.officer.particulars import particulars
from client.consent import Consent
from client.policy import Policy
from privacy import wording
from privacy.ceiling import Ceiling
from privacy.plan import PrivacyPlan
from protocol.fingerprint import VERSION, code_fingerprint
from protocol.keys import public_hex
from protocol.signed_study import SignedStudy
from protocol.study import Study
from protocol.terms import ContributionKind, Trust, Unit
from records.schema import Schema
from strategies.study_model import study_schema

_KINDS = {
    ContributionKind.GRADIENTS: "one clipped and noised sum of gradients per round",
    ContributionKind.STATISTICS: "one noised sum of statistics per round, into which everything enters once",
    ContributionKind.UPDATES: "one bounded change of the model's weights per round, trained with noise in every step",
}
_PLURALS = {Unit.RECORD: "records", Unit.PERSON: "people"}


@dataclass(frozen=True, kw_only=True)
class Review:
    """A study as it is put before an officer.

    Attributes:
        study: The study.
        signer: Public key of the coordinator that signed it; None where nobody did.
        sections: Headings, each with its sentences.
        faults: Why it cannot be approved, as sentences that name the line of the policy; none where it can.
    """

    study: Study
    signer: str | None
    sections: tuple[tuple[str, tuple[str, ...]], ...]
    faults: tuple[str, ...]


def review(
    asked: Study | SignedStudy,
    *,
    account: Account,
    policy: Policy,
    policy_file: Path,
    earlier: Consent | None,
    every_category: bool = False,
) -> Review:
    """Put a study before an officer; no record is read.

    Args:
        asked: The study.
        account: The site's account.
        policy: The site's policy.
        policy_file: Where it stands, for the numbers of its lines.
        earlier: The site's consent to this study, if there is one.
        every_category: Whether long lists of categories are shown in full.

    Raises:
        AccountingError: If no noise meets the study's target, or the accountants disagree.
        SchemaError: If the study's data dictionary is wrong.
        StudyError: If its sites and its site column do not go together.
    """
    study = asked.study if isinstance(asked, SignedStudy) else asked
    plan = PrivacyPlan.from_study(study)
    lines = _policy_lines(policy_file)
    faults = [
        f"The policy does not allow a study with {fault.problem}: {_line(fault.key, lines)}."
        for fault in policy.faults(plan)
    ]
    faults += _roster_faults(study, account)
    schema = study_schema(study)
    budget, passed = _budget(plan, account, policy.ceilings(study.privacy.relation))
    faults += [
        f"The study would pass the ceiling {wording.period(ceiling)}: {_line(_ceiling_key(ceiling), lines)}."
        for ceiling in passed
    ]
    faults += _unit_faults(study, account)
    signer = asked.coordinator if isinstance(asked, SignedStudy) else None
    return Review(
        study=study,
        signer=signer,
        sections=(
            ("Study", _head(study, signer)),
            ("What is learnt", _learnt(study)),
            *particulars(study, schema, site=account.site),
            ("From", _columns(schema, account, every_category=every_category)),
            ("Called public", _public(study)),
            ("Protects", _protection(plan)),
            ("Budget here", budget),
            ("Sites", _sites(study)),
            ("Rounds", _rounds(study, policy)),
            ("Code", _code(earlier)),
            ("Policy", ("Allows it.",) if not faults else tuple(faults)),
        ),
        faults=tuple(faults),
    )


def _head(study: Study, signer: str | None) -> tuple[str, ...]:
    signed = "Signed by nobody: for simulations alone." if signer is None else f"Signed by coordinator {signer[:16]}…."
    return (f"{study.name}, {study.hash}", signed)


def _learnt(study: Study) -> tuple[str, ...]:
    purpose = study.purpose.strip() or "(The study states no purpose: ask for one.)"
    return (
        purpose,
        f"A generator of synthetic records, model family {study.model.family}. From this site"
        f" {_goes(study)}; no record, and nothing else that was computed from one.",
    )


def _goes(study: Study) -> str:
    """Say what leaves the site, stage by stage."""
    opening = study.statistics.rounds
    last = _KINDS[study.training.strategy]
    if not opening:
        return f"go {last}"
    plural = "s" if opening > 1 else ""
    return f"go first, in {opening} round{plural}, {_KINDS[ContributionKind.STATISTICS]}, and then {last}"


def _columns(schema: Schema, account: Account, *, every_category: bool) -> tuple[str, ...]:
    found = [f"{len(schema.columns)} columns of {account.opening.data_set!r}:"]
    if schema.image is not None:
        found = [f"An image of every record ({schema.image.words}), and", *found]
    found += [column_words(column, schema, full=every_category) for column in schema.columns]
    if not every_category and any(map(is_shortened, schema.columns)):
        found.append("Every category: cloister site approve STUDY --columns.")
    if schema.drop:
        found.append(f"Left out, whatever they hold: {', '.join(schema.drop)}.")
    if schema.person is not None:
        found.append(f"{schema.person} only says whom a record is about, and is never learnt.")
    confirmed = [column.name for column in schema.columns if column.not_identifier]
    if confirmed:
        found.append(
            f"The study says that these identify nobody, though their names read so: {', '.join(confirmed)}. Make sure."
        )
    return tuple(found)


def _public(study: Study) -> tuple[str, ...]:
    """Say which numbers anybody may see, and how each is used."""
    unit = study.privacy.unit
    return (
        f"About {study.federation.public_records:,} {_PLURALS[unit]} at all sites together (public_records), and the"
        " bounds and categories above: whoever gets the release sees them, and none may have been read off records.",
        _who_takes_part(study),
    )


def _who_takes_part(study: Study) -> str:
    unit = study.privacy.unit
    if study.training.strategy is ContributionKind.STATISTICS:
        return f"Every {unit} takes part in every round; how many there really are is never used or told."
    before = f"In the statistics every {unit} takes part. " if study.statistics.rounds else ""
    return (
        f"{before}In every step each {unit} takes part with probability {study.privacy.sample_rate:g} (sample_rate),"
        " drawn secretly here; how many there really are is never used or told."
    )


def _protection(plan: PrivacyPlan) -> tuple[str, ...]:
    study = plan.study
    statement = plan.statement(rounds=plan.rounds, simulated=False)
    found = [f"Each {study.privacy.unit}, over all {plan.rounds} rounds: {statement.headline()}"]
    if len(statement.events) > 1:
        found.append(f"That covers {' and '.join(wording.brief(event) for event in statement.events)}.")
    if not plan.private:
        return tuple(found)
    found += wording.meaning(statement.check, study.privacy.unit)[:1]
    found += statement.against_whom
    terms = study.federation
    if study.privacy.trust is Trust.SUM:
        found.append(
            f"The study states at most {terms.dropouts} sites that drop out of a round and {terms.colluders} that"
            " side with the coordinator."
        )
    return tuple(found)


def _budget(
    plan: PrivacyPlan, account: Account, ceilings: Iterable[Ceiling]
) -> tuple[tuple[str, ...], tuple[Ceiling, ...]]:
    """Say what the study costs here, and which ceilings it would pass."""
    study = plan.study
    if plan.round_event is None:
        return ("The study adds no noise: nothing is promised, and nothing is charged.",), ()
    unit, told, more = study.privacy.unit, [], []
    charged = {stage: account.rounds_charged(study.hash, stage.kind) for stage in plan.stages}
    for stage, rounds in charged.items():
        left = max(0, stage.rounds - rounds)
        more += [stage.event.times(stage.event.count * left)] if stage.event is not None and left else []
    if total := sum(charged.values()):
        told.append(
            f"{total} of its {plan.rounds} rounds are charged already; approving it again pays for the"
            f" other {max(0, plan.rounds - total)} and no more."
        )
    if account.unit not in (None, unit):
        return (*told, "The ledger holds another unit."), ()
    passed = []
    for ceiling in ceilings:
        before, after = account.check(ceiling), account.check(ceiling, more)
        told.append(wording.budget(before, ceiling, unit, after=after))
        if after.pld > ceiling.epsilon:
            passed.append(ceiling)
    return tuple(told), tuple(passed)


def _sites(study: Study) -> tuple[str, ...]:
    terms = study.federation
    names = "named when they connect" if terms.roster is None else ", ".join(sorted(terms.roster))
    return (f"{terms.sites}: {names}; at least {terms.quorum} in every round.",)


def _rounds(study: Study, policy: Policy) -> tuple[str, ...]:
    found = [f"{study.rounds}; a round waits at most {study.federation.deadline:g} s for its sites."]
    if policy.hours:
        found.append(f"This site answers {', '.join(policy.hours)} ({policy.timezone}) alone.")
    return tuple(found)


def _code(earlier: Consent | None) -> tuple[str, ...]:
    found = [
        f"Cloister {VERSION}, fingerprint {code_fingerprint()[:16]}…, as installed here. The approval holds for this"
        " code alone, and a coordinator that runs other code is refused. No code comes with a study."
    ]
    if earlier is not None:
        same = "the same code" if earlier.code == code_fingerprint() else f"other code, {earlier.code[:16]}…"
        found.append(f"Approved before by {earlier.by} on {earlier.at[:10]} with {same}.")
    return tuple(found)


def _unit_faults(study: Study, account: Account) -> list[str]:
    if account.unit in (None, study.privacy.unit):
        return []
    return [
        f"The ledger protects each {account.unit} of {account.opening.data_set!r}, the study each"
        f" {study.privacy.unit}: the two do not add up. Ask for a study of the ledger's unit."
    ]


def _roster_faults(study: Study, account: Account) -> list[str]:
    roster = study.federation.roster
    if roster is None or roster.get(account.site) == public_hex(account.key):
        return []
    known = account.site in roster
    return [
        f"The study's roster has {'another key for' if known else 'no site named'} {account.site!r}:"
        " ask the coordinator for a study with this site in it."
    ]


def _ceiling_key(ceiling: Ceiling) -> str:
    return "epsilon" if ceiling.days is None else "yearly_epsilon"


def _policy_lines(path: Path) -> Sequence[str]:
    return path.read_text(encoding="utf-8").splitlines()


def _line(key: str, lines: Sequence[str]) -> str:
    """Name the line of the policy that stands against a study."""
    for number, line in enumerate(lines, start=1):
        if re.match(rf"\s*[\"']?{key}[\"']?\s*=", line):
            return f"think about line {number} of policy.toml, {line.strip()}"
    return f"think about {key} in policy.toml, which has its default there"
