"""What a test of shards measures inside its processes."""

import torch
from safetensors.torch import save_file
from tests import small
from torch.distributed.tensor import DTensor

from penchant.training.distributed import trained_parameters, whole
from penchant.training.loop import accumulate


def probe(raw: dict, place: str) -> None:
    """Reference before and after an update, and the gradients of a second step; the main process writes."""
    parts = small.assembled(raw)
    batch = parts.sources.train(0).micro[0]
    rows = torch.linspace(-1, 1, 256).reshape(1, 4, 8, 8)
    condition = {name: value[:1, 0] for name, value in batch.condition.items()}
    inputs = (rows, torch.tensor([300]), condition)
    found = {}
    with torch.no_grad():
        found["reference before"] = parts.models.reference(*inputs)
    for step in (0, 1):
        parts.optimizer.zero_grad()
        accumulate(parts.method, parts.models, parts.network, parts.sources.train(step), parts.accelerator)
        if step == 0:
            parts.optimizer.step()
    with torch.no_grad():
        found["reference after"] = parts.models.reference(*inputs)
        found["policy after"] = parts.models.policy(*inputs)
    trained = trained_parameters(parts.bare)
    for name, parameter in trained.items():
        found[f"gradient {name}"] = whole(parameter.grad).clone()
    norm = whole(parts.accelerator.clip_grad_norm_(list(trained.values()), 1e-3))
    found["norm"] = torch.as_tensor(norm)
    for name, parameter in trained.items():
        found[f"clipped {name}"] = whole(parameter.grad).clone()
    if parts.accelerator.is_main_process:
        shards = sum(isinstance(p, DTensor) for p in parts.bare.parameters())
        whole_ones = len(list(parts.bare.parameters())) - shards
        save_file(found, place, metadata={"shards": str(shards), "whole": str(whole_ones)})
