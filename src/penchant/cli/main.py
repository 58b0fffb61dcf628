"""The command `penchant`.

Commands import what they need when they run, so that `penchant --help` answers at once.
"""

import os
import sys
import traceback
from typing import Annotated, Final

import typer

from penchant import __version__
from penchant.cli import demo, evaluate, explain, export, methods, push, report, sample, sweep, train
from penchant.errors import PenchantError
from penchant.log import silence_extras

INTERRUPTED: Final = 130
"""Exit code after Ctrl-C: 128 + SIGINT, as shells count it."""

DEBUG: Final = "--debug"

silence_extras()

app = typer.Typer(
    help="Preference alignment for generative models.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("demo")(demo.demo)
app.command("train")(train.train)
app.command("sweep")(sweep.sweep)
app.command("sample")(sample.sample)
app.command("evaluate")(evaluate.evaluate)
app.command("report")(report.report)
app.command("export")(export.export)
app.command("push")(push.push)
app.command("explain")(explain.explain)
app.command("methods")(methods.methods)


@app.command(
    "data",
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True},
    add_help_option=False,
)
def _data(context: typer.Context) -> None:
    """Check, build, relabel, split and convert preference data."""
    from penchant.cli.data import app as data

    data(context.args, prog_name="penchant data")


@app.command(
    "rewards",
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True},
    add_help_option=False,
)
def _rewards(context: typer.Context) -> None:
    """List the rewards; convert published weights."""
    from penchant.cli.rewards import app as rewards

    rewards(context.args, prog_name="penchant rewards")


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"penchant {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=_print_version, is_eager=True)
    ] = False,
    debug: Annotated[
        bool, typer.Option(DEBUG, help="Show the traceback of an error; works anywhere on the line.")
    ] = False,
) -> None:
    """Preference alignment for generative models."""


def run() -> None:
    """Entry point: a user error is one line and its exit code, without a traceback."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")  # no notes on optional packages at import
    debug = DEBUG in sys.argv
    arguments = [argument for argument in sys.argv[1:] if argument != DEBUG]
    try:
        app(arguments, prog_name="penchant")
    except PenchantError as error:
        _fail(str(error), error.exit_code, debug=debug)
    except OSError as error:  # the last resort: a disk or a right that no command has named
        _fail(f"{error.filename or 'penchant'}: {error.strerror or error}.", 2, debug=debug)
    except KeyboardInterrupt:
        _interrupted()
    except SystemExit as end:
        said = isinstance(end.__cause__, PenchantError)  # by another one of several processes
        if end.code == INTERRUPTED and not said:
            _interrupted()
        raise


def _fail(message: str, code: int, *, debug: bool) -> None:
    if debug:
        traceback.print_exc()
    else:
        print(message, file=sys.stderr)
    raise SystemExit(code)


def _interrupted() -> None:
    message = "Stopped by Ctrl-C. If training had begun, `penchant train RUN.yaml --resume` goes on with it."
    print(f"\n{message}", file=sys.stderr)
    raise SystemExit(INTERRUPTED)
