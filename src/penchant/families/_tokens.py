"""A text encoder that trains with the denoising network: it becomes a part of it, and prompts come as tokens.

Axes: N prompts, L tokens, C channels, D = C H W of a latent.
"""

from collections.abc import Callable, Mapping
from typing import Any, Final

from jaxtyping import Float
from torch import Tensor, nn

from penchant.protocols import Condition

TOKENS: Final = "tokens"
"""Name in a condition of the tokens of each prompt, [N, L]: whole numbers, of whatever type."""
LORA_TARGETS: Final = ("q_proj", "k_proj", "v_proj", "out_proj")
"""Ends of the names of a CLIP's layers that a LoRA adapts by default, as diffusers does."""
PART: Final = "text_encoder"
"""Name of the encoder in its pipeline, within the network that has adopted it, and of its adapters."""

Predict = Callable[[nn.Module, Tensor, Tensor, Condition], Tensor]
"""Network, noisy latents, timestep and condition give the network's output for the latents."""


def adopt(network: nn.Module, encoder: nn.Module) -> None:
    """Make the encoder a part of the network, which may then be called with tokens instead of embeddings.

    So there is still one module that trains: adapters, checkpoints, averages and gradients over processes
    need not know of two. With embeddings, as its pipeline calls it, the network works as before.

    Args:
        network: A diffusers UNet.
        encoder: Gives [N, L, C] for [N, L] as the first of its outputs.
    """
    network.add_module(PART, encoder)
    network.register_forward_pre_hook(_embedded, with_kwargs=True)


def reading_tokens(predict: Predict) -> Predict:
    """How a network that has adopted its text encoder is called."""

    def predicted(
        network: nn.Module, noisy: Float[Tensor, " N *D"], timestep: Tensor, condition: Condition
    ) -> Float[Tensor, " N *D"]:
        return predict(network, noisy, timestep, {**condition, "prompt": condition[TOKENS].long()})

    return predicted


def apart(layers: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Adapter weights of the network alone, and of its text encoder by the names that files have for them.

    Files keep the names of transformers before version 5, where a CLIP's layers lay in `text_model`.
    """
    inside, outer = f"{PART}.", "text_model."
    own = {name: value for name, value in layers.items() if not name.startswith(inside)}
    text = {name.removeprefix(inside): value for name, value in layers.items() if name not in own}
    return own, {outer + name.removeprefix(outer): value for name, value in text.items()}


def _embedded(
    network: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    given = kwargs["encoder_hidden_states"]
    if given.is_floating_point():
        return args, kwargs
    return args, {**kwargs, "encoder_hidden_states": network.get_submodule(PART)(given)[0]}
