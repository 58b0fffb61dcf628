"""Terms that keep the winners likely.  Axes: B groups, K candidates."""

from dataclasses import dataclass
from typing import ClassVar, final

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from penchant.numerics import at_least_float32, require_positive
from penchant.protocols import Batch, Evidence, Groups, Models
from penchant.randomness import Randomness


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class WinnerLikelihood:
    """coefficient * (-log policy of the winner): plain fine-tuning on winners beside the preference loss.

    For a diffusion ratio, minus log policy is the scaled denoising error. Groups without a winner (an
    undesirable single sample) add 0.

    Attributes:
        coefficient: Per nat; > 0.

    Source:
        Pang et al. 2024 (iterative RPO), arXiv:2404.19733, for language models.
    """

    reads: ClassVar[frozenset[Evidence]] = frozenset()

    coefficient: float

    def __post_init__(self) -> None:
        require_positive("coefficient", self.coefficient)

    def __call__(
        self, models: Models, batch: Batch, groups: Groups, draws: Randomness
    ) -> Float[Tensor, " B"]:
        """Loss of each group, its coefficient included."""
        return -self.coefficient * _winner(groups, groups.log_policy)


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class WinnerKept:
    """coefficient * max(0, log reference - log policy of the winner): no winner less likely than before.

    It is 0, with gradient 0, as long as the policy explains the winner at least as well as the reference.

    Attributes:
        coefficient: Per nat; > 0. On mean denoising errors it lives on the scale of beta.

    Source:
        Pal et al. 2024 (DPO-Positive), arXiv:2402.13228, eq. 3, where it stands inside the sigmoid.
    """

    reads: ClassVar[frozenset[Evidence]] = frozenset({Evidence.RATIO})

    coefficient: float

    def __post_init__(self) -> None:
        require_positive("coefficient", self.coefficient)

    def __call__(
        self, models: Models, batch: Batch, groups: Groups, draws: Randomness
    ) -> Float[Tensor, " B"]:
        """Loss of each group, its coefficient included."""
        return self.coefficient * F.relu(-_winner(groups, groups.log_ratio))


def _winner(groups: Groups, values: Float[Tensor, "B K"]) -> Float[Tensor, " B"]:
    """The value of column 0, or 0 where a single sample is undesirable."""
    first = at_least_float32(values[:, 0])
    if groups.score is None or groups.score.shape[1] > 1:
        return first
    return torch.where(groups.score[:, 0] < 0, 0.0, first)
