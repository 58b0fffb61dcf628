"""What a run file would do: sizes, memory and time, before anything is done."""

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import final

import yaml
from pydantic import BaseModel
from torch import Tensor

from penchant import families
from penchant.protocols import DiffusionFamily, Models
from penchant.randomness import Randomness
from penchant.runs.assemble import method_of
from penchant.runs.data import data_of, rules_of, stream_of
from penchant.runs.manifest import method_as_dict
from penchant.runs.memory import Memory, imagined_batch, rehearsed
from penchant.runs.networks import load_family, make_trainable, models_of
from penchant.runs.schema import RunFile
from penchant.slots.compose import Method, step
from penchant.slots.ratios.stepwise import Stepwise
from penchant.training.encode import groups_of, sampling_conditions


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    """A run in numbers.

    Attributes:
        method: The composition with every option.
        model_folder: Where the base model lies.
        parameters: Of the denoiser.
        trainable: Of these, how many train.
        groups: Usable groups of the training split; None for a method that samples.
        steps: Optimizer steps.
        batch_size: Groups per step; for a method that samples, prompts per step.
        epochs: Passes over the data; None for a method that samples.
        memory: What one process needs; None if not estimated.
        step_seconds: Measured on one probe step of a few groups, scaled to the batch; None if not measured.
    """

    method: dict[str, object]
    model_folder: Path
    parameters: int
    trainable: int
    groups: int | None
    steps: int
    batch_size: int
    epochs: float | None
    memory: Memory | None
    step_seconds: float | None

    @property
    def training_seconds(self) -> float | None:
        """Estimate of the whole training, set-up and held-out measurements apart."""
        return None if self.step_seconds is None else self.steps * self.step_seconds

    def lines(self) -> list[tuple[str, str]]:
        """The numbers as a person reads them: name and sentence."""
        gigabyte = 1024**3
        what, data = "prompts", "sampled from the model while it trains"
        if self.groups is not None:
            what = "groups"
            data = f"{self.groups:,} usable groups, seen {self.epochs:,.1f} times"
        seen = f"{self.steps * self.batch_size:,} {what} in {self.steps:,} steps of {self.batch_size}"
        time_needed = "not estimated for methods that sample"
        if self.step_seconds is not None and self.training_seconds is not None:
            minutes = self.training_seconds / 60
            time_needed = (
                f"about {minutes:.1f} min on this machine ({self.step_seconds:.2f} s per step); estimate, "
                f"measured on {PROBE_GROUPS} groups"
            )
        memory = "not estimated for methods that sample"
        if (m := self.memory) is not None:
            memory = (
                f"{m.peak / gigabyte:.2f} GiB at the peak: {m.weights / gigabyte:.2f} of weights, "
                f"{m.optimizer / gigabyte:.2f} of gradients and moments, {m.activations / gigabyte:.2f} of "
                "activations; estimate for each process, without the libraries and the data"
            )
        return [
            ("model", str(self.model_folder)),
            ("trains", f"{self.trainable:,} of {self.parameters:,} parameters of the denoiser"),
            ("data", data),
            ("training", seen),
            ("time", time_needed),
            ("memory", memory),
        ]


def _num_groups(run: RunFile, method: Method, where: str) -> int:
    """Groups of the training split; of a stream its rows, each of which gives one group an epoch."""
    if run.data.streaming:
        return len(stream_of(run, run.data.train_split, where=where))
    data = data_of(run, run.data.train_split, where=where)
    return len(groups_of(data, method.shape, where=f"{where}: data.path", rules=rules_of(run)))


PROBE_GROUPS = 4
"""Groups of the step that is timed."""


def explain(run: RunFile, *, where: str) -> Explanation:
    """Load the model, count, and time one small step.

    Args:
        run: The run file.
        where: Its name, for messages.
    """
    method = method_of(run, where=where)
    folder = families.resolve(run.model, where=f"{where}: model")
    family = load_family(run, folder, where=where)
    reference = make_trainable(family, run, method)
    models = models_of(run, method, family, family.network, reference)
    parameters = sum(p.numel() for p in family.network.parameters())
    online = isinstance(method.ratio, Stepwise)
    groups = None if online else _num_groups(run, method, where)
    batch = run.training.batch_size if run.online is None else run.online.prompts_per_step
    condition = sampling_conditions([""], family)
    seconds = None if online else _probe(run, method, models, family, condition)
    memory = None if online else rehearsed(run, method, folder, condition, where=where)
    return Explanation(
        method=method_as_dict(method),
        model_folder=folder,
        parameters=parameters,
        trainable=sum(p.numel() for p in family.network.parameters() if p.requires_grad),
        groups=groups,
        steps=run.training.steps,
        batch_size=batch,
        epochs=None if groups is None else run.training.steps * batch / groups,
        memory=memory,
        step_seconds=None if seconds is None else seconds * batch / PROBE_GROUPS,
    )


def _probe(
    run: RunFile, method: Method, models: Models, family: DiffusionFamily, condition: Mapping[str, Tensor]
) -> float:
    """Seconds of forward and backward of a few groups, the second time, when everything is warm."""
    batch = imagined_batch(
        method,
        family,
        condition,
        groups=PROBE_GROUPS,
        size=run.data.size or family.size,
        measured=models.reference is None,
    )
    step(method, models, batch, Randomness(run=0)).loss.backward()
    started = time.perf_counter()
    step(method, models, batch, Randomness(run=0)).loss.backward()
    return time.perf_counter() - started


def options_of(section: BaseModel, prefix: str = "") -> Iterator[tuple[str, str, str]]:
    """Every option of a run file below `prefix`: its name, its value as YAML, its meaning with the unit."""
    for name, field in type(section).model_fields.items():
        value = getattr(section, name)
        if isinstance(value, BaseModel):
            yield from options_of(value, f"{prefix}{name}.")
        else:
            plain = section.model_dump(mode="json", include={name})[name]
            text = yaml.safe_dump(plain, default_flow_style=True, width=10_000).strip()
            yield f"{prefix}{name}", text.removesuffix("\n..."), field.description or ""
