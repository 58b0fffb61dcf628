"""Stable Diffusion 1.x and 2.x: a UNet on latents, one CLIP text encoder, epsilon or v-prediction.

Axes: N images or prompts, D = C H W of a latent, L tokens.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from diffusers import StableDiffusionPipeline
from jaxtyping import Float, Int
from torch import Tensor, nn

from penchant.families import _pipeline
from penchant.families._family import PipelineFamily
from penchant.families._pipeline import WHOLE, Loading
from penchant.protocols import Condition

PIPELINE: Final = "StableDiffusionPipeline"


def load(folder: Path, loading: Loading = WHOLE) -> PipelineFamily:
    """Load a pipeline folder; its weights must be safetensors.

    Args:
        folder: As written by `StableDiffusionPipeline.save_pretrained`.
        loading: Which weights, and of what types.
    """
    pipeline = load_pipeline(folder, loading)
    _pipeline.require_no_guidance_told(pipeline)
    config, side = pipeline.unet.config, _pipeline.side_of(pipeline, "unet")
    return PipelineFamily(
        name="sd15",
        pipeline=pipeline,
        network_part="unet",
        process=_pipeline.variance_preserving(pipeline),
        lora_targets=("to_q", "to_k", "to_v", "to_out.0"),
        size=side * pipeline.vae_scale_factor,
        size_step=pipeline.vae_scale_factor,
        sample_shape=(config.in_channels, side, side),
        predict=predicted,
        text_condition=text_condition,
        tokens=tokens,
    )


def load_pipeline(folder: Path, loading: Loading = WHOLE) -> StableDiffusionPipeline:
    """The plain diffusers pipeline of a folder, without a safety checker and without a progress bar."""
    replaced = {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}
    pipeline = _pipeline.load(StableDiffusionPipeline, folder, loading, replaced=replaced)
    _pipeline.require_limits(pipeline, folder, ["tokenizer"])
    return pipeline


def predicted(
    unet: nn.Module, noisy: Float[Tensor, " N *D"], timestep: Tensor, condition: Condition
) -> Float[Tensor, " N *D"]:
    """The UNet's output, called as the pipeline does."""
    return unet(noisy, timestep, encoder_hidden_states=condition["prompt"], return_dict=False)[0]


def text_condition(pipeline: Any, prompts: Sequence[str]) -> Condition:
    """Last hidden states of the text encoder, `prompt`: [N, L, C]."""
    encoder = pipeline.text_encoder
    return {"prompt": encoder(tokens(pipeline, prompts).to(encoder.device))[0]}


def tokens(pipeline: Any, prompts: Sequence[str]) -> Int[Tensor, "N L"]:
    """What the text encoder reads."""
    return _pipeline.tokens(pipeline.tokenizer, prompts, limit=pipeline.tokenizer.model_max_length)
