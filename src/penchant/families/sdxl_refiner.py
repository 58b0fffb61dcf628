"""The refiner of Stable Diffusion XL: a UNet for the last part of the denoising, told an aesthetic score.

It begins with latents that the base model has half denoised, and draws nothing of its own.  Axes: N images or
prompts, D = C H W of a latent.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import torch
from diffusers import StableDiffusionXLImg2ImgPipeline
from jaxtyping import Float
from torch import Tensor, nn

from penchant.errors import ModelError
from penchant.families import _pipeline, sdxl
from penchant.families._family import PipelineFamily
from penchant.families._pipeline import WHOLE, Loading
from penchant.protocols import Condition, Framing

PIPELINE: Final = "StableDiffusionXLImg2ImgPipeline"
NOISE_SPAN: Final = 0.2
"""It was trained on the first 200 of 1000 noise levels: Podell et al. 2023, arXiv:2307.01952, section 2.5."""
SCORE, UNGUIDED_SCORE = 6.0, 2.5
"""Aesthetic scores, 1 to 10, of an image with and without a prompt; the pipeline's own defaults."""


def load(folder: Path, loading: Loading = WHOLE) -> PipelineFamily:
    """Load a pipeline folder; its weights must be safetensors.

    Args:
        folder: As written by `StableDiffusionXLImg2ImgPipeline.save_pretrained`.
        loading: Which weights, and of what types.
    """
    pipeline = load_pipeline(folder, loading)
    _pipeline.require_no_guidance_told(pipeline)
    sdxl.require_one_scale(pipeline)
    config, side = pipeline.unet.config, _pipeline.side_of(pipeline, "unet")
    process = _pipeline.variance_preserving(pipeline)
    return PipelineFamily(
        name="sdxl_refiner",
        pipeline=pipeline,
        network_part="unet",
        process=replace(process, trained=tuple(range(round(process.num_timesteps * NOISE_SPAN)))),
        lora_targets=("to_q", "to_k", "to_v", "to_out.0"),
        size=side * pipeline.vae_scale_factor,
        size_step=pipeline.vae_scale_factor,
        sample_shape=(config.in_channels, side, side),
        predict=predicted,
        text_condition=text_condition,
        told=image_conditions,
        noise_span=NOISE_SPAN,
    )


def load_pipeline(folder: Path, loading: Loading = WHOLE) -> StableDiffusionXLImg2ImgPipeline:
    """The plain diffusers pipeline of a folder, without a watermark and without a progress bar.

    Raises:
        ModelError: If it cannot be loaded, or is another model in a pipeline from image to image.
    """
    replaced = {"image_encoder": None, "feature_extractor": None, "add_watermarker": False}
    pipeline = _pipeline.load(StableDiffusionXLImg2ImgPipeline, folder, loading, replaced=replaced)
    if not pipeline.config.requires_aesthetics_score or pipeline.text_encoder_2 is None:
        raise ModelError(
            f"{folder}: a {PIPELINE} without requires_aesthetics_score or without text_encoder_2 in "
            "model_index.json, so it is not the refiner. Give the refiner, or the base model as a "
            f"{sdxl.PIPELINE}."
        )
    _pipeline.require_limits(pipeline, folder, ["tokenizer_2"])
    return pipeline


def predicted(
    unet: nn.Module, noisy: Float[Tensor, " N *D"], timestep: Tensor, condition: Condition
) -> Float[Tensor, " N *D"]:
    """The UNet's output, called as the pipeline does; the score stands behind original and crop."""
    time_ids = torch.cat([condition["framing"], condition["score"]], -1)
    return sdxl.predicted(unet, noisy, timestep, {**condition, "time_ids": time_ids})


def text_condition(pipeline: Any, prompts: Sequence[str]) -> Condition:
    """`prompt` and `pooled` as of the base model, by one encoder; `score`: [N, 1].

    The score belongs to the prompt: the pipeline tells a lower one where it tells no prompt.
    """
    scores = [[SCORE if prompt else UNGUIDED_SCORE] for prompt in prompts]
    return {**sdxl.text_condition(pipeline, prompts), "score": torch.tensor(scores)}


def image_conditions(framings: Sequence[Framing]) -> Condition:
    """`framing`: [N, 4], height and width of the original, top and left of the crop."""
    rows = [[*framing.original, *framing.crop] for framing in framings]
    return {"framing": torch.tensor(rows, dtype=torch.float32)}
