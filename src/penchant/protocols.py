"""Every seam of the library, typed.

Axes: B groups (one prompt each), K candidates in a group, D the axes of one sample (C H W of a latent),
N = B * K flattened, L tokens, V vocabulary.
"""

import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, ClassVar, Literal, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from penchant.randomness import Randomness
from penchant.shapes import Shape

Reduction = Literal["mean", "sum"]
Condition = Mapping[str, Tensor]


class Domain(enum.Enum):
    """Kind of generative process."""

    DIFFUSION = "diffusion"
    LANGUAGE = "language"


class Evidence(enum.Enum):
    """What a ratio can say of a candidate, and what the other slots read.

    RATIO: log policy - log reference. ERROR: minus log policy is a denoising error, >= 0. LIKELIHOOD: the
    policy's own log-probability. NOISE_LEVEL: the log signal-to-noise ratio at which the group was measured.
    """

    RATIO = "log-ratio to a reference"
    ERROR = "denoising error"
    LIKELIHOOD = "log-likelihood"
    NOISE_LEVEL = "noise level"


@dataclass(frozen=True, slots=True, kw_only=True)
class Groups:
    """What a ratio hands to the other slots; column 0 is the best candidate.

    Attributes:
        log_policy: Log-likelihood of each candidate under the policy, in nats, up to a constant that it
            shares with log_reference. A diffusion ratio gives minus its (scaled) denoising error.
        log_reference: The same under the reference; None if the method has no reference.
        score: RANKED: preference score in [0, 1]. UNARY: +1 desirable, -1 undesirable. PAIR: None, or equal
            scores for a tie.
        valid: False where a candidate is padding.
        error: Squared denoising error of the policy, mean over the elements of a latent, whatever the ratio
            does with it; for logs and guards, not for objectives.
        error_reference: The same of the reference.
        log_snr: Log signal-to-noise ratio at which the group was measured.
        time: Position on the noise scale, 0 clean to 1 noise.
        importance: How much rarer than by the law of its noise level the group is seen there; its loss is
            multiplied by it. None means 1.
        whole: The same groups of the whole global batch (all micro-batches and processes), detached; set for
            objectives that couple the batch.
    """

    log_policy: Float[Tensor, "B K"]
    log_reference: Float[Tensor, "B K"] | None = None
    score: Float[Tensor, "B K"] | None = None
    valid: Bool[Tensor, "B K"] | None = None
    error: Float[Tensor, "B K"] | None = None
    error_reference: Float[Tensor, "B K"] | None = None
    log_snr: Float[Tensor, " B"] | None = None
    time: Float[Tensor, " B"] | None = None
    importance: Float[Tensor, " B"] | None = None
    whole: "Groups | None" = None

    @property
    def log_ratio(self) -> Float[Tensor, "B K"]:
        """Log policy - log reference; log policy alone if the method has no reference."""
        return self.log_policy if self.log_reference is None else self.log_policy - self.log_reference

    @property
    def last(self) -> Int[Tensor, " B"]:
        """Column of the worst candidate."""
        rows, columns = self.log_policy.shape
        if self.valid is None:
            return torch.full((rows,), columns - 1, device=self.log_policy.device)
        return self.valid.sum(1) - 1

    def tensors(self) -> dict[str, Tensor]:
        """The fields that are set, without `whole`."""
        named = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "whole"}
        return {name: value for name, value in named.items() if value is not None}

    def detach(self) -> "Groups":
        """The same numbers without gradient."""
        detached: dict[str, Any] = {name: value.detach() for name, value in self.tensors().items()}
        return Groups(**detached)


@dataclass(frozen=True, slots=True, kw_only=True)
class LatentBatch:
    """Clean samples to be compared by their denoising errors.

    Attributes:
        ids: Stable name of each group; keys its random draws.
        latents: Clean latents, already multiplied by the VAE's scaling factor; best candidate first.
        condition: What the denoiser is conditioned on, by name; leading axes B and K, or B and 1 where all
            candidates share it.
        score: As in Groups.
        valid: As in Groups.
        quantile: Where in the law of the timesteps each group is measured, in [0, 1); None draws it.
        importance: As in Groups.
        reference_error: `Groups.error_reference`, measured before; None if the reference is to be asked.
    """

    ids: tuple[str, ...]
    latents: Float[Tensor, "B K *D"]
    condition: Condition
    score: Float[Tensor, "B K"] | None = None
    valid: Bool[Tensor, "B K"] | None = None
    quantile: Float[Tensor, " B"] | None = None
    importance: Float[Tensor, " B"] | None = None
    reference_error: Float[Tensor, "B K"] | None = None

    def to(self, device: torch.device) -> "LatentBatch":
        """The same batch on another device."""
        return _moved(self, device)


