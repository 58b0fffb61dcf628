"""Wan 2.1 and 2.2 text to video: a transformer on latents of several frames, a flow, a multilingual T5.

An image is a video of one frame.  Axes: N videos or prompts, D = C F H W of a latent, L tokens.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from diffusers import WanPipeline
from jaxtyping import Float
from torch import Tensor, nn

from penchant.diffusion.flow import LogitNormalLaw
from penchant.errors import ModelError
from penchant.families import _folder, _pipeline
from penchant.families._autoencoder import Frames
from penchant.families._family import PipelineFamily
from penchant.families._pipeline import WHOLE, Loading
from penchant.protocols import Condition

PIPELINE: Final = "WanPipeline"
LIMIT: Final = 512
"""Tokens of a prompt, the pipeline's own default."""
SIZE: Final = 480
"""Side of the images, in pixels; the height that the pipeline draws, the model's config names none."""


def load(folder: Path, loading: Loading = WHOLE) -> PipelineFamily:
    """Load a pipeline folder; its weights must be safetensors.

    Args:
        folder: As written by `WanPipeline.save_pretrained`.
        loading: Which weights, and of what types.
    """
    pipeline = load_pipeline(folder, loading)
    config, factor = pipeline.transformer.config, pipeline.vae_scale_factor_spatial
    side, patch = SIZE // factor, config.patch_size[-1]
    return PipelineFamily(
        name="wan",
        pipeline=pipeline,
        network_part="transformer",
        process=_pipeline.rectified_flow(pipeline, LogitNormalLaw(), num_tokens=(side // patch) ** 2),
        lora_targets=("to_q", "to_k", "to_v", "to_out.0"),
        size=SIZE,
        size_step=patch * factor,
        sample_shape=(config.in_channels, 1, side, side),
        predict=predicted,
        text_condition=text_condition,
        latents=Frames(),
        drawing={"num_frames": 1},
    )


def load_pipeline(folder: Path, loading: Loading = WHOLE) -> WanPipeline:
    """The plain diffusers pipeline of a folder, without a progress bar.

    Raises:
        ModelError: If it cannot be loaded, or has two transformers.
    """
    index = _folder.index_of(folder, str(folder))
    if "transformer_2" in _folder.parts_of(index) or index.get("boundary_ratio") is not None:
        raise ModelError(
            f"{folder}: two transformers, one for high and one for low noise, as in Wan 2.2 A14B; they "
            "cannot be trained as one model. Give a Wan model with one transformer, such as 2.1 or 2.2 TI2V."
        )
    replaced = {"transformer_2": None}
    return _pipeline.load(WanPipeline, folder, loading, replaced=replaced)


def predicted(
    transformer: nn.Module, noisy: Float[Tensor, " N *D"], timestep: Tensor, condition: Condition
) -> Float[Tensor, " N *D"]:
    """The transformer's output, called as the pipeline does; all frames have one noise level."""
    return transformer(
        hidden_states=noisy,
        timestep=timestep,
        encoder_hidden_states=condition["prompt"],
        return_dict=False,
    )[0]


def text_condition(pipeline: Any, prompts: Sequence[str]) -> Condition:
    """Last hidden states of the T5, 0 on padding, `prompt`: [N, L, C]."""
    _pipeline.say_cut(pipeline.tokenizer, prompts, limit=LIMIT)
    states, _ = pipeline.encode_prompt(
        list(prompts), do_classifier_free_guidance=False, max_sequence_length=LIMIT
    )
    return {"prompt": states}
