"""What is kept between runs, and under which description: encoded images and prompts, reference errors."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Final

import torch
from accelerate import Accelerator

from penchant import hub
from penchant.data.buckets import Size
from penchant.protocols import DiffusionFamily
from penchant.runs.networks import PRECISIONS
from penchant.runs.schema import RunFile
from penchant.runs.terminal import Phase
from penchant.slots.compose import Method
from penchant.slots.ratios.denoising import Denoising
from penchant.training.cache import Cache
from penchant.training.reference_errors import with_reference_errors
from penchant.training.source import EncodedExamples
from penchant.training.table import InMemory, Rows

_HALF_PRECISION_TOLERANCE: Final = 0.02
"""Relative change of an encoding that half precision, another batch size or another device may cause."""

_ERROR_TOLERANCE: Final = 1e-3
"""Relative change of a stored error that another batch size or device may cause."""


_WITHOUT_EFFECT_ON_ERRORS: Final = {
    *("path", "train_split", "heldout_split", "cache"),  # the key of an error and the hash of the data say it
    *("pairs", "min_gap", "labels", "top_k", "min_size"),
    *("streaming", "shuffle_buffer", "max_broken"),
}
"""Options of `data` that change no reference error."""


def encoding_rows(
    run: RunFile, folder: Path, sizes: Sequence[Size], accelerator: Accelerator, *, where: str
) -> tuple[Rows, Rows]:
    """Where encoded prompts and images are kept.

    Args:
        run: The run file.
        folder: Where the base model lies.
        sizes: Height and width of each bucket.
        accelerator: Processes and devices.
        where: Name of the run file, for messages.
    """
    if run.data.cache is None:
        return InMemory(), InMemory()
    place, option = Path(run.data.cache), f"{where}: data.cache"
    text = {"text encoders": hub.model_hash(folder, ("text_encoder*", "tokenizer*", "model_index.json"))}
    images = {
        "VAE": hub.model_hash(folder, ("vae",)),
        "sizes": " ".join(f"{width}x{height}" for height, width in sizes),
    }
    tokens = run.training.lora.text_encoder  # they cost nothing
    return (
        InMemory()
        if tokens
        else _cache(place / "prompts", text, accelerator, dtype=torch.bfloat16, where=option),
        _cache(place / "images", images, accelerator, dtype=torch.float16, where=option),
    )


def with_cached_reference(
    run: RunFile,
    method: Method,
    family: DiffusionFamily,
    examples: EncodedExamples,
    *,
    name: str,
    wanted: Sequence[tuple[int, Sequence[int]]],
    data_hash: str,
    model_hash: str,
    accelerator: Accelerator,
    where: str,
    phase: Phase,
) -> EncodedExamples:
    """The examples with the errors of the policy as it is now, before the first step.

    Args:
        run: The run file.
        method: The composition.
        family: The model, its adapter at the starting point.
        examples: Encoded groups.
        name: `train` or `held-out`.
        wanted: Number of a draw and the examples that are wanted at it, in the order in which they are seen.
        data_hash: Content hash of the data they come from.
        model_hash: Hash of the base model's folder.
        accelerator: Processes and devices.
        where: Name of the run file, for messages.
        phase: Shows what is being done.
    """
    assert isinstance(method.ratio, Denoising), "the misfits are refused before"
    autocast = PRECISIONS[run.training.precision]
    total = len({(number, row) for number, together in wanted for row in together})
    with phase(f"measuring the reference on {name} groups", total) as progress:
        return with_reference_errors(
            examples,
            method.ratio,
            family.denoiser(family.network, autocast=autocast),
            wanted=wanted,
            prompt_dropout=run.data.prompt_dropout if name == "train" else 0.0,
            rows=_error_rows(run, method, name, data_hash, model_hash, accelerator, where),
            batch_size=run.training.micro_batch_size or run.training.batch_size,
            device=accelerator.device,
            progress=progress,
        )


def errors_depend_on(run: RunFile, method: Method) -> dict[str, str]:
    """The options that change a reference error, beside those that name model, data and adapter."""
    data = run.data.model_dump(exclude=_WITHOUT_EFFECT_ON_ERRORS)
    noise = run.noise.model_dump(exclude={"draw"})
    ratio = {option: value for option, value in asdict(method.ratio).items() if option != "scale"}  # type: ignore[call-overload]
    return {
        **{f"data.{option}": str(value) for option, value in data.items()},
        "latents": "float32" if run.data.cache is None else "float16",
        **{f"noise.{option}": str(value) for option, value in noise.items()},
        "ratio": type(method.ratio).__name__,
        **{f"ratio.{option}": str(value) for option, value in ratio.items()},
        "precision": run.training.precision,
        "mode": run.training.mode,
        "text encoder trains": str(run.training.lora.text_encoder),
        "quantized": str(run.training.quantized),
    }


def _error_rows(
    run: RunFile,
    method: Method,
    name: str,
    data_hash: str,
    model_hash: str,
    accelerator: Accelerator,
    where: str,
) -> Rows:
    reference = run.training.reference
    if reference.folder is None:
        return InMemory()
    start = run.training.lora.start_from
    about = {
        "model": model_hash,
        "adapter to start from": "none" if start is None else hub.model_hash(Path(start)),
        "data": data_hash,
        **errors_depend_on(run, method),
    }
    if name != "train":
        about |= {"data.prompt_dropout": "0.0", "data.flip": "False", "data.crops": "1"}
    return _cache(
        Path(reference.folder) / name,
        about,
        accelerator,
        dtype=torch.float32,
        tolerance=_ERROR_TOLERANCE,
        where=f"{where}: training.reference.folder",
    )


def _cache(
    folder: Path,
    about: Mapping[str, str],
    accelerator: Accelerator,
    *,
    dtype: torch.dtype,
    where: str,
    tolerance: float = _HALF_PRECISION_TOLERANCE,
) -> Cache:
    return Cache(
        folder,
        about,
        dtype=dtype,
        tolerance=tolerance,
        where=where,
        process=accelerator.process_index,
        num_processes=accelerator.num_processes,
        wait=accelerator.wait_for_everyone,
    )
