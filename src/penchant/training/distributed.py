"""Several processes, with whole copies of the weights (DDP) or with shards of them (FSDP2)."""

import os
from collections.abc import Mapping
from typing import Final

import torch
from accelerate import Accelerator
from accelerate.utils import GradientAccumulationPlugin, fsdp2_prepare_model
from torch import Tensor, nn
from torch.distributed import all_gather_object, get_world_size, is_initialized
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor, distribute_tensor

from penchant.errors import ConfigError

_REFUSED: Final = {
    "ACCELERATE_USE_DEEPSPEED": "DeepSpeed is not supported",
    "ACCELERATE_USE_MEGATRON_LM": "Megatron-LM is not supported",
    "ACCELERATE_USE_PARALLELISM_CONFIG": "tensor and context parallelism are not supported",
    "FSDP_OFFLOAD_PARAMS": "FSDP with weights on the CPU is not supported",
}
"""What a launcher may ask for by the environment, and why it is refused."""


def accelerator() -> Accelerator:
    """Processes and devices, as `torchrun` or `accelerate launch` has set them up; one process without them.

    Raises:
        ConfigError: The launcher asks for what is not supported; says what to take instead.
    """
    sharded = _asked("ACCELERATE_USE_FSDP")
    problems = [problem for name, problem in _REFUSED.items() if _asked(name)]
    if sharded and os.environ.get("FSDP_VERSION", "1") != "2":
        problems.append("FSDP version 1 is not supported")
    if problems:
        raise ConfigError(
            f"accelerate: {problems[0]}. Take whole copies (`accelerate launch --multi_gpu`, `torchrun`) or "
            "shards (`accelerate launch --use_fsdp --fsdp_version 2`, parameters not offloaded)."
        )
    if sharded and _asked("FSDP_ACTIVATION_CHECKPOINTING"):
        raise ConfigError(
            "accelerate: FSDP's activation checkpointing renames the weights. Set "
            "training.gradient_checkpointing in the run file instead."
        )
    os.environ["FSDP_CPU_RAM_EFFICIENT_LOADING"] = "false"  # else only one process has a text encoder
    accelerator = Accelerator(
        cpu=not torch.accelerator.is_available(),  # else several processes would not find each other
        mixed_precision="no",  # precision is the denoiser's, so that policy and reference share it
        gradient_accumulation_plugin=GradientAccumulationPlugin(num_steps=1),  # pieces are explicit here
        step_scheduler_with_optimizer=False,
    )
    if sharded and not accelerator.is_fsdp2:
        raise ConfigError(
            f"accelerate: makes no shards (FSDP2) for {accelerator.num_processes} processes on "
            f"{accelerator.device.type}. Take whole copies (`torchrun`), or several GPUs."
        )
    return accelerator


def _asked(name: str) -> bool:
    return os.environ.get(name, "false").lower() in ("true", "1", "yes")


def shard(network: nn.Module, accelerator: Accelerator) -> nn.Module:
    """The network in shards where the policy is, as it is otherwise; for one that does not train."""
    return fsdp2_prepare_model(accelerator, network) if accelerator.is_fsdp2 else network


def trained_parameters(network: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters that train, by name; of a sharded network, the shards that the optimizer holds."""
    for module in network.modules():
        if isinstance(module, FSDPModule):
            module.reshard()  # after a pass without gradient, whole copies stand in their place
    return {name: p for name, p in network.named_parameters() if p.requires_grad}


def whole(tensor: Tensor) -> Tensor:
    """The tensor without shards. Collective: every process must call it."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def whole_tensors(tensors: Mapping[str, Tensor], *, main: bool) -> dict[str, Tensor]:
    """The tensors without shards, in main memory if there were any. Collective: every process must call it.

    Args:
        tensors: By name.
        main: False on a process that only takes part: it gets nothing.
    """
    kept = {}
    for name, tensor in tensors.items():
        joined = whole(tensor.detach())
        if main:
            kept[name] = joined.cpu() if isinstance(tensor, DTensor) else joined
    return kept


def said_by_any(words: str | None) -> str | None:
    """The words of the first process that has any. Collective: every process must call it."""
    if not is_initialized():
        return words
    everywhere: list[str | None] = [None] * get_world_size()
    all_gather_object(everywhere, words)
    return next((found for found in everywhere if found is not None), None)


def share(value: Tensor, like: Tensor) -> Tensor:
    """What this process holds of a whole tensor that every process has, cut and placed as another one is."""
    value = value.to(like.device)
    if not isinstance(like, DTensor):
        return value
    return distribute_tensor(value, like.device_mesh, like.placements, src_data_rank=None)
