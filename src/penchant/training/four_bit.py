"""AdamW with moments in 4 bits, by torchao, and what a file holds of them."""

import logging
import warnings
from collections.abc import Iterable, Mapping
from importlib import import_module
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from penchant.errors import ConfigError

logger = logging.getLogger(__name__)

_PACKED: Final = ("codes", "scale")
"""What a moment in 4 bits is made of: two numbers in a byte, and the largest one of each block in float32."""


def adamw(parameters: Iterable[nn.Parameter], **options: Any) -> Optimizer:
    """AdamW whose moments take 4 bits in blocks of 128 (Li et al. 2023, arXiv:2309.01507).

    Those of tensors below 4,096 elements, or that blocks do not divide, stay float32. The step is computed in
    float32, by a kernel that PyTorch compiles for each shape of weight when it first meets it.

    Args:
        parameters: All of them train.
        **options: Of torch.optim.AdamW.

    Raises:
        ConfigError: The package torchao is not installed, or kernels cannot be compiled here.
    """
    try:
        optimizers = import_module("torchao.optim")
    except ImportError as error:
        raise ConfigError(
            "training.optimizer: adamw-4bit needs the package torchao, which is not installed. Install it "
            "with `pip install 'penchant[four-bit]'`, or take adamw-8bit."
        ) from error
    parameters = list(parameters)
    logger.info(
        "adamw-4bit: the first step compiles kernels for %d shapes of weight, some seconds each",
        len({parameter.shape for parameter in parameters}),
    )
    _rehearse(optimizers.AdamW4bit, parameters[0].device)
    return optimizers.AdamW4bit(parameters, **options)


def _rehearse(kind: Any, device: torch.device) -> None:
    """A step of one block alone: what cannot be compiled is found before the run begins."""
    probe = nn.Parameter(torch.zeros(4096, device=device))
    probe.grad = torch.zeros_like(probe)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what PyTorch's compiler says once of its own code and torchao's
        try:
            kind([probe]).step()
        except RuntimeError as error:
            raise ConfigError(
                f"training.optimizer: adamw-4bit: kernels cannot be compiled here ({_first_words(error)}). "
                "PyTorch needs a C++ compiler for the CPU, Triton for a GPU: install it, or take adamw-8bit."
            ) from error


def _first_words(error: Exception) -> str:
    return " ".join(str(error).partition("\n\n")[0].split())


def unpacked(moment: Tensor) -> dict[str, Tensor]:
    """The plain tensors of a moment by the ends of their names; itself, without an end, if it is plain."""
    if not hasattr(moment, "codes"):
        return {"": moment}
    return {f".{name}": getattr(moment, name) for name in _PACKED}


def packed(parts: Mapping[str, Tensor], key: str, like: Tensor) -> Tensor:
    """The moment that `unpacked` took apart.

    Args:
        parts: By the ends of their names.
        key: Of the optimizer's state; the first moment has signs.
        like: The parameter.
    """
    state = import_module("torchao.optim.subclass_4bit").OptimState4bit
    moment = state.zeros(like.shape, signed=key == "exp_avg", device=like.device, dtype=like.dtype)
    for name in _PACKED:
        getattr(moment, name).copy_(parts[f".{name}"])
    return moment
