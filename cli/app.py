"""The command ``cloister``: which commands there are, and how their errors are told.

Nothing heavy is imported here or at the top of a command's file, so that ``--help`` and a mistyped option
answer at once: PyTorch, Arrow and Flower take seconds to import and are imported where the work begins.
"""

import os
import sys
from collections.abc import Sequence
from importlib.metadata import version
from typing import Annotated

import click
import typer
import typer.core

from cli.audit.app import audit
from cli.coordinator import coordinator
from cli.demo import demo
from cli.evaluate import EXAMPLES as EVALUATE_EXAMPLES
from cli.evaluate import evaluate
from cli.release import release
from cli.sample import EXAMPLES as SAMPLE_EXAMPLES
from cli.sample import sample
from cli.schema import schema
from cli.simulate import simulate
from cli.site.app import site
from cli.study import study
from cli.sweep.command import EXAMPLES as SWEEP_EXAMPLES
from cli.sweep.command import sweep
from cli.verify import EXAMPLES as VERIFY_EXAMPLES
from cli.verify import verify
from protocol.errors import CloisterError

_FAILED, _MISUSED, _STOPPED = 1, 2, 130

# Plain texts: boxes and colours around an error of one line hide it from people and from programs. Without
# this line Typer still escapes brackets for Rich, and shows a backslash before them.
typer.core.HAS_RICH = False
app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="\b\nExamples:\n  cloister demo\n  cloister COMMAND --help",
)
app.command()(demo)
app.command()(simulate)
app.command(epilog=SAMPLE_EXAMPLES)(sample)
app.command(epilog=EVALUATE_EXAMPLES)(evaluate)
app.command(epilog=SWEEP_EXAMPLES)(sweep)
app.command(epilog=VERIFY_EXAMPLES)(verify)
app.add_typer(audit, name="audit")
app.add_typer(release, name="release")
app.add_typer(schema, name="schema")
app.add_typer(study, name="study")
app.add_typer(coordinator, name="coordinator")
app.add_typer(site, name="site")


def _show_version(wanted: bool) -> None:  # noqa: FBT001 -- a callback gets the option's value
    if wanted:
        typer.echo(f"cloister {version('cloister')}")
        raise typer.Exit


@app.callback()
def cloister(
    *,
    show_version: Annotated[
        bool,
        typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version."),
    ] = False,
) -> None:
    """Train one private generative model among sites that keep their records, and share synthetic ones."""
    del show_version  # the callback has done it


def main() -> None:
    """Run the command line and leave with its exit status: 0, 1 refused, 2 misused, 130 interrupted."""
    sys.exit(run(sys.argv[1:]))


def run(arguments: Sequence[str]) -> int:
    """Run one command; a user's mistake becomes one line on standard error and never a traceback.

    Args:
        arguments: The command line without the program's name.

    Returns:
        Exit status.
    """
    # Threads that spin while they wait make everything several times slower on a machine that is shared. PyTorch and
    # scikit-learn read this when a command imports them.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    try:
        status = app(args=list(arguments), prog_name="cloister", standalone_mode=False)
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        return error.exit_code
    except click.UsageError as error:
        return _say(f"{_one_line(error)} {_hint(error)}", _MISUSED)
    except click.ClickException as error:
        return _say(_one_line(error), error.exit_code)
    except click.Abort:
        return _say("stopped.", _STOPPED)
    except CloisterError as error:
        return _say(str(error), _FAILED)
    except OSError as error:
        place = f"{error.filename}: " if error.filename else ""
        return _say(f"{place}{error.strerror or error}. Check the path, its permissions and the room left.", _FAILED)
    if status == _STOPPED:  # how Typer reports Ctrl-C
        return _say("interrupted.", _STOPPED)
    return status if isinstance(status, int) else 0


def _say(line: str, status: int) -> int:
    typer.echo(f"cloister: {line}", err=True)
    return status


def _one_line(error: click.ClickException) -> str:
    # Typer and click each add what may have been meant; once is enough.
    message = error.message if "Did you mean" in error.message else error.format_message()
    words = " ".join(message.split())
    return words if words.endswith((".", "?", ")")) else f"{words}."


def _hint(error: click.UsageError) -> str:
    return f"Try: {error.ctx.command_path if error.ctx else 'cloister'} --help"


if __name__ == "__main__":
    main()
