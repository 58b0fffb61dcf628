"""Paired sampling: the same prompts and seeds through the base and the tuned model.

Axes: N images, 3 channels, H W pixels.
"""

import hashlib
import inspect
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final, final

import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from penchant.errors import ConfigError, RunFolderError
from penchant.families import PipelineFamily
from penchant.files import write_text
from penchant.numerics import eight_bit

INDEX: Final = "index.jsonl"
"""File that lists the pairs of a folder of images."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Sampler:
    """How images are drawn; the scheduler is the model's own.

    Attributes:
        num_steps: Denoising steps.
        guidance: Scale of classifier-free guidance, as the pipeline takes it; for most 1 is unguided.
        eta: Noise of the sampler, for pipelines whose scheduler reads it.
        batch_size: Images at once. Floating-point kernels may round differently for another batch size, so
            equal pictures to the bit need an equal one.
        size: Side of the images in pixels; None is the model's own.
        options: What else the pipeline is told so that it draws one image of that size.
    """

    num_steps: int
    guidance: float
    eta: float
    batch_size: int
    size: int | None = None
    options: Mapping[str, Any] = field(default_factory=dict)


def sampler_of(
    model: PipelineFamily, *, num_steps: int, guidance: float, eta: float, batch_size: int, size: int | None
) -> Sampler:
    """How a model is asked for one image.

    Args:
        model: The loaded model.
        num_steps: Denoising steps.
        guidance: Scale of classifier-free guidance; 1 is unguided for every model.
        eta: Noise of the sampler; > 0 only if the scheduler reads it.
        batch_size: Images at once.
        size: Side of the images in pixels; None is the model's own.

    Raises:
        ConfigError: The scheduler does not read eta.
    """
    scheduler = model.pipeline.scheduler
    if eta and "eta" not in inspect.signature(scheduler.step).parameters:
        raise ConfigError(f"eta: {type(scheduler).__name__} does not read it. Set it to 0.")
    return Sampler(
        num_steps=num_steps,
        guidance=guidance + (model.unguided - 1),
        eta=eta,
        batch_size=batch_size,
        size=size or model.size,
        options=model.drawing,
    )


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One image to draw."""

    prompt: str
    seed: int


def requests_for(prompts: Sequence[str], *, seeds_per_prompt: int, seed: int) -> list[Request]:
    """Every prompt with its seeds; a seed depends on run seed, prompt and number alone."""
    return [
        Request(prompt=prompt, seed=_seed(f"{seed}/{prompt}/{number}"))
        for prompt in prompts
        for number in range(seeds_per_prompt)
    ]


@torch.no_grad()
def draw(
    pipeline: Any,
    requests: Sequence[Request],
    sampler: Sampler,
    *,
    progress: Callable[[int], None] = lambda done: None,
) -> Float[Tensor, "N 3 H W"]:
    """Draw images with a plain diffusers pipeline, each from its own generator; values in [0, 1]."""
    images = None
    takes_eta = "eta" in inspect.signature(pipeline.__call__).parameters
    noise = {"eta": sampler.eta} if takes_eta else {}
    for start in range(0, len(requests), sampler.batch_size):
        part = requests[start : start + sampler.batch_size]
        drawn = pipeline(
            prompt=[request.prompt for request in part],
            generator=[torch.Generator().manual_seed(request.seed) for request in part],
            num_inference_steps=sampler.num_steps,
            guidance_scale=sampler.guidance,
            height=sampler.size,
            width=sampler.size,
            output_type="pt",
            **noise,
            **sampler.options,
        )[0]
        drawn = drawn.reshape(len(part), *drawn.shape[-3:]).float().cpu()  # of a video the one frame
        if images is None:  # to be filled: a list joined at the end would need its memory twice
            images = drawn.new_empty(len(requests), *drawn.shape[1:])
        images[start : start + len(part)] = drawn
        progress(min(start + sampler.batch_size, len(requests)))
    assert images is not None, "there are prompts"
    return images


def write_pairs(
    folder: Path,
    requests: Sequence[Request],
    base: Float[Tensor, "N 3 H W"],
    tuned: Float[Tensor, "N 3 H W"],
) -> None:
    """Write base/NNNNN.png, tuned/NNNNN.png and index.jsonl, one line per pair with prompt and seed."""
    try:
        rows = []
        for side, images in (("base", base), ("tuned", tuned)):
            (folder / side).mkdir(parents=True, exist_ok=True)
            for number, image in enumerate(images):
                to_picture(image).save(folder / side / f"{number:05d}.png")
        for number, request in enumerate(requests):
            files = {side: f"{side}/{number:05d}.png" for side in ("base", "tuned")}
            rows.append(json.dumps({**asdict(request), **files}, ensure_ascii=False))
        write_text(folder / INDEX, "".join(f"{row}\n" for row in rows))
    except OSError as error:
        raise RunFolderError(f"{folder}: images cannot be written ({error.strerror}).") from error


def to_picture(image: Float[Tensor, "3 H W"]) -> Image.Image:
    """An image in [0, 1] as 8-bit RGB, rounded as diffusers does."""
    return Image.fromarray(eight_bit(image).numpy())


def _seed(key: str) -> int:
    """32-bit seed from a key, so that it can be typed by hand."""
    return int.from_bytes(hashlib.blake2b(key.encode(), digest_size=4).digest(), "little")
