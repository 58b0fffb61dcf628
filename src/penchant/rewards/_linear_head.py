"""The head of two published scorers: linear layers one after the other, without anything in between.

Axes: N inputs, D features.
"""

from collections.abc import Mapping
from typing import Final

from jaxtyping import Float
from torch import Tensor

PUBLISHED: Final = ("0", "2", "4", "6", "7")
"""Numbers of the linear layers in the published files; those between are dropouts."""


def head_keys(state: Mapping[str, Tensor], *, prefix: str) -> dict[str, Tensor]:
    """The layers of a published file, numbered without gaps; a KeyError names one that is missing."""
    return {
        f"head.{new}.{part}": state[f"{prefix}{old}.{part}"]
        for new, old in enumerate(PUBLISHED)
        for part in ("weight", "bias")
    }


def head_score(features: Float[Tensor, "N D"], weights: Mapping[str, Tensor]) -> Float[Tensor, " N"]:
    """The last layer's only output."""
    for number in range(len(PUBLISHED)):
        features = features @ weights[f"head.{number}.weight"].T + weights[f"head.{number}.bias"]
    return features.squeeze(-1)
