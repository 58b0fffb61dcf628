"""From a run file to objects: the only place that wires.

Everything is built here once and handed over; nothing deeper reads the run file.
"""

import math
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, final

import torch
from accelerate import Accelerator
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from penchant import families, methods, rewards
from penchant.data import store
from penchant.data.dataset import Dataset, require_usable
from penchant.diffusion.schedule import VariancePreserving
from penchant.errors import CompositionError, ConfigError
from penchant.protocols import DiffusionFamily, Domain, Models
from penchant.runs.override import override
from penchant.runs.schema import RunFile
from penchant.slots.compose import Method
from penchant.slots.ratios.stepwise import Stepwise
from penchant.training import distributed
from penchant.training.adapters import add_lora, continue_lora
from penchant.training.auto_beta import auto_beta, with_beta
from penchant.training.ema import MovingAverage
from penchant.training.encode import encode, groups_of, sampling_conditions
from penchant.training.health import Health
from penchant.training.online.rollout import RolloutSource
from penchant.training.optim import build_optimizer, build_schedule
from penchant.training.reference import SwitchedReference, frozen_copy
from penchant.training.source import EncodedExamples, Source, StoredSource

SHIPPED_DATA: Final = {"emoji-pairs": Path(families.__file__).parents[1] / "assets" / "emoji-pairs.parquet"}
"""Data sets that come with the library, by name."""

PRECISIONS: Final = {"float32": None, "bfloat16": torch.bfloat16}

