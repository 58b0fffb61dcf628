"""Reference models: what the policy is compared with."""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, final

from torch import Tensor, nn

from penchant.protocols import Condition, Denoiser, NoiseProcess
from penchant.training.adapters import POLICY, START, train_only_adapter


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class SwitchedReference:
    """The policy's own network, with its adapter switched to what training started from.

    For a new adapter that is the bare base model (adapters off); for a continued one it is the frozen copy of
    the adapter, because the bare base is not the policy that training starts from.

    Attributes:
        denoiser: Calls the network.
        network: The network that holds the adapters, not wrapped for several processes.
    """

    denoiser: Denoiser
    network: Any

    @property
    def process(self) -> NoiseProcess:
        """Noise process of the network."""
        return self.denoiser.process

    def __call__(self, noisy: Tensor, timestep: Tensor, condition: Condition) -> Tensor:
        """The reference's prediction."""
        with starting_point(self.network):
            return self.denoiser(noisy, timestep, condition)


@contextmanager
def starting_point(network: Any) -> Iterator[None]:
    """Inside, the network computes what it did before training."""
    continued = START in network.peft_config
    if continued:
        network.set_adapter(START)
    else:
        network.disable_adapters()
    train_only_adapter(network)  # switching clears what trains, and FSDP would remember that for good
    try:
        yield
    finally:
        if continued:
            network.set_adapter(POLICY)
        else:
            network.enable_adapters()
        train_only_adapter(network)


def frozen_copy(network: nn.Module) -> nn.Module:
    """A copy that does not train, for full fine-tuning."""
    return copy.deepcopy(network).requires_grad_(False).eval()
