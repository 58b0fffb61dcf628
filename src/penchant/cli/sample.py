"""`penchant sample`: images of a model before and after training."""

from pathlib import Path
from typing import Annotated

import typer

from penchant.cli.options import EvaluationAssignments, RunFolderPath


def sample(
    run_folder: RunFolderPath,
    prompt: Annotated[list[str] | None, typer.Option("--prompt", help="Prompt; may be repeated.")] = None,
    num: Annotated[int, typer.Option("--num", min=1, help="Images per prompt.")] = 4,
    out: Annotated[Path | None, typer.Option("--out", help="Folder for the images.")] = None,
    assignments: EvaluationAssignments = None,
) -> None:
    """Draw prompts with the base and the tuned model on equal seeds; without a prompt, the held-out ones."""
    from penchant.runs.folder import RunFolder

    folder = RunFolder.open_existing(run_folder)

    from rich.console import Console

    from penchant.runs.evaluate import sample as run_sampling  # late: torch is not loaded for a wrong path

    place = run_sampling(
        folder,
        prompts=prompt or [],
        num=num,
        out=out,
        console=Console(),
        assignments=assignments or (),
    )
    print(place)
