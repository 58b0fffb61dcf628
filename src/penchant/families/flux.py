"""FLUX.1: a transformer on 2 x 2 patches of latents, a flow, one pooled CLIP embedding and a T5.

Axes: N images or prompts, D = C H W of a latent, L tokens, P pooled channels.
"""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final

import torch
from diffusers import FluxPipeline
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from penchant.diffusion.flow import UniformLaw
from penchant.families import _pipeline
from penchant.families._family import PipelineFamily
from penchant.families._pipeline import WHOLE, Loading
from penchant.protocols import Condition

PIPELINE: Final = "FluxPipeline"
T5_LIMIT: Final = 512
"""Tokens that the T5 reads, the pipeline's own default."""
GUIDANCE: Final = 3.5
"""Guidance scale that policy and reference are told, where the model takes one; the pipeline's default."""
PATCH: Final = 2
"""Side of the patches of latents that are packed into one token."""


def load(folder: Path, loading: Loading = WHOLE) -> PipelineFamily:
    """Load a pipeline folder; its weights must be safetensors.

    Noise levels of training are uniform before the shift, so that they follow the sampler's steps.

    Args:
        folder: As written by `FluxPipeline.save_pretrained`.
        loading: Which weights, and of what types.
    """
    pipeline = load_pipeline(folder, loading)
    config, side = pipeline.transformer.config, pipeline.default_sample_size
    return PipelineFamily(
        name="flux",
        pipeline=pipeline,
        network_part="transformer",
        process=_pipeline.rectified_flow(pipeline, UniformLaw(), num_tokens=(side // PATCH) ** 2),
        lora_targets=(
            "to_q",
            "to_k",
            "to_v",
            "to_out.0",
            "add_q_proj",
            "add_k_proj",
            "add_v_proj",
            "to_add_out",
        ),  # fmt: skip
        size=side * pipeline.vae_scale_factor,
        size_step=PATCH * pipeline.vae_scale_factor,
        sample_shape=(config.in_channels // PATCH**2, side, side),
        predict=partial(predicted, guidance=GUIDANCE if config.guidance_embeds else None),
        text_condition=text_condition,
    )


def load_pipeline(folder: Path, loading: Loading = WHOLE) -> FluxPipeline:
    """The plain diffusers pipeline of a folder, without a progress bar."""
    replaced = {"image_encoder": None, "feature_extractor": None}
    pipeline = _pipeline.load(FluxPipeline, folder, loading, replaced=replaced)
    _pipeline.require_limits(pipeline, folder, ["tokenizer"])
    return pipeline


def predicted(
    transformer: nn.Module,
    noisy: Float[Tensor, " N *D"],
    timestep: Tensor,
    condition: Condition,
    *,
    guidance: float | None,
) -> Float[Tensor, " N *D"]:
    """The transformer's output for packed latents, unpacked; called as the pipeline does.

    Args:
        transformer: The network.
        noisy: Noisy latents, not packed; height and width are even.
        timestep: In [0, 1000]; the transformer takes a thousandth of it.
        condition: As `text_condition` gives it.
        guidance: Guidance scale that the network is told; None for one that takes none.
    """
    packed = F.pixel_unshuffle(noisy, PATCH)
    rows, columns = packed.shape[-2:]
    output = transformer(
        hidden_states=packed.flatten(2).transpose(1, 2),
        timestep=timestep.to(noisy.dtype) / 1000,
        guidance=None if guidance is None else torch.full((len(noisy),), guidance, device=noisy.device),
        pooled_projections=condition["pooled"],
        encoder_hidden_states=condition["prompt"],
        txt_ids=noisy.new_zeros((condition["prompt"].shape[1], 3)),
        img_ids=positions(rows, columns).to(noisy),
        return_dict=False,
    )[0]
    return F.pixel_shuffle(output.transpose(1, 2).unflatten(2, (rows, columns)), PATCH)


def positions(rows: int, columns: int) -> Float[Tensor, "L 3"]:
    """Position of each image token: 0, its row, its column."""
    grid = torch.cartesian_prod(torch.arange(rows), torch.arange(columns)).float()
    return F.pad(grid, (1, 0))


def text_condition(pipeline: Any, prompts: Sequence[str]) -> Condition:
    """`prompt`: [N, L, C], last hidden states of the T5; `pooled`: [N, P] of the CLIP text encoder."""
    clip, tokenizer = pipeline.text_encoder, pipeline.tokenizer
    ids = _pipeline.tokens(tokenizer, prompts, limit=tokenizer.model_max_length)
    return {
        "prompt": _pipeline.t5_states(pipeline.text_encoder_2, pipeline.tokenizer_2, prompts, limit=T5_LIMIT),
        "pooled": clip(ids.to(clip.device)).pooler_output,
    }
