"""`penchant sample`: images of a model before and after training."""

from pathlib import Path
from typing import Annotated

import typer


def sample(
    source: Annotated[
        Path,
        typer.Argument(metavar="FOLDER_OR_RUN", help="Run folder, or a run file for its untrained model."),
    ],
    prompt: Annotated[list[str] | None, typer.Option("--prompt", help="Prompt; may be repeated.")] = None,
    num: Annotated[int, typer.Option("--num", min=1, help="Images per prompt.")] = 4,
    out: Annotated[Path | None, typer.Option("--out", help="Folder for the images.")] = None,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Seed of the first image.")] = 0,
) -> None:
    """Make images of prompts; without a prompt, of the held-out ones."""
    from rich.console import Console

    from penchant.runs import assemble

    assemble.sample(source, prompts=prompt or [], num=num, out=out, seed=seed, console=Console())
