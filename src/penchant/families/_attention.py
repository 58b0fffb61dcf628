"""Attention of half-precision networks on the CPU."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, final

import torch
import torch.nn.functional as F
from torch.overrides import TorchFunctionMode


@final
class AttentionInFloat32(TorchFunctionMode):
    """Inside, attention is computed in float32.

    On the CPU, PyTorch's backward pass of attention takes 1.2 to 10 times longer in bfloat16 than in float32.
    It holds without a gradient too, so that policy and reference compute the same to the bit.
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        if func is F.scaled_dot_product_attention:
            query, key, value, *rest = args
            with torch.autocast(query.device.type, enabled=False):
                attended = func(query.float(), key.float(), value.float(), *rest, **(kwargs or {}))
            return attended.to(query.dtype)
        return func(*args, **(kwargs or {}))
