"""From a run file to objects: the only place that wires.

Everything is built here once and handed over; nothing deeper reads the run file.
"""

import math
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

from accelerate import Accelerator
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from penchant import families, hub, methods
from penchant.data.dataset import Dataset
from penchant.data.stream import Stream
from penchant.errors import CompositionError, ConfigError
from penchant.families import Part
from penchant.protocols import DiffusionFamily, Domain, Models
from penchant.runs.data import data_of, stream_of
from penchant.runs.encoding import encode_stored
from penchant.runs.misfits import refuse_misfits
from penchant.runs.networks import (
    load_family,
    make_trainable,
    models_of,
    moving_reference,
    optimizer_of,
    place_reference,
)
from penchant.runs.override import override
from penchant.runs.schema import RunFile
from penchant.runs.sources import SourceMaker, Sources
from penchant.runs.terminal import Phase
from penchant.slots.compose import Method
from penchant.slots.ratios.stepwise import Stepwise
from penchant.training import distributed
from penchant.training.adapters import lora_to_continue
from penchant.training.auto_beta import auto_beta, with_beta
from penchant.training.ema import MovingAverage
from penchant.training.health import Health
from penchant.training.optim import build_schedule
from penchant.training.reference import MovingReference
from penchant.training.source import Source


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Assembled:
    """Everything that one training run is made of.

    Attributes:
        method: The composition, options set.
        models: Policy and reference.
        network: The policy's module, prepared.
        bare: The same, not wrapped for several processes.
        sources: Batches of each step, and what is measured beside them.
        optimizer: Over what trains.
        schedule: Its learning rate.
        average: Moving average of the weights; None if not kept.
        health: The guards.
        moving: Moves the reference's weights; None if they stay.
        accelerator: Processes and devices.
        data: The stored data.
        model_folder: Where the base model lies.
        model_hash: Hash of what is there.
        family: The loaded model.
    """

    method: Method
    models: Models
    network: nn.Module
    bare: Any
    sources: Sources
    optimizer: Optimizer
    schedule: LRScheduler
    average: MovingAverage | None
    health: Health
    moving: MovingReference | None
    accelerator: Accelerator
    data: Dataset | Stream
    model_folder: Path
    model_hash: str
    family: DiffusionFamily


def method_of(run: RunFile, *, where: str) -> Method:
    """The method of a run file with its options."""
    method = override(methods.catalog.get(run.method, where=where), run, where=where)
    if method.ratio.domain is not Domain.DIFFUSION:
        raise CompositionError(
            f"{where}: method {method.name!r} trains language models, {run.model!r} draws images. Take a "
            "method for images, or use penchant.slots.compose.step in your own loop."
        )
    refuse_misfits(run, method, where=where)
    return method


