"""Option `evaluation.first_model`: what begins the images of a model that refines."""

from typing import Any

import torch

from penchant import families
from penchant.errors import ConfigError
from penchant.evaluation.refining import refinement
from penchant.numerics import accelerator_or_cpu
from penchant.protocols import DiffusionFamily
from penchant.runs.schema import RunFile


def require_fit(run: RunFile, family: DiffusionFamily, *, where: str) -> None:
    """Refuse a first model that nothing reads, and an evaluation that lacks one, before anything is encoded.

    Raises:
        ConfigError: The model draws images itself; or it refines them, and they are to be judged.
    """
    e = run.evaluation
    if family.noise_span == 1 and e.first_model is not None:
        raise ConfigError(
            f"{where}: evaluation.first_model: {run.model!r} draws images from noise and needs no other "
            f"model, got {e.first_model!r}. Remove it."
        )
    if family.noise_span < 1 and e.first_model is None and e.metric is not None:
        raise ConfigError(_missing(run, where))


def pipelines(run: RunFile, models: list[families.PipelineFamily], *, where: str) -> list[Any]:
    """What draws whole images with each of some models: its pipeline, begun by the first model if it refines.

    Raises:
        ConfigError: The first model is missing, or does not fit.
        ModelError: It cannot be loaded.
    """
    if all(model.noise_span == 1 for model in models):
        return [model.pipeline for model in models]
    e, place = run.evaluation, f"{where}: evaluation.first_model"
    if e.first_model is None:
        raise ConfigError(_missing(run, where))
    folder = families.resolve(e.first_model, where=place)
    first = families.load_folder(folder, where=place, dtype=getattr(torch, e.precision))
    first.to(accelerator_or_cpu())
    try:
        return [refinement(first, model, num_steps=e.num_steps) for model in models]
    except ConfigError as error:
        raise ConfigError(f"{where}: evaluation.{error}") from None


def _missing(run: RunFile, where: str) -> str:
    return (
        f"{where}: evaluation.first_model: {run.model!r} refines images and draws none of its own. Name the "
        "model that begins them, such as stabilityai/stable-diffusion-xl-base-1.0."
    )
