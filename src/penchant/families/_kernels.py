"""In which type and on which of PyTorch's kernels a network computes, forward and when it computes again."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Final

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.checkpoint import checkpoint

FEW: Final = 128
"""Positions of a latent up to which the fused kernel of the CPU does not pay in bfloat16."""


def autocast(noisy: Tensor, dtype: torch.dtype | None) -> AbstractContextManager[object]:
    """Inside, matrix products take that type, on the device of these latents.

    Copies of weights that train are not kept until the whole network has run, as PyTorch does for weights
    that are used twice: a denoiser uses each once, and with checkpointed gradients they would all be there
    beside the gradients of the pieces before, two bytes for each weight.

    Args:
        noisy: What the network is about to see.
        dtype: None leaves every type as it is.
    """
    if dtype is None:
        return nullcontext()
    return torch.autocast(noisy.device.type, dtype, cache_enabled=False)


def attention(noisy: Tensor, dtype: torch.dtype | None) -> AbstractContextManager[object]:
    """Inside, attention takes the kernel that is fastest for these latents.

    The fused kernel of the CPU is slow in bfloat16 where there are few tokens, for its backward pass costs
    as much for 16 of them as for 256; matrix products take a third or less of its time for 64.
    docs/performance.md has numbers.

    Args:
        noisy: What the network is about to see, axes ... H W.
        dtype: Type of its matrix products.
    """
    few = noisy.shape[-2:].numel() <= FEW
    if few and noisy.device.type == "cpu" and dtype is torch.bfloat16:
        return sdpa_kernel(SDPBackend.MATH)
    return nullcontext()


def recomputed(part: Callable[..., Any], *args: Any) -> Any:
    """What `enable_gradient_checkpointing` calls for each part: both times on the same kernels."""
    return checkpoint(part, *args, use_reentrant=False, context_fn=_kernels_of_now)


def _kernels_of_now() -> tuple[AbstractContextManager[object], AbstractContextManager[object]]:
    switches = torch.backends.cuda  # of the CPU's kernels as well
    fused = (
        switches.flash_sdp_enabled() or switches.mem_efficient_sdp_enabled() or switches.cudnn_sdp_enabled()
    )
    return nullcontext(), nullcontext() if fused else sdpa_kernel(SDPBackend.MATH)