def assemble(
    run: RunFile,
    *,
    where: str,
    phase: Phase = lambda name, size: nullcontext(lambda done: None),
    accelerator: Accelerator | None = None,
) -> Assembled:
    """Build every object of a training run.

    Args:
        run: The run file.
        where: Its name, for messages.
        phase: Shows what is being done.
        accelerator: Processes and devices; found out if None.

    Raises:
        PenchantError: Something the user gave is wrong; says where and what to do.
    """
    method = method_of(run, where=where)
    folder = families.resolve(run.model, where=f"{where}: model")
    data = (stream_of if run.data.streaming else data_of)(run, run.data.train_split, where=where)
    accelerator = accelerator or distributed.accelerator()
    _refuse_with_shards(run, accelerator, where)
    stored = not isinstance(method.ratio, Stepwise)
    if stored and run.training.batch_size % accelerator.num_processes:
        raise ConfigError(
            f"{where}: training.batch_size: must be divisible by the {accelerator.num_processes} processes, "
            f"got {run.training.batch_size}."
        )
    encoded = None
    if stored and isinstance(data, Dataset):
        if run.training.lora.start_from is not None:
            untaught = load_family(run, folder, part=Part.NOTHING, where=where)
            lora_to_continue(untaught.network, Path(run.training.lora.start_from), part=untaught.network_part)
        encoded = encode_stored(run, method, folder, data, accelerator, where=where, phase=phase)
    family = load_family(run, folder, part=None if encoded is None else Part.DENOISER, where=where)
    bare = family.network
    reference_network = make_trainable(family, run, method)
    family.to(accelerator.device)
    place_reference(reference_network, run, accelerator.device)
    network, optimizer = accelerator.prepare(bare, optimizer_of(run, bare))
    reference_network = distributed.shard(reference_network, accelerator)
    models = models_of(run, method, family, network, reference_network)
    content = distributed.said_by_any(hub.model_hash(folder) if accelerator.is_main_process else None)
    assert content is not None, "the main process has said it"
    sources = SourceMaker(
        run=run,
        method=method,
        models=models,
        family=family,
        model_hash=content,
        accelerator=accelerator,
        where=where,
        phase=phase,
    )(data, encoded)
    if run.wants_auto_beta:
        method = _with_auto_beta(
            run, method, models, network, sources.train, optimizer_of(run, bare), accelerator, where
        )
    schedule = build_schedule(
        optimizer,
        name=run.training.schedule,
        warmup_steps=run.training.warmup_steps,
        steps=run.training.steps,
    )
    return Assembled(
        method=method,
        models=models,
        network=network,
        bare=bare,
        sources=sources,
        optimizer=optimizer,
        schedule=schedule,
        average=None if run.training.ema is None else MovingAverage(bare, decay=run.training.ema),
        health=Health(**run.health.model_dump()),
        moving=moving_reference(run, bare, reference_network),
        accelerator=accelerator,
        data=data,
        model_folder=folder,
        model_hash=content,
        family=family,
    )


def _refuse_with_shards(run: RunFile, accelerator: Accelerator, where: str) -> None:
    """Refuse what shards (FSDP2) cut apart, or what needs a pass of one process alone."""
    if not accelerator.is_fsdp2:
        return
    reference = run.training.reference
    if run.training.lora.text_encoder:
        raise ConfigError(
            f"{where}: training.lora.text_encoder: does not work with shards (FSDP2). Remove it, or take "
            "whole copies (`torchrun`)."
        )
    if run.training.quantized is not None:
        raise ConfigError(
            f"{where}: training.quantized: integer weights cannot be cut into shards (FSDP2). Remove it, or "
            "take whole copies (`torchrun`)."
        )
    if run.training.optimizer != "adamw":
        raise ConfigError(
            f"{where}: training.optimizer: {run.training.optimizer} keeps moments of rows and columns, or of "
            "blocks, which shards (FSDP2) cut apart. Take adamw, or whole copies (`torchrun`)."
        )
    if reference.offload or reference.kind in ("moving", "cached"):
        what = "offload" if reference.offload else f"kind {reference.kind}"
        raise ConfigError(
            f"{where}: training.reference: {what} does not work with shards (FSDP2). Take kind start, or "
            "whole copies (`torchrun`)."
        )


def _with_auto_beta(
    run: RunFile,
    method: Method,
    models: Models,
    network: nn.Module,
    source: Source,
    optimizer: Optimizer,
    accelerator: Accelerator,
    where: str,
) -> Method:
    beta = auto_beta(
        method,
        models,
        network,
        source,
        optimizer,
        accelerator=accelerator,
        aim=run.auto_beta.gradient_factor,
        probe_steps=run.auto_beta.probe_steps,
        max_grad_norm=max_grad_norm(run),
        where=where,
    )
    return with_beta(method, beta)


def max_grad_norm(run: RunFile) -> float:
    """Norm that gradients are scaled down to; infinite if they are not."""
    return math.inf if run.training.max_grad_norm is None else run.training.max_grad_norm
