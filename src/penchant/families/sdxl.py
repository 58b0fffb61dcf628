"""Stable Diffusion XL: a UNet that is also told sizes and crop, two CLIP text encoders, a pooled embedding.

Axes: N images or prompts, D = C H W of a latent, L tokens, P pooled channels.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import torch
from diffusers import StableDiffusionXLPipeline
from jaxtyping import Float
from torch import Tensor, nn

from penchant.errors import ModelError
from penchant.families import _pipeline
from penchant.families._family import PipelineFamily
from penchant.families._pipeline import WHOLE, Loading
from penchant.protocols import Condition, Framing

PIPELINE: Final = "StableDiffusionXLPipeline"


def load(folder: Path, loading: Loading = WHOLE) -> PipelineFamily:
    """Load a pipeline folder; its weights must be safetensors.

    Args:
        folder: As written by `StableDiffusionXLPipeline.save_pretrained`.
        loading: Which weights, and of what types.
    """
    pipeline = load_pipeline(folder, loading)
    _pipeline.require_no_guidance_told(pipeline)
    require_one_scale(pipeline)
    config, side = pipeline.unet.config, _pipeline.side_of(pipeline, "unet")
    return PipelineFamily(
        name="sdxl",
        pipeline=pipeline,
        network_part="unet",
        process=_pipeline.variance_preserving(pipeline),
        lora_targets=("to_q", "to_k", "to_v", "to_out.0"),
        size=side * pipeline.vae_scale_factor,
        size_step=pipeline.vae_scale_factor,
        sample_shape=(config.in_channels, side, side),
        predict=predicted,
        text_condition=text_condition,
        told=image_conditions,
    )


def load_pipeline(folder: Path, loading: Loading = WHOLE) -> StableDiffusionXLPipeline:
    """The plain diffusers pipeline of a folder, without a watermark and without a progress bar.

    Raises:
        ModelError: If it cannot be loaded, or lacks a text encoder.
    """
    replaced = {"image_encoder": None, "feature_extractor": None, "add_watermarker": False}
    pipeline = _pipeline.load(StableDiffusionXLPipeline, folder, loading, replaced=replaced)
    if pipeline.text_encoder is None or pipeline.text_encoder_2 is None:
        raise ModelError(
            f"{folder}: a {PIPELINE} with an empty text encoder in model_index.json. Give the base model, "
            "which has two, or the refiner as a StableDiffusionXLImg2ImgPipeline."
        )
    _pipeline.require_limits(pipeline, folder, ["tokenizer", "tokenizer_2"])
    return pipeline


def require_one_scale(pipeline: Any) -> None:
    """Refuse an autoencoder whose latents the pipeline scales by channel as well.

    Raises:
        ModelError: It does.
    """
    config = pipeline.vae.config
    if config.get("latents_mean") is not None and config.get("latents_std") is not None:
        raise ModelError(
            "vae/config.json: latents_mean and latents_std, by which the pipeline of SDXL scales latents, "
            "are not supported. Give a model whose autoencoder has a scaling_factor alone."
        )


def predicted(
    unet: nn.Module, noisy: Float[Tensor, " N *D"], timestep: Tensor, condition: Condition
) -> Float[Tensor, " N *D"]:
    """The UNet's output, called as the pipeline does."""
    added = {"text_embeds": condition["pooled"], "time_ids": condition["time_ids"]}
    return unet(
        noisy,
        timestep,
        encoder_hidden_states=condition["prompt"],
        added_cond_kwargs=added,
        return_dict=False,
    )[0]


def text_condition(pipeline: Any, prompts: Sequence[str]) -> Condition:
    """Last but one hidden states of the encoders, `prompt`: [N, L, C]; `pooled`: [N, P] of the second.

    The refiner has the second alone. The empty prompt stands for no prompt. Where the model's config says
    so, both are zero for it, which is what the pipeline takes for the unguided half.
    """
    prompt, pooled = _pipeline.clip_states(pipeline.text_encoder_2, pipeline.tokenizer_2, prompts)
    if pipeline.text_encoder is not None:
        first, _ = _pipeline.clip_states(pipeline.text_encoder, pipeline.tokenizer, prompts)
        prompt = torch.cat([first, prompt], -1)
    if pipeline.config.force_zeros_for_empty_prompt:
        empty = torch.tensor([text == "" for text in prompts], device=prompt.device)
        prompt, pooled = prompt.masked_fill(empty[:, None, None], 0), pooled.masked_fill(empty[:, None], 0)
    return {"prompt": prompt, "pooled": pooled}


def image_conditions(framings: Sequence[Framing]) -> Condition:
    """`time_ids`: [N, 6], height and width of the original, top and left of the crop, height and width drawn.

    Source:
        Podell et al. 2023, arXiv:2307.01952, section 2.2.
    """
    rows = [[*framing.original, *framing.crop, *framing.size] for framing in framings]
    return {"time_ids": torch.tensor(rows, dtype=torch.float32)}
