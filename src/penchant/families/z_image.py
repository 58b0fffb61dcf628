"""Z-Image: one transformer on the tokens of image and prompt together, a flow, a language model.

Axes: N images or prompts, D = C H W of a latent, L tokens.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import torch
from diffusers import ZImagePipeline
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from penchant.diffusion.flow import LogitNormalLaw
from penchant.families import _pipeline
from penchant.families._family import PipelineFamily
from penchant.families._pipeline import WHOLE, Loading
from penchant.protocols import Condition

PIPELINE: Final = "ZImagePipeline"
LIMIT: Final = 512
"""Tokens of a prompt with its chat template, the pipeline's own default."""
SIZE: Final = 1024
"""Side of the images, in pixels; the pipeline's own default, the model's config names none."""
PATCH: Final = 2
"""Side of the patches of latents that are one token."""


def load(folder: Path, loading: Loading = WHOLE) -> PipelineFamily:
    """Load a pipeline folder; its weights must be safetensors.

    Args:
        folder: As written by `ZImagePipeline.save_pretrained`.
        loading: Which weights, and of what types.
    """
    pipeline = load_pipeline(folder, loading)
    side = SIZE // pipeline.vae_scale_factor
    return PipelineFamily(
        name="z_image",
        pipeline=pipeline,
        network_part="transformer",
        process=_pipeline.rectified_flow(pipeline, LogitNormalLaw(), num_tokens=(side // PATCH) ** 2),
        lora_targets=("to_q", "to_k", "to_v", "to_out.0"),
        size=SIZE,
        size_step=PATCH * pipeline.vae_scale_factor,
        sample_shape=(pipeline.transformer.config.in_channels, side, side),
        predict=predicted,
        text_condition=text_condition,
        unguided=0.0,
    )


def load_pipeline(folder: Path, loading: Loading = WHOLE) -> ZImagePipeline:
    """The plain diffusers pipeline of a folder, without a progress bar."""
    return _pipeline.load(ZImagePipeline, folder, loading, replaced={})


def predicted(
    transformer: nn.Module, noisy: Float[Tensor, " N *D"], timestep: Tensor, condition: Condition
) -> Float[Tensor, " N *D"]:
    """The velocity from data to noise; the transformer gives its opposite, and counts time the other way.

    Args:
        transformer: The network; it takes lists, of images with an axis of frames and of prompts without
            padding.
        noisy: Noisy latents; height and width are even.
        timestep: In [0, 1000], 0 at the data.
        condition: As `text_condition` gives it.
    """
    prompts = [
        states[attended > 0]
        for states, attended in zip(condition["prompt"], condition["attended"], strict=True)
    ]
    output = transformer(list(noisy.unsqueeze(2)), (1000 - timestep) / 1000, prompts, return_dict=False)[0]
    return -torch.stack(output).squeeze(2)


def text_condition(pipeline: Any, prompts: Sequence[str]) -> Condition:
    """`prompt`: [N, L, C], hidden states of the language model, 0 on padding; `attended`: [N, L], 1 or 0."""
    _pipeline.say_cut(pipeline.tokenizer, _templated(pipeline.tokenizer, prompts), limit=LIMIT)
    states, _ = pipeline.encode_prompt(list(prompts), do_classifier_free_guidance=False)
    return {
        "prompt": torch.stack([F.pad(rows, (0, 0, 0, LIMIT - len(rows))) for rows in states]),
        "attended": torch.stack([F.pad(rows.new_ones(len(rows)), (0, LIMIT - len(rows))) for rows in states]),
    }


def _templated(tokenizer: Any, prompts: Sequence[str]) -> list[str]:
    """Each prompt as the words of a user, as the pipeline does before it counts tokens."""
    chats = [[{"role": "user", "content": prompt}] for prompt in prompts]
    return tokenizer.apply_chat_template(
        chats, tokenize=False, add_generation_prompt=True, enable_thinking=True
    )
