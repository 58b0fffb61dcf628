"""Sampling with a model that refines: another one begins every image, at the same seeds.

Axes: N images, H W pixels.
"""

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor

from penchant.errors import ConfigError
from penchant.families import PipelineFamily


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Refinement:
    """Two plain diffusers pipelines that are called as one.

    Attributes:
        first: Denoises from pure noise, and hands its latents over.
        second: Goes on with them to the image.
        hand_over: Share of the noise scale that the first one does, in (0, 1).
    """

    first: Any
    second: Any
    hand_over: float

    def __call__(
        self,
        *,
        prompt: Sequence[str],
        generator: Sequence[torch.Generator],
        num_inference_steps: int,
        guidance_scale: float,
        height: int,
        width: int,
        output_type: str,
        eta: float = 0.0,
    ) -> tuple[Tensor]:
        """The images, as a pipeline returns them; both parts together make the steps.

        Args:
            prompt: One for each image.
            generator: One for each image; the second pipeline goes on with them.
            num_inference_steps: Steps from pure noise to the image.
            guidance_scale: Of both pipelines.
            height: Of the images, in pixels.
            width: Of the images, in pixels.
            output_type: As the second pipeline takes it.
            eta: Noise of the sampler, for schedulers that read it.
        """
        both = {
            "prompt": list(prompt),
            "generator": list(generator),
            "num_inference_steps": num_inference_steps,
            "guidance_scale": guidance_scale,
            "eta": eta,
        }
        begun = self.first(
            **both, height=height, width=width, denoising_end=self.hand_over, output_type="latent"
        )[0]
        images = self.second(**both, image=begun, denoising_start=self.hand_over, output_type=output_type)[0]
        return (images,)


def refinement(first: PipelineFamily, model: PipelineFamily, *, num_steps: int) -> Refinement:
    """What draws whole images with a model that refines.

    Args:
        first: The model that begins them.
        model: The one that refines.
        num_steps: Denoising steps of both together.

    Raises:
        ConfigError: The first one cannot hand over, its noise is not that of the other, or one of them would
            get no step.
    """
    pipeline, scheduler = first.pipeline, model.pipeline.scheduler
    if first.noise_span < 1 or "denoising_end" not in inspect.signature(pipeline.__call__).parameters:
        raise ConfigError(
            f"first_model: a {type(pipeline).__name__} cannot begin images for another model. Give the base "
            "model of Stable Diffusion XL."
        )
    for one in (pipeline.scheduler, scheduler):
        one.set_timesteps(num_steps)
    same_noise = all(
        torch.equal(getattr(pipeline.scheduler, name), getattr(scheduler, name))
        for name in ("timesteps", "alphas_cumprod")
    )
    if type(pipeline.scheduler) is not type(scheduler) or not same_noise:
        raise ConfigError(
            f"first_model: its scheduler, {type(pipeline.scheduler).__name__}, has other steps or other "
            f"noise than the trained model's, {type(scheduler).__name__}, so its latents do not fit. Give "
            "one with the same scheduler config."
        )
    refined = int((scheduler.timesteps < model.noise_span * scheduler.config.num_train_timesteps).sum())
    if not 0 < refined < len(scheduler.timesteps):
        raise ConfigError(
            f"num_steps: of {num_steps} steps the model that refines gets {refined}; it and the first model "
            "need one each. Take more steps."
        )
    return Refinement(first=pipeline, second=model.pipeline, hand_over=1 - model.noise_span)
