"""What the site approved, held against what is installed and against its records; no value of a record is shown."""

from collections.abc import Iterator
from pathlib import Path

from client.approvals import Approvals
from client.consent import Consent
from client.doctor.finding import Finding, State, failed, warning, well
from client.policy import Policy
from client.rules import Enrolment
from client.settings import data_location, site_settings
from privacy.plan import PrivacyPlan
from protocol.errors import ApprovalError, CloisterError
from protocol.keys import read_identity
from records.dataset import load_records
from records.schema import Format
from records.site_values import site_codes
from records.sources import open_location
from records.sources.form import sniffed_form
from strategies.study_model import study_schema


def check_approvals(folder: Path) -> Finding:
    """Find approvals that were changed, and none at all."""
    check = "approvals"
    try:
        consents = read_approvals(folder).consents.values()
    except CloisterError as error:
        return failed(check, error.problem, remedy=error.remedy)
    if not consents:
        return warning(
            check,
            "No study is approved: the client waits, and takes part in nothing.",
            remedy="When the coordinator offers one: cloister site approve STUDY; then run the doctor again, which "
            "holds the records against it.",
        )
    names = ", ".join(sorted(consent.study.name for consent in consents))
    return well(check, f"Approved: {names}; every approval carries this site's signature.")


def read_approvals(folder: Path) -> Approvals:
    """Read what a site approved, verified with the site's key.

    Raises:
        ApprovalError: If an approval was changed or is not this site's.
        InputError: If a key or file cannot be read.
    """
    enrolment = Enrolment.from_folder(folder)
    return Approvals.from_folder(
        folder / "approvals",
        key=read_identity(folder / "key.pem").public_key(),
        coordinator=None if enrolment is None else enrolment.coordinator,
    )


def check_code(approvals: Approvals, consent: Consent) -> Finding:
    """Find that another Cloister is installed than was approved, or that another coordinator signed the study."""
    check = f"code: {consent.study.name}"
    try:
        code = approvals.code(consent.study.hash)
    except ApprovalError as error:
        return failed(check, error.problem, remedy=error.remedy)
    return well(check, f"The installed code is the approved one, {code[:16]}.")


def check_allowed(folder: Path, consent: Consent) -> Finding:
    """Find that the policy refuses a study that was approved."""
    check = f"policy: {consent.study.name}"
    try:
        faults = Policy.from_toml(folder / "policy.toml").faults(PrivacyPlan.from_study(consent.study))
    except CloisterError as error:
        return failed(check, error.problem, remedy=error.remedy)
    if faults:
        said = "; ".join(f"{fault.problem} (line {fault.key})" for fault in faults)
        return failed(check, f"The policy does not allow: {said}.", remedy="Edit policy.toml, or withdraw consent.")
    return well(check, "The policy allows the study.")


def check_records(folder: Path, consent: Consent) -> Finding:
    """Find records that do not fit the study's schema: they are counted by column, and never shown."""
    check = f"data: {consent.study.name}"
    try:
        settings = site_settings(folder)
        schema = study_schema(consent.study)
        fixed = site_codes(consent.study, schema, site=str(settings["name"]))
        records = load_records(data_location(folder, settings), schema=schema, fixed=fixed)
    except CloisterError as error:
        return failed(check, error.problem, remedy=error.remedy)
    if records.left_out:
        kept = f"{len(records):,} records fit the study's schema; {records.left_out:,} break its constraints"
        return well(check, f"{kept} and are left out, as it says (the numbers stay here).")
    return well(check, f"All {len(records):,} records fit the study's schema (the number stays here).")


def check_source(folder: Path) -> Finding:
    """Find records that cannot be opened, whatever study may come."""
    check = "records"
    try:
        location = data_location(folder, site_settings(folder))
        columns = len(open_location(location, form=_form(folder, location), drop=()).column_names())
    except CloisterError as error:
        return failed(check, error.problem, remedy=f"{error.remedy} site.toml says where the records are.")
    said = f"The records can be opened, and have {columns} column{'' if columns == 1 else 's'}"
    if columns == 1:
        remedy = "If there are more: a file has their names in its first line, and a separator between them."
        return warning(check, f"{said}.", remedy=remedy)
    return well(check, f"{said}; whether they fit is examined against approved studies.")


def _form(folder: Path, location: str) -> Format:
    """Return how a file of records is written: as an approved study says, else as it looks."""
    try:
        approved = list(read_approvals(folder).consents.values())
    except CloisterError:
        approved = []  # said by the check of the approvals
    if approved:
        return study_schema(approved[0].study).format
    return sniffed_form(location) if Path(location).is_file() else Format()


def study_findings(folder: Path) -> Iterator[Finding]:
    """Examine records and approvals, and for each approved study code, policy and what it asks of the records."""
    if (folder / "site.toml").exists():
        yield check_source(folder)
    first = check_approvals(folder)
    yield first
    if first.state is not State.OK:
        return
    approvals = read_approvals(folder)
    for consent in approvals.consents.values():
        yield check_code(approvals, consent)
        yield check_allowed(folder, consent)
        yield check_records(folder, consent)