@dataclass(frozen=True, slots=True, kw_only=True)
class StepBatch:
    """One step of sampled trajectories, to be compared by the density of the step.

    Attributes:
        ids: Stable name of each group.
        state: x_t of each candidate.
        action: x_{t'} that was sampled from it.
        timestep: Timestep t of the state.
        next_timestep: Timestep t' of the action; < t.
        condition: As in LatentBatch.
        unconditional: Condition of the unguided half of classifier-free guidance.
        score: Preference of the final samples; equal scores are a tie.
        valid: As in Groups.
    """

    ids: tuple[str, ...]
    state: Float[Tensor, "B K *D"]
    action: Float[Tensor, "B K *D"]
    timestep: Int[Tensor, " B"]
    next_timestep: Int[Tensor, " B"]
    condition: Condition
    unconditional: Condition
    score: Float[Tensor, "B K"] | None = None
    valid: Bool[Tensor, "B K"] | None = None

    def to(self, device: torch.device) -> "StepBatch":
        """The same batch on another device."""
        return _moved(self, device)


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenBatch:
    """Completions of one prompt, to be compared by their token log-probabilities.

    Attributes:
        ids: Stable name of each group.
        tokens: Prompt and completion, padded on the right.
        attended: True where there is a token, False on padding.
        completion: True where the token belongs to the completion (end-of-sequence included).
        score: As in Groups.
        valid: As in Groups.
    """

    ids: tuple[str, ...]
    tokens: Int[Tensor, "B K L"]
    attended: Bool[Tensor, "B K L"]
    completion: Bool[Tensor, "B K L"]
    score: Float[Tensor, "B K"] | None = None
    valid: Bool[Tensor, "B K"] | None = None

    def to(self, device: torch.device) -> "TokenBatch":
        """The same batch on another device."""
        return _moved(self, device)


def _moved(batch: Any, device: torch.device) -> Any:
    changes: dict[str, Any] = {}
    for field in fields(batch):
        value = getattr(batch, field.name)
        if isinstance(value, Tensor):
            changes[field.name] = value.to(device)
        elif isinstance(value, Mapping):
            changes[field.name] = {name: tensor.to(device) for name, tensor in value.items()}
    return replace(batch, **changes)


Batch = LatentBatch | StepBatch | TokenBatch


@runtime_checkable
class NoiseProcess(Protocol):
    """How a diffusion or flow model adds noise, and what it is trained to predict."""

    @property
    def num_timesteps(self) -> int:
        """Number of timesteps of the training law."""
        ...

    def timestep(self, quantile: Float[Tensor, " N"]) -> Tensor:
        """Timestep at a quantile in [0, 1) of the training law."""
        ...

    def time(self, timestep: Tensor) -> Float[Tensor, " N"]:
        """Position on the noise scale, 0 clean to 1 noise."""
        ...

    def log_snr(self, timestep: Tensor) -> Float[Tensor, " N"]:
        """Log signal-to-noise ratio."""
        ...

    def noised(
        self, clean: Float[Tensor, " N *D"], noise: Float[Tensor, " N *D"], timestep: Tensor
    ) -> Float[Tensor, " N *D"]:
        """The sample with noise added."""
        ...

    def target(
        self, clean: Float[Tensor, " N *D"], noise: Float[Tensor, " N *D"], timestep: Tensor
    ) -> Float[Tensor, " N *D"]:
        """What the network should predict there."""
        ...


@runtime_checkable
class Denoiser(Protocol):
    """A diffusion model as the ratios see it."""

    @property
    def process(self) -> NoiseProcess:
        """How it adds noise."""
        ...

    def __call__(
        self, noisy: Float[Tensor, " N *D"], timestep: Tensor, condition: Condition
    ) -> Float[Tensor, " N *D"]:
        """The network's prediction."""
        ...


