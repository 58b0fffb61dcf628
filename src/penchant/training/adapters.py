"""LoRA on a diffusers network: added, continued, switched and saved."""

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import torch
from diffusers.utils import convert_unet_state_dict_to_peft
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from penchant.errors import ModelError
from penchant.protocols import DiffusionFamily
from penchant.training.distributed import whole_tensors

POLICY: Final = "default"
"""Name of the adapter in training."""
START: Final = "start"
"""Name of the frozen second adapter: the one that training continues, or a reference that moves."""
FILE: Final = "pytorch_lora_weights.safetensors"
"""Name under which diffusers looks for a LoRA in a folder."""


def add_lora(
    network: Any, *, rank: int, alpha: int, targets: Sequence[str], seed: int, twice: bool = False
) -> None:
    """Add a LoRA that changes nothing yet (B = 0) and is all that trains, in float32.

    Args:
        network: A diffusers network, frozen.
        rank: Rank of the update.
        alpha: The update is scaled by alpha / rank.
        targets: Endings of the names of the linear layers to adapt.
        seed: Seed of the first factor.
        twice: Add it also as the frozen second adapter, for a reference that moves.
    """
    config = LoraConfig(r=rank, lora_alpha=alpha, target_modules=list(targets), lora_dropout=0.0)
    for name in (START, POLICY) if twice else (POLICY,):
        with torch.random.fork_rng(), _two_are_meant():
            torch.manual_seed(seed)
            try:
                network.add_adapter(config, adapter_name=name)
            except ValueError as error:
                names = sorted(
                    {n.rsplit(".", 1)[-1] for n, m in network.named_modules() if isinstance(m, nn.Linear)}
                )
                raise ModelError(
                    f"training.lora.targets: no layer ends in {', '.join(targets)}. "
                    f"Names of linear layers here: {', '.join(names)}."
                ) from error
    network.set_adapter(POLICY)
    train_only_adapter(network)


def continue_lora(network: Any, folder: Path, *, part: str) -> None:
    """Load an adapter twice: as the policy, which trains on, and as the frozen start, which is the reference.

    Both are the file's numbers in float32, whatever the type of the network.

    Args:
        network: A diffusers network, frozen.
        folder: Holds `pytorch_lora_weights.safetensors`, as `penchant train` and diffusers write it.
        part: Name of the network in its pipeline, such as `unet`.
    """
    stored, path = lora_to_continue(network, folder, part=part), folder / FILE
    try:
        with _two_are_meant():
            for name in (START, POLICY):
                network.load_lora_adapter(
                    str(folder),
                    prefix=part,
                    weight_name=path.name,
                    adapter_name=name,
                    low_cpu_mem_usage=True,  # a network without memory is not copied to
                )
        network.set_adapter(POLICY)
        train_only_adapter(network)
        _fill(network, stored, part)  # again: the first time they took the type of the network
    except (OSError, RuntimeError, ValueError) as error:
        raise _misfit(path, error) from error


def lora_to_continue(network: nn.Module, folder: Path, *, part: str) -> dict[str, Tensor]:
    """The weights of an adapter, under the names that peft gives them.

    Args:
        network: A diffusers network that they have to fit; it needs no memory for that.
        folder: Holds `pytorch_lora_weights.safetensors`; the older key names of diffusers are read as well.
        part: Name of the network in its pipeline, such as `unet`.

    Raises:
        ModelError: There is none, or it does not fit the network.
    """
    path = folder / FILE
    if not path.is_file():
        raise ModelError(
            f"training.lora.start_from: no LoRA in {folder}. Give a folder that holds {path.name}."
        )
    try:
        found = load_file(path)
    except (OSError, SafetensorError) as error:
        raise _misfit(path, error) from error
    stored = convert_unet_state_dict_to_peft(found)
    if 0 < len(found.keys() & stored.keys()) < len(found):
        raise ModelError(
            f"training.lora.start_from: {path} names some layers as diffusers does now (lora_A, lora_B) and "
            "some as it did before (lora.down, lora.up), and would be half read. Give all in one form."
        )
    _require_same_family(network, {key: list(value.shape) for key, value in stored.items()}, path, part)
    return stored


def _misfit(path: Path, error: Exception) -> ModelError:
    return ModelError(
        f"training.lora.start_from: {path} does not fit the model ({str(error).splitlines()[0]}). Give an "
        "adapter that was trained on this model."
    )


