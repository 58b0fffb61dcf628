"""RankDPO: ranked lists of K images, every pair weighted by what swapping it would cost the DCG.

Beta is in units of 1 / (half the MEAN squared error over a latent). The paper reports neither beta nor
learning rate; 5000 is Diffusion-DPO's value (UNVERIFIED).
"""

from dataclasses import dataclass
from typing import ClassVar, final

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from penchant.numerics import at_least_float32, require_positive
from penchant.protocols import Evidence, Groups, Reduction
from penchant.shapes import Shape
from penchant.slots.compose import Method
from penchant.slots.ratios.denoising import Denoising
from penchant.slots.weights.uniform import Uniform


def discounted_gain_gap(score: Float[Tensor, "B K"]) -> Float[Tensor, "B K K"]:
    """|G_i - G_j| * |1/D_i - 1/D_j|, with G = 2^score - 1 and D = log(1 + rank), rank 1 the best.

    Args:
        score: Preference in [0, 1], sorted best first.

    Source:
        Karthik et al. 2024, arXiv:2410.18013. The base of the logarithm is not stated there; natural here.
    """
    gain = 2**score - 1
    rank = torch.arange(1, score.shape[1] + 1, device=score.device, dtype=score.dtype)
    discount = 1 / torch.log(1 + rank)
    return (gain[:, :, None] - gain[:, None, :]).abs() * (discount[:, None] - discount[None, :]).abs()


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class DiscountedPairs:
    r"""L = reduce over pairs (i preferred to j) of Delta_ij * (-log sigmoid(beta (h_i - h_j))).

    At policy = reference it is log 2 times the sum (or mean) of the Delta_ij, not log 2.

    Attributes:
        beta: Pull towards the reference, in 1/nats; > 0.
        reduction: `sum` over the pairs of a list (the paper), or `mean` (for lists of varying length).

    Source:
        Karthik et al. 2024, arXiv:2410.18013, eq. 7.
    """

    shape: ClassVar[Shape] = Shape.RANKED
    reads: ClassVar[frozenset[Evidence]] = frozenset({Evidence.RATIO})
    couples_batch: ClassVar[bool] = False

    beta: float
    reduction: Reduction = "sum"

    def __post_init__(self) -> None:
        require_positive("beta", self.beta)

    def __call__(self, groups: Groups) -> Float[Tensor, " B"]:
        """Loss of each group."""
        assert groups.score is not None, "a ranked list carries scores"
        log_ratio, score = at_least_float32(groups.log_ratio), at_least_float32(groups.score)
        preferred = score[:, :, None] > score[:, None, :]
        if groups.valid is not None:
            preferred = preferred & groups.valid[:, :, None] & groups.valid[:, None, :]
        margin = log_ratio[:, :, None] - log_ratio[:, None, :]
        loss = discounted_gain_gap(score) * F.softplus(-self.beta * margin)
        total = torch.where(preferred, loss, 0.0).sum((1, 2))
        return total if self.reduction == "sum" else total / preferred.sum((1, 2)).clamp(min=1)


METHOD = Method(
    name="rank-dpo",
    source="Karthik et al. 2024, arXiv:2410.18013, eq. 7",
    shape=Shape.RANKED,
    ratio=Denoising(shared_noise=False),
    objective=DiscountedPairs(beta=5000.0),
    weight=Uniform(),
)
