"""`penchant explain`: what a run file would do, before anything is done."""

from penchant.cli.options import Assignments, RunPath


def explain(run_file: RunPath, assignments: Assignments = None) -> None:
    """Show the effective run with units, parameter counts, and what it takes in memory and time."""
    from penchant.runs.load import load

    run = load(run_file, assignments or ())

    import yaml
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    # late: torch is not loaded for a wrong run file
    from penchant.runs.explain import explain as explain_run
    from penchant.runs.explain import options_of

    found = explain_run(run, where=str(run_file))
    console = Console(highlight=False, soft_wrap=True)
    console.rule("effective run")
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("option", no_wrap=True)
    table.add_column("value", overflow="fold")
    table.add_column("what it is")
    for option, value, meaning in options_of(run):
        table.add_row(Text(option), Text(value), Text(meaning))
    console.print(table)
    console.rule("method")
    console.print(yaml.safe_dump(found.method, sort_keys=False), markup=False)
    console.rule("what it takes")
    for name, sentence in found.lines():
        console.print(f"{name:9} {sentence}", markup=False)
