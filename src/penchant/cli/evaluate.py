"""`penchant evaluate`: base against trained model, on the same prompts and seeds."""

from penchant.cli.options import RunFolderPath


def evaluate(run_folder: RunFolderPath) -> None:
    """Sample base and trained model, score both, write results.json."""
    from penchant.runs.folder import RunFolder

    folder = RunFolder.open_existing(run_folder)

    from rich.console import Console

    from penchant.runs.evaluate import (
        evaluate as run_evaluation,
    )  # late: torch is not loaded for a wrong path

    run_evaluation(folder, console=Console())
