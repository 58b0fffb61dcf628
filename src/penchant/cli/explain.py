"""`penchant explain`: what a run file would do, before anything is done."""

from penchant.cli.options import Assignments, RunPath


def explain(run_file: RunPath, assignments: Assignments = None) -> None:
    """Show the effective run with units, parameter counts, and what it takes in memory and time."""
    from penchant.runs.load import load

    run = load(run_file, assignments or ())

    from rich.console import Console

    from penchant.runs import assemble  # late: a wrong run file is reported before torch is loaded

    Console().print(assemble.explain(run))
