"""`penchant sweep`: several runs that differ in some options, the weaker half given up at each stop."""

from typing import Annotated

import typer

from penchant.cli.options import Assignments, RunPath


def sweep(
    run_file: RunPath,
    over: Annotated[
        list[str],
        typer.Option(
            "--over",
            metavar="A.B=[C,D]",
            help="Option and its values, as --over objective.beta='[10, 100]'; several make a grid.",
        ),
    ],
    assignments: Assignments = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with a sweep that was stopped.")] = False,
) -> None:
    """Train with every choice of some options; at each stop the half that is judged weaker is given up."""
    from penchant.runs.load import load

    load(run_file, assignments or ())  # torch is not loaded for a wrong run file

    from penchant.runs.sweep import plan_of
    from penchant.runs.sweep import sweep as run_sweep

    plan = plan_of(run_file, over, assignments or ())

    from rich.console import Console

    from penchant.reports.html import write_report
    from penchant.reports.sweep import table, write_sweep

    console = Console()
    found = run_sweep(plan, resume=resume, console=console)
    console.print(table(found))
    report = write_report(plan.folder / found.best.candidate)
    print(write_sweep(found, report=report))
