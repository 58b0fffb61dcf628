"""What several families need of a pipeline folder: loading it, cutting prompts, reading its scheduler."""

import enum
import inspect
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Final, final

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from penchant.diffusion.flow import RectifiedFlow, TimestepLaw, shift_for
from penchant.diffusion.schedule import VariancePreserving
from penchant.errors import ModelError
from penchant.families import _folder

logger = logging.getLogger(__name__)


class Part(enum.Flag):
    """Networks of a pipeline that are needed at the same time."""

    NOTHING = 0
    TEXT_ENCODERS = enum.auto()
    AUTOENCODER = enum.auto()
    DENOISER = enum.auto()


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Loading:
    """Which weights of a pipeline folder are read, and of what types.

    Attributes:
        part: What is read; other networks have a configuration but no memory. None is everything.
        dtype: Type of the weights in memory.
        denoiser: Type of the denoiser's weights; None is `dtype`.
    """

    part: Part | None = None
    dtype: torch.dtype = torch.float32
    denoiser: torch.dtype | None = None


WHOLE: Final = Loading()
"""Everything, in float32."""

_LIBRARIES: Final = ("diffusers", "transformers")
_ALWAYS: Final = ("unet", "transformer", "vae")
"""Parts that are needed even where diffusers can do without."""


def load(kind: Any, folder: Path, loading: Loading, *, replaced: Mapping[str, object]) -> Any:
    """The plain diffusers pipeline of a folder, from safetensors alone and without a progress bar.

    Args:
        kind: Class of the pipeline.
        folder: As written by its `save_pretrained`.
        loading: Which weights, and of what types.
        replaced: Parts that are not loaded, as None, and options of the class.

    Raises:
        ModelError: If a part is missing, or diffusers cannot load it.
    """
    _require_parts(kind, folder, replaced)
    networks = _networks(folder)
    denoisers = [name for name in networks if _part_of(name) is Part.DENOISER]
    dtypes = {"default": loading.dtype, **dict.fromkeys(denoisers, loading.denoiser or loading.dtype)}
    left_out = [n for n in networks if loading.part is not None and _part_of(n) not in loading.part]
    try:
        empty = {n: _empty(networks[n], folder / n, dtypes.get(n, loading.dtype)) for n in left_out}
        pipeline = kind.from_pretrained(
            str(folder),
            dtype=dtypes,
            use_safetensors=True,
            local_files_only=True,
            **empty,
            **replaced,
        )
    except (OSError, ValueError, RuntimeError, TypeError, KeyError, AttributeError) as error:
        raise ModelError(
            f"{folder}: the pipeline cannot be loaded ({str(error).splitlines()[0]}). Download the folder "
            "again, or load it once with diffusers and call save_pretrained."
        ) from error
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def _require_parts(kind: Any, folder: Path, replaced: Mapping[str, object]) -> None:
    """Refuse an index without a part that the pipeline needs, or without the tokenizer of a text encoder."""
    index = _folder.index_of(folder, str(folder))
    named, optional = _folder.parts_of(index), (*kind._optional_components, *replaced)
    for name, parameter in inspect.signature(kind.__init__).parameters.items():
        needed = parameter.default is parameter.empty and name not in optional and name != "self"
        if (needed or name in _ALWAYS) and name not in named:
            raise ModelError(
                f"{folder}: {name} is empty in {_folder.INDEX}, but a {kind.__name__} needs it. Give a "
                "folder that holds it."
            )
    for encoder in (name for name in named if name.startswith("text_encoder")):
        tokenizer = encoder.replace("text_encoder", "tokenizer")
        if tokenizer in index and tokenizer not in named:
            raise ModelError(
                f"{folder}: {tokenizer} is empty in {_folder.INDEX}, but {encoder} is not. Give a folder "
                "that holds both, or name both as [null, null] if the model is used without."
            )


def _networks(folder: Path) -> dict[str, Any]:
    """Name and class of each network that a pipeline folder holds."""
    index = _folder.index_of(folder, str(folder))
    found = {}
    for name in _folder.parts_of(index):
        library, kind = index[name]
        known = getattr(import_module(library), kind, None) if library in _LIBRARIES else None
        if name not in _folder.UNUSED_PARTS and isinstance(known, type) and issubclass(known, nn.Module):
            found[name] = known
    return found


def _empty(kind: Any, folder: Path, dtype: torch.dtype) -> nn.Module:
    """A network built from its configuration, on the device without memory."""
    with torch.device("meta"):
        if kind.__module__.startswith("diffusers"):
            network = kind.from_config(kind.load_config(str(folder)))
        else:
            network = kind(kind.config_class.from_pretrained(str(folder)))
    return network.to(dtype)


def _part_of(name: str) -> Part:
    if name.startswith("text_encoder"):
        return Part.TEXT_ENCODERS
    return Part.AUTOENCODER if name.startswith("vae") else Part.DENOISER


def require_limits(pipeline: Any, folder: Path, tokenizers: Sequence[str]) -> None:
    """Refuse a tokenizer that does not say how many tokens its encoder reads.

    Raises:
        ModelError: If one has no limit.
    """
    for name in tokenizers:
        if getattr(pipeline, name).model_max_length > 10_000:
            raise ModelError(f"{folder}: {name}/ names no model_max_length. Download the folder again.")


