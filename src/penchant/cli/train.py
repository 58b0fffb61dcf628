"""`penchant train`: from a run file to a run folder."""

from pathlib import Path
from typing import Annotated

import typer

from penchant.cli.options import Assignments, Overwrite, RunPath
from penchant.errors import RunFolderError


def train(
    run_file: RunPath,
    assignments: Assignments = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue from the last checkpoint.")] = False,
    overwrite: Overwrite = False,
) -> None:
    """Train a model as a run file says."""
    from penchant.runs.folder import RunFolder
    from penchant.runs.load import load
    from penchant.runs.resume import open_to_resume

    if resume and overwrite:
        raise typer.BadParameter("--resume continues a run, --overwrite replaces it. Take one.")
    run = load(run_file, assignments or ())
    output = Path(run.output)
    if resume:
        folder = open_to_resume(output, run, where=str(run_file))
    else:
        place = RunFolder(output)
        if overwrite and run_file.resolve() == place.run_file.resolve() and not place.manifest.exists():
            raise RunFolderError(
                f"{run_file}: lies in the output folder, where --overwrite would replace it. Move it "
                "elsewhere, or set another output."
            )
        folder = RunFolder.claim(output, overwrite=overwrite)  # cleared when the new run begins

    from rich.console import Console

    from penchant.runs.train import train as run_training  # late: torch is not loaded for a wrong run file

    run_training(run, folder, resume=resume, console=Console(), where=str(run_file))
