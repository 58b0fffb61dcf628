"""Diffusion-KTO: likes and dislikes of single images, through a human utility of the implicit reward.

Beta is in units of 1 / (MEAN squared error over a latent), without the 1/2. The paper uses 5000, the released
code defaults to 1000; the latter is the default here.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar, Final, Literal, final

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from penchant.numerics import at_least_float32, require_positive
from penchant.protocols import Evidence, Groups
from penchant.shapes import Shape
from penchant.slots.compose import Method
from penchant.slots.ratios.denoising import Denoising
from penchant.slots.weights.uniform import Uniform

Utility = Literal["sigmoid", "loss_averse", "risk_seeking_1", "risk_seeking_2", "risk_seeking_3"]

UTILITIES: Final[Mapping[Utility, Callable[[Tensor, Tensor], Tensor]]] = {
    "sigmoid": lambda label, gain: torch.sigmoid(label * gain),
    "loss_averse": lambda label, gain: F.logsigmoid(label * gain),
    "risk_seeking_1": lambda label, gain: -label * F.logsigmoid(-gain),
    "risk_seeking_2": lambda label, gain: label * torch.exp(gain / 100) - 1,
    "risk_seeking_3": lambda label, gain: -F.logsigmoid(-label * gain),
}
"""Utility of a label y = +-1 and a gain beta (h - Q); the names are those of the released code."""


def reference_point(
    log_ratio: Float[Tensor, " M"], label: Float[Tensor, " M"], rule: Literal["batch", "class_balanced"]
) -> Float[Tensor, ""]:
    """What an average sample gains, over the whole global batch of M samples.

    Args:
        log_ratio: h of every sample.
        label: +1 desirable, -1 undesirable.
        rule: `batch`: the mean, at least 0. `class_balanced`: the mean of the two class means, not clamped (0
            counts for a class that is absent).

    Source:
        Li et al. 2024, arXiv:2404.04465, released code (modes `none` and `sigmoid`).
    """
    if rule == "batch":
        return log_ratio.mean().clamp(min=0)
    means = [
        (log_ratio * chosen).sum() / chosen.sum().clamp(min=1)
        for chosen in ((label > 0).to(log_ratio.dtype), (label < 0).to(log_ratio.dtype))
    ]
    return 0.5 * (means[0] + means[1])


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class HumanUtility:
    r"""1 - U_y(beta (h - Q)), with the reference point Q over the whole global batch.

    Attributes:
        beta: Sharpness of the utility, in 1/nats; > 0.
        utility: Shape of U: `sigmoid` (Kahneman-Tversky), concave, or convex.
        reference: Rule for Q, see `reference_point`. The paper's own rule (mismatched prompts, clamped)
            matches neither mode of its released code.
        desirable_weight: Weight of samples with label +1; > 0.
        undesirable_weight: Weight of samples with label -1; > 0.

    Source:
        Li et al. 2024, arXiv:2404.04465.
    """

    shape: ClassVar[Shape] = Shape.UNARY
    reads: ClassVar[frozenset[Evidence]] = frozenset({Evidence.RATIO})
    couples_batch: ClassVar[bool] = True

    beta: float
    utility: Utility = "sigmoid"
    reference: Literal["batch", "class_balanced"] = "batch"
    desirable_weight: float = 1.0
    undesirable_weight: float = 1.0

    def __post_init__(self) -> None:
        for name in ("beta", "desirable_weight", "undesirable_weight"):
            require_positive(name, getattr(self, name))

    def __call__(self, groups: Groups) -> Float[Tensor, " B"]:
        """Loss of each group."""
        assert groups.whole is not None and groups.whole.score is not None and groups.score is not None
        anchor = reference_point(
            at_least_float32(groups.whole.log_ratio[:, 0]), groups.whole.score[:, 0], self.reference
        )
        label = groups.score[:, 0]
        gain = self.beta * (at_least_float32(groups.log_ratio[:, 0]) - anchor)
        weight = torch.where(label > 0, self.desirable_weight, self.undesirable_weight)
        return weight * (1 - UTILITIES[self.utility](label, gain))


METHOD = Method(
    name="diffusion-kto",
    source="Li et al. 2024, arXiv:2404.04465",
    shape=Shape.UNARY,
    ratio=Denoising(scale=1.0),
    objective=HumanUtility(beta=1000.0),
    weight=Uniform(),
)
