"""Stable Diffusion 1.x and 2.x: a UNet on latents, one CLIP text encoder, epsilon or v-prediction.

Axes: N images or prompts, D = C H W of a latent, L tokens.
"""

import logging
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Final, final

import torch
from diffusers import StableDiffusionPipeline
from jaxtyping import Float
from torch import Tensor, nn

from penchant.diffusion.schedule import VariancePreserving
from penchant.errors import ModelError
from penchant.protocols import Condition, Denoiser, NoiseProcess

logger = logging.getLogger(__name__)

PIPELINE: Final = "StableDiffusionPipeline"


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class UNetDenoiser:
    """A UNet as the ratios see it.

    Attributes:
        network: The UNet, bare or prepared for several processes.
        process: Its noise process.
        autocast: Type of the matrix products; None keeps the weights' own.
    """

    network: nn.Module
    process: NoiseProcess
    autocast: torch.dtype | None = None

    def __call__(
        self, noisy: Float[Tensor, " N *D"], timestep: Tensor, condition: Condition
    ) -> Float[Tensor, " N *D"]:
        """The UNet's prediction."""
        dtype = next(self.network.parameters()).dtype
        context = nullcontext() if self.autocast is None else torch.autocast(noisy.device.type, self.autocast)
        with context:
            return self.network(
                noisy.to(dtype),
                timestep,
                encoder_hidden_states=condition["prompt"].to(dtype),
                return_dict=False,
            )[0]


@final
class StableDiffusion:
    """One loaded Stable Diffusion model: what training needs of a `StableDiffusionPipeline`."""

    name = "sd15"
    lora_targets = ("to_q", "to_k", "to_v", "to_out.0")

    def __init__(self, pipeline: StableDiffusionPipeline) -> None:
        self.pipeline = pipeline
        self.network: nn.Module = pipeline.unet
        self.process = noise_process(pipeline)
        for part in (pipeline.unet, pipeline.vae, pipeline.text_encoder):
            part.requires_grad_(False).eval()

    def to(self, device: torch.device) -> None:
        """Move network and encoders."""
        self.pipeline.to(device)

    @property
    def size(self) -> int:
        """Side of the images that the model draws, in pixels."""
        return self.pipeline.unet.config.sample_size * self.pipeline.vae_scale_factor

    @property
    def sample_shape(self) -> tuple[int, int, int]:
        """C, H, W of a latent."""
        config = self.pipeline.unet.config
        return config.in_channels, config.sample_size, config.sample_size

    def denoiser(self, network: nn.Module, *, autocast: torch.dtype | None = None) -> Denoiser:
        """Wrap a network (the family's own, or a prepared copy) so that ratios can call it."""
        return UNetDenoiser(network=network, process=self.process, autocast=autocast)

    @torch.no_grad()
    def encode_prompts(self, prompts: Sequence[str]) -> Condition:
        """Last hidden states of the text encoder, `prompt`: [N, L, C]; long prompts are cut, and said so."""
        tokenizer = self.pipeline.tokenizer
        limit = tokenizer.model_max_length
        lengths = [len(tokens) for tokens in tokenizer(list(prompts), truncation=False).input_ids]
        if cut := sum(length > limit for length in lengths):
            logger.warning("%d of %d prompts are longer than %d tokens and are cut", cut, len(prompts), limit)
        tokens = tokenizer(
            list(prompts), padding="max_length", max_length=limit, truncation=True, return_tensors="pt"
        ).input_ids
        encoder = self.pipeline.text_encoder
        return {"prompt": encoder(tokens.to(encoder.device))[0].float().cpu()}

    @torch.no_grad()
    def encode_images(
        self, pixels: Float[Tensor, "N 3 H W"]
    ) -> tuple[Float[Tensor, " N *D"], Float[Tensor, " N *D"]]:
        """Mean and standard deviation of the posterior of images in [-1, 1], times the scaling factor."""
        vae = self.pipeline.vae
        posterior = vae.encode(pixels.to(vae.device, vae.dtype)).latent_dist
        scale = vae.config.scaling_factor
        return (posterior.mean * scale).float().cpu(), (posterior.std * scale).float().cpu()

    @torch.no_grad()
    def decode(self, latents: Float[Tensor, " N *D"]) -> Float[Tensor, "N 3 H W"]:
        """Images in [0, 1] of scaled latents."""
        vae = self.pipeline.vae
        decoded = vae.decode(latents.to(vae.device, vae.dtype) / vae.config.scaling_factor).sample
        return (decoded.float() / 2 + 0.5).clamp(0, 1).cpu()

    def release_encoders(self) -> None:
        """Free the text encoder and the VAE; they cannot be used afterwards."""
        self.pipeline.text_encoder = None  # type: ignore[assignment]
        self.pipeline.vae = None  # type: ignore[assignment]


def noise_process(pipeline: StableDiffusionPipeline) -> VariancePreserving:
    """Noise schedule and prediction type, read from the model's own scheduler config."""
    scheduler = pipeline.scheduler
    prediction = scheduler.config.get("prediction_type", "epsilon")
    if prediction not in ("epsilon", "v_prediction", "sample") or not hasattr(scheduler, "alphas_cumprod"):
        raise ModelError(
            f"scheduler {type(scheduler).__name__} with prediction type {prediction!r}: not supported for "
            "this model. Supported: schedulers with cumulative alphas and epsilon, v_prediction or sample."
        )
    return VariancePreserving(alphas_cumprod=scheduler.alphas_cumprod.double(), prediction=prediction)


def load(folder: Path, *, dtype: torch.dtype = torch.float32) -> StableDiffusion:
    """Load a pipeline folder; its weights must be safetensors.

    Args:
        folder: As written by `StableDiffusionPipeline.save_pretrained`.
        dtype: Type of the weights in memory.
    """
    return StableDiffusion(load_pipeline(folder, dtype=dtype))


def load_pipeline(folder: Path, *, dtype: torch.dtype = torch.float32) -> StableDiffusionPipeline:
    """The plain diffusers pipeline of a folder, without a safety checker and without a progress bar."""
    try:
        pipeline = StableDiffusionPipeline.from_pretrained(
            str(folder),
            dtype=dtype,
            use_safetensors=True,
            local_files_only=True,
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        )
    except (OSError, ValueError, RuntimeError, TypeError, KeyError, AttributeError) as error:
        raise ModelError(
            f"{folder}: the pipeline cannot be loaded ({str(error).splitlines()[0]}). Download the folder "
            "again, or load it once with diffusers and call save_pretrained."
        ) from error
    if pipeline.tokenizer.model_max_length > 10_000:
        raise ModelError(f"{folder}: tokenizer/ names no model_max_length. Download the folder again.")
    pipeline.set_progress_bar_config(disable=True)
    return pipeline
