"""The commands of an audit, from the strongest evidence to the weakest, and the one that reads a report."""

import typer

from cli.audit.channel import EXAMPLES as CHANNEL_EXAMPLES
from cli.audit.channel import channel
from cli.audit.check import EXAMPLES as CHECK_EXAMPLES
from cli.audit.check import check
from cli.audit.mechanism import EXAMPLES as MECHANISM_EXAMPLES
from cli.audit.mechanism import mechanism
from cli.audit.model import EXAMPLES as MODEL_EXAMPLES
from cli.audit.model import model
from cli.audit.outcome import STATUSES
from cli.audit.release import EXAMPLES as RELEASE_EXAMPLES
from cli.audit.release import release

audit = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    help="Try to break a statement, and write a signed report of what was tried and what it showed.",
    epilog="\b\nExamples:\n  cloister audit mechanism study.toml --out mechanism-audit\n"
    "  cloister audit check mechanism-audit\n" + STATUSES,
)
audit.command(epilog=MECHANISM_EXAMPLES + STATUSES)(mechanism)
audit.command(epilog=MODEL_EXAMPLES + STATUSES)(model)
audit.command(epilog=RELEASE_EXAMPLES + STATUSES)(release)
audit.command(epilog=CHANNEL_EXAMPLES + STATUSES)(channel)
audit.command(epilog=CHECK_EXAMPLES + STATUSES)(check)
