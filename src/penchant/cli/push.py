"""`penchant push`: an export on the Hugging Face hub."""

from typing import Annotated

import typer

from penchant.cli.options import ExportForm, RunFolderPath
from penchant.runs.forms import Form


def push(
    run_folder: RunFolderPath,
    repository: Annotated[str, typer.Argument(metavar="OWNER/NAME", help="Repository; made if missing.")],
    form: ExportForm = Form.DIFFUSERS,
    private: Annotated[bool, typer.Option("--private", help="Only you can see it.")] = False,
) -> None:
    """Export and upload to the Hugging Face hub, with the login of `hf auth login`."""
    from penchant.runs.folder import RunFolder

    folder = RunFolder.open_existing(run_folder)

    from penchant.reports.model_card import model_card  # late: torch is not loaded for a wrong path
    from penchant.runs.push import push as upload

    print(upload(folder, repository, form=form, private=private, card=model_card))