Phase = Callable[[str, int], AbstractContextManager[Callable[[int], None]]]
"""Shows a phase of the set-up: its name and size give a function that is told how much is done."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Assembled:
    """Everything that one training run is made of.

    Attributes:
        method: The composition, options set.
        models: Policy and reference.
        network: The policy's module, prepared.
        bare: The same, not wrapped for several processes.
        source: Batches of each step.
        heldout: Encoded held-out groups; None without any.
        optimizer: Over what trains.
        schedule: Its learning rate.
        average: Moving average of the weights; None if not kept.
        health: The guards.
        accelerator: Processes and devices.
        num_groups: Groups of the training split; 0 for a method that samples.
        data: The stored data.
        model_folder: Where the base model lies.
        family: The loaded model.
    """

    method: Method
    models: Models
    network: nn.Module
    bare: Any
    source: Source
    heldout: EncodedExamples | None
    optimizer: Optimizer
    schedule: LRScheduler
    average: MovingAverage | None
    health: Health
    accelerator: Accelerator
    num_groups: int
    data: Dataset
    model_folder: Path
    family: DiffusionFamily


def method_of(run: RunFile, *, where: str, beta: float | None = None) -> Method:
    """The method of a run file with its options."""
    method = override(methods.catalog.get(run.method, where=where), run, where=where, beta=beta)
    if method.ratio.domain is not Domain.DIFFUSION:
        raise CompositionError(
            f"{where}: method {method.name!r} trains language models, {run.model!r} draws images. Take a "
            "method for images, or use penchant.slots.compose.step in your own loop."
        )
    online = isinstance(method.ratio, Stepwise)
    if online and run.online is None:
        raise ConfigError(
            f"{where}: method {method.name!r} samples the model while it trains and needs a section "
            "`online: {reward: NAME}`. Rewards: " + ", ".join(rewards.catalog.names()) + "."
        )
    if online:
        _refuse_stored_options(run, where)
    if not online and run.online is not None:
        raise ConfigError(
            f"{where}: online: method {method.name!r} learns from stored data and does not read this "
            "section. Remove it, or take d3po."
        )
    return method


def _refuse_stored_options(run: RunFile, where: str) -> None:
    """A method that samples reads prompts alone; options of stored images would be ignored in silence."""
    read_by_stored = {
        "training": (run.training, ("batch_size", "micro_batch_size", "heldout_every", "heldout_examples")),
        "data": (run.data, ("flip", "size", "prompt_dropout")),
    }
    for section, (options, names) in read_by_stored.items():
        for name in names:
            if getattr(options, name) != type(options).model_fields[name].default:
                raise ConfigError(
                    f"{where}: {section}.{name}: a method that samples the model does not read it. "
                    "Remove it; online.prompts_per_step sets the size of a step."
                )


def data_of(run: RunFile, split: str | None, *, where: str) -> Dataset:
    """The stored data of a run, one split of it."""
    path = SHIPPED_DATA.get(run.data.path, Path(run.data.path))
    return store.read(path, split=split, where=f"{where}: data.path")


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
    train_data = data_of(run, run.data.train_split, where=where)
    accelerator = accelerator or distributed.accelerator()
    family = families.load_folder(folder, where=f"{where}: model")
    if (run.data.size or family.size) % family.size_step:
        raise ConfigError(
            f"{where}: data.size: must be a multiple of {family.size_step} for this model, "
            f"got {run.data.size}."
        )
    family.to(accelerator.device)
    if run.training.gradient_checkpointing:
        family.network.enable_gradient_checkpointing()
    bare = family.network
    reference_network = make_trainable(family, run)
    optimizer_of = _optimizer_maker(bare, run)
    optimizer = optimizer_of()
    network, optimizer = accelerator.prepare(bare, optimizer)
    reference_network = distributed.shard(reference_network, accelerator)
    models = models_of(method, family, network, bare, reference_network, PRECISIONS[run.training.precision])
    num_groups, heldout = 0, None
    if isinstance(method.ratio, Stepwise):
        source: Source = _rollout(run, method, models, family, train_data, accelerator, where)
    else:
        examples = _encoded(run, method, family, train_data, "train", where, phase)
        heldout = _heldout(run, method, family, where, phase)
        family.release_encoders()
        num_groups = len(examples.ids)
        source = _stored(run, examples, accelerator, where)
    if run.wants_auto_beta:
        method = _with_auto_beta(run, method, models, network, source, optimizer_of, accelerator, where)
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
        source=source,
        heldout=heldout,
        optimizer=optimizer,
        schedule=schedule,
        average=None if run.training.ema is None else MovingAverage(bare, decay=run.training.ema),
        health=Health(**run.health.model_dump()),
        accelerator=accelerator,
        num_groups=num_groups,
        data=train_data,
        model_folder=folder,
        family=family,
    )


def make_trainable(family: DiffusionFamily, run: RunFile) -> nn.Module:
    """Set up what trains; the network that the reference calls."""
    network, lora = family.network, run.training.lora
    if run.training.mode == "full":
        reference = frozen_copy(network)
        network.requires_grad_(True)
        return reference
    if lora.start_from is not None:
        continue_lora(network, Path(lora.start_from), part=family.network_part)
    else:
        add_lora(
            network,
            rank=lora.rank,
            alpha=lora.rank if lora.alpha is None else lora.alpha,
            targets=lora.targets or family.lora_targets,
            seed=run.seed,
        )
    return network


def _optimizer_maker(network: nn.Module, run: RunFile) -> Callable[[], Optimizer]:
    t = run.training
    return lambda: build_optimizer(
        [p for p in network.parameters() if p.requires_grad],
        name=t.optimizer,
        learning_rate=t.learning_rate,
        betas=t.betas,
        weight_decay=t.weight_decay,
        epsilon=t.epsilon,
    )


def models_of(
    method: Method,
    family: DiffusionFamily,
    network: nn.Module,
    bare: nn.Module,
    reference: nn.Module,
    autocast: torch.dtype | None,
) -> Models:
    """Policy and reference: the network with its adapters switched, or its frozen copy.

    Args:
        method: Says whether a reference is needed.
        family: The loaded model.
        network: The policy's module, prepared.
        bare: The same, not wrapped for several processes.
        reference: What `make_trainable` gave.
        autocast: Type of the matrix products, equal for both.
    """
    policy = family.denoiser(network, autocast=autocast)
    if not method.needs_reference:
        return Models(policy=policy)
    denoiser = family.denoiser(reference, autocast=autocast)
    if reference is bare:
        return Models(policy=policy, reference=SwitchedReference(denoiser=denoiser, network=bare))
    return Models(policy=policy, reference=denoiser)


def _encoded(
    run: RunFile,
    method: Method,
    family: DiffusionFamily,
    data: Dataset,
    name: str,
    where: str,
    phase: Phase,
) -> EncodedExamples:
    require_usable(data, method.shape)
    groups = groups_of(data, method.shape, where=f"{where}: data.path: {run.data.path} ({name})")
    images = len({candidate.content_hash for group in groups for candidate in group.candidates})
    with phase(f"encoding {name} images", images) as progress:
        return encode(
            groups,
            family,
            size=run.data.size or family.size,
            flip=run.data.flip and name == "train",
            progress=progress,
        )


def _heldout(
    run: RunFile, method: Method, family: DiffusionFamily, where: str, phase: Phase
) -> EncodedExamples | None:
    if run.data.heldout_split is None:
        return None
    data = data_of(run, run.data.heldout_split, where=where)
    return _encoded(run, method, family, data, "held-out", where, phase)


def _stored(run: RunFile, examples: EncodedExamples, accelerator: Accelerator, where: str) -> StoredSource:
    t, processes = run.training, accelerator.num_processes
    if t.batch_size % processes:
        raise ConfigError(
            f"{where}: training.batch_size: must be divisible by the {processes} processes, "
            f"got {t.batch_size}."
        )
    return StoredSource(
        examples,
        batch_size=t.batch_size,
        micro_batch_size=t.micro_batch_size or t.batch_size // processes,
        prompt_dropout=run.data.prompt_dropout,
        seed=run.seed,
        process=accelerator.process_index,
        num_processes=processes,
    )


def _rollout(
    run: RunFile,
    method: Method,
    models: Models,
    family: DiffusionFamily,
    data: Dataset,
    accelerator: Accelerator,
    where: str,
) -> RolloutSource:
    assert isinstance(method.ratio, Stepwise) and run.online is not None
    if not isinstance(family.process, VariancePreserving):
        raise CompositionError(
            f"{where}: method {method.name!r} samples by DDIM, which does not fit the flow model "
            f"{run.model!r}. Take a method for stored data."
        )
    if method.ratio.sampler.num_steps >= family.process.num_timesteps:
        raise ConfigError(
            f"{where}: ratio.sampler.num_steps: must be < {family.process.num_timesteps}, the model's "
            f"timesteps, got {method.ratio.sampler.num_steps}."
        )
    if run.online.prompts_per_step % accelerator.num_processes:
        raise ConfigError(
            f"{where}: online.prompts_per_step: must be divisible by the "
            f"{accelerator.num_processes} processes, got {run.online.prompts_per_step}."
        )
    prompts = list(dict.fromkeys(header.prompt for header in data.headers))
    return RolloutSource(
        models.policy,
        method.ratio.sampler,
        prompts=prompts,
        conditions=sampling_conditions(["", *prompts], family),
        sample_shape=family.sample_shape,
        decode=family.decode,
        reward=rewards.catalog.get(run.online.reward, where=f"{where}: online.reward"),
        prompts_per_step=run.online.prompts_per_step,
        seed=run.seed,
        device=accelerator.device,
        process=accelerator.process_index,
        num_processes=accelerator.num_processes,
    )


def _with_auto_beta(
    run: RunFile,
    method: Method,
    models: Models,
    network: nn.Module,
    source: Source,
    optimizer_of: Callable[[], Optimizer],
    accelerator: Accelerator,
    where: str,
) -> Method:
    beta = auto_beta(
        method,
        models,
        network,
        source,
        optimizer_of(),
        accelerator=accelerator,
        gradient_factor=run.auto_beta.gradient_factor,
        probe_steps=run.auto_beta.probe_steps,
        max_grad_norm=max_grad_norm(run),
        where=where,
    )
    return with_beta(method, beta)


def max_grad_norm(run: RunFile) -> float:
    """Norm that gradients are scaled down to; infinite if they are not."""
    return math.inf if run.training.max_grad_norm is None else run.training.max_grad_norm
