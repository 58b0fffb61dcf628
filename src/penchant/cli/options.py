"""Arguments that several commands share."""

from pathlib import Path
from typing import Annotated

import typer

from penchant.runs.forms import Form

RunPath = Annotated[
    Path, typer.Argument(metavar="RUN.yaml", help="Run file; docs/options.md lists its options.")
]
RunFolderPath = Annotated[
    Path, typer.Argument(metavar="RUN_FOLDER", help="Folder that `penchant train` has written.")
]
Assignments = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="A.B=C",
        help="Set an option on top of the run file, as --set training.steps=100; may be repeated.",
    ),
]
EvaluationAssignments = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="A.B=C",
        help="Set an option of evaluation, as --set evaluation.split=test; may be repeated.",
    ),
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace an earlier run in the output folder.")]
ExportForm = Annotated[
    Form,
    typer.Option(
        "--form",
        help="diffusers, peft and kohya (ComfyUI) are a LoRA; pipeline is a whole model, a LoRA folded in.",
    ),
]
