"""`penchant evaluate`: base against trained model, on the same prompts and seeds."""

from penchant.cli.options import EvaluationAssignments, RunFolderPath


def evaluate(run_folder: RunFolderPath, assignments: EvaluationAssignments = None) -> None:
    """Sample base and trained model, score both, write results.json."""
    from penchant.runs.folder import RunFolder

    folder = RunFolder.open_existing(run_folder)

    # late: torch is not loaded for a wrong path
    from rich.console import Console

    from penchant.reports.summary import outcome
    from penchant.runs.evaluate import evaluate as run_evaluation

    found = outcome(run_evaluation(folder, console=Console(), assignments=assignments or ()))
    print(found["numbers"])
    print(found["verdict"])
