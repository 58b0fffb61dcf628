"""Sana: a transformer with linear attention on strongly compressed latents, a flow, a language model.

Axes: N images or prompts, D = C H W of a latent, L tokens.
"""

import inspect
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final

import torch
from diffusers import SanaPipeline
from jaxtyping import Float
from torch import Tensor, nn

from penchant.diffusion.flow import LogitNormalLaw
from penchant.families import _pipeline
from penchant.families._autoencoder import Deterministic
from penchant.families._family import PipelineFamily
from penchant.families._pipeline import WHOLE, Loading
from penchant.protocols import Condition

PIPELINE: Final = "SanaPipeline"
LIMIT: Final = 300
"""Tokens of a prompt, the pipeline's own default."""
INSTRUCTION: Final[list[str]] = (
    inspect.signature(SanaPipeline.__call__).parameters["complex_human_instruction"].default
)
"""What the pipeline writes before every prompt but the empty one of the unguided half."""


def load(folder: Path, loading: Loading = WHOLE) -> PipelineFamily:
    """Load a pipeline folder; its weights must be safetensors.

    Args:
        folder: As written by `SanaPipeline.save_pretrained`.
        loading: Which weights, and of what types.
    """
    pipeline = load_pipeline(folder, loading)
    config, side = pipeline.transformer.config, _pipeline.side_of(pipeline, "transformer")
    return PipelineFamily(
        name="sana",
        pipeline=pipeline,
        network_part="transformer",
        process=_pipeline.rectified_flow(
            pipeline, LogitNormalLaw(), num_tokens=(side // config.patch_size) ** 2
        ),
        lora_targets=("to_q", "to_k", "to_v", "to_out.0"),
        size=side * pipeline.vae_scale_factor,
        size_step=config.patch_size * pipeline.vae_scale_factor,
        sample_shape=(config.in_channels, side, side),
        predict=partial(predicted, timestep_scale=config.timestep_scale),
        text_condition=text_condition,
        latents=Deterministic(),
        drawing={"use_resolution_binning": False},
    )


def load_pipeline(folder: Path, loading: Loading = WHOLE) -> SanaPipeline:
    """The plain diffusers pipeline of a folder, without a progress bar."""
    return _pipeline.load(SanaPipeline, folder, loading, replaced={})


def predicted(
    transformer: nn.Module,
    noisy: Float[Tensor, " N *D"],
    timestep: Tensor,
    condition: Condition,
    *,
    timestep_scale: float,
) -> Float[Tensor, " N *D"]:
    """The transformer's output, called as the pipeline does.

    Args:
        transformer: The network.
        noisy: Noisy latents.
        timestep: In [0, 1000].
        condition: As `text_condition` gives it.
        timestep_scale: Factor by which this network wants its timestep.
    """
    return transformer(
        noisy,
        encoder_hidden_states=condition["prompt"],
        encoder_attention_mask=condition["attended"],
        timestep=timestep * timestep_scale,
        return_dict=False,
    )[0]


def text_condition(pipeline: Any, prompts: Sequence[str]) -> Condition:
    """`prompt`: [N, L, C], last hidden states of the language model; `attended`: [N, L], 1 or 0 on padding.

    The empty prompt stands for no prompt: it has no instruction before it, as the pipeline's unguided half.

    Source:
        Xie et al. 2024, arXiv:2410.10629, section 2.3.
    """
    before = "\n".join(INSTRUCTION)
    limit = len(pipeline.tokenizer.encode(before)) + LIMIT - 2
    _pipeline.say_cut(pipeline.tokenizer, [before + prompt for prompt in prompts], limit=limit)
    rows: dict[int, tuple[Tensor, Tensor]] = {}
    written = [number for number, prompt in enumerate(prompts) if prompt]
    empty = [number for number, prompt in enumerate(prompts) if not prompt]
    for instruction, numbers in ((INSTRUCTION, written), (None, empty)):
        if numbers:
            states, attended, _, _ = pipeline.encode_prompt(
                [prompts[number] for number in numbers],
                do_classifier_free_guidance=False,
                max_sequence_length=LIMIT,
                complex_human_instruction=instruction,
            )
            rows |= zip(numbers, zip(states, attended, strict=True), strict=True)
    return {
        "prompt": torch.stack([rows[number][0] for number in range(len(prompts))]),
        "attended": torch.stack([rows[number][1] for number in range(len(prompts))]),
    }
