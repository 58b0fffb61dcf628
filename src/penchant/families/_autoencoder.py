"""How pixels become the latents that a network is given, and back: scale and shift differ by autoencoder.

Axes: N images or videos, T frames, D = C H W of a latent, or C F H W of a video's.
"""

from typing import Any, Protocol, final

import torch
from jaxtyping import Float
from torch import Tensor


class Latents(Protocol):
    """Law of one kind of autoencoder."""

    def channels(self, vae: Any) -> int:
        """Channels of its latents."""
        ...

    def encoded(
        self, vae: Any, pixels: Float[Tensor, "N 3 *T H W"]
    ) -> tuple[Float[Tensor, " N *D"], Float[Tensor, " N *D"]]:
        """Mean and standard deviation of the latents of pixels in [-1, 1]."""
        ...

    def decoded(self, vae: Any, latents: Float[Tensor, " N *D"]) -> Float[Tensor, "N 3 *T H W"]:
        """Pixels, near [-1, 1]."""
        ...


@final
class Scaled:
    """A Gaussian posterior, shifted and scaled as a whole."""

    def channels(self, vae: Any) -> int:
        """Channels of its latents."""
        return vae.config.latent_channels

    def encoded(
        self, vae: Any, pixels: Float[Tensor, "N 3 H W"]
    ) -> tuple[Float[Tensor, " N *D"], Float[Tensor, " N *D"]]:
        """Mean and standard deviation of the latents of pixels in [-1, 1]."""
        posterior = vae.encode(pixels).latent_dist
        scale, shift = vae.config.scaling_factor, vae.config.shift_factor or 0.0
        return (posterior.mean - shift) * scale, posterior.std * scale

    def decoded(self, vae: Any, latents: Float[Tensor, " N *D"]) -> Float[Tensor, "N 3 H W"]:
        """Pixels, near [-1, 1]."""
        return vae.decode(latents / vae.config.scaling_factor + (vae.config.shift_factor or 0.0)).sample


@final
class Deterministic:
    """One latent for each image, scaled: its standard deviation is 0."""

    def channels(self, vae: Any) -> int:
        """Channels of its latents."""
        return vae.config.latent_channels

    def encoded(
        self, vae: Any, pixels: Float[Tensor, "N 3 H W"]
    ) -> tuple[Float[Tensor, " N *D"], Float[Tensor, " N *D"]]:
        """Mean and standard deviation of the latents of pixels in [-1, 1]."""
        latents = vae.encode(pixels).latent * vae.config.scaling_factor
        return latents, torch.zeros_like(latents)

    def decoded(self, vae: Any, latents: Float[Tensor, " N *D"]) -> Float[Tensor, "N 3 H W"]:
        """Pixels, near [-1, 1]."""
        return vae.decode(latents / vae.config.scaling_factor).sample


@final
class Frames:
    """A Gaussian posterior of a video, shifted and scaled by channel; an image is a video of one frame."""

    def channels(self, vae: Any) -> int:
        """Channels of its latents."""
        return vae.config.z_dim

    def encoded(
        self, vae: Any, pixels: Float[Tensor, "N 3 *T H W"]
    ) -> tuple[Float[Tensor, " N *D"], Float[Tensor, " N *D"]]:
        """Mean and standard deviation of the latents of pixels in [-1, 1]."""
        posterior = vae.encode(pixels if pixels.ndim == 5 else pixels.unsqueeze(2)).latent_dist
        mean, deviation = _by_channel(vae)
        return (posterior.mean - mean) / deviation, posterior.std / deviation

    def decoded(self, vae: Any, latents: Float[Tensor, " N *D"]) -> Float[Tensor, "N 3 *T H W"]:
        """Pixels, near [-1, 1]; without the axis of frames if there is one frame."""
        mean, deviation = _by_channel(vae)
        pixels = vae.decode(latents * deviation + mean).sample
        return pixels.squeeze(2) if pixels.shape[2] == 1 else pixels


def _by_channel(vae: Any) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of the latents of a video autoencoder, [1, C, 1, 1, 1]."""
    values = torch.tensor([vae.config.latents_mean, vae.config.latents_std])
    mean, deviation = values.to(vae.device, vae.dtype).reshape(2, 1, -1, 1, 1, 1)
    return mean, deviation
