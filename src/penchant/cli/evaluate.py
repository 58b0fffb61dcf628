"""`penchant evaluate`: base against trained model, on the same prompts and seeds."""

from penchant.cli.options import RunFolderPath


def evaluate(run_folder: RunFolderPath) -> None:
    """Sample base and trained model, score both, write results.json."""
    from rich.console import Console

    from penchant.runs.evaluate import evaluate as run_evaluation
    from penchant.runs.folder import RunFolder

    run_evaluation(RunFolder.open_existing(run_folder), console=Console())