def _fill(network: nn.Module, stored: Mapping[str, Tensor], part: str) -> None:
    """Give both adapters the numbers of a file; weights that take no memory stay so.

    Each in memory of its own, not where the file is mapped: kernels may round by how their data is aligned,
    and policy and reference have to be equal to the bit.
    """
    weights = dict(network.named_parameters())
    for key, value in stored.items():
        factor = key.removeprefix(f"{part}.").removesuffix(".weight")
        for weight in (weights[f"{factor}.{name}.weight"] for name in (START, POLICY)):
            if not weight.is_meta:
                weight.data = value.to(weight, copy=True)


@contextmanager
def _two_are_meant() -> Iterator[None]:
    """Without peft's warning that the network has an adapter already."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Already found a `peft_config` attribute")
        yield


def _require_same_family(network: nn.Module, shapes: Mapping[str, list[int]], path: Path, part: str) -> None:
    """Refuse an adapter of another part, of layers that the network has not, or of layers of another size.

    Raises:
        ModelError: Says what the file holds, and what the model has.
    """
    where, kind = f"training.lora.start_from: {path}", type(network).__name__
    foreign = sorted(key for key in shapes if not key.startswith(f"{part}."))
    text = next((key for key in foreign if key.startswith("text_encoder")), None)
    if text is not None:
        raise ModelError(
            f"{where} adapts a text encoder, for example {text!r}; only a LoRA of the {part} alone can be "
            "continued. Give one, or begin anew with training.lora.text_encoder."
        )
    if len(foreign) == len(shapes):
        held = foreign[0] if foreign else "nothing"
        raise ModelError(
            f"{where} is of another family or in another form: it holds {held}; the model has a {part}, of "
            f"the class {kind}. Give an adapter that was trained on this model, as diffusers writes it."
        )
    if foreign:
        raise ModelError(
            f"{where} also adapts other parts than the {part}, for example {foreign[0]!r}; they would be "
            f"lost. Give a LoRA of this model's {part} alone."
        )
    weights = dict(network.named_parameters())
    for key, shape in shapes.items():
        name, _, factor = key.removeprefix(f"{part}.").partition(".lora_")
        if factor not in ("A.weight", "B.weight") or len(shape) < 2:
            raise ModelError(
                f"{where} is no plain LoRA: it holds {key!r}, as of DoRA, of biases, or of another trainer's "
                "form. Give one that holds lora_A.weight and lora_B.weight alone."
            )
        side, channels = ("input", shape[1]) if factor[0] == "A" else ("output", shape[0])
        weight = weights.get(f"{name}.weight")
        if weight is None:
            raise ModelError(
                f"{where} is of another family: it adapts a layer {name!r}, which the model, of the class "
                f"{kind}, has not. Give an adapter that was trained on this model."
            )
        layer, (outputs, inputs) = network.get_submodule(name), weight.shape[:2]
        if isinstance(layer, nn.Linear):  # weights of 4 bits have no shape of their own
            outputs, inputs = layer.out_features, layer.in_features
        own = inputs if factor[0] == "A" else outputs
        if channels != own:
            raise ModelError(
                f"{where} is of another family: {name!r} has {channels} {side} channels in it, {own} in the "
                f"model, of the class {kind}. Give an adapter that was trained on this model."
            )
        other = key.removesuffix(factor) + ("B.weight" if factor[0] == "A" else "A.weight")
        if other not in shapes:
            raise ModelError(
                f"{where} is half an adapter: it holds {key!r} without {other!r}. Give a whole one, as "
                "diffusers writes it."
            )


def train_only_adapter(network: nn.Module) -> None:
    """Let the policy's adapter train and nothing else; it and the second adapter are float32."""
    for name, parameter in network.named_parameters():
        parameter.requires_grad_(f".{POLICY}." in name)
        adapter = parameter.requires_grad or f".{START}." in name
        if adapter and parameter.dtype != torch.float32:
            parameter.data = parameter.data.float()


def save_lora(family: DiffusionFamily, folder: Path, *, main: bool = True) -> None:
    """Write the policy's adapter as diffusers' LoRA safetensors, scale included.

    Args:
        family: Its network holds the adapter.
        folder: Where to.
        main: False on a process that only takes part, because it holds shards of what is written.
    """
    layers = get_peft_model_state_dict(family.network, adapter_name=POLICY)
    layers = whole_tensors(layers, main=main)
    if not main:
        return
    config = family.network.peft_config[POLICY]
    metadata = {**config.to_dict(), "target_modules": sorted(config.target_modules)}
    family.write_lora(folder, layers, metadata)
