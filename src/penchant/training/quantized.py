"""Frozen weights in 8 or 4 bits, for adapters on models that would not fit otherwise."""

from importlib import import_module
from typing import Any, Literal

import torch
from torch import nn

from penchant.errors import ConfigError


def bitsandbytes(wanted_by: str) -> Any:
    """The package that knows low-bit numbers; an extra, imported when it is asked for.

    Args:
        wanted_by: The option that asks, for messages.

    Raises:
        ConfigError: It is not installed.
    """
    try:
        return import_module("bitsandbytes")
    except ImportError as error:
        raise ConfigError(
            f"{wanted_by} needs the package bitsandbytes, which is not installed. Install it with "
            "`pip install 'penchant[low-bit]'`, or leave the option out."
        ) from error


def quantize(network: nn.Module, kind: Literal["int8", "nf4"]) -> None:
    """Keep the weights of a frozen network's linear layers in few bits; the layers compute in their own type.

    Layers in float32 stay: these are the ones that the model's authors keep in full precision.

    Args:
        network: A frozen network in half precision; changed in place.
        kind: `int8` has one scale per output channel (Dettmers et al. 2022, arXiv:2208.07339); `nf4` has 16
            levels and one scale per 64 weights (Dettmers et al. 2023, arXiv:2305.14314).

    Raises:
        ConfigError: The package bitsandbytes is missing.
    """
    layers = bitsandbytes(f"training.quantized: {kind}").nn
    for path, layer in quantizable(network).items():
        parent, _, name = path.rpartition(".")
        setattr(network.get_submodule(parent), name, _low_bit(layers, layer, kind))


def quantizable(network: nn.Module) -> dict[str, nn.Linear]:
    """The linear layers that `quantize` changes, by name."""
    return {
        path: layer
        for path, layer in network.named_modules()
        if type(layer) is nn.Linear and layer.weight.dtype != torch.float32
    }


def _low_bit(layers: Any, layer: nn.Linear, kind: Literal["int8", "nf4"]) -> nn.Module:
    sizes, weight = (layer.in_features, layer.out_features, layer.bias is not None), layer.weight
    if kind == "int8":
        quantized = layers.Linear8bitLt(*sizes, has_fp16_weights=False)
        quantized.weight = layers.Int8Params(weight.data, requires_grad=False, has_fp16_weights=False)
    else:
        quantized = layers.Linear4bit(*sizes, quant_type="nf4", compute_dtype=weight.dtype)
        quantized.weight = layers.Params4bit(weight.data, requires_grad=False, quant_type="nf4")
    quantized.bias = layer.bias
    return quantized.to(weight.device)  # moving is what quantizes
