"""Combined: a weighted sum of other rewards, each brought to one scale by fixed numbers.

Axes: N images, 3 channels, H W pixels.
"""

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor

from penchant.protocols import Reward


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One reward of a combination.

    Attributes:
        reward: The reward.
        weight: Its share of the sum; below 0, a lower score is better.
        mean: Its mean score over a reference set, in its own unit.
        std: Its standard deviation there; > 0.
    """

    reward: Reward
    weight: float
    mean: float
    std: float

    def __post_init__(self) -> None:
        if not self.std > 0:
            raise ValueError(f"std must be > 0, got {self.std}")
        if not math.isfinite(self.weight) or self.weight == 0:
            raise ValueError(f"weight must be a number other than 0, got {self.weight}")


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Combined:
    """Weighted sum of standard scores.

    sum_i weight_i (score_i - mean_i) / std_i

    Mean and standard deviation are given, never measured on the images at hand, so that the score of an image
    does not depend on the batch it came in. `penchant data relabel` prints both for every reward over a data
    set.

    Attributes:
        parts: At least one reward, each with weight, mean and standard deviation.
        name: Name under which the scores are stored.
    """

    parts: tuple[Part, ...]
    name: str = "combined"
    unit = "standard deviations"
    judges = True

    def __post_init__(self) -> None:
        if not self.parts:
            raise ValueError("parts must be a list of at least 1, got []")

    @property
    def version(self) -> str:
        """First 16 hex digits of a hash over the parts: names, versions and numbers."""
        parts = [(p.reward.name, p.reward.version, p.weight, p.mean, p.std) for p in self.parts]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]

    def __call__(self, images: Float[Tensor, "N 3 H W"], prompts: Sequence[str]) -> Float[Tensor, " N"]:
        """Score per image; 0 is the average image of the reference sets."""
        total = torch.zeros(len(images), dtype=torch.float64)
        for part in self.parts:
            scores = part.reward(images, prompts).double().cpu()
            total += part.weight * (scores - part.mean) / part.std
        return total.float()


REWARD = Combined
