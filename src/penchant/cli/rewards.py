"""`penchant rewards`: what can score images, and published weights made safe to load."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(
    help="List the rewards; convert published weights.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


class Kind(StrEnum):
    """Scorers that are published as pickles."""

    AESTHETIC = "aesthetic"
    HPSV2 = "hpsv2"
    IMAGE_REWARD = "image-reward"


@app.command("list")
def show() -> None:
    """Name every reward with its options."""
    from dataclasses import MISSING, fields

    from penchant.families import quiet
    from penchant.rewards import catalog

    quiet()
    for name in catalog.names():
        found = catalog.get(name)
        print(f"{name}: {found.__doc__.splitlines()[0]}")
        for field in fields(found):
            default = "needed" if field.default is MISSING else f"default {field.default!r}"
            print(f"    {field.name}: {default}")


@app.command()
def convert(
    kind: Annotated[Kind, typer.Argument(help="Whose weights these are.")],
    file: Annotated[Path, typer.Argument(help="The published file, .pt or .pth.")],
    out: Annotated[Path, typer.Argument(help="Folder to write; the option `model` of the reward.")],
) -> None:
    """Write published weights as safetensors; the pickle is read without running what it may contain."""
    from penchant.families import quiet

    quiet()
    from penchant.rewards._convert import convert as write  # late: transformers is not loaded for --help

    write(kind.value, file, out)
    print(f"{out}: written. Name it as {{kind: {kind.value}, model: {out}}}.")