@runtime_checkable
class TokenModel(Protocol):
    """A causal language model as the ratios see it."""

    def __call__(self, tokens: Int[Tensor, "N L"], attended: Bool[Tensor, "N L"]) -> Float[Tensor, "N L V"]:
        """Logits; position l predicts token l + 1."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Models:
    """The models that a step may call.

    Attributes:
        policy: The model in training: a Denoiser or a TokenModel, as the ratio's domain says.
        reference: The model it is leashed to; None for methods without one.
    """

    policy: Any
    reference: Any | None = None


@runtime_checkable
class Ratio(Protocol):
    """Estimate of log policy and log reference of every candidate."""

    domain: ClassVar[Domain]
    provides: ClassVar[frozenset[Evidence]]

    def __call__(self, models: Models, batch: Any, draws: Randomness) -> Groups:
        """The estimates of one batch."""
        ...


@runtime_checkable
class Objective(Protocol):
    """Preference objective over the candidates of each group.

    `couples_batch` says that the loss of one group depends on statistics of the whole global batch; it then
    reads `groups.whole`.
    """

    shape: ClassVar[Shape]
    reads: ClassVar[frozenset[Evidence]]
    couples_batch: ClassVar[bool]

    def __call__(self, groups: Groups) -> Float[Tensor, " B"]:
        """Loss of each group."""
        ...


@runtime_checkable
class Weight(Protocol):
    """Weight of each group in the loss; always detached by `compose.step`."""

    reads: ClassVar[frozenset[Evidence]]

    def __call__(self, groups: Groups) -> Float[Tensor, " B"]:
        """Weight of each group, >= 0."""
        ...


@runtime_checkable
class Term(Protocol):
    """A loss that is added to the objective; it may call the models again."""

    reads: ClassVar[frozenset[Evidence]]

    def __call__(
        self, models: Models, batch: Batch, groups: Groups, draws: Randomness
    ) -> Float[Tensor, " B"]:
        """Loss of each group, its coefficient included."""
        ...


@runtime_checkable
class Reward(Protocol):
    """Score of finished images; higher is better."""

    @property
    def name(self) -> str:
        """Under which its scores are shown and stored."""
        ...

    @property
    def unit(self) -> str:
        """Unit of the score."""
        ...

    @property
    def version(self) -> str:
        """Equal names and versions give equal scores; it holds a hash of the weights, and the options."""
        ...

    @property
    def judges(self) -> bool:
        """True if images are better for a higher score; False if it describes them."""
        ...

    def __call__(self, images: Float[Tensor, "N 3 H W"], prompts: Sequence[str]) -> Float[Tensor, " N"]:
        """Score of each image, given its prompt; images in [0, 1]."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Framing:
    """How a training image was cut out of its original; some models are told.

    Attributes:
        original: Height and width of the original, in pixels.
        crop: Top and left of the window in the resized (and mirrored) original, in pixels.
        size: Height and width of the window, in pixels.
    """

    original: tuple[int, int]
    crop: tuple[int, int]
    size: tuple[int, int]


class DiffusionFamily(Protocol):
    """One loaded text-to-image model: all that training, sampling and export need of it.

    Attributes:
        process: How it adds noise in training; the model's own unless a run changes it.
    """

    process: NoiseProcess

    @property
    def name(self) -> str:
        """Name of the family."""
        ...

    @property
    def network(self) -> Any:
        """The denoising network, a diffusers model: adapters are switched on it."""
        ...

    @property
    def network_part(self) -> str:
        """Name of the network among the parts of a pipeline folder, and prefix of its adapters."""
        ...

    @property
    def noise_span(self) -> float:
        """Share of the noise scale, from its clean end, that the model denoises, in (0, 1].

        Below 1 it refines what another model has begun, and draws nothing of its own.
        """
        ...

    @property
    def lora_targets(self) -> tuple[str, ...]:
        """Endings of the names of the layers that a LoRA adapts by default."""
        ...

    @property
    def size(self) -> int:
        """Side of the images that the model draws, in pixels."""
        ...

    @property
    def size_step(self) -> int:
        """Sides of images are multiples of it, in pixels."""
        ...

    @property
    def sample_shape(self) -> tuple[int, ...]:
        """Shape of one latent at that size."""
        ...

    def train_text_encoder(self, *, where: str) -> None:
        """Make the text encoder a part of the network, and let conditions hold tokens of the prompts.

        Args:
            where: Place of the option, for messages.

        Raises:
            ConfigError: The family does not offer it.
        """
        ...

    def checkpoint_gradients(self) -> None:
        """Let the network compute its activations again in the backward pass instead of keeping them."""
        ...

    def to(self, device: torch.device) -> None:
        """Move network and encoders."""
        ...

    def denoiser(self, network: nn.Module, *, autocast: torch.dtype | None = None) -> Denoiser:
        """Wrap a network (the family's own, or a prepared copy) so that ratios can call it."""
        ...

    def encode_prompts(self, prompts: Sequence[str]) -> Condition:
        """Condition of each prompt, one row each."""
        ...

    def image_conditions(self, framings: Sequence[Framing]) -> Condition:
        """What the model is told of each image beside its prompt, one row each; often nothing."""
        ...

    def encode_images(
        self, pixels: Float[Tensor, "N 3 *T H W"]
    ) -> tuple[Float[Tensor, " N *D"], Float[Tensor, " N *D"]]:
        """Mean and standard deviation of the scaled latent posterior of images in [-1, 1].

        A model of videos also takes pixels with an axis of frames.
        """
        ...

    def decode(self, latents: Float[Tensor, " N *D"]) -> Float[Tensor, "N 3 *T H W"]:
        """Images in [0, 1] of scaled latents; videos have an axis of frames, unless there is one frame."""
        ...

    def release_encoders(self) -> None:
        """Free the text encoders and the VAE; they cannot be used afterwards."""
        ...

    def write_lora(self, folder: Path, layers: Mapping[str, Tensor], metadata: Mapping[str, Any]) -> None:
        """Write adapter weights in the form that the pipeline's own `load_lora_weights` reads."""
        ...
