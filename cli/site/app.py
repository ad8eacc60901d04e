"""The commands of a site, in the order in which they are needed."""

import typer

from cli.site.approve import EXAMPLES as APPROVE_EXAMPLES
from cli.site.approve import approve
from cli.site.doctor import EXAMPLES as DOCTOR_EXAMPLES
from cli.site.doctor import doctor
from cli.site.egress import EXAMPLES as EGRESS_EXAMPLES
from cli.site.egress import egress
from cli.site.enroll import EXAMPLES as ENROLL_EXAMPLES
from cli.site.enroll import RENEW_EXAMPLES, enroll, renew
from cli.site.ledger import EXAMPLES as LEDGER_EXAMPLES
from cli.site.ledger import ledger
from cli.site.policy import EXAMPLES as POLICY_EXAMPLES
from cli.site.policy import policy
from cli.site.service import EXAMPLES as SERVICE_EXAMPLES
from cli.site.service import service
from cli.site.start import EXAMPLES as START_EXAMPLES
from cli.site.start import start
from cli.site.status import EXAMPLES as STATUS_EXAMPLES
from cli.site.status import status

site = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    help="Run a client at a partner site: enrol, approve, start, and see what left.",
    epilog="\b\nExamples:\n  cloister site enroll CODE --data visits.csv --epsilon 8\n"
    "  cloister site approve STUDY\n  cloister site start",
)
site.command(epilog=ENROLL_EXAMPLES)(enroll)
site.command(epilog=DOCTOR_EXAMPLES)(doctor)
site.command(epilog=POLICY_EXAMPLES)(policy)
site.command(epilog=APPROVE_EXAMPLES)(approve)
site.command(epilog=START_EXAMPLES)(start)
site.command(epilog=STATUS_EXAMPLES)(status)
site.command(epilog=LEDGER_EXAMPLES)(ledger)
site.command(epilog=EGRESS_EXAMPLES)(egress)
site.command(epilog=RENEW_EXAMPLES)(renew)
site.command(epilog=SERVICE_EXAMPLES)(service)