def tokens(tokenizer: Any, prompts: Sequence[str], *, limit: int) -> Int[Tensor, "N L"]:
    """Tokens of each prompt, padded or cut to the limit; says how many were cut."""
    say_cut(tokenizer, prompts, limit=limit)
    return tokenizer(
        list(prompts), padding="max_length", max_length=limit, truncation=True, return_tensors="pt"
    ).input_ids


def say_cut(tokenizer: Any, prompts: Sequence[str], *, limit: int) -> None:
    """Say how many prompts are longer than the encoder reads."""
    lengths = [len(ids) for ids in tokenizer(list(prompts), truncation=False).input_ids]
    if cut := sum(length > limit for length in lengths):
        logger.warning("%d of %d prompts are longer than %d tokens and are cut", cut, len(prompts), limit)


def clip_states(
    encoder: Any, tokenizer: Any, prompts: Sequence[str]
) -> tuple[Float[Tensor, "N L C"], Float[Tensor, "N P"]]:
    """Last but one hidden states, and projected pooled embedding, of a CLIP text encoder with projection."""
    ids = tokens(tokenizer, prompts, limit=tokenizer.model_max_length)
    output = encoder(ids.to(encoder.device), output_hidden_states=True)
    return output.hidden_states[-2], output[0]


def t5_states(encoder: Any, tokenizer: Any, prompts: Sequence[str], *, limit: int) -> Float[Tensor, "N L C"]:
    """Last hidden states of a T5 encoder, padding included, as the pipelines give them to the network."""
    return encoder(tokens(tokenizer, prompts, limit=limit).to(encoder.device))[0]


def side_of(pipeline: Any, part: str) -> int:
    """Side of the latents that a network draws, as its configuration says; diffusers has no default for it.

    Raises:
        ModelError: It names none, or two that differ.
    """
    side = getattr(pipeline, part).config.sample_size
    if isinstance(side, list | tuple) and len(set(side)) == 1:
        side = side[0]
    if not isinstance(side, int):
        raise ModelError(
            f"{part}/config.json: sample_size must be a whole number, the side of a latent, got {side}. "
            "Write it there: 64 for images of 512 pixels, 128 for 1024."
        )
    return side


def require_no_guidance_told(pipeline: Any) -> None:
    """Refuse a UNet that its pipeline tells a guidance scale beside the timestep.

    Source:
        Luo et al. 2023 (latent consistency models), arXiv:2310.04378, section 4.2.
    """
    if pipeline.unet.config.time_cond_proj_dim is not None:
        raise ModelError(
            "the UNet is told a guidance scale (time_cond_proj_dim), as one distilled to a latent "
            "consistency model; it is not trained here as its pipeline calls it. Give the model that it was "
            "made from."
        )


def variance_preserving(pipeline: Any) -> VariancePreserving:
    """Noise schedule and prediction type, read from the model's own scheduler config.

    Raises:
        ModelError: If the scheduler has no cumulative alphas, or predicts something else.
    """
    scheduler = pipeline.scheduler
    prediction = scheduler.config.get("prediction_type", "epsilon")
    if prediction not in ("epsilon", "v_prediction", "sample") or not hasattr(scheduler, "alphas_cumprod"):
        raise ModelError(
            f"scheduler {type(scheduler).__name__} with prediction type {prediction!r}: not supported for "
            "this model. Supported: schedulers with cumulative alphas and epsilon, v_prediction or sample."
        )
    return VariancePreserving(alphas_cumprod=scheduler.alphas_cumprod.double(), prediction=prediction)


def rectified_flow(pipeline: Any, law: TimestepLaw, *, num_tokens: int) -> RectifiedFlow:
    """Flow with the shift of the model's own scheduler config.

    Args:
        pipeline: The plain diffusers pipeline.
        law: Law of the noise level before it is shifted.
        num_tokens: Image tokens at the model's own size, for a scheduler that shifts by resolution.

    Raises:
        ModelError: If the scheduler is not one of flow matching from noise to data.
    """
    scheduler, config = pipeline.scheduler, pipeline.scheduler.config
    of_flows = type(scheduler).__name__ == "FlowMatchEulerDiscreteScheduler" and not config.invert_sigmas
    multistep = config.get("use_flow_sigmas", False) and config.prediction_type == "flow_prediction"
    if not of_flows and (not multistep or config.get("use_dynamic_shifting", False)):
        raise ModelError(
            f"scheduler {type(scheduler).__name__}: not supported for this model. Supported: "
            "FlowMatchEulerDiscreteScheduler without invert_sigmas, and those that predict a flow by "
            "flow sigmas of one shift, as the model was published with."
        )
    shift = float(config.shift if of_flows else config.flow_shift)
    if of_flows and config.use_dynamic_shifting:
        if config.time_shift_type != "exponential":
            raise ModelError(
                f"scheduler {type(scheduler).__name__} with time_shift_type {config.time_shift_type!r}: not "
                "supported with use_dynamic_shifting, where the shift is exponential here. Give the "
                "scheduler that the model was published with."
            )
        shift = shift_for(
            num_tokens,
            base_tokens=config.base_image_seq_len,
            max_tokens=config.max_image_seq_len,
            base_shift=config.base_shift,
            max_shift=config.max_shift,
        )
    return RectifiedFlow(law=law, shift=shift, num_timesteps=config.num_train_timesteps)
