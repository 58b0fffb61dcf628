"""Exponential moving average of the weights that train."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import final

import torch
from torch import Tensor, nn

from penchant.training.distributed import share, trained_parameters
from penchant.training.loop import Record


@final
class MovingAverage:
    """A moving average: average <- decay * average + (1 - decay) * weights after each step, in float32.

    Args:
        network: Its parameters that train are averaged.
        decay: In (0, 1).
    """

    def __init__(self, network: nn.Module, *, decay: float) -> None:
        self.decay = decay
        self.trained = trained_parameters(network)
        self.averages = {name: p.detach().float().clone() for name, p in self.trained.items()}

    @torch.no_grad()
    def follow(self, record: Record) -> None:
        """Move the average."""
        for name, parameter in self.trained.items():
            self.averages[name].lerp_(parameter.float(), 1 - self.decay)

    def tensors(self) -> dict[str, Tensor]:
        """The averages, by name; in shards if the network is."""
        return self.averages

    def load(self, averages: Mapping[str, Tensor]) -> None:
        """Put stored averages back."""
        for name, value in averages.items():
            self.averages[name].copy_(share(value, self.averages[name]))

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Inside, the network has the averaged weights."""
        kept = {name: p.detach().clone() for name, p in self.trained.items()}
        try:
            self._write(self.averages)
            yield
        finally:
            self._write(kept)

    @torch.no_grad()
    def _write(self, values: Mapping[str, Tensor]) -> None:
        for name, parameter in self.trained.items():
            parameter.copy_(values[name])
