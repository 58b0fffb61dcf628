"""`penchant explain`: what a run file would do, before anything is done."""

from penchant.cli.options import Assignments, RunPath


def explain(run_file: RunPath, assignments: Assignments = None) -> None:
    """Show the effective run with units, parameter counts, and what it takes in memory and time."""
    from rich.console import Console

    from penchant.runs import assemble
    from penchant.runs.load import load

    Console().print(assemble.explain(load(run_file, assignments or ())))
