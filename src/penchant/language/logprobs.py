"""Log-probabilities of tokens.  Axes: N sequences, L tokens, V vocabulary."""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from penchant.numerics import at_least_float32


def token_log_probs(logits: Float[Tensor, "N L V"], tokens: Int[Tensor, "N L"]) -> Float[Tensor, "N L"]:
    """Log-probability of each token given those before it, in at least float32; 0 for the first.

    Position l of the logits predicts token l + 1.
    """
    predicted = at_least_float32(logits[:, :-1])
    chosen = predicted.gather(2, tokens[:, 1:, None]).squeeze(2)
    return torch.nn.functional.pad(chosen - predicted.logsumexp(2), (1, 0))


def completion_log_probs(
    log_probs: Float[Tensor, "N L"], completion: Bool[Tensor, "N L"]
) -> Float[Tensor, " N"]:
    """SUM of the log-probabilities of the completion's tokens; all others count exactly 0."""
    return torch.where(completion, log_probs, 0.0).sum(1)
