"""Training state on disk: weights, moving average and AdamW moments in one safetensors file."""

import json
import os
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn


def save(file: Path, tensors: dict[str, Tensor], **meta: float) -> None:
    """Write all tensors and numbers; a crash leaves the older file whole."""
    file.parent.mkdir(parents=True, exist_ok=True)
    temporary = file.with_suffix(".tmp")
    save_file(
        {key: tensor.detach().contiguous() for key, tensor in tensors.items()},
        temporary,
        metadata={"meta": json.dumps(meta)},
    )
    os.replace(temporary, file)


def load(file: Path) -> tuple[dict[str, Tensor], dict[str, float]]:
    """Tensors and numbers of `save`."""
    with safe_open(file, "pt") as opened:
        return {key: opened.get_tensor(key) for key in opened.keys()}, json.loads(opened.metadata()["meta"])  # noqa: SIM118


def optimizer_tensors(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """AdamW moments by parameter name."""
    names = {parameter: name for name, parameter in model.named_parameters()}
    return {
        f"optimizer.{key}.{names[parameter]}": torch.as_tensor(value)
        for parameter, state in optimizer.state.items()
        for key, value in state.items()
    }


def restore_optimizer(model: nn.Module, optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    """Put the moments of `optimizer_tensors` back."""
    for name, parameter in model.named_parameters():
        moments = {
            key: tensors[f"optimizer.{key}.{name}"]
            for key in ("step", "exp_avg", "exp_avg_sq")
            if f"optimizer.{key}.{name}" in tensors
        }
        if moments:
            optimizer.state[parameter] = {
                k: v.clone().to(memory_format=torch.preserve_format) for k, v in moments.items()
            }
