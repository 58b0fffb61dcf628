"""D3PO: DPO on every denoising step of two sampled trajectories that share their initial noise.

Beta is in 1/nats of the log-density per element (MEAN over a latent); 0.1 is published.
"""

import math
from dataclasses import dataclass
from typing import ClassVar, final

from jaxtyping import Float
from torch import Tensor

from penchant.numerics import at_least_float32, require_positive
from penchant.protocols import Evidence, Groups
from penchant.shapes import Shape
from penchant.slots.compose import Method
from penchant.slots.objectives.pairwise import logistic_loss, zero_where_tied
from penchant.slots.ratios.stepwise import Stepwise
from penchant.slots.weights.uniform import Uniform


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class ClippedLogistic:
    r"""-log sigmoid(beta (log rho_w - log rho_l)), each ratio rho clamped to [1 - clip, 1 + clip].

    Where a ratio leaves the window its gradient is exactly zero. A tie (equal scores) costs log 2 and pulls
    nowhere.

    Attributes:
        beta: Pull towards the reference, in 1/nats; > 0.
        clip: Half width of the window; in (0, 1).

    Source:
        Yang et al. 2023, arXiv:2311.13231, eq. 14; the clamp is in the released code only.
    """

    shape: ClassVar[Shape] = Shape.PAIR
    reads: ClassVar[frozenset[Evidence]] = frozenset({Evidence.RATIO})
    couples_batch: ClassVar[bool] = False

    beta: float
    clip: float = 0.1

    def __post_init__(self) -> None:
        require_positive("beta", self.beta)
        if not 0 < self.clip < 1:
            raise ValueError(f"clip must be in (0, 1), got {self.clip}")

    def __call__(self, groups: Groups) -> Float[Tensor, " B"]:
        """Loss of each group."""
        low, high = math.log(1 - self.clip), math.log(1 + self.clip)
        log_ratio = at_least_float32(groups.log_ratio).clamp(low, high)
        margin = zero_where_tied(groups, log_ratio[:, 0] - log_ratio[:, 1])
        return logistic_loss(margin, beta=self.beta)


METHOD = Method(
    name="d3po",
    source="Yang et al. 2023, arXiv:2311.13231, eq. 14",
    shape=Shape.PAIR,
    ratio=Stepwise(),
    objective=ClippedLogistic(beta=0.1),
    weight=Uniform(),
)
