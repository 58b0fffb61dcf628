"""`penchant export`: the trained weights in the form that another tool reads."""

from pathlib import Path
from typing import Annotated

import typer

from penchant.cli.options import ExportForm, RunFolderPath
from penchant.runs.forms import Form


def export(
    run_folder: RunFolderPath,
    to: Annotated[Path, typer.Option("--to", help="Folder to write.")],
    form: ExportForm = Form.DIFFUSERS,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace an earlier export in that folder.")
    ] = False,
) -> None:
    """Write the trained weights for diffusers, PEFT, ComfyUI or as a whole pipeline, with a model card."""
    from penchant.runs.folder import RunFolder

    folder = RunFolder.open_existing(run_folder)

    from penchant.reports.model_card import model_card  # late: torch is not loaded for a wrong path
    from penchant.runs.export import export as write_export

    print(write_export(folder, form=form, to=to, card=model_card, overwrite=overwrite))
