"""Causal language models of transformers.  Axes: N sequences, L tokens, V vocabulary."""

from dataclasses import dataclass
from typing import final

from jaxtyping import Bool, Float, Int
from torch import Tensor, nn


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class CausalLanguageModel:
    """A transformers model as the token ratio sees it; dropout off."""

    network: nn.Module

    def __post_init__(self) -> None:
        self.network.eval()

    def __call__(self, tokens: Int[Tensor, "N L"], attended: Bool[Tensor, "N L"]) -> Float[Tensor, "N L V"]:
        """Logits; position l predicts token l + 1."""
        return self.network(input_ids=tokens, attention_mask=attended.long(), use_cache=False).logits
