"""Objectives on the margin of a pair: log-ratio of the winner minus that of the loser.  Axes: B pairs."""

from dataclasses import dataclass
from typing import ClassVar, final

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from penchant.numerics import at_least_float32, require_positive
from penchant.protocols import Evidence, Groups
from penchant.shapes import Shape

_RATIO = frozenset({Evidence.RATIO})


def logistic_loss(
    margin: Float[Tensor, " B"], *, beta: float, label_smoothing: float = 0.0
) -> Float[Tensor, " B"]:
    r"""Negative log-likelihood that the winner beats the loser (Bradley-Terry).

    L(m) = -(1 - e) log sigmoid(beta m) - e log sigmoid(-beta m)

    Args:
        margin: Log-ratio of the winner minus that of the loser, in nats.
        beta: Pull towards the reference, in 1/nats; > 0.
        label_smoothing: Chance e that the label is flipped; in [0, 0.5).

    Returns:
        Loss per pair, at least float32, not averaged. At margin 0 it is log 2.

    Source:
        Rafailov et al. 2023, arXiv:2305.18290, eq. 7; label smoothing: Mitchell 2023 (cDPO), eq. 3.
    """
    z = beta * at_least_float32(margin)
    return (1 - label_smoothing) * F.softplus(-z) + label_smoothing * F.softplus(z)


def hinge_loss(margin: Float[Tensor, " B"], *, beta: float) -> Float[Tensor, " B"]:
    r"""L(m) = max(0, 1 - beta m).

    Args:
        margin: Log-ratio of the winner minus that of the loser, in nats.
        beta: Inverse of the margin to be reached, in 1/nats; > 0.

    Returns:
        Loss per pair, at least float32, not averaged. At margin 0 it is 1.

    Source:
        Zhao et al. 2023 (SLiC-HF), arXiv:2305.10425, on the log-ratio as in diffusers' Diffusion-DPO example.
    """
    return F.relu(1 - beta * at_least_float32(margin))


def squared_loss(margin: Float[Tensor, " B"], *, beta: float) -> Float[Tensor, " B"]:
    r"""L(m) = (m - 1 / (2 beta))^2.

    Args:
        margin: Log-ratio of the winner minus that of the loser, in nats.
        beta: Half the inverse of the margin aimed at, in 1/nats; > 0.

    Returns:
        Loss per pair, at least float32, not averaged. At margin 0 it is 1 / (4 beta^2).

    Source:
        Azar et al. 2023 (IPO), arXiv:2310.12036, eq. 17.
    """
    return (at_least_float32(margin) - 1 / (2 * beta)) ** 2


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Logistic:
    """Objective slot around `logistic_loss`."""

    shape: ClassVar[Shape] = Shape.PAIR
    reads: ClassVar[frozenset[Evidence]] = _RATIO
    couples_batch: ClassVar[bool] = False

    beta: float
    label_smoothing: float = 0.0

    def __post_init__(self) -> None:
        require_positive("beta", self.beta)
        if not 0 <= self.label_smoothing < 0.5:
            raise ValueError(f"label_smoothing must be in [0, 0.5), got {self.label_smoothing}")

    def __call__(self, groups: Groups) -> Float[Tensor, " B"]:
        """Loss of each group."""
        return logistic_loss(pair_margin(groups), beta=self.beta, label_smoothing=self.label_smoothing)


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Hinge:
    """Objective slot around `hinge_loss`."""

    shape: ClassVar[Shape] = Shape.PAIR
    reads: ClassVar[frozenset[Evidence]] = _RATIO
    couples_batch: ClassVar[bool] = False

    beta: float

    def __post_init__(self) -> None:
        require_positive("beta", self.beta)

    def __call__(self, groups: Groups) -> Float[Tensor, " B"]:
        """Loss of each group."""
        return hinge_loss(pair_margin(groups), beta=self.beta)


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Squared:
    """Objective slot around `squared_loss`."""

    shape: ClassVar[Shape] = Shape.PAIR
    reads: ClassVar[frozenset[Evidence]] = _RATIO
    couples_batch: ClassVar[bool] = False

    beta: float

    def __post_init__(self) -> None:
        require_positive("beta", self.beta)

    def __call__(self, groups: Groups) -> Float[Tensor, " B"]:
        """Loss of each group."""
        return squared_loss(pair_margin(groups), beta=self.beta)


def pair_margin(groups: Groups) -> Float[Tensor, " B"]:
    """Log-ratio of column 0, the winner, minus that of column 1; 0 where the two are tied."""
    return zero_where_tied(groups, groups.log_ratio[:, 0] - groups.log_ratio[:, 1])


def zero_where_tied(groups: Groups, margin: Float[Tensor, " B"]) -> Float[Tensor, " B"]:
    """The margin, or 0 without gradient where both candidates have the same score."""
    if groups.score is None:
        return margin
    return torch.where(groups.score[:, 0] == groups.score[:, 1], 0.0, margin)
