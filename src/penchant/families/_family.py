"""A loaded pipeline with its noise process, composed of what differs from family to family.

Axes: N images or prompts, T frames, D = C H W of a latent (C F H W of a video's).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, final

import torch
from jaxtyping import Float
from torch import Tensor, nn

from penchant.errors import ConfigError, ModelError
from penchant.families import _kernels, _tokens
from penchant.families._autoencoder import Latents, Scaled
from penchant.families._tokens import Predict
from penchant.protocols import Condition, Denoiser, Framing, NoiseProcess


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkDenoiser:
    """A denoising network as the ratios see it.

    Attributes:
        network: The network, bare or prepared for several processes.
        process: Its noise process.
        predict: How the family's pipeline calls it.
        autocast: Type of the matrix products; None keeps the weights' own.
    """

    network: nn.Module
    process: NoiseProcess
    predict: Predict
    autocast: torch.dtype | None = None

    def __call__(
        self, noisy: Float[Tensor, " N *D"], timestep: Tensor, condition: Condition
    ) -> Float[Tensor, " N *D"]:
        """The network's prediction; latents and embeddings take the type of its weights."""
        dtype = next(self.network.parameters()).dtype
        condition = {n: v if n == _tokens.TOKENS else v.to(dtype) for n, v in condition.items()}
        with _kernels.autocast(noisy, self.autocast), _kernels.attention(noisy, self.autocast):
            return self.predict(self.network, noisy.to(dtype), timestep, condition)


def nothing_told(framings: Sequence[Framing]) -> Condition:
    """Of a model that is told nothing of the image but the prompt."""
    return {}


@final
@dataclass(kw_only=True, eq=False)
class PipelineFamily:
    """One loaded model: what training and sampling need of a diffusers pipeline.

    Attributes:
        name: Name of the family.
        pipeline: The plain diffusers pipeline; its parts neither train nor drop anything out.
        network_part: The pipeline's name of the network that trains, and of its folder.
        process: Noise schedule and prediction type, from the model's own scheduler config.
        lora_targets: Endings of the names of the layers that a LoRA adapts by default.
        size: Side of the images that the model draws, in pixels.
        size_step: Sides of images are multiples of it, in pixels.
        sample_shape: C, H, W of a latent; C, F, H, W of a video model's.
        predict: How the pipeline calls the network.
        text_condition: Pipeline and prompts give the condition of each prompt.
        told: Condition of each image beside its prompt, one row each.
        latents: How its autoencoder scales latents.
        drawing: What the pipeline's call is told to draw one image of a given size, beside what all are told.
        unguided: Guidance scale at which the pipeline samples without guidance.
        noise_span: As in DiffusionFamily.
        tokens: Pipeline and prompts give the tokens of each prompt; None where no text encoder can train.

    Raises:
        ModelError: Network and autoencoder do not belong together.
    """

    name: str
    pipeline: Any
    network_part: str
    process: NoiseProcess
    lora_targets: tuple[str, ...]
    size: int
    size_step: int
    sample_shape: tuple[int, ...]
    predict: Predict
    text_condition: Callable[[Any, Sequence[str]], Condition]
    told: Callable[[Sequence[Framing]], Condition] = nothing_told
    latents: Latents = field(default_factory=Scaled)
    drawing: Mapping[str, Any] = field(default_factory=dict)
    unguided: float = 1.0
    noise_span: float = 1.0
    tokens: Callable[[Any, Sequence[str]], Tensor] | None = None

    def __post_init__(self) -> None:
        taken, given = self.sample_shape[0], self.latents.channels(self.pipeline.vae)
        if taken != given:
            raise ModelError(
                f"the {self.network_part} takes {taken} channels, its autoencoder gives {given}, as of a "
                "model that is given more than noise, for inpainting or editing. Give one that draws from "
                "text alone."
            )
        for part in self.pipeline.components.values():
            if isinstance(part, nn.Module):
                part.requires_grad_(False).eval()

    @property
    def network(self) -> Any:
        """The denoising network."""
        return getattr(self.pipeline, self.network_part)

    def train_text_encoder(self, *, where: str) -> None:
        """Make the text encoder a part of the network; a condition then holds the tokens of its prompt."""
        tokens = self.tokens
        if tokens is None:
            raise ConfigError(
                f"{where}: not for a model of the family {self.name}, only for SD 1.x and 2.x, which have "
                "one text encoder. Remove it."
            )
        _tokens.adopt(self.network, self.pipeline.text_encoder)
        self.lora_targets += _tokens.LORA_TARGETS
        self.predict = _tokens.reading_tokens(self.predict)
        self.text_condition = lambda pipeline, prompts: {_tokens.TOKENS: tokens(pipeline, prompts)}

    def checkpoint_gradients(self) -> None:
        """Let the network compute its activations again in the backward pass instead of keeping them."""
        self.network.enable_gradient_checkpointing(_kernels.recomputed)

    def to(self, device: torch.device) -> None:
        """Move network and encoders, those that are loaded."""
        for part in self.pipeline.components.values():
            if isinstance(part, nn.Module) and not any(p.is_meta for p in part.parameters()):
                part.to(device)

    def denoiser(self, network: nn.Module, *, autocast: torch.dtype | None = None) -> Denoiser:
        """Wrap a network (the family's own, or a prepared copy) so that ratios can call it."""
        return NetworkDenoiser(network=network, process=self.process, predict=self.predict, autocast=autocast)

    @torch.no_grad()
    def encode_prompts(self, prompts: Sequence[str]) -> Condition:
        """Condition of each prompt, one row each, in float32 on the CPU; long prompts are cut, as is said."""
        condition = self.text_condition(self.pipeline, list(prompts))
        return {name: value.float().cpu() for name, value in condition.items()}

    def image_conditions(self, framings: Sequence[Framing]) -> Condition:
        """What the model is told of each image beside its prompt, one row each; often nothing."""
        return self.told(framings)

    @torch.no_grad()
    def encode_images(
        self, pixels: Float[Tensor, "N 3 *T H W"]
    ) -> tuple[Float[Tensor, " N *D"], Float[Tensor, " N *D"]]:
        """Mean and standard deviation of the scaled latents of images in [-1, 1]."""
        vae = self.pipeline.vae
        mean, deviation = self.latents.encoded(vae, pixels.to(vae.device, vae.dtype))
        return mean.float().cpu(), deviation.float().cpu()

    @torch.no_grad()
    def decode(self, latents: Float[Tensor, " N *D"]) -> Float[Tensor, "N 3 *T H W"]:
        """Images in [0, 1] of scaled latents."""
        vae = self.pipeline.vae
        decoded = self.latents.decoded(vae, latents.to(vae.device, vae.dtype))
        return (decoded.float() / 2 + 0.5).clamp(0, 1).cpu()

    def release_encoders(self) -> None:
        """Free the text encoders and the VAE; they cannot be used afterwards."""
        for name, part in self.pipeline.components.items():
            if isinstance(part, nn.Module) and name != self.network_part:
                setattr(self.pipeline, name, None)

    def write_lora(self, folder: Path, layers: Mapping[str, Tensor], metadata: Mapping[str, Any]) -> None:
        """Write adapter weights in the form that `load_lora_weights` of the pipeline's class reads."""
        own, text = _tokens.apart(layers)
        of_part = {
            f"{part}_lora_{what}": dict(value)
            for part, held in ((self.network_part, own), (_tokens.PART, text))
            for what, value in (("layers", held), ("adapter_metadata", metadata))
            if held
        }
        type(self.pipeline).save_lora_weights(str(folder), safe_serialization=True, **of_part)
