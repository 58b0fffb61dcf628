"""`penchant demo`: the main job on the model and the pairs that ship with Penchant."""

import json
from importlib.resources import as_file, files
from pathlib import Path
from typing import Annotated

import typer

from penchant.cli.options import Overwrite


def demo(
    out: Annotated[Path, typer.Option("--out", help="Run folder to write.")] = Path("runs/demo"),
    overwrite: Overwrite = False,
) -> None:
    """Train, evaluate and report on the shipped model and pairs, without a network."""
    from penchant.cli.evaluate import evaluate
    from penchant.cli.report import report
    from penchant.cli.train import train

    with as_file(files("penchant") / "assets" / "demo.yaml") as recipe:
        train(recipe, [f"output={json.dumps(str(out))}"], overwrite=overwrite)
    evaluate(out)
    report(out)
