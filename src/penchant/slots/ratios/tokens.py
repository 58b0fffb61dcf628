"""Log-ratio of a language model's completions.  Axes: B groups, K candidates, L tokens, V vocabulary."""

from dataclasses import dataclass
from typing import ClassVar, final

import torch
from jaxtyping import Float
from torch import Tensor

from penchant.language.logprobs import completion_log_probs, token_log_probs
from penchant.protocols import Domain, Evidence, Groups, Models, Reduction, TokenBatch, TokenModel
from penchant.randomness import Randomness


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Tokens:
    """Log-probability of each completion under policy and reference, prompt tokens excluded.

    Attributes:
        reduction: `sum` over the completion's tokens (the log-likelihood), or `mean` (length-normalised).

    Source:
        Rafailov et al. 2023, arXiv:2305.18290.
    """

    domain: ClassVar[Domain] = Domain.LANGUAGE
    provides: ClassVar[frozenset[Evidence]] = frozenset({Evidence.RATIO, Evidence.LIKELIHOOD})

    reduction: Reduction = "sum"

    def __call__(self, models: Models, batch: TokenBatch, draws: Randomness) -> Groups:
        """Log policy and log reference of every candidate."""
        tokens, attended = batch.tokens.flatten(0, 1), batch.attended.flatten(0, 1)
        completion = batch.completion.flatten(0, 1)

        def log_prob(model: TokenModel) -> Float[Tensor, "B K"]:
            log_probs = token_log_probs(model(tokens, attended), tokens)
            total = completion_log_probs(log_probs, completion)
            if self.reduction == "mean":
                total = total / completion.sum(1).clamp(min=1)
            return total.unflatten(0, batch.tokens.shape[:2])

        log_policy = log_prob(models.policy)
        log_reference = None
        if models.reference is not None:
            with torch.no_grad():
                log_reference = log_prob(models.reference)
        return Groups(
            log_policy=log_policy, log_reference=log_reference, score=batch.score, valid=batch.valid
        )
