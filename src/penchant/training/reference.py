"""Reference models: what the policy is compared with."""

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, final

import torch
from accelerate import cpu_offload
from torch import Tensor, nn

from penchant.protocols import Condition, Denoiser, NoiseProcess
from penchant.training.adapters import POLICY, START, train_only_adapter
from penchant.training.loop import Record


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class SwitchedReference:
    """The policy's own network, with its adapter switched to what training started from.

    For a new adapter that is the bare base model (adapters off); for a continued one, and for a reference
    that moves, it is the frozen second adapter.

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
    """Inside, the network computes what the reference does: with its second adapter, or without any."""
    second = START in network.peft_config
    if second:
        network.set_adapter(START)
    else:
        network.disable_adapters()
    train_only_adapter(network)  # switching clears what trains, and FSDP would remember that for good
    try:
        yield
    finally:
        if second:
            network.set_adapter(POLICY)
        else:
            network.enable_adapters()
        train_only_adapter(network)


def frozen_copy(network: nn.Module) -> nn.Module:
    """A copy that does not train."""
    return copy.deepcopy(network).requires_grad_(False).eval()


def offload(network: nn.Module, device: torch.device) -> None:
    """Keep a frozen network's weights in main memory; each layer visits the device when it is called."""
    cpu_offload(network, execution_device=device, offload_buffers=True)


@final
class MovingReference:
    """A reference that moves: reference <- (1 - mix) reference + mix policy, every so many steps.

    Args:
        policy: Weights that train, by name.
        reference: Those that follow them, under the same names.
        mix: In (0, 1]; 1 makes the reference the policy.
        every: Steps between updates; >= 1.

    Source:
        Gorbatovski et al. 2024 (TR-DPO), arXiv:2404.09656: soft updates, and hard ones with mix 1.
    """

    def __init__(
        self, policy: Mapping[str, Tensor], reference: Mapping[str, Tensor], *, mix: float, every: int
    ) -> None:
        assert policy.keys() == reference.keys()
        self.policy, self.reference, self.mix, self.every = policy, reference, mix, every

    @torch.no_grad()
    def follow(self, record: Record) -> None:
        """Move the reference when it is time."""
        if record.step % self.every == 0:
            for name, weight in self.reference.items():
                weight.lerp_(self.policy[name].to(weight), self.mix)

    def tensors(self) -> dict[str, Tensor]:
        """The reference's weights, for a checkpoint."""
        return {name: weight.detach().contiguous() for name, weight in self.reference.items()}

    @torch.no_grad()
    def load(self, stored: Mapping[str, Tensor]) -> None:
        """Put stored weights back."""
        for name, weight in self.reference.items():
            weight.copy_(stored[name])


def second_adapter(network: Any) -> Mapping[str, Tensor]:
    """Weights of the frozen second adapter, under the names of the one in training."""
    return {
        name.replace(f".{START}.", f".{POLICY}."): parameter
        for name, parameter in network.named_parameters()
        if f".{START}." in name
    }
