"""Weight 1 for every group.  Axes: B groups."""

from dataclasses import dataclass
from typing import ClassVar, final

import torch
from jaxtyping import Float
from torch import Tensor

from penchant.protocols import Evidence, Groups


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Uniform:
    """Weight 1 for every group."""

    reads: ClassVar[frozenset[Evidence]] = frozenset()

    def __call__(self, groups: Groups) -> Float[Tensor, " B"]:
        """Weight of each group."""
        return torch.ones(groups.log_policy.shape[0], device=groups.log_policy.device)
