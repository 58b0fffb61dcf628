"""Stable Diffusion 3 and 3.5: a transformer on latents, a flow, two CLIP text encoders, a T5 if wanted.

Axes: N images or prompts, D = C H W of a latent, L tokens, P pooled channels.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import torch
from diffusers import StableDiffusion3Pipeline
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from penchant.diffusion.flow import LogitNormalLaw
from penchant.families import _folder, _pipeline
from penchant.families._family import PipelineFamily
from penchant.families._pipeline import WHOLE, Loading
from penchant.protocols import Condition

PIPELINE: Final = "StableDiffusion3Pipeline"
T5_LIMIT: Final = 256
"""Tokens that the T5 reads, the pipeline's own default."""


def load(folder: Path, loading: Loading = WHOLE) -> PipelineFamily:
    """Load a pipeline folder; its weights must be safetensors.

    Args:
        folder: As written by `StableDiffusion3Pipeline.save_pretrained`.
        loading: Which weights, and of what types.
    """
    pipeline = load_pipeline(folder, loading)
    config, side = pipeline.transformer.config, _pipeline.side_of(pipeline, "transformer")
    return PipelineFamily(
        name="sd3",
        pipeline=pipeline,
        network_part="transformer",
        process=_pipeline.rectified_flow(
            pipeline, LogitNormalLaw(), num_tokens=(side // config.patch_size) ** 2
        ),
        lora_targets=lora_targets(config.num_layers),
        size=side * pipeline.vae_scale_factor,
        size_step=config.patch_size * pipeline.vae_scale_factor,
        sample_shape=(config.in_channels, side, side),
        predict=predicted,
        text_condition=text_condition,
    )


def load_pipeline(folder: Path, loading: Loading = WHOLE) -> StableDiffusion3Pipeline:
    """The plain diffusers pipeline of a folder, without a progress bar.

    A T5 that model_index.json names as empty stays empty.
    """
    named = _folder.parts_of(_folder.index_of(folder, str(folder)))
    absent = [name for name in ("text_encoder_3", "tokenizer_3") if name not in named]
    replaced = dict.fromkeys(["image_encoder", "feature_extractor", *absent])
    pipeline = _pipeline.load(StableDiffusion3Pipeline, folder, loading, replaced=replaced)
    _pipeline.require_limits(pipeline, folder, ["tokenizer", "tokenizer_2"])
    return pipeline


def lora_targets(num_layers: int) -> tuple[str, ...]:
    """All projections of the attentions but the text's queries in the last block, whose output is dropped."""
    queries = [f"transformer_blocks.{number}.attn.add_q_proj" for number in range(num_layers - 1)]
    return "to_q", "to_k", "to_v", "to_out.0", *queries, "add_k_proj", "add_v_proj", "to_add_out"


def predicted(
    transformer: nn.Module, noisy: Float[Tensor, " N *D"], timestep: Tensor, condition: Condition
) -> Float[Tensor, " N *D"]:
    """The transformer's output, called as the pipeline does."""
    return transformer(
        hidden_states=noisy,
        timestep=timestep,
        encoder_hidden_states=condition["prompt"],
        pooled_projections=condition["pooled"],
        return_dict=False,
    )[0]


def text_condition(pipeline: Any, prompts: Sequence[str]) -> Condition:
    """`prompt`: [N, L, C], the CLIP states side by side, then the T5's (zeros without one); `pooled`: [N, P].

    Source:
        Esser et al. 2024, arXiv:2403.03206, appendix B.3.
    """
    first, first_pooled = _pipeline.clip_states(pipeline.text_encoder, pipeline.tokenizer, prompts)
    second, second_pooled = _pipeline.clip_states(pipeline.text_encoder_2, pipeline.tokenizer_2, prompts)
    clip = torch.cat([first, second], -1)
    if pipeline.text_encoder_3 is None:
        t5 = clip.new_zeros((len(prompts), T5_LIMIT, pipeline.transformer.config.joint_attention_dim))
    else:
        t5 = _pipeline.t5_states(pipeline.text_encoder_3, pipeline.tokenizer_3, prompts, limit=T5_LIMIT)
    clip = F.pad(clip, (0, t5.shape[-1] - clip.shape[-1]))
    return {
        "prompt": torch.cat([clip, t5], -2),
        "pooled": torch.cat([first_pooled, second_pooled], -1),
    }
