"""From a run file to the networks of a run: what trains, and what it is compared with."""

from pathlib import Path
from typing import Final

import torch
from torch import nn
from torch.optim import Optimizer

from penchant import families
from penchant.protocols import DiffusionFamily, Models
from penchant.runs.first_model import require_fit
from penchant.runs.noise import process_of
from penchant.runs.schema import RunFile
from penchant.slots.compose import Method
from penchant.training.adapters import add_lora, continue_lora
from penchant.training.optim import build_optimizer
from penchant.training.quantized import quantize
from penchant.training.reference import (
    MovingReference,
    SwitchedReference,
    frozen_copy,
    offload,
    second_adapter,
)

PRECISIONS: Final = {"float32": None, "bfloat16": torch.bfloat16}


def load_family(
    run: RunFile, folder: Path, *, where: str, part: families.Part | None = None
) -> DiffusionFamily:
    """The model of a run, or one part of it, with the noise that the run file asks for.

    A text encoder that trains belongs to the denoiser; its part then gives tokens, and needs no weights.

    Raises:
        ConfigError: An option does not fit the model, or its package is missing.
        ModelError: It cannot be loaded.
    """
    training = run.training
    frozen = PRECISIONS[training.precision] if training.mode == "lora" else None
    trains_text = training.lora.text_encoder
    wanted = _with_text_encoder(part) if trains_text else part
    family = families.load_folder(folder, where=f"{where}: model", part=wanted, denoiser=frozen)
    if trains_text:
        family.train_text_encoder(where=f"{where}: training.lora.text_encoder")
    if part in (families.Part.DENOISER, families.Part.NOTHING):
        family.release_encoders()
    if training.quantized is not None and part in (None, families.Part.DENOISER):
        quantize(family.network, training.quantized)
    require_fit(run, family, where=where)
    family.process = process_of(family.process, run.noise, where=where)
    if training.gradient_checkpointing:
        family.checkpoint_gradients()
    return family


def _with_text_encoder(part: families.Part | None) -> families.Part | None:
    if part is families.Part.DENOISER:
        return part | families.Part.TEXT_ENCODERS
    return families.Part.NOTHING if part is families.Part.TEXT_ENCODERS else part


def make_trainable(family: DiffusionFamily, run: RunFile, method: Method) -> nn.Module:
    """Set up what trains; the network that the reference calls, which is the same if there is no second."""
    network, lora, reference = family.network, run.training.lora, run.training.reference
    if run.training.mode == "full":
        second = method.needs_reference and reference.kind != "cached"
        frozen = frozen_copy(network) if second else network
        network.requires_grad_(True)
        return frozen
    if lora.start_from is not None:
        continue_lora(network, Path(lora.start_from), part=family.network_part)
        return frozen_copy(network) if reference.kind == "copy" else network
    frozen = frozen_copy(network) if reference.kind == "copy" else network
    add_lora(
        network,
        rank=lora.rank,
        alpha=lora.rank if lora.alpha is None else lora.alpha,
        targets=lora.targets or family.lora_targets,
        seed=run.seed,
        twice=reference.kind == "moving",
    )
    return frozen


def optimizer_of(run: RunFile, network: nn.Module) -> Optimizer:
    """A new optimizer, as the run file describes it, over what trains of a network."""
    t = run.training
    return build_optimizer(
        [p for p in network.parameters() if p.requires_grad],
        name=t.optimizer,
        learning_rate=t.learning_rate,
        betas=t.betas,
        weight_decay=t.weight_decay,
        epsilon=t.epsilon,
    )


def place_reference(reference: nn.Module, run: RunFile, device: torch.device) -> None:
    """Bring the reference to the device, or let its layers visit it."""
    if run.training.reference.offload:
        offload(reference, device)
    else:
        reference.to(device)


def moving_reference(run: RunFile, network: nn.Module, reference: nn.Module) -> MovingReference | None:
    """What moves the reference's weights, if anything does."""
    options = run.training.reference
    if options.kind != "moving":
        return None
    followers = second_adapter(network) if reference is network else dict(reference.named_parameters())
    policy = {name: p for name, p in network.named_parameters() if p.requires_grad}
    return MovingReference(policy, followers, mix=options.mix, every=options.every)


def models_of(
    run: RunFile, method: Method, family: DiffusionFamily, network: nn.Module, reference: nn.Module
) -> Models:
    """Policy and reference: the network with its adapters switched, or its frozen copy.

    Args:
        run: The run file.
        method: Says whether a reference is needed.
        family: The loaded model.
        network: The policy's module, prepared.
        reference: What `make_trainable` gave.
    """
    autocast = PRECISIONS[run.training.precision]
    policy = family.denoiser(network, autocast=autocast)
    if not method.needs_reference or run.training.reference.kind == "cached":
        return Models(policy=policy)
    denoiser = family.denoiser(reference, autocast=autocast)
    if reference is family.network:
        return Models(policy=policy, reference=SwitchedReference(denoiser=denoiser, network=reference))
    return Models(policy=policy, reference=denoiser)
